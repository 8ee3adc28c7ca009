"""The text tower of a run with what leads from its features, and from the IMU encoder's, into the space they share.

A text encoder folder holds ``model.safetensors`` (tower and both heads), ``config.json`` (TextEncoderConfig) and
``tokenizer.json``. With it, windows are told apart by words alone::

    encoder, text = imuvid.load_encoder(path), imuvid.load_text_encoder(path)
    scores = text.project(encoder(imu, valid)) @ text.embed(["a person walks", "a person sits"]).T
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from imuvid.errors import UserError
from imuvid.models.encoder import CONFIG_NAME, WEIGHTS_NAME, check_tower_files, find_tower
from imuvid.models.heads import HeadConfig, build_head
from imuvid.models.tensor_file import write_tensors
from imuvid.models.text_tokens import TOKENIZER_NAME, TextTokenizer
from imuvid.models.towers import TextTowerConfig, build_text_tower, without_weights

FOLDER_NAME = "text_encoder"
"""Of the tower within a checkpoint or an export."""
TEXT_ENCODER_FORMAT = 1
BATCH = 256
"""Texts that go through the tower at a time."""


@dataclass
class TextEncoderConfig:
    """What is needed to build tower and heads again."""

    tower: TextTowerConfig
    head: HeadConfig
    """Of both towers."""
    imu_feature_dim: int
    """Width of the features of the IMU encoder of the same run."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """run, step, dataset, fingerprint, objective."""
    format: int = TEXT_ENCODER_FORMAT


class TextEncoder(nn.Module):
    """A frozen text tower, its head, and the head of the IMU encoder that was trained beside it."""

    def __init__(self, config: TextEncoderConfig, tokenizer: TextTokenizer):
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        tower = build_text_tower(config.tower)
        assert tower is not None
        self.tower = tower
        self.head = build_head(config.head, tower.feature_dim)
        self.imu_head = build_head(config.head, config.imu_feature_dim)

    @property
    def dim(self) -> int:
        """Width of the shared space."""
        return self.config.head.dim

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> Tensor:
        """Return the unit embeddings of texts in the shared space, float32 [N, dim], on the device of the tower.

        Raises:
            ValueError: a text is empty.
        """
        if not all(text.strip() for text in texts):
            raise ValueError("a text is empty")
        device = next(self.tower.parameters()).device
        found = [torch.empty(0, self.dim, device=device)]
        for start in range(0, len(texts), BATCH):
            tokens = torch.from_numpy(np.stack([self.tokenizer(text) for text in texts[start : start + BATCH]]))
            tokens = tokens.to(device)
            found.append(F.normalize(self.head(self.tower(tokens, tokens >= 0)), dim=1))
        return torch.cat(found)

    @torch.no_grad()
    def project(self, features: Tensor) -> Tensor:
        """Return the unit embeddings float32 [B, dim] of windows in the same space.

        Args:
            features: [B, imu_feature_dim] of the IMU encoder of the same checkpoint.

        Raises:
            ValueError: they have another width.
        """
        if features.shape[1:] != (self.config.imu_feature_dim,):
            raise ValueError(
                f"expected features [B, {self.config.imu_feature_dim}] of the IMU encoder of the same checkpoint, got"
                f" {list(features.shape)}"
            )
        return F.normalize(self.imu_head(features.float()), dim=1)


def save_text_encoder(folder: Path, config: TextEncoderConfig, state: dict[str, Tensor], tokenizer: str) -> None:
    """Write a text encoder folder.

    Args:
        folder: is made.
        config: of tower and heads.
        state: of a :class:`TextEncoder`, any device.
        tokenizer: content of ``tokenizer.json``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / WEIGHTS_NAME, state)
    (folder / TOKENIZER_NAME).write_text(tokenizer, encoding="utf-8")
    clip = dataclasses.replace(config.tower.clip, tokenizer=None)
    tower = without_weights(dataclasses.replace(config.tower, clip=clip))
    content = dataclasses.asdict(dataclasses.replace(config, tower=tower))
    (folder / CONFIG_NAME).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def load_text_encoder(path: str | Path) -> TextEncoder:
    """Load the frozen text encoder of a checkpoint folder, of ``checkpoints/latest``, or of an exported folder.

    Raises:
        UserError: there is none, as the run had no text tower; it is damaged, or of another format.
    """
    missing = UserError(f"{path}: holds no text encoder: pretrain with model.text_tower.kind=clip to have one")
    try:
        folder = find_tower(Path(path).expanduser(), FOLDER_NAME)
    except UserError as error:
        raise missing from error
    if not (folder / TOKENIZER_NAME).is_file():
        raise missing
    check_tower_files(folder)
    try:
        fields = json.loads((folder / CONFIG_NAME).read_text())
        if fields["format"] != TEXT_ENCODER_FORMAT:
            raise UserError(f"{folder}: text encoder format {fields['format']}, expected {TEXT_ENCODER_FORMAT}")
        tower: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TextTowerConfig), fields["tower"]))
        head: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(HeadConfig), fields["head"]))
        config = TextEncoderConfig(**{**fields, "tower": without_weights(tower), "head": head})
        description = (folder / TOKENIZER_NAME).read_text(encoding="utf-8")
        encoder = TextEncoder(config, TextTokenizer(description, tower.clip.max_tokens))
        encoder.load_state_dict(load_file(folder / WEIGHTS_NAME))
    except FileNotFoundError as error:
        raise UserError(f"{folder}: {Path(error.filename or WEIGHTS_NAME).name} is missing") from error
    except UserError:
        raise
    except Exception as error:  # of tokenizers too, which raises Exception itself
        raise UserError(f"{folder}: damaged text encoder: {str(error).splitlines()[0]}") from error
    return encoder.requires_grad_(False).eval()
