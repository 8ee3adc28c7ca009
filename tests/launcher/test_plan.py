"""The plan's formulas, against arithmetic by hand, and against what ranks really hold, send and write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from imuvid import config as configs
from imuvid.errors import UserError
from imuvid.training.config import PretrainConfig
from launcher.plan import ModelSize, PlanConfig, Workload, complete_figures, lines, make_plan, memory, sent_bytes
from launcher.plan_model import model_size, plan_pretraining
from tests.launcher.plan_ranks import BATCH, STATED, WORDS
from tests.soak import times

MODEL = ModelSize(trainable=100_000_000, frozen=50_000_000, embedding=512, activation_bytes=10**8, cast_bytes=0)
TOLERANCE = 0.1
"""Of memory and traffic, as a share of what was measured."""


def test_memory_of_a_model_of_a_hundred_million_parameters():
    # 0.4 GB each of parameters, gradients and both moments; 0.2 GB frozen; 1 GB of activations.
    rows = {stage: memory(MODEL, stage, 4, 10) for stage in range(4)}
    assert rows[0].total == pytest.approx(0.6e9 + 0.4e9 + 0.8e9 + 1e9)
    assert rows[1].total == rows[2].total == pytest.approx(0.7e9 + 0.4e9 + 0.2e9 + 2e9 + 1e9)
    assert rows[3].total == pytest.approx(0.25e9 + 0.1e9 + 0.2e9 + 2e9 + 1e9)
    off = memory(MODEL, 1, 4, 10, offload=True)
    assert off.total == pytest.approx(rows[1].total - 0.1e9 - 0.2e9)
    assert memory(MODEL, 0, 4, 10, offload=True).total == rows[0].total


@pytest.mark.parametrize(("changes", "windows"), [({}, 64), ({"accumulate": 4}, 16), ({"micro_batch": 8}, 8)])
def test_activations_are_of_the_windows_at_a_time(changes, windows):
    assert workload(**changes).memory(2, 64).activations == windows * 10**8


def workload(**changes) -> Workload:
    values = {
        "zero_stage": 0,
        "offload": False,
        "micro_batch": 0,
        "accumulate": 1,
        "batch": 512,
        "windows": 1_000_000,
        "window_bytes": 1e5,
    }
    return Workload(**{"model": MODEL, **values, "epochs": 10, "loader_cores": 4, "checkpoints": 4, **changes})


def figures(**changes) -> dict[str, float]:
    return complete_figures(
        PlanConfig(**{"samples_per_s": 100.0, "read_gb_s": 100.0, "latency_us": 0.0, **changes}), {}
    )[0]


def test_time_is_that_of_computing_and_exchanging():
    plan = make_plan(workload(), figures(node_gb_s=100.0, network_gb_s=10.0), [], 64)
    two = next(row for row in plan.same_batch if row.devices == 2)
    # Half of the batch in 2.56 s; of 0.8 GB of gradients and 4.2 MB of embeddings half is sent.
    sent = 0.5 * (0.8e9 + 2 * 4 * 512 * 2 * 512)
    assert two.step_s == pytest.approx(2.56 + sent / 100e9)
    assert two.hours == pytest.approx(10 * 1e6 / 512 * two.step_s / 3600)
    assert two.device_hours == pytest.approx(2 * two.hours)
    assert two.efficiency == pytest.approx(5.12 / (2 * two.step_s))
    many = next(row for row in plan.growing_batch if row.devices == 1024)
    assert many.batch == 65536
    assert many.communication_s == pytest.approx(1023 / 1024 * (0.8e9 + 2 * 4 * 512 * 2 * 65536) / 10e9)
    assert many.efficiency == pytest.approx(0.64 / (0.64 + many.communication_s))
    assert [row.devices for row in plan.growing_batch] == [2**i for i in range(11)]
    assert plan.dataset_bytes == 1e11
    assert not plan.same_batch[0].fits or plan.same_batch[0].local_batch * MODEL.activation_bytes < 80e9


def test_the_slowest_part_bounds_the_run():
    def bound(work=None, **changes) -> str:
        return make_plan(work or workload(), figures(**changes), [], 64).growing_batch[5].bound_by

    assert bound() == "compute"
    assert bound(network_gb_s=0.5) == "communication"
    assert bound(decode_per_core_s=10.0) == "data"
    assert bound(read_gb_s=0.01) == "data"


def test_what_is_stated_goes_before_what_was_measured_and_that_before_what_is_assumed():
    found, assumed = complete_figures(
        PlanConfig(read_gb_s=3.0), {"samples_per_s": 7.0, "read_gb_s": 4.0, "node_gb_s": 5.0}
    )
    assert (found["samples_per_s"], found["read_gb_s"], found["node_gb_s"]) == (7.0, 3.0, 5.0)
    assert assumed == ["network_gb_s", "latency_us", "decode_per_core_s"]
    with pytest.raises(UserError, match=r"plan\.run=runs/first"):
        complete_figures(PlanConfig(), {})
    with pytest.raises(UserError, match=r"plan\.node_gb_s=-1: must be above 0"):
        complete_figures(PlanConfig(samples_per_s=1.0, node_gb_s=-1.0), {})


def test_a_config_is_planned_without_a_dataset(tmp_path: Path):
    (tmp_path / "c.yaml").write_text(
        "data: {path: '???', batch_size: 64}\nengine: {zero_stage: 1}\ntrain: {epochs: 2}\n"
    )
    plan = plan_pretraining(tmp_path / "c.yaml", ["plan.hours=10", "plan.samples_per_s=50", "plan.frame_px=32"])
    assert plan.same_batch[0].hours == pytest.approx(2 * 10 * 3600 / 5 / 50 / 3600)
    text = "\n".join(lines(plan))
    assert "network_gb_s 20 (assumed)" in text
    assert "samples_per_s 50," in text
    with pytest.raises(UserError, match="samplesps"):
        plan_pretraining(tmp_path / "c.yaml", ["plan.hours=1", "plan.samplesps=3"])


@pytest.mark.slow
@pytest.mark.parametrize("world", times([2], [1, 2, 4]))
def test_what_ranks_hold_and_send(world: int):
    if os.geteuid() != 0:
        pytest.skip("a network of its own, whose traffic is counted, needs root")
    command = ["unshare", "--net", sys.executable, "-m", "tests.launcher.plan_ranks", str(world)]
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=200, check=True, cwd=Path(__file__).parents[2]
    )
    found = json.loads(run.stdout.strip().splitlines()[-1])
    config = configs.load(PretrainConfig, None, ["name=x", "data.path=x", *WORDS])
    model = model_size(config, PlanConfig(**STATED))
    for stage in range(4):
        expected, measured = memory(model, stage, world, BATCH // world), found[str(stage)]
        state = expected.parameters + expected.moments
        if stage == 3:
            state += expected.gradients + expected.bucket  # which it never frees
        assert measured["state"] == pytest.approx(state, rel=TOLERANCE)
        assert measured["peak"] <= (expected.total - expected.activations) * (1 + TOLERANCE)
        sent = sent_bytes(model, stage, world, BATCH)
        assert measured["sent"] == pytest.approx(sent, rel=TOLERANCE, abs=1000)
