"""What a run must fulfil before it starts: all that can be said without processes, so that a mistake is one line."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from imuvid import config as configs
from imuvid.data.mixture import AnyDataset, changed_part, open_held_out, open_split, sample_order
from imuvid.data.shard_dataset import retrieval_windows
from imuvid.data.stream import DataConfig, open_cache
from imuvid.errors import UserError
from imuvid.imu.condition import check_condition
from imuvid.models.tower import Tower
from imuvid.models.towers import ImuTowerConfig, VideoTowerConfig, without_weights
from imuvid.models.two_tower import ModelConfig, TwoTower
from imuvid.training.checkpoint import find_checkpoint, read_stream_state
from imuvid.training.config import PretrainConfig
from imuvid.training.engine import check_engine, resolve_dtype
from imuvid.training.optimisation import SCHEDULES
from imuvid.training.profiling import profile_window

# What may differ between the starts of one run: it changes speed or bookkeeping, not the result.
FREE_TO_CHANGE = {"runs_dir", "data.num_workers", "data.timeout_s", "data.path", "data.mixture", "engine.timeout_s"}
FREE_TO_CHANGE |= {
    "engine.zero_stage",
    "engine.offload",
    "engine.peak_tflops",
    "engine.activation_checkpointing",
    "engine.step_timeout_s",
    "data.read_ahead",
    "data.cache_dir",
    "data.cache_gb",
    "data.max_corrupt",
}
FREE_SECTIONS = ("train.log_", "train.validate_", "train.checkpoint_", "train.keep_", "train.profile_", "evaluate.")


def check_start(config: PretrainConfig, world: int) -> tuple[AnyDataset, AnyDataset]:
    """Open the training and the held-out split, and refuse what cannot be trained on ``world`` ranks.

    Raises:
        UserError: the dataset is incomplete, has no video for an objective with video or not what the video tower
            takes, a subject is in both splits, or a setting does not fit.
    """
    _check_settings(config)
    dtype = resolve_dtype(config.engine.dtype)
    if config.data.batch_size % world:
        raise UserError(
            f"data.batch_size={config.data.batch_size} is no multiple of the {world} ranks: choose one that is"
        )
    if config.data.batch_size // world % config.engine.accumulate:
        raise UserError(
            f"engine.accumulate={config.engine.accumulate}: the {config.data.batch_size // world} windows of a rank"
            " cannot be parted so: choose a divisor of it (each part has the negatives of its own windows alone;"
            " engine.micro_batch_size saves memory with those of the whole batch)"
        )
    train = open_split(config.data, config.data.train_split)
    held_out = open_held_out(config.data)
    where = " + ".join(str(part.store) for part in train.parts)
    order = sample_order(train, config.data, config.seed)
    if config.data.batch_size > order.num_samples:
        raise UserError(
            f"data.batch_size={config.data.batch_size} exceeds the {order.num_samples} samples of split"
            f" '{config.data.train_split}' in {where}"
        )
    has_video = train.info.num_frames > 0
    if has_video:
        _check_video_tower(config.model.video_tower, train.info.embedding_dim, where)
    shared = {s for s in train.subjects.unique() if s} & {s for s in held_out.subjects.unique() if s}
    if shared:
        raise UserError(
            f"{where}: {len(shared)} subjects are in the training and in the held-out split: retrieval would"
            " be measured on people it was trained on; mend the split section of the build config"
        )
    retrieval_windows(held_out, config.train.validate_windows)
    _check_statistics(config.data, train, held_out)
    _check_augmentation(config.data, train)
    _check_cache(config.data, train)
    two_tower = meta_model(config.model, dtype)
    _check_imu_tower(config.model.imu_tower, two_tower.imu_tower, train)
    _check_objective(config, two_tower.objective.needs, len(train.info.positions))
    if not has_video and two_tower.objective.needs & {"video", "video_tokens"}:
        raise UserError(
            f"{where}: has no video, which the objective needs: build it with frames.num above 0, train on a"
            " data.mixture with a dataset that has video, or set model.objective.kind to nt_xent or masked"
        )
    check_engine(config.engine, two_tower)
    return train, held_out


def meta_model(config: ModelConfig, dtype: torch.dtype) -> TwoTower:
    """Return the model on the meta device, which takes neither memory nor time."""
    config = dataclasses.replace(
        config,
        imu_tower=without_weights(config.imu_tower),
        video_tower=without_weights(config.video_tower),
        text_tower=without_weights(config.text_tower),
    )
    with torch.device("meta"):
        return TwoTower(config, dtype)


def check_run_folder(config: PretrainConfig, fingerprint: str) -> tuple[Path | None, list[str]]:
    """Return the checkpoint that a run of this config goes on from, None where it begins; changes nothing.

    What is wrong with newer checkpoints is returned beside it.

    Args:
        config: of the run; its folder is looked at.
        fingerprint: of the dataset or mixture.

    Raises:
        UserError: the folder holds a run with another config, the dataset is another than that run's, or none of its
            checkpoints is sound.
    """
    folder = Path(config.runs_dir) / config.name
    saved = folder / "config.yaml"
    if saved.exists():
        earlier = configs.to_dict(configs.load(PretrainConfig, saved))
        changed = [key for key in _differences(earlier, configs.to_dict(config)) if not _may_change(key)]
        if changed:
            raise UserError(
                f"{folder} holds a run with another {', '.join(changed[:3])}: set them back to go on with it,"
                f" or choose another name=..."
            )
    checkpoint, problems = find_checkpoint(folder / "checkpoints")
    if checkpoint is None and problems:
        raise UserError(
            f"{folder}: none of its {len(problems)} checkpoints is sound ({problems[0]}): bring one back, or begin anew"
            " with another name=..."
        )
    before = read_stream_state(checkpoint).fingerprint if checkpoint else fingerprint
    if before != fingerprint:
        paths = [entry.path for entry in config.data.mixture]
        what = changed_part(before, fingerprint, paths) if paths else f"{config.data.path} has changed"
        raise UserError(
            f"{what} since {checkpoint} was written: the order of its samples is not the same"
            " any more; start a new run with another name=..."
        )
    return checkpoint, problems


def _check_settings(config: PretrainConfig) -> None:
    demands: list[tuple[str, Callable[[Any], bool], str]] = [
        ("name", lambda name: Path(name).name == name != "..", "must be a plain folder name"),
        ("seed", lambda seed: seed >= 0, "must be 0 or more"),
        ("data.batch_size", lambda size: size >= 1, "must be at least 1"),
        ("data.block_shards", lambda number: number >= 0, "must be 0 or more"),
        ("data.max_per_recording", lambda number: number >= 0, "must be 0 or more"),
        ("data.epoch_samples", lambda number: number is None or number >= 1, "must be at least 1"),
        ("data.num_workers", lambda number: number >= 0, "must be 0 or more"),
        ("data.timeout_s", lambda seconds: seconds > 0, "must be above 0"),
        ("data.max_corrupt", lambda number: number >= 0, "must be 0 or more"),
        ("data.num_frames", lambda number: number >= 0, "must be 0 or more"),
        ("data.read_ahead", lambda number: number >= 0, "must be 0 or more"),
        ("data.cache_gb", lambda size: size > 0, "must be above 0"),
        ("data.augment.shift_range", lambda share: 0 <= share < 1, "must be 0 or more, and below 1"),
        ("data.augment.mask_range", lambda share: 0 <= share < 1, "must be 0 or more, and below 1"),
        ("optimizer.betas", lambda betas: len(betas) == 2, "must be two numbers"),
        ("optimizer.schedule", lambda name: name in SCHEDULES, f"must be {', '.join(SCHEDULES)}"),
        ("optimizer.decay_share", lambda share: 0 < share <= 1, "must be above 0, and at most 1"),
        ("optimizer.warmup_share", lambda share: 0 <= share <= 1, "must be between 0 and 1"),
        ("optimizer.final_lr_share", lambda share: 0 <= share <= 1, "must be between 0 and 1"),
        ("optimizer.layer_decay", lambda share: 0 < share <= 1, "must be above 0, and at most 1"),
        ("optimizer.grad_clip", lambda norm: norm >= 0, "must be 0 or more"),
        ("engine.zero_stage", lambda stage: stage in range(4), "must be 0, 1, 2 or 3"),
        ("engine.accumulate", lambda parts: parts >= 1, "must be at least 1"),
        ("engine.micro_batch_size", lambda size: size >= 0, "must be 0 or more"),
        ("engine.peak_tflops", lambda rate: rate >= 0, "must be 0 or more"),
        ("engine.timeout_s", lambda seconds: seconds > 0, "must be above 0"),
        ("train.epochs", lambda epochs: epochs > 0, "must be above 0"),
        ("train.log_every_steps", lambda steps: steps >= 1, "must be at least 1"),
        ("train.validate_max_windows", lambda number: number >= 1, "must be at least 1"),
        ("train.checkpoint_every_steps", lambda steps: steps >= 1, "must be at least 1"),
        ("engine.step_timeout_s", lambda seconds: seconds > 0, "must be above 0"),
        ("train.max_bad_steps", lambda number: number >= 1, "must be at least 1"),
        ("train.leap_deviations", lambda number: number >= 0, "must be 0 or more"),
        ("train.checkpoint_every_minutes", lambda minutes: minutes >= 0, "must be 0 or more"),
        ("train.keep_every_steps", lambda steps: steps >= 0, "must be 0 or more"),
        ("train.keep_checkpoints", lambda number: number >= 2, "must be at least 2: one survives while one is written"),
    ]
    for key, holds, demand in demands:
        value = operator.attrgetter(key)(config)
        if not holds(value):
            raise UserError(f"{key}={value} {demand}")
    profile_window(config.train.profile_steps)
    check_condition(config.data.condition, "data.condition")


def _check_objective(config: PretrainConfig, needs: frozenset[str], num_sensors: int) -> None:
    """Refuse an objective that does not fit the windows."""
    objective = config.model.objective
    if "hidden" in needs and objective.masked.num_sensors != num_sensors:
        raise UserError(
            f"model.objective.masked.num_sensors={objective.masked.num_sensors}, but the windows have {num_sensors}"
            f" sensors: set it to {num_sensors}"
        )
    if "second_features" in needs and objective.second_view.rotate and config.data.condition.normalise != "none":
        raise UserError(
            "model.objective.second_view.rotate=true turns readings in SI units, which data.condition.normalise="
            f"{config.data.condition.normalise} takes from them: set one to false or the other to none"
        )


def _check_statistics(data: DataConfig, train: AnyDataset, held_out: AnyDataset) -> None:
    """Where recordings are normalised: are their statistics there, and are they those of what is trained on?"""
    if data.condition.normalise != "recording":
        return
    for name in ("rotate_share", "flip_share"):
        if (share := getattr(data.augment, name)) > 0:
            raise UserError(
                f"data.augment.{name}={share:g} and data.condition.normalise=recording exclude each other: the"
                f" statistics of a recording are those along its own axes; set data.augment.{name}=0"
            )
    for dataset in (train, held_out):
        _ = dataset.imu_statistics  # raises, where they are missing


def _check_augmentation(data: DataConfig, train: AnyDataset) -> None:
    """Refuse what would part an embedding of the video from its IMU."""
    if train.info.embedding_dim is None:
        return
    for name in ("shift_range", "flip_share"):
        if (value := getattr(data.augment, name)) > 0:
            raise UserError(
                f"data.augment.{name}={value:g}: the dataset holds embeddings of the frames, which cannot follow the"
                f" IMU; set data.augment.{name}=0"
            )


def _check_cache(data: DataConfig, train: AnyDataset) -> None:
    """Refuse a cache that would not hold a block of shards and the next one: each shard would come several times."""
    cache = open_cache(data, train)
    if cache is None:
        return
    sizes = sorted((train.least_size(shard) for shard in range(len(train.shard_sizes))), reverse=True)
    needed = min(sum(sizes), 2 * sum(sizes[: data.block_shards or len(sizes)]))
    if needed > cache.max_bytes:
        blocks = f"two blocks of {data.block_shards} shards" if data.block_shards else "a split that is one block"
        raise UserError(
            f"data.cache_gb={data.cache_gb:g} is less than the {needed / 1e9:.3g} GB of {blocks}: raise it, or lower"
            " data.block_shards (0 is all shards)"
        )


def _check_imu_tower(config: ImuTowerConfig, tower: Tower, dataset: AnyDataset) -> None:
    """Refuse a tower that does not take the windows of the dataset."""
    info = dataset.info
    if config.kind == "resnet" and config.resnet.rate_hz != info.imu_rate_hz:
        raise UserError(
            f"model.imu_tower.resnet.rate_hz={config.resnet.rate_hz:g}, but the windows have {info.imu_rate_hz:g} Hz:"
            f" set model.imu_tower.resnet.rate_hz={info.imu_rate_hz:g}"
        )
    if config.kind == "external":
        return  # another package's code, which may not run on the meta device
    shape = (2, round(info.window_s * info.imu_rate_hz), len(info.positions))
    try:
        with torch.device("meta"):
            tower(torch.zeros(*shape, 6), torch.ones(*shape, 2, dtype=torch.bool))
    except ValueError as error:
        raise UserError(f"model.imu_tower.{config.kind}: {error}") from error


def _check_video_tower(tower: VideoTowerConfig, dim: int | None, path: str) -> None:
    """Refuse a tower of pictures where there are embeddings of ``dim`` numbers, and the reverse (None)."""
    if dim is None and tower.kind == "embedding":
        raise UserError(
            f"{path}: holds frames, no embeddings of them: set model.video_tower.kind to another, or convert it"
            " by 'imuvid shards embed'"
        )
    if dim is not None and (tower.kind, tower.embedding.dim) != ("embedding", dim):
        raise UserError(
            f"{path}: holds video embeddings of {dim} numbers instead of frames: set model.video_tower.kind=embedding"
            f" model.video_tower.embedding.dim={dim}"
        )


def _differences(a: dict, b: dict, prefix: str = "") -> list[str]:
    keys = []
    for key in sorted(set(a) | set(b)):
        left, right = a.get(key), b.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            keys += _differences(left, right, f"{prefix}{key}.")
        elif left != right:
            keys.append(prefix + key)
    return keys


def _may_change(key: str) -> bool:
    return key in FREE_TO_CHANGE or key.startswith(FREE_SECTIONS)
