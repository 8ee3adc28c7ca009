"""A frozen video tower: as a checkpoint keeps it, and as pictures are embedded with it once and for all.

A video encoder folder holds ``model.safetensors`` (the tower's state) and ``config.json`` (VideoEncoderConfig).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError
from torch import Tensor

from imuvid.errors import UserError
from imuvid.models.encoder import CONFIG_NAME, WEIGHTS_NAME, check_tower_files, find_tower
from imuvid.models.tensor_file import write_tensors
from imuvid.models.tower import Tower
from imuvid.models.towers import VideoTowerConfig, build_video_tower, without_weights

FOLDER_NAME = "video_encoder"
"""Of the tower within a checkpoint."""
VIDEO_ENCODER_FORMAT = 1


@dataclass
class VideoEncoderConfig:
    """What is needed to build the tower again and to feed it."""

    tower: VideoTowerConfig
    num_frames: int
    """Frames of the windows it was trained on."""
    frame_size: list[int]
    """Their height and width, pixels."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """run, step, dataset, fingerprint."""
    format: int = VIDEO_ENCODER_FORMAT


@dataclass
class VideoEncoder:
    """A frozen video tower in evaluation mode."""

    tower: Tower
    description: dict[str, Any]
    """As ``video_embedding`` of a ``dataset.json``: dim, num_frames, frame_size (height, width in pixels), tower (kind
    and settings), sha256 of the weights. Tells nothing of where it was read from."""

    @torch.inference_mode()
    def embed(self, frames: np.ndarray, frame_valid: np.ndarray) -> np.ndarray:
        """Return the features float16 [B, dim] of clips; on the first GPU, if there is one.

        The same clips in the same batches give the same bits on the same kind of processor or GPU, as long as torch
        computes with the same number of threads.

        Args:
            frames: uint8 [B, F, H, W, 3], RGB.
            frame_valid: bool [B, F].

        Raises:
            ValueError: a feature is not finite, or too large for float16.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.tower.to(device)
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            features = self.tower(torch.from_numpy(frames).to(device), torch.from_numpy(frame_valid).to(device))
        result = features.float().cpu().numpy()
        if not (np.abs(result) <= np.finfo(np.float16).max).all():
            raise ValueError("a feature of the frozen video tower is not finite, or too large for float16")
        return result.astype(np.float16)


def save_video_encoder(folder: Path, config: VideoEncoderConfig, tower_state: dict[str, Tensor]) -> None:
    """Write a video encoder folder from the state of the tower (names without prefix, any device)."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / WEIGHTS_NAME, tower_state)
    content = dataclasses.asdict(dataclasses.replace(config, tower=without_weights(config.tower)))
    (folder / CONFIG_NAME).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def find_video_encoder(path: str | Path) -> Path:
    """Return the folder that :func:`load_video_encoder` reads: where ``path`` is ``latest``, that of now.

    Raises:
        UserError: there is none.
    """
    try:
        return find_tower(Path(path).expanduser(), FOLDER_NAME)
    except UserError as error:
        raise UserError(
            f"{path}: no video tower there: expected a checkpoint with {FOLDER_NAME}/, or a folder of a transformers"
            f" model with {CONFIG_NAME} and {WEIGHTS_NAME}"
        ) from error


def load_video_encoder(path: str | Path, num_frames: int, size: int) -> VideoEncoder:
    """Load a frozen video tower for clips of ``num_frames`` frames of ``size`` x ``size`` pixels.

    Args:
        path: a checkpoint folder, its ``video_encoder/`` folder, ``checkpoints/latest``, or a folder of a transformers
            model (``config.json`` and ``model.safetensors``); see :func:`imuvid.models.video_folder.config_of_folder`.
        num_frames: of a clip. A tower of a checkpoint takes what it was trained on; VideoMAE and V-JEPA 2 any multiple
            of their tubelet size, models of single pictures any number.
        size: height and width of a frame, pixels.

    Raises:
        UserError: there is no tower, it is damaged, or made for other clips.
    """
    folder = find_video_encoder(path)
    check_tower_files(folder)
    try:
        fields = json.loads((folder / CONFIG_NAME).read_text())
        weights = (folder / WEIGHTS_NAME).read_bytes()
        if "model_type" in fields:
            from imuvid.models.video_folder import config_of_folder  # of transformers, which few need

            config = config_of_folder(folder, fields, num_frames, size)
            tower = build_video_tower(config)
        else:
            config = _own(folder, fields, num_frames, size)
            tower = build_video_tower(config)
            tower.load_state_dict(safetensors.torch.load(weights))
    except FileNotFoundError as error:
        raise UserError(f"{folder}: {Path(error.filename).name} is missing") from error
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OmegaConfBaseException) as error:
        raise UserError(f"{folder}: damaged video tower: {str(error).splitlines()[0]}") from error
    except SafetensorError as error:
        raise UserError(f"{folder}: damaged {WEIGHTS_NAME}: {str(error).splitlines()[0]}") from error
    settings = dataclasses.asdict(getattr(config, config.kind))
    settings.pop("weights", None)
    description = {
        "dim": tower.feature_dim,
        "num_frames": num_frames,
        "frame_size": [size, size],
        "tower": {"kind": config.kind, config.kind: settings},
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    return VideoEncoder(tower.eval().requires_grad_(False), description)


def _own(folder: Path, fields: dict[str, Any], num_frames: int, size: int) -> VideoTowerConfig:
    """Return the tower of a checkpoint."""
    if fields["format"] != VIDEO_ENCODER_FORMAT:
        raise UserError(f"{folder}: video encoder format {fields['format']}, this program reads {VIDEO_ENCODER_FORMAT}")
    tower: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(VideoTowerConfig), fields["tower"]))
    trained = (fields["num_frames"], fields["frame_size"])
    if trained != (num_frames, [size, size]):
        raise UserError(
            f"{folder}: was trained on {trained[0]} frames of {trained[1]} pixels a window, not on {num_frames} of"
            f" {[size, size]}: build with frames.num={trained[0]} frames.size={trained[1][0]}"
        )
    return without_weights(tower)  # its own follow
