"""The towers and heads of a run, as its checkpoints hold them for every later use."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from imuvid.data.mixture import AnyDataset
from imuvid.models import shared_space, text_encoder, video_encoder
from imuvid.models.encoder import EncoderConfig, save_encoder
from imuvid.models.shared_space import SharedSpaceConfig, save_shared_space
from imuvid.models.text_encoder import TextEncoderConfig, save_text_encoder
from imuvid.models.text_tokens import TextTokenizer
from imuvid.models.towers import with_places
from imuvid.models.video_encoder import VideoEncoderConfig, save_video_encoder
from imuvid.training.checkpoint_writer import Parts
from imuvid.training.config import PretrainConfig
from imuvid.training.engine import Engine


@dataclass
class TowerStates:
    """On the CPU, by the names that the later modules have."""

    imu: dict[str, Tensor]
    """Of the IMU tower."""
    video: dict[str, Tensor] | None
    """Of the video tower; None where there is no tower of pictures."""
    heads: dict[str, Tensor]
    """Of a :class:`imuvid.models.shared_space.SharedSpace`."""
    text: dict[str, Tensor] | None
    """Of a :class:`imuvid.models.text_encoder.TextEncoder`; None where there is no text."""
    feature_dims: tuple[int, int]
    """Widths of the features of the IMU and of the video tower."""


def tower_states(engine: Engine, dataset: AnyDataset) -> TowerStates:
    """Return copies of the towers and heads; every rank must call it, rank 0 gets the tensors."""

    def joined(parts: dict[str, str]) -> dict[str, Tensor]:
        states = {name: engine.tower_state(prefix) for name, prefix in parts.items()}
        return {f"{name}.{key}": tensor for name, state in states.items() for key, tensor in state.items()}

    model = engine.module
    of_text = {"tower": "text_tower", "head": "text_head", "imu_head": "imu_head"}
    has_pictures = dataset.info.num_frames > 0 and dataset.info.video_embedding is None
    return TowerStates(
        imu=engine.tower_state("imu_tower"),
        video=engine.tower_state("video_tower") if has_pictures else None,
        heads=joined({"imu_head": "imu_head", "video_head": "video_head"}),
        text=joined(of_text) if model.text_tower is not None else None,
        feature_dims=(model.imu_tower.feature_dim, model.video_tower.feature_dim),
    )


def tower_parts(
    config: PretrainConfig, dataset: AnyDataset, step: int, states: TowerStates, tokenizer: TextTokenizer | None
) -> Parts:
    """Return what writes the folders of towers and heads of a checkpoint.

    Args:
        config: of the run.
        dataset: that it trains on.
        step: steps done.
        states: from :func:`tower_states`.
        tokenizer: of the text tower, if there is one.
    """
    info = dataset.info
    provenance: dict[str, Any] = {
        "run": config.name,
        "step": step,
        "dataset": info.name,
        "fingerprint": dataset.fingerprint,
    }
    objective = {"objective": " + ".join([config.model.objective.kind, *config.model.objective.extra])}
    encoder = EncoderConfig(
        tower=with_places(config.model.imu_tower, info.positions),
        imu_rate_hz=info.imu_rate_hz,
        window_s=info.window_s,
        positions=info.positions,
        condition=config.data.condition,
        provenance=provenance
        | objective
        | {
            "train_subjects": sorted({s for s in dataset.subjects.unique() if s is not None}),
            "train_windows": len(dataset),
        },
    )
    space = SharedSpaceConfig(config.model.head, *states.feature_dims, provenance)
    parts: Parts = {
        "encoder": partial(save_encoder, config=encoder, tower_state=states.imu),
        shared_space.FOLDER_NAME: partial(save_shared_space, config=space, state=states.heads),
    }
    if states.video is not None:
        video = VideoEncoderConfig(config.model.video_tower, dataset.num_frames, info.frame_size, provenance=provenance)
        parts[video_encoder.FOLDER_NAME] = partial(save_video_encoder, config=video, tower_state=states.video)
    if states.text is not None:
        assert tokenizer is not None
        text = TextEncoderConfig(
            config.model.text_tower, config.model.head, states.feature_dims[0], provenance | objective
        )
        write = partial(save_text_encoder, config=text, state=states.text, tokenizer=tokenizer.description)
        parts[text_encoder.FOLDER_NAME] = write
    return parts
