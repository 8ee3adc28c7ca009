"""Which towers there are: the one place where a config's ``kind`` becomes a module."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from imuvid.errors import UserError
from imuvid.models.imu_cnn import ImuCnn, ImuCnnConfig
from imuvid.models.imu_gravity import ImuGravity, ImuGravityConfig, place_of
from imuvid.models.imu_patchtst import ImuPatchTST, ImuPatchTSTConfig
from imuvid.models.tower import Tower
from imuvid.models.video_cnn import VideoCnn, VideoCnnConfig
from imuvid.models.video_embedding import VideoEmbedding, VideoEmbeddingConfig
from imuvid.models.video_videomae import VideoMAE, VideoMAETowerConfig


@dataclass
class ImuTowerConfig:
    """The IMU tower; only the section of the chosen kind is read."""

    kind: str = "cnn"
    """gravity (our own), cnn or patchtst."""
    cnn: ImuCnnConfig = field(default_factory=ImuCnnConfig)
    patchtst: ImuPatchTSTConfig = field(default_factory=ImuPatchTSTConfig)
    gravity: ImuGravityConfig = field(default_factory=ImuGravityConfig)


@dataclass
class VideoTowerConfig:
    """The video tower; only the section of the chosen kind is read."""

    kind: str = "cnn"
    """cnn or videomae; or embedding, for a dataset that holds embeddings of a frozen tower instead of frames."""
    cnn: VideoCnnConfig = field(default_factory=VideoCnnConfig)
    videomae: VideoMAETowerConfig = field(default_factory=VideoMAETowerConfig)
    embedding: VideoEmbeddingConfig = field(default_factory=VideoEmbeddingConfig)


def build_imu_tower(config: ImuTowerConfig) -> Tower:
    """Return the tower: forward(imu [B, T, P, 6], valid [B, T, P, 2]) -> [B, tower.feature_dim].

    Raises:
        UserError: the kind is unknown or its sizes do not fit together.
    """
    return _build("imu_tower", config, {"cnn": ImuCnn, "patchtst": ImuPatchTST, "gravity": ImuGravity})


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
        UserError: the kind is unknown or its sizes do not fit together.
    """
    return _build("video_tower", config, {"cnn": VideoCnn, "videomae": VideoMAE, "embedding": VideoEmbedding})


def _build(name: str, config: ImuTowerConfig | VideoTowerConfig, kinds: dict[str, type[Tower]]) -> Tower:
    if config.kind not in kinds:
        raise UserError(f"{name}.kind is '{config.kind}', expected one of {', '.join(kinds)}")
    try:
        return kinds[config.kind](getattr(config, config.kind))
    except ValueError as error:
        raise UserError(f"{name}.{config.kind}: {error}") from error
