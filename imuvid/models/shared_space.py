"""The heads of a run: what leads from the features of its IMU and video towers into the space that they share.

A shared space folder holds ``model.safetensors`` (both heads) and ``config.json`` (SharedSpaceConfig). With it and the
towers of the same checkpoint, windows and clips are compared without any label.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from imuvid.errors import UserError
from imuvid.models.encoder import CONFIG_NAME, WEIGHTS_NAME, check_tower_files
from imuvid.models.heads import HeadConfig, build_head
from imuvid.models.tensor_file import write_tensors

FOLDER_NAME = "shared_space"
"""Of the heads within a checkpoint."""
SHARED_SPACE_FORMAT = 1


@dataclass
class SharedSpaceConfig:
    """What is needed to build the heads again."""

    head: HeadConfig
    """Of both towers."""
    imu_feature_dim: int
    video_feature_dim: int
    provenance: dict[str, Any] = field(default_factory=dict)
    """run, step, dataset, fingerprint."""
    format: int = SHARED_SPACE_FORMAT


class SharedSpace(nn.Module):
    """The frozen heads of both towers."""

    def __init__(self, config: SharedSpaceConfig):
        super().__init__()
        self.config = config
        self.imu_head = build_head(config.head, config.imu_feature_dim)
        self.video_head = build_head(config.head, config.video_feature_dim)

    @torch.no_grad()
    def project_imu(self, features: Tensor) -> Tensor:
        """Return the unit embeddings float32 [B, head.dim] of features [B, imu_feature_dim] of the IMU encoder."""
        return F.normalize(self.imu_head(features.float()), dim=1)

    @torch.no_grad()
    def project_video(self, features: Tensor) -> Tensor:
        """Return the unit embeddings float32 [B, head.dim] of features [B, video_feature_dim] of the video tower."""
        return F.normalize(self.video_head(features.float()), dim=1)


def save_shared_space(folder: Path, config: SharedSpaceConfig, state: dict[str, Tensor]) -> None:
    """Write a shared space folder from the state of a :class:`SharedSpace` (any device)."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / WEIGHTS_NAME, state)
    (folder / CONFIG_NAME).write_text(json.dumps(dataclasses.asdict(config), indent=1, sort_keys=True) + "\n")


def find_beside(path: str | Path, name: str) -> Path | None:
    """Return folder ``name``, if any, of a checkpoint, of ``checkpoints/latest``, of a tower's folder or an export."""
    path = Path(path).expanduser()
    if path.name == "latest" and path.is_file():
        path = path.parent / Path(path.read_text().strip()).name
    for folder in (path / name, path.parent / name):
        if (folder / CONFIG_NAME).is_file():
            return folder
    return None


def load_shared_space(folder: Path) -> SharedSpace:
    """Load the frozen heads of a shared space folder.

    Raises:
        UserError: it is damaged, or of another format.
    """
    check_tower_files(folder)
    try:
        fields = json.loads((folder / CONFIG_NAME).read_text())
        if fields["format"] != SHARED_SPACE_FORMAT:
            raise UserError(f"{folder}: shared space format {fields['format']}, expected {SHARED_SPACE_FORMAT}")
        head: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(HeadConfig), fields["head"]))
        space = SharedSpace(SharedSpaceConfig(**{**fields, "head": head}))
        space.load_state_dict(load_file(folder / WEIGHTS_NAME))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, OmegaConfBaseException, SafetensorError) as error:
        raise UserError(f"{folder}: damaged heads: {str(error).splitlines()[0]}") from error
    return space.requires_grad_(False).eval()
