"""V-JEPA 2 (Assran et al., 2025) as video tower, from transformers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from imuvid.models.sensors import valid_parts
from imuvid.models.tower import Encoding, Tower
from imuvid.models.tuning import bare
from imuvid.models.video_pixels import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    check_patch_dropout,
    kept_patches,
    standardised,
)
from imuvid.models.weights import load_pretrained


@dataclass
class VJEPA2TowerConfig:
    """Sizes default to V-JEPA 2 ViT-L with pictures of 256 px; any number of frames goes."""

    image_size: int = 256
    """Height and width, pixels."""
    patch_size: int = 16
    """Pixels."""
    tubelet_size: int = 2
    """Frames a token spans; clips have a multiple of it."""
    hidden_size: int = 1024
    num_layers: int = 24
    num_heads: int = 16
    mlp_ratio: float = 4.0
    patch_dropout: float = 0.0
    """Share of the patches of every tube that training leaves out, 0 to 0.75."""
    weights: str | None = None
    """Local folder or hub name, such as facebook/vjepa2-vitl-fpc64-256; None starts at random."""


class VJEPA2(Tower):
    """The encoder without the predictor; the feature is the mean of the tokens of tubes with any valid frame."""

    def __init__(self, config: VJEPA2TowerConfig):
        from transformers import VJEPA2Config, VJEPA2Model

        super().__init__()
        check_patch_dropout(config.patch_dropout)
        architecture = VJEPA2Config(
            crop_size=config.image_size,
            patch_size=config.patch_size,
            tubelet_size=config.tubelet_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            mlp_ratio=config.mlp_ratio,
            pred_num_hidden_layers=1,
        )
        self.image_size, self.tubelet_size = config.image_size, config.tubelet_size
        self.num_patches = (config.image_size // config.patch_size) ** 2
        self.patch_dropout = config.patch_dropout
        self.model = load_pretrained(VJEPA2Model, config.weights, architecture, unused=("predictor.",)).encoder
        self.feature_dim = self.token_dim = config.hidden_size

    def stack(self) -> list[nn.Module]:
        """Return the transformer's layers."""
        return list(bare(self.model).layer)

    def encode(self, frames: Tensor, frame_valid: Tensor) -> Encoding:
        """Map frames uint8 [B, F, H, W, 3] and frame_valid bool [B, F] to features; a token is a tube.

        Frames that are not valid enter as the mean colour.

        Raises:
            ValueError: the number of frames is no multiple of the tubelet size, or they have another size.
        """
        clip, size = frames.shape[1], (self.image_size, self.image_size)
        if clip % self.tubelet_size or tuple(frames.shape[2:4]) != size:
            raise ValueError(
                f"V-JEPA 2 was built for multiples of {self.tubelet_size} frames of {size} px, got {clip} of"
                f" {tuple(frames.shape[2:4])}"
            )
        num_tubes = clip // self.tubelet_size
        found = self._tokens(standardised(frames, frame_valid, IMAGENET_MEAN, IMAGENET_STD), num_tubes)
        tokens = found.unflatten(1, (num_tubes, -1)).mean(2)
        valid = valid_parts(frame_valid, num_tubes)
        weight = valid.to(tokens.dtype)[..., None]
        return Encoding((tokens * weight).sum(1) / weight.sum(1).clamp(min=1), tokens, valid)

    def _tokens(self, x: Tensor, num_tubes: int) -> Tensor:
        """Return the output tokens [B, num_tubes K, D] of x [B, F, 3, H, W]."""
        if not (self.training and self.patch_dropout > 0):
            return self.model(pixel_values_videos=x).last_hidden_state
        # The model's forward cannot leave tokens out, but its layers take the places of those that are there.
        backbone = bare(self.model)
        hidden = backbone.embeddings(x)
        kept = kept_patches((len(x), num_tubes), self.num_patches, self.patch_dropout, x.device)
        kept = (kept + torch.arange(num_tubes, device=x.device)[:, None] * self.num_patches).flatten(1)
        hidden = hidden.gather(1, kept[..., None].expand(-1, -1, hidden.shape[-1]))
        for layer in backbone.layer:
            hidden = layer(hidden, kept)[0]
        return backbone.layernorm(hidden)
