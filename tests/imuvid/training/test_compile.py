"""Compiled towers learn what others do, with batch normalisation over two ranks, and in a process started again."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from imuvid.models.heads import HeadConfig
from imuvid.models.two_tower import ModelConfig, TwoTower
from imuvid.objectives.build import ObjectiveConfig
from tests.imuvid.training.engines import OPTIMIZER, WORLD, make_model, on_engine, whole_weights
from tests.imuvid.training.test_engine import STEADY
from tests.ranks import run_ranks
from tests.soak import times

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not times(0, 1), reason="compiles for a minute: make soak")]
NORMALISED = ModelConfig(
    imu_tower=ModelConfig().imu_tower,  # convolutions with batch normalisation over the ranks
    video_tower=STEADY.video_tower,
    head=HeadConfig(kind="mlp", dim=6, dropout=0.0),
    objective=ObjectiveConfig(kind="sigmoid"),
)


def model_of(name: str) -> TwoTower:
    return make_model(STEADY if name == "transformer" else NORMALISED)


def on_rank(rank: int) -> dict[str, Any]:
    found = {}
    for name, stage in (("transformer", 2), ("normalised", 0)):
        for compiled in (False, True):
            words = {"zero_stage": stage, "compile": compiled}
            engine, losses = on_engine(rank, WORLD, words, model_of(name), OPTIMIZER)
            found[name, compiled] = whole_weights(engine), losses
            if compiled:
                assert engine.module.imu_tower._compiled_call_impl is not None
    return found


@pytest.fixture(scope="module")
def starts() -> list[list[dict]]:
    return [run_ranks(on_rank, WORLD) for _ in range(2)]


@pytest.mark.parametrize("name", ["transformer", "normalised"])
def test_compiled_towers_learn_what_others_do(starts, name):
    for rank in starts[0]:
        plain, compiled = rank[name, False], rank[name, True]
        assert compiled[1] == pytest.approx(plain[1], rel=1e-4)
        for key, tensor in plain[0].items():
            torch.testing.assert_close(compiled[0][key], tensor, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("name", ["transformer", "normalised"])
def test_another_start_computes_the_same_bit_for_bit(starts, name):
    for one, other in zip(*starts, strict=True):
        assert one[name, True][1] == other[name, True][1]
        assert all(torch.equal(tensor, other[name, True][0][key]) for key, tensor in one[name, True][0].items())
