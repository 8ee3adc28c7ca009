"""A local folder of a transformers model as a video tower, its sizes those of its ``config.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import (
    CLIPVisionConfig,
    Dinov2Config,
    PreTrainedConfig,
    SiglipVisionConfig,
    VideoMAEConfig,
    VJEPA2Config,
)

from imuvid.errors import UserError
from imuvid.models.towers import VideoTowerConfig
from imuvid.models.video_framewise import FramewiseConfig
from imuvid.models.video_videomae import VideoMAETowerConfig
from imuvid.models.video_vjepa2 import VJEPA2TowerConfig

_KINDS: dict[str, tuple[str, type[PreTrainedConfig]]] = {
    "videomae": ("videomae", VideoMAEConfig),
    "vjepa2": ("vjepa2", VJEPA2Config),
    "clip": ("clip", CLIPVisionConfig),
    "clip_vision_model": ("clip", CLIPVisionConfig),
    "siglip": ("siglip", SiglipVisionConfig),
    "siglip_vision_model": ("siglip", SiglipVisionConfig),
    "dinov2": ("dinov2", Dinov2Config),
}
"""By ``model_type``: our name of it, and what describes its part for pictures."""
_FIXED = ("hidden_act", "layer_norm_eps", "qkv_bias", "use_swiglu_ffn")
"""What the towers have as transformers does by default."""


def config_of_folder(folder: Path, fields: dict[str, Any], num_frames: int, size: int) -> VideoTowerConfig:
    """Return the tower of VideoMAE, V-JEPA 2, CLIP, SigLIP or DINOv2 for clips of such frames.

    Args:
        folder: of the model.
        fields: its ``config.json``.
        num_frames: of a clip.
        size: height and width of a frame, pixels.

    Raises:
        UserError: it is another model, has what the tower does not, or takes other clips.
    """
    if fields["model_type"] not in _KINDS:
        names = ", ".join(_KINDS)
        raise UserError(f"{folder}: is a transformers model of type {fields['model_type']}, expected one of {names}")
    kind, described_by = _KINDS[fields["model_type"]]
    stated: Any = described_by.from_dict(fields.get("vision_config", fields))
    usual: Any = described_by()
    for name in _FIXED:
        if getattr(stated, name, None) != getattr(usual, name, None):
            raise UserError(f"{folder}: {name} is {getattr(stated, name)}, which the {kind} tower does not have")
    takes = stated.crop_size if kind == "vjepa2" else stated.image_size
    if takes != size:
        raise UserError(f"{folder}: takes pictures of {takes} pixels: set frames.size={takes}")
    tubelet_size = getattr(stated, "tubelet_size", 1)
    if num_frames % tubelet_size:
        raise UserError(f"{folder}: takes multiples of {tubelet_size} frames, not {num_frames}: set another frames.num")
    common: dict[str, Any] = {
        "image_size": size,
        "patch_size": stated.patch_size,
        "hidden_size": stated.hidden_size,
        "num_layers": stated.num_hidden_layers,
        "num_heads": stated.num_attention_heads,
        "weights": str(folder),
    }
    if kind == "videomae":
        widths = {"intermediate_size": stated.intermediate_size, "tubelet_size": tubelet_size}
        return VideoTowerConfig(kind=kind, videomae=VideoMAETowerConfig(num_frames=num_frames, **widths, **common))
    if kind == "vjepa2":
        own = VJEPA2TowerConfig(tubelet_size=tubelet_size, mlp_ratio=stated.mlp_ratio, **common)
        return VideoTowerConfig(kind=kind, vjepa2=own)
    width = int(stated.mlp_ratio * stated.hidden_size) if kind == "dinov2" else stated.intermediate_size
    return VideoTowerConfig(kind="framewise", framewise=FramewiseConfig(model=kind, intermediate_size=width, **common))
