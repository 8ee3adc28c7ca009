"""The two towers of a run, as its checkpoints hold them for every later use."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from imuvid.data.mixture import AnyDataset
from imuvid.models.encoder import EncoderConfig, save_encoder
from imuvid.models.shared_space import FOLDER_NAME as HEADS_NAME
from imuvid.models.shared_space import SharedSpaceConfig, save_shared_space
from imuvid.models.towers import with_places
from imuvid.models.two_tower import TwoTower
from imuvid.models.video_encoder import FOLDER_NAME, VideoEncoderConfig, save_video_encoder
from imuvid.training.checkpoint_writer import Parts
from imuvid.training.config import PretrainConfig


def tower_parts(
    config: PretrainConfig, dataset: AnyDataset, step: int, imu: dict[str, Tensor], video: dict[str, Tensor] | None
) -> Parts:
    """Return what writes the encoder folders of a checkpoint.

    Args:
        config: of the run.
        dataset: that it trains on.
        step: steps done.
        imu: state of the IMU tower.
        video: state of the video tower; None where there is no tower of pictures.
    """
    info = dataset.info
    provenance: dict[str, Any] = {
        "run": config.name,
        "step": step,
        "dataset": info.name,
        "fingerprint": dataset.fingerprint,
    }
    encoder = EncoderConfig(
        tower=with_places(config.model.imu_tower, info.positions),
        imu_rate_hz=info.imu_rate_hz,
        window_s=info.window_s,
        positions=info.positions,
        condition=config.data.condition,
        provenance=provenance
        | {
            "objective": " + ".join([config.model.objective.kind, *config.model.objective.extra]),
            "train_subjects": sorted({s for s in dataset.subjects.unique() if s is not None}),
            "train_windows": len(dataset),
        },
    )
    parts: Parts = {"encoder": partial(save_encoder, config=encoder, tower_state=imu)}
    if video is not None:
        video_encoder = VideoEncoderConfig(
            config.model.video_tower, dataset.num_frames, info.frame_size, provenance=provenance
        )
        parts[FOLDER_NAME] = partial(save_video_encoder, config=video_encoder, tower_state=video)
    return parts


def head_parts(
    config: PretrainConfig, dataset: AnyDataset, step: int, model: TwoTower, heads: dict[str, dict[str, Tensor]]
) -> Parts:
    """Return what writes the heads of a checkpoint.

    Args:
        config: of the run.
        dataset: that it trains on.
        step: steps done.
        model: whose heads they are.
        heads: state of ``imu_head`` and ``video_head``, names without prefix.
    """
    space = SharedSpaceConfig(
        config.model.head,
        model.imu_tower.feature_dim,
        model.video_tower.feature_dim,
        {"run": config.name, "step": step, "dataset": dataset.info.name, "fingerprint": dataset.fingerprint},
    )
    state = {f"{name}.{key}": tensor for name, part in heads.items() for key, tensor in part.items()}
    return {HEADS_NAME: partial(save_shared_space, config=space, state=state)}
