"""Every word of the engine against plain torch, on two ranks and under every ZeRO stage."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from imuvid.errors import UserError
from imuvid.models.towers import ImuTowerConfig
from imuvid.models.two_tower import ModelConfig, TwoTower
from imuvid.training.engine import EngineConfig, check_engine
from tests.imuvid.training.engines import (
    MODEL,
    OPTIMIZER,
    PATCHTST,
    WORLD,
    in_plain_torch,
    make_batch,
    make_model,
    on_engine,
    part,
    whole_weights,
)
from tests.ranks import run_ranks

STEADY = dataclasses.replace(
    MODEL,
    imu_tower=ImuTowerConfig(kind="patchtst", patchtst=dataclasses.replace(PATCHTST, dropout=0.0)),
    head=dataclasses.replace(MODEL.head, dropout=0.0),
)
STAGES = [0, 1, 2, 3]
BOTH = {"accumulate": 2, "micro_batch_size": 3}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {"plain": ({}, {}), "accumulate": ({"accumulate": 4}, {})}
for stage in STAGES:
    VARIANTS[f"layer decay, both {stage}"] = ({"zero_stage": stage, **BOTH}, {"layer_decay": 0.5})
    if stage != 1:
        VARIANTS[f"fp16, both {stage}"] = ({"zero_stage": stage, "dtype": "fp16", **BOTH}, {})
    if stage:
        VARIANTS[f"offload, both {stage}"] = ({"zero_stage": stage, "offload": True, **BOTH}, {})
REFERENCES = ("layer decay", "accumulate", "both")
DROPPED = ["dropout", *(f"computed again {stage}" for stage in (0, 3))]


def dtype_of(words: dict[str, Any]) -> torch.dtype:
    return torch.float16 if words.get("dtype") == "fp16" else torch.float32


def on_rank(rank: int, variants: dict) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, (words, more) in variants.items():
        engine, losses = on_engine(rank, WORLD, words, make_model(STEADY, dtype_of(words)), OPTIMIZER | more)
        found[name] = whole_weights(engine), losses
        if "fp16" in name:
            found[f"{name}, overflow"] = overflown(engine, rank)
        elif "both" in name:
            found[f"{name}, discarded"] = discarded(engine, rank)
    for name in DROPPED:
        words = {"zero_stage": int(name[-1]), "activation_checkpointing": True} if name[-1].isdigit() else {}
        engine, losses = on_engine(rank, WORLD, words, make_model(), OPTIMIZER)
        found[name] = whole_weights(engine), losses
    return found


def overflown(engine: Any, rank: int) -> list:
    """Three steps with a scale that is too high, one after another, and one with a scale that is not."""
    story = []
    engine.loss_scale.value = 2.0**60
    engine._tell_loss_scale()
    for _ in range(3):
        before, scale = whole_weights(engine), engine.loss_scale.value
        engine.backward_and_step(engine.forward(part(make_batch(9), rank, WORLD))[0], 1e-2)
        same = all(torch.equal(before[name], tensor) for name, tensor in whole_weights(engine).items())
        story.append((same, engine.overflowed, engine.loss_scale.value / scale))
    engine.loss_scale.value = 1024.0
    engine._tell_loss_scale()
    engine.backward_and_step(engine.forward(part(make_batch(9), rank, WORLD))[0], 1e-2)
    same = all(torch.equal(before[name], tensor) for name, tensor in whole_weights(engine).items())
    return [*story, (same, engine.overflowed, engine.loss_scale.value / 1024)]


def discarded(engine: Any, rank: int) -> tuple[dict, dict]:
    """The weights after a step, and after the same step when another was discarded before it."""
    batch = part(make_batch(8), rank, WORLD)
    state = engine.snapshot()
    engine.backward_and_step(engine.forward(batch)[0], 1e-2)
    expected = whole_weights(engine)
    restore(engine, state)
    engine.forward(part(make_batch(7), rank, WORLD))
    engine.discard()
    engine.backward_and_step(engine.forward(batch)[0], 1e-2)
    return expected, whole_weights(engine)


def restore(engine: Any, state: Any) -> None:
    import tempfile
    from pathlib import Path

    import torch.distributed as dist

    folder: list[str] = [tempfile.mkdtemp()]
    dist.broadcast_object_list(folder, src=0)
    for name, write in state.files().items():
        write(Path(folder[0]) / name)
    dist.barrier()
    engine.restore(Path(folder[0]))


@pytest.fixture(scope="module")
def ranks() -> list[dict]:
    return run_ranks(on_rank, WORLD, VARIANTS)


@pytest.fixture(scope="module")
def reference() -> dict:
    rates = {}
    for name, _ in make_model(STEADY).named_parameters():
        # Two layers: 1/2 for the second, 1/4 for the first, 1/8 for what comes before them.
        for beginning, share in (("encoder.embedder", 1 / 8), ("layers.0.", 1 / 4), ("layers.1.", 1 / 2)):
            if name.startswith("imu_tower.model.") and beginning in name:
                rates[name] = share
        if "positional_encoder" in name:
            rates[name] = 1 / 8
    assert len(set(rates.values())) == 3
    return {
        "": in_plain_torch(make_model(STEADY), OPTIMIZER, {}, WORLD),
        "accumulate": in_plain_torch(make_model(STEADY), OPTIMIZER, {}, WORLD, parts=4),
        "both": in_plain_torch(make_model(STEADY), OPTIMIZER, {}, WORLD, parts=2),
        "layer decay": in_plain_torch(make_model(STEADY), OPTIMIZER, rates, WORLD, parts=2),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_weights_are_those_of_plain_torch(ranks, reference, name):
    key = next((key for key in REFERENCES if key in name), "")
    expected, losses = reference[key]
    half = "fp16" in name
    assert sum(rank[name][1][-1] for rank in ranks) / WORLD == pytest.approx(losses[-1], rel=2e-3 if half else 1e-5)
    for rank in ranks:
        found, _ = rank[name]
        moved = sum((expected[n] - p).square().sum() for n, p in start().items() if n in found).sqrt()
        off = sum((expected[n] - found[n]).square().sum() for n in found).sqrt()
        assert off < (0.02 if half else 1e-4) * moved


def start() -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in make_model(STEADY).named_parameters()}


@pytest.mark.slow
def test_the_references_differ(reference):
    whole = {key: torch.cat([p.flatten() for p in each[0].values()]) for key, each in reference.items()}
    origin = torch.cat([p.flatten() for p in start().values()])
    for key in REFERENCES:
        assert (whole[key] - whole[""]).norm() > 0.02 * (whole[""] - origin).norm(), key


@pytest.mark.slow
@pytest.mark.parametrize("name", DROPPED[1:])
def test_what_is_computed_again_is_the_same_bit_for_bit(ranks, name):
    for rank in ranks:
        plain, again = rank["dropout"], rank[name]
        assert plain[1] == again[1] if name.endswith("0") else plain[1] == pytest.approx(again[1], rel=1e-5)
        for key, tensor in plain[0].items():
            if name.endswith("0"):
                assert torch.equal(tensor, again[0][key]), key
            else:  # ZeRO adds up the squares of the norm in another order
                torch.testing.assert_close(again[0][key], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in VARIANTS if "fp16" in name])
def test_an_overflow_changes_nothing_but_the_scale(ranks, name):
    for rank in ranks:
        # DeepSpeed's patience: the first overflow leaves the scale as it is.
        assert rank[f"{name}, overflow"] == [
            (True, True, 1.0),
            (True, True, 0.5),
            (True, True, 0.5),
            (False, False, 1.0),
        ]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in VARIANTS if "both" in name and "fp16" not in name])
def test_a_discarded_step_leaves_no_gradient_behind(ranks, name):
    for rank in ranks:
        expected, found = rank[f"{name}, discarded"]
        assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"offload": True}, "set engine.zero_stage to 1, 2 or 3"),
        ({"compile": True, "zero_stage": 3}, "engine.compile=true: ZeRO 3"),
        ({"zero_stage": 4}, "expected 0, 1, 2 or 3"),
    ],
)
def test_what_excludes_each_other_is_refused(words, message):
    with pytest.raises(UserError, match=message):
        check_engine(EngineConfig(**words), make_model())


def test_computing_again_is_refused_where_there_is_nothing_or_batch_normalisation():
    recomputing = EngineConfig(activation_checkpointing=True)
    with pytest.raises(UserError, match="neither tower is a stack of layers"):
        check_engine(recomputing, TwoTower(ModelConfig()))
    normalised = dataclasses.replace(PATCHTST, norm="batchnorm")
    model = TwoTower(dataclasses.replace(MODEL, imu_tower=ImuTowerConfig(kind="patchtst", patchtst=normalised)))
    with pytest.raises(UserError, match="count every batch twice"):
        check_engine(recomputing, model)
