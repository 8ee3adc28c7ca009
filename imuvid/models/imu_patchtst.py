"""PatchTST (Nie et al., ICLR 2023) as IMU tower: the paper's encoder, its defects switchable."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from imuvid.models.norm import globalise_batchnorm
from imuvid.models.sensors import fold_sensors, normalise_si, pool_sensors, unfold_sensors, valid_parts
from imuvid.models.tower import Encoding, Tower
from imuvid.models.weights import load_pretrained


@dataclass
class ImuPatchTSTConfig:
    """Sizes default to those of transformers, which the paper uses."""

    context_length: int = 250
    """Window length, samples: 5 s at 50 Hz. Other lengths are refused."""
    patch_length: int = 10
    """Samples a patch; the paper has 16."""
    patch_stride: int = 10
    """Samples from one patch to the next."""
    drop_remainder: bool = False
    """Leave unread the samples at the start that do not fill a patch, as the paper's code does with 10 of 250, instead
    of repeating the last sample until another patch is full, as its text and PatchTST's own paper do."""
    d_model: int = 128
    """Width of the tokens; a channel gives one CLS token, six make the feature."""
    num_layers: int = 3
    num_heads: int = 4
    ffn_dim: int = 512
    dropout: float = 0.0
    """Share, on attention and feed-forward."""
    norm: str = "layernorm"
    """layernorm, or batchnorm as in the paper (over the global batch)."""
    scaling: bool = False
    """Standardise each channel of each window, as the paper's code does: erases gravity and intensity."""
    weights: str | None = None
    """Local folder or hub name of pretrained PatchTST weights; None starts at random."""


class ImuPatchTST(Tower):
    """Channel-independent patch transformer with a CLS token a channel; the six CLS vectors are concatenated.

    Every sensor goes through the same weights and the sensors that are present are averaged. A channel that is
    absent (a missing gyroscope) is represented by a learned vector, not by what the network makes of zeros.
    """

    def __init__(self, config: ImuPatchTSTConfig):
        from transformers import PatchTSTConfig, PatchTSTModel

        super().__init__()
        if config.norm not in ("layernorm", "batchnorm"):
            raise ValueError(f"norm is '{config.norm}', expected layernorm or batchnorm")
        self.context_length = config.context_length
        self.padding = 0
        if not config.drop_remainder:
            self.padding = -max(config.context_length - config.patch_length, 0) % config.patch_stride
        architecture = PatchTSTConfig(
            num_input_channels=6,
            context_length=config.context_length + self.padding,
            patch_length=config.patch_length,
            patch_stride=config.patch_stride,
            d_model=config.d_model,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            ffn_dim=config.ffn_dim,
            attention_dropout=config.dropout,
            ff_dropout=config.dropout,
            norm_type=config.norm,
            scaling="std" if config.scaling else None,
            use_cls_token=True,
            positional_encoding_type="sincos",
            do_mask_input=False,
        )
        model = load_pretrained(PatchTSTModel, config.weights, architecture)
        self.model = globalise_batchnorm(model)
        self.absent = nn.Parameter(torch.zeros(2, config.d_model))
        self.feature_dim = self.token_dim = 6 * config.d_model

    def stack(self) -> list[nn.Module]:
        """Return the transformer's layers."""
        return list(self.model.get_submodule("encoder.layers").children())

    def encode(self, imu: Tensor, valid: Tensor) -> Encoding:
        """Map imu [B, T, P, 6] (SI) and valid [B, T, P, 2] to features and one token a patch, 6 d_model wide.

        Raises:
            ValueError: T is not the context length.
        """
        steps, sensors = imu.shape[1:3]
        if steps != self.context_length:
            raise ValueError(f"PatchTST was built for {self.context_length} samples, the window has {steps}")
        x = fold_sensors(normalise_si(imu, valid))  # [B P, T, 6]
        observed = fold_sensors(valid).repeat_interleave(3, dim=-1)  # [B P, T, 6]
        present = observed.any(1)[:, :, None, None]  # [B P, 6, 1, 1]
        if self.padding:
            x = torch.cat([x, x[:, -1:].expand(-1, self.padding, -1)], dim=1)
            observed = nn.functional.pad(observed, (0, 0, 0, self.padding))
        tokens = self.model(past_values=x, past_observed_mask=observed).last_hidden_state  # [B P, 6, 1 + L, d]
        absent = self.absent.to(tokens.dtype).repeat_interleave(3, dim=0)[:, None]
        tokens = torch.where(present, tokens, absent).transpose(1, 2).flatten(2)  # [B P, 1 + L, 6 d]
        tokens = pool_sensors(unfold_sensors(tokens, sensors), valid)
        return Encoding(tokens[:, 0], tokens[:, 1:], valid_parts(valid, tokens.shape[1] - 1))
