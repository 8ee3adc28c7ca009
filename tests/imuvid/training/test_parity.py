"""Contract 1: the engine's loss and gradients at world 2 equal one process on the concatenated batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from imuvid.data.batch import Batch
from imuvid.models.imu_patchtst import ImuPatchTSTConfig
from imuvid.models.towers import ImuTowerConfig
from imuvid.models.two_tower import ModelConfig, ObjectiveConfig, TwoTower
from tests.ranks import run_ranks

CONFIGS = {
    "cnn, sigmoid": ModelConfig(objective=ObjectiveConfig(kind="sigmoid")),
    "cnn, infonce": ModelConfig(objective=ObjectiveConfig(kind="infonce")),
    "patchtst with batch normalisation, sigmoid": ModelConfig(
        imu_tower=ImuTowerConfig(
            kind="patchtst",
            patchtst=ImuPatchTSTConfig(
                context_length=40, d_model=16, num_layers=1, num_heads=2, ffn_dim=16, norm="batchnorm"
            ),
        )
    ),
}
BATCH = 8


def make_batch() -> Batch:
    generator = torch.Generator().manual_seed(3)
    valid = torch.ones(BATCH, 40, 2, 2, dtype=torch.bool)
    valid[1, :, :, 1] = False
    valid[6, :, 1] = False
    return Batch(
        imu=torch.randn(BATCH, 40, 2, 6, generator=generator) * 3,
        valid=valid,
        frames=torch.randint(0, 256, (BATCH, 4, 32, 32, 3), generator=generator, dtype=torch.uint8),
        frame_valid=torch.ones(BATCH, 4, dtype=torch.bool),
        recording=torch.tensor([0, 1, 2, 3, 3, 4, 5, 0]),  # 3 and 0 lie on both ranks
        sample=torch.arange(BATCH),
        start_s=torch.arange(BATCH, dtype=torch.float64),
        skipped=torch.full((BATCH, 2), -1),
    )


def model_of(name: str) -> TwoTower:
    torch.manual_seed(0)
    return TwoTower(CONFIGS[name]).train()


def on_rank(rank: int, world: int) -> dict:
    from deepspeed.utils import safe_get_full_grad

    from imuvid.training.engine import Engine, EngineConfig
    from imuvid.training.optimisation import OptimizerConfig

    rows = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    batch = Batch(**{name: tensor[rows] for name, tensor in vars(make_batch()).items()})
    results = {}
    for name in CONFIGS:
        engine = Engine(model_of(name), EngineConfig(), OptimizerConfig(), torch.device("cpu"), BATCH // world)
        loss, _ = engine.forward(batch)
        engine.engine.backward(loss)
        gradients = {
            n: safe_get_full_grad(p).numpy().copy() for n, p in engine.module.named_parameters() if p.requires_grad
        }
        results[name] = loss.item(), gradients
    return results


@pytest.mark.slow
def test_two_ranks_equal_one_process():
    ranks = run_ranks(on_rank, 2, 2)
    for name in CONFIGS:
        model = model_of(name)
        loss, _ = model(make_batch())
        loss.backward()
        assert np.mean([rank[name][0] for rank in ranks]) == pytest.approx(loss.item(), rel=1e-5)
        gradients = {n: p.grad.numpy() for n, p in model.named_parameters() if p.requires_grad}
        whole = np.sqrt(sum(np.square(gradient).sum() for gradient in gradients.values()))
        for parameter_name, expected in gradients.items():
            # Some gradients are zero but for rounding (the bias of keys under a softmax).
            tolerance = 1e-5 * max(np.linalg.norm(expected), 1e-4 * whole)
            for rank in ranks:
                assert np.linalg.norm(rank[name][1][parameter_name] - expected) <= tolerance, (name, parameter_name)
