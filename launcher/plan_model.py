"""What a config's own model takes: parameters and activations, counted on the real modules without their memory."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from imuvid import config as configs
from imuvid.data.batch import Batch
from imuvid.data.mixture import open_split
from imuvid.errors import UserError
from imuvid.models.towers import with_places, without_weights
from imuvid.models.two_tower import ModelConfig, TwoTower
from imuvid.training.config import PretrainConfig
from imuvid.training.engine import resolve_dtype
from launcher.plan import FROM_DOCTOR, ModelSize, Plan, PlanConfig, Workload, complete_figures, make_plan


def example_batch(figures: PlanConfig, size: int, num_tokens: int = 0) -> Batch:
    """Return a batch of ``size`` windows of the shape that is planned with, of noise, with so many tokens of text."""
    steps, px = round(figures.window_s * figures.imu_rate_hz), figures.frame_px
    frames = torch.zeros(size, figures.frames, px, px, 3, dtype=torch.uint8)
    if figures.embedding_dim:
        frames = torch.zeros(size, figures.embedding_dim, dtype=torch.float16)
    return Batch(
        imu=torch.randn(size, steps, figures.sensors, 6),
        valid=torch.ones(size, steps, figures.sensors, 2, dtype=torch.bool),
        frames=frames,
        frame_valid=torch.ones(size, max(1, figures.frames), dtype=torch.bool),
        recording=torch.arange(size),
        sample=torch.arange(size),
        skipped=torch.full((size, 2), -1),
        start_s=torch.zeros(size, dtype=torch.float64),
        text=torch.zeros(size, num_tokens, dtype=torch.int64),
    )


def model_size(config: PretrainConfig, figures: PlanConfig) -> ModelSize:
    """Count the model of a config, and what autograd keeps of a window between forward and backward.

    Fake tensors have shapes and no content: neither memory nor computation, whatever the size of the model.
    """
    towers = dataclasses.replace(
        config.model,
        imu_tower=with_places(without_weights(config.model.imu_tower), [f"p{i}" for i in range(figures.sensors)]),
        video_tower=without_weights(config.model.video_tower),
        text_tower=without_weights(config.model.text_tower),
    )
    try:
        return _counted(config, towers, figures, "cpu")
    except DataDependentOutputException:
        # Batch normalisation asks a CPU for numbers; the other device knows no autocast, so it counts float32.
        return _counted(config, towers, figures, "meta")


def _counted(config: PretrainConfig, towers: ModelConfig, figures: PlanConfig, device: str) -> ModelSize:
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device(device):
        model = TwoTower(towers, resolve_dtype(config.engine.dtype)).train()
        parameters = list(model.parameters())
        tokens = int(getattr(model.text_tower, "max_tokens", 0))
        two, four = (_saved_bytes(model, example_batch(figures, size, tokens)) for size in (2, 4))
    return ModelSize(
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        frozen=sum(p.numel() for p in parameters if not p.requires_grad),
        embedding=config.model.head.dim,
        activation_bytes=(four - two) // 2,
        cast_bytes=max(0, two - (four - two)),
    )


def _saved_bytes(model: TwoTower, batch: Batch) -> int:
    kept: dict[int, tuple[int, Tensor]] = {}
    parameters = {p.untyped_storage()._cdata for p in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            kept[storage._cdata] = (storage.nbytes(), tensor)  # with the tensor: an address may come twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.views(batch)
    return sum(size for size, _ in kept.values())


def plan_pretraining(path: Path, words: Sequence[str]) -> Plan:
    """Return the plan of a pretraining config; words that begin with ``plan.`` are figures, the others overrides.

    Raises:
        UserError: the config, the dataset or a figure is not there or does not fit.
    """
    figures_words = [word.removeprefix("plan.") for word in words if word.startswith("plan.")]
    stated = configs.load(PlanConfig, None, figures_words)
    others = [word for word in words if not word.startswith("plan.")]
    # A plan needs neither a name nor, with plan.hours, a dataset.
    fillers = ["name=plan"] + (["data.path=stated"] if stated.hours is not None else [])
    config = configs.load(PretrainConfig, path, [*fillers, *others])
    measured, run_batch = _measured(stated)
    window_bytes = stated.window_kb * 1e3
    if stated.hours is None:
        dataset = open_split(config.data, config.data.train_split)
        windows = config.data.epoch_samples or len(dataset)
        stored = sum(part.least_size(shard) for part in dataset.parts for shard in range(len(part.shard_sizes)))
        window_bytes = stored / len(dataset)
        info = dataset.info
        stated = dataclasses.replace(
            stated,
            window_kb=window_bytes / 1e3,
            window_s=info.window_s,
            imu_rate_hz=info.imu_rate_hz,
            sensors=len(info.positions),
            frames=config.data.num_frames or info.num_frames,
            frame_px=info.frame_size[0] if info.frame_size else stated.frame_px,
            embedding_dim=info.embedding_dim or 0,
        )
    else:
        windows = round(stated.hours * 3600 / stated.window_s)
    figures, assumed = complete_figures(stated, measured)
    train = config.train
    steps = train.epochs * windows / config.data.batch_size
    kept = train.keep_checkpoints + 1 + (int(steps // train.keep_every_steps) if train.keep_every_steps else 0)
    work = Workload(
        model=model_size(config, stated),
        zero_stage=config.engine.zero_stage,
        offload=config.engine.offload,
        micro_batch=config.engine.micro_batch_size,
        accumulate=config.engine.accumulate,
        batch=config.data.batch_size,
        windows=windows,
        window_bytes=window_bytes,
        epochs=train.epochs,
        loader_cores=stated.loader_cores or config.data.num_workers,
        checkpoints=kept,
    )
    return make_plan(work, figures, assumed, stated.local_batch or run_batch or config.data.batch_size)


def _measured(stated: PlanConfig) -> tuple[dict[str, float], int | None]:
    """Figures of a run and of a doctor's visit, and the windows a device of the run."""
    measured: dict[str, float] = {}
    local = None
    if stated.doctor is not None:
        report = _read_json(Path(stated.doctor), "imuvid doctor --json")
        measured |= {name: value for name, value in report.get("figures", {}).items() if name in FROM_DOCTOR and value}
    if stated.run is not None:
        folder = Path(stated.run)
        world = int(_read_json(folder / "environment.json", "a run")["variables"].get("WORLD_SIZE", 1))
        config = configs.load(PretrainConfig, folder / "config.yaml")
        log = folder / "metrics.jsonl"
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
        # The first lines are those of starts, which compile and fill their buffers.
        rates = [line["samples_per_s"] for line in lines if line["split"] == "train"][1:]
        if not rates:
            raise UserError(f"plan.run={folder}: its metrics.jsonl has less than two lines of training: let it go on")
        measured["samples_per_s"] = statistics.median(rates) / world
        local = config.data.batch_size // world
    return measured, local


def _read_json(path: Path, writer: str) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as what {writer} writes: {error}") from error
