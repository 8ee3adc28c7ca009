"""Engines on a model small enough to be compared with plain torch, step by step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from imuvid.data.batch import Batch
from imuvid.models.heads import HeadConfig
from imuvid.models.imu_patchtst import ImuPatchTSTConfig
from imuvid.models.towers import ImuTowerConfig, VideoTowerConfig
from imuvid.models.two_tower import ModelConfig, TwoTower
from imuvid.models.video_embedding import VideoEmbeddingConfig
from imuvid.objectives.build import ObjectiveConfig
from imuvid.objectives.views import Views

BATCH, WORLD, STEPS = 16, 2, 3
PATCHTST = ImuPatchTSTConfig(context_length=40, d_model=8, num_layers=2, num_heads=2, ffn_dim=16, dropout=0.2)
MODEL = ModelConfig(
    imu_tower=ImuTowerConfig(kind="patchtst", patchtst=PATCHTST),
    video_tower=VideoTowerConfig(kind="embedding", embedding=VideoEmbeddingConfig(dim=12)),
    head=HeadConfig(kind="mlp", dim=6),
    objective=ObjectiveConfig(kind="sigmoid"),
)
OPTIMIZER: dict[str, Any] = {"lr": 1e-2, "weight_decay": 0.1, "grad_clip": 0.5, "betas": [0.9, 0.98]}


def make_batch(step: int, size: int = BATCH) -> Batch:
    """A global batch."""
    generator = torch.Generator().manual_seed(step)
    return Batch(
        imu=torch.randn(size, 40, 2, 6, generator=generator) * 3,
        valid=torch.ones(size, 40, 2, 2, dtype=torch.bool),
        frames=torch.randn(size, 12, generator=generator).half(),
        frame_valid=torch.ones(size, 4, dtype=torch.bool),
        recording=torch.arange(size),
        sample=torch.arange(size),
        skipped=torch.full((size, 2), -1),
        start_s=torch.arange(size, dtype=torch.float64) * 9,
    )


def make_model(config: ModelConfig = MODEL, dtype: torch.dtype = torch.float32) -> TwoTower:
    """The same weights at every call."""
    torch.manual_seed(0)
    return TwoTower(config, dtype).train()


def part(batch: Batch, rank: int, world: int) -> Batch:
    """This rank's windows."""
    local = len(batch) // world
    return batch.rows(rank * local, (rank + 1) * local)


def weights(model: torch.nn.Module) -> dict[str, Tensor]:
    """Copies of the parameters, which are whole at ZeRO 0 to 2."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def on_engine(rank: int, world: int, words: dict[str, Any], model: TwoTower, optimizer: dict[str, Any]) -> Any:
    """Return (engine, losses) after STEPS steps on this rank."""
    from imuvid.training.engine import Engine, EngineConfig
    from imuvid.training.optimisation import OptimizerConfig

    engine = Engine(model, EngineConfig(**words), OptimizerConfig(**optimizer), torch.device("cpu"), BATCH // world)
    if engine.loss_scale:  # one at which none of the steps overflows
        engine.loss_scale.value = 1024.0
        engine._tell_loss_scale()
    losses = []
    for step in range(STEPS):
        torch.manual_seed(100 + step)
        loss, _ = engine.forward(part(make_batch(step), rank, world))
        losses.append(loss.item())
        engine.backward_and_step(loss, optimizer["lr"])
    return engine, losses


def in_plain_torch(
    model: TwoTower, optimizer: dict[str, Any], rates: dict[str, float], world: int, parts: int = 1
) -> tuple[dict[str, Tensor], list[float]]:
    """The same training in one process: weights and losses.

    Args:
        model: from make_model, without dropout.
        optimizer: as in OPTIMIZER.
        rates: shares of the learning rate, by name; 1 where there is none.
        world: ranks whose windows are put together.
        parts: of a rank's windows that have a loss of their own.
    """
    groups = [
        {
            "params": [parameter],
            "lr": optimizer["lr"] * rates.get(name, 1.0),
            "weight_decay": optimizer["weight_decay"]
            if parameter.ndim > 1 and not name.endswith(("absent", "cls_token"))
            else 0.0,
        }
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and "position_enc" not in name
    ]
    adamw = torch.optim.AdamW(groups, betas=tuple(optimizer["betas"]))
    losses = []
    for step in range(STEPS):
        batch, local = make_batch(step), BATCH // world
        adamw.zero_grad()
        total = 0.0
        for index in range(parts):
            size = local // parts
            rows = [batch.rows(rank * local + index * size, rank * local + (index + 1) * size) for rank in range(world)]
            loss = model.objective(Views.cat([model.views(each) for each in rows]))[0] / parts
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), optimizer["grad_clip"])
        adamw.step()
        losses.append(total)
    return weights(model), losses


def whole_weights(engine: Any) -> dict[str, Tensor]:
    """Parameters of an engine at any ZeRO stage; every rank must call it."""
    from deepspeed.utils import safe_get_full_fp32_param

    named = engine.module.named_parameters()
    return {
        name: (safe_get_full_fp32_param(p) if hasattr(p, "ds_id") else p).detach().clone()
        for name, p in named
        if p.requires_grad
    }
