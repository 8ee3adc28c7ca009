"""Which towers there are: the one place where a config's ``kind`` becomes a module.

A tower imports transformers or scipy where it is built: at the top of its file, that would cost every rank seconds of
processor time at its start, whatever its towers are.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TypeVar

from imuvid.errors import UserError
from imuvid.models.conv3d import steady_conv3d
from imuvid.models.imu_cnn import ImuCnn, ImuCnnConfig
from imuvid.models.imu_cnn_gru import ImuCnnGru, ImuCnnGruConfig
from imuvid.models.imu_external import ImuExternal, ImuExternalConfig
from imuvid.models.imu_gravity import ImuGravity, ImuGravityConfig, place_of
from imuvid.models.imu_patchtst import ImuPatchTST, ImuPatchTSTConfig
from imuvid.models.imu_resnet import ImuResNet, ImuResNetConfig
from imuvid.models.text_clip import TextClip, TextClipConfig
from imuvid.models.tower import Tower
from imuvid.models.tuning import TuningConfig, tuned
from imuvid.models.video_cnn import VideoCnn, VideoCnnConfig
from imuvid.models.video_embedding import VideoEmbedding, VideoEmbeddingConfig
from imuvid.models.video_framewise import Framewise, FramewiseConfig
from imuvid.models.video_videomae import VideoMAE, VideoMAETowerConfig
from imuvid.models.video_vjepa2 import VJEPA2, VJEPA2TowerConfig


@dataclass
class ImuTowerConfig:
    """The IMU tower; only the section of the chosen kind is read."""

    kind: str = "cnn"
    """gravity (our own), cnn, patchtst, cnn_gru (IMU2CLIP's), resnet (harnet's shape) or external (another package's
    encoder)."""
    cnn: ImuCnnConfig = field(default_factory=ImuCnnConfig)
    patchtst: ImuPatchTSTConfig = field(default_factory=ImuPatchTSTConfig)
    cnn_gru: ImuCnnGruConfig = field(default_factory=ImuCnnGruConfig)
    resnet: ImuResNetConfig = field(default_factory=ImuResNetConfig)
    external: ImuExternalConfig = field(default_factory=ImuExternalConfig)
    gravity: ImuGravityConfig = field(default_factory=ImuGravityConfig)


@dataclass
class VideoTowerConfig:
    """The video tower; only the section of the chosen kind is read."""

    kind: str = "cnn"
    """cnn, videomae, vjepa2 or framewise (CLIP, SigLIP, DINOv2); or embedding, for a dataset that holds embeddings of a
    frozen tower instead of frames."""
    cnn: VideoCnnConfig = field(default_factory=VideoCnnConfig)
    videomae: VideoMAETowerConfig = field(default_factory=VideoMAETowerConfig)
    vjepa2: VJEPA2TowerConfig = field(default_factory=VJEPA2TowerConfig)
    framewise: FramewiseConfig = field(default_factory=FramewiseConfig)
    embedding: VideoEmbeddingConfig = field(default_factory=VideoEmbeddingConfig)
    tuning: TuningConfig = field(default_factory=TuningConfig)
    """How much of a pretrained tower (videomae, vjepa2, framewise) is trained."""


@dataclass
class TextTowerConfig:
    """The text tower, for samples with narrations; only the section of the chosen kind is read."""

    kind: str = "none"
    """none, or clip."""
    clip: TextClipConfig = field(default_factory=TextClipConfig)
    tuning: TuningConfig = field(default_factory=TuningConfig)
    """How much of it is trained."""


IMU_TOWERS: dict[str, type[Tower]] = {
    "cnn": ImuCnn,
    "patchtst": ImuPatchTST,
    "cnn_gru": ImuCnnGru,
    "resnet": ImuResNet,
    "external": ImuExternal,
    "gravity": ImuGravity,
}
VIDEO_TOWERS: dict[str, type[Tower]] = {
    "cnn": VideoCnn,
    "videomae": VideoMAE,
    "vjepa2": VJEPA2,
    "framewise": Framewise,
    "embedding": VideoEmbedding,
}
TEXT_TOWERS: dict[str, type[Tower]] = {"clip": TextClip}
PRETRAINED_VIDEO = ("videomae", "vjepa2", "framewise")

AnyTowerConfig = ImuTowerConfig | VideoTowerConfig | TextTowerConfig
TowerConfig = TypeVar("TowerConfig", ImuTowerConfig, VideoTowerConfig, TextTowerConfig)


def build_imu_tower(config: ImuTowerConfig) -> Tower:
    """Return the tower: forward(imu [B, T, P, 6], valid [B, T, P, 2]) -> [B, tower.feature_dim].

    Raises:
        UserError: the kind is unknown or its sizes do not fit together.
    """
    return _build("imu_tower", config, IMU_TOWERS)


def with_places(config: ImuTowerConfig, positions: list[str]) -> ImuTowerConfig:
    """Return the config of a tower that is to be trained on sensors worn there: each place gets an embedding.

    Args:
        config: its own list of places, if it has one, stands.
        positions: of the dataset.
    """
    if config.gravity.places:
        return config
    places = sorted({place_of(position) for position in positions})
    return dataclasses.replace(config, gravity=dataclasses.replace(config.gravity, places=places))


def build_video_tower(config: VideoTowerConfig) -> Tower:
    """Return the tower: forward(frames uint8 [B, F, H, W, 3], frame_valid [B, F]) -> [B, tower.feature_dim].

    Where the kind is embedding, frames are float16 [B, dim].

    Raises:
        UserError: the kind is unknown, its sizes do not fit together, or it has no pretrained part to tune so.
    """
    tower = _build("video_tower", config, VIDEO_TOWERS)
    steady_conv3d(tower)
    if config.kind in PRETRAINED_VIDEO:
        try:
            tower.model = tuned(tower.model, config.tuning)  # type: ignore[arg-type]
        except ValueError as error:
            raise UserError(f"video_tower: {error}") from error
    elif config.tuning.kind != "full":
        raise UserError(
            f"video_tower.tuning.kind={config.tuning.kind} is for {', '.join(PRETRAINED_VIDEO)}: the kind"
            f" {config.kind} has no pretrained weights; set it to full"
        )
    return tower


def build_text_tower(config: TextTowerConfig) -> Tower | None:
    """Return the tower: forward(tokens int64 [B, L], valid bool [B, L]) -> [B, tower.feature_dim]; None for none.

    Raises:
        UserError: the kind is unknown, its sizes do not fit together, or it cannot be tuned so.
    """
    if config.kind == "none":
        return None
    tower = _build("text_tower", config, TEXT_TOWERS)
    try:
        tower.model = tuned(tower.model, config.tuning)  # type: ignore[arg-type]
    except ValueError as error:
        raise UserError(f"text_tower: {error}") from error
    return tower


def without_weights(config: TowerConfig) -> TowerConfig:
    """Return the config of the same tower that does not ask for the pretrained weights it once started from."""
    sections = {
        section.name: dataclasses.replace(getattr(config, section.name), weights=None)
        for section in dataclasses.fields(config)
        if hasattr(getattr(config, section.name), "weights")
    }
    return dataclasses.replace(config, **sections)


def _build(name: str, config: AnyTowerConfig, kinds: dict[str, type[Tower]]) -> Tower:
    if config.kind not in kinds:
        raise UserError(f"{name}.kind is '{config.kind}', expected one of {', '.join(kinds)}")
    try:
        return kinds[config.kind](getattr(config, config.kind))
    except ValueError as error:
        raise UserError(f"{name}.{config.kind}: {error}") from error
