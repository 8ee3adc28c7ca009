"""Gradient caching gives the gradients of the whole batch, dropout included, under every ZeRO stage."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from imuvid.data.batch import Batch
from imuvid.errors import UserError
from imuvid.models.heads import HeadConfig
from imuvid.models.imu_patchtst import ImuPatchTSTConfig
from imuvid.models.towers import ImuTowerConfig, VideoTowerConfig
from imuvid.models.two_tower import ModelConfig, TwoTower
from imuvid.models.video_embedding import VideoEmbeddingConfig
from imuvid.objectives.build import ObjectiveConfig
from imuvid.objectives.views import Views
from imuvid.training.grad_cache import CachedForward
from tests.ranks import run_ranks

BATCH, WORLD, PART = 20, 2, 4  # two parts of four windows and one of two on a rank
SEED = 40
PATCHTST = ImuPatchTSTConfig(context_length=40, d_model=8, num_layers=1, num_heads=2, ffn_dim=16, dropout=0.2)
MODEL = ModelConfig(
    imu_tower=ImuTowerConfig(kind="patchtst", patchtst=PATCHTST),
    video_tower=VideoTowerConfig(kind="embedding", embedding=VideoEmbeddingConfig(dim=12)),
    head=HeadConfig(kind="mlp", dim=6, dropout=0.3),
    objective=ObjectiveConfig(kind="sigmoid", extra={"nt_xent": 0.5}, mask_margin_s=5.0),
)


def make_batch(size=BATCH) -> Batch:
    generator = torch.Generator().manual_seed(3)
    return Batch(
        imu=torch.randn(size, 40, 2, 6, generator=generator) * 3,
        valid=torch.rand(size, 1, 2, 2, generator=generator).expand(-1, 40, -1, -1) < 0.9,
        frames=torch.randn(size, 12, generator=generator).half(),
        frame_valid=torch.ones(size, 4, dtype=torch.bool),
        recording=torch.arange(size) // 3,
        sample=torch.arange(size),
        skipped=torch.full((size, 2), -1),
        start_s=torch.arange(size, dtype=torch.float64) * 2,
    )


def rows_of(batch: Batch, rows: slice) -> Batch:
    return Batch(**{name: tensor[rows] for name, tensor in vars(batch).items()})


def make_model() -> TwoTower:
    torch.manual_seed(0)
    return TwoTower(MODEL).train()


def engine_of(model: TwoTower, stage: int, micro_batch_size: int):
    from imuvid.training.engine import Engine, EngineConfig
    from imuvid.training.optimisation import OptimizerConfig

    config = EngineConfig(zero_stage=stage, micro_batch_size=micro_batch_size)
    return Engine(model, config, OptimizerConfig(), torch.device("cpu"), BATCH // WORLD)


def on_rank(rank: int, stages: list[int]) -> dict:
    from deepspeed.utils import safe_get_full_grad

    local = BATCH // WORLD
    batch = rows_of(make_batch(), slice(rank * local, (rank + 1) * local))
    results = {}
    for stage in stages:
        engine = engine_of(make_model(), stage, PART)
        engine.backward_and_step(engine.forward(batch)[0], lr=0.0)  # changes nothing but what it leaves behind
        torch.manual_seed(SEED + rank)
        loss, _ = engine.forward(batch)
        engine.backward(loss)
        named = [(n, p) for n, p in engine.module.named_parameters() if p.requires_grad]
        gradients = {n: safe_get_full_grad(p).detach().numpy().copy() for n, p in named}
        results[stage] = loss.item(), gradients
    return results


def one_big_batch(world: int) -> tuple[float, dict]:
    """The same draws in one graph over all ranks' parts."""
    model, whole, parts = make_model(), make_batch(), []
    local = BATCH // world
    for rank in range(world):
        torch.manual_seed(SEED + rank)
        for start in range(rank * local, (rank + 1) * local, PART):
            parts.append(model.views(rows_of(whole, slice(start, min(start + PART, (rank + 1) * local)))))
    loss, _ = model.objective(Views.cat(parts))
    loss.backward()
    return loss.item(), {n: p.grad.numpy() for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.slow
def test_gradients_are_those_of_one_big_batch():
    expected_loss, expected = one_big_batch(WORLD)
    ranks = run_ranks(on_rank, WORLD, [0, 1, 2, 3])
    for stage in ranks[0]:
        assert np.mean([rank[stage][0] for rank in ranks]) == pytest.approx(expected_loss, rel=1e-5)
        for rank in ranks:
            close(rank[stage][1], expected)


def test_one_process_equals_one_big_batch():
    expected_loss, expected = one_big_batch(1)
    model = make_model()
    torch.manual_seed(SEED)
    cached = CachedForward(model, model.views, make_batch(), PART)
    assert cached.loss.item() == pytest.approx(expected_loss, rel=1e-5)
    cached.backward(cached.loss, lambda value, _last: value.backward())
    close({n: p.grad.numpy() for n, p in model.named_parameters() if p.requires_grad}, expected)


def close(found: dict, expected: dict) -> None:
    whole = np.sqrt(sum(np.square(gradient).sum() for gradient in expected.values()))
    for name, gradient in expected.items():
        # Some gradients are zero but for rounding (the bias of keys under a softmax).
        tolerance = 1e-5 * max(np.linalg.norm(gradient), 1e-4 * whole)
        assert np.linalg.norm(found[name] - gradient) <= tolerance, name


def test_batch_normalisation_is_refused():
    model = TwoTower(dataclasses.replace(MODEL, imu_tower=ImuTowerConfig()))
    with pytest.raises(UserError, match="batch normalisation"):
        engine_of(model, 0, PART)
