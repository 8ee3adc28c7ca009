"""A checkpoint goes on at any number of ranks and any ZeRO stage, as if nothing had changed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
import torch

from imuvid.errors import UserError
from imuvid.models.tensor_file import write_tensors
from imuvid.training.engine_state import SavedState
from tests.imuvid.training.test_run import CONFIG, REPOSITORY, lines_of, weights_of

STEPS, SHARE = 8, 2
RANK = """
import json, os, sys
from pathlib import Path
import torch.distributed as dist
from imuvid import config as configs
from imuvid.errors import UserError
from imuvid.training import preemption
from imuvid.training.config import PretrainConfig
from imuvid.training.engine import Engine
from imuvid.training.loop import pretrain

start = dist.init_process_group
dist.init_process_group = lambda *a, **k: dist.is_initialized() or start(*a, **k)
dist.destroy_process_group = lambda: None  # DeepSpeed holds on to the first one: all runs here share it
forward, step = Engine.forward, Engine.backward_and_step
seen, done = [], []
def seeing(self, batch):
    if self.module.training:
        seen.append(batch.sample.tolist())
    return forward(self, batch)
def counting(self, *words):
    step(self, *words)
    done.append(1)
Engine.forward, Engine.backward_and_step = seeing, counting
folder, jobs = Path(sys.argv[1]), json.loads(sys.argv[2])
outcomes = []
for words, steps in jobs:
    done.clear(), seen.clear()
    preemption.received = lambda: 15 if len(done) == steps - 1 else 0
    try:
        result = pretrain(configs.load(PretrainConfig, folder / "config.yaml", words))
        outcomes.append([result.step, list(seen)])
    except UserError as error:
        outcomes.append([str(error), []])
(folder / f"outcomes-{os.environ['RANK']}.json").write_text(json.dumps(outcomes))
sys.stdout.flush()
os._exit(0)
"""


def train(folder: Path, world: int, jobs: list[tuple[list[str], int]]) -> list[list]:
    """Run each (words, steps until it is told to end) on ``world`` ranks; return [step, samples by rank] of each."""
    (folder / "config.yaml").write_text(CONFIG)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(folder), json.dumps(jobs)],
            cwd=REPOSITORY,
            env={**os.environ, **common, "RANK": str(r), "LOCAL_RANK": str(r), "WORLD_SIZE": str(world)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for r in range(world)
    ]
    try:
        outputs = [rank.communicate(timeout=200)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0] * world, "\n".join(output[-3000:] for output in outputs)
    outcomes = [json.loads((folder / f"outcomes-{r}.json").read_text()) for r in range(world)]
    return [
        [each[0][0], [list(chain.from_iterable(step)) for step in zip(*(seen for _, seen in each), strict=True)]]
        for each in zip(*outcomes, strict=True)
    ]


@pytest.fixture(scope="module")
def trained(tiny_dataset, tmp_path_factory):
    """One run undisturbed, one at 1, 2, 4 and 1 ranks, one at ZeRO 0, 1, 2, 3, 2, 1, 3, 0, each for a while."""
    folder = tmp_path_factory.mktemp("reshaped")
    words = [f"data.path={tiny_dataset}", f"runs_dir={folder}", "data.num_workers=0", f"train.epochs={STEPS * 8 / 44}"]
    words += ["train.validate_every_epochs=100", "engine.timeout_s=60"]
    # ZeRO 3 leaves tensors of up to 100,000 elements whole: the second kernel has more.
    words += ["model.imu_tower.cnn.channels=[160,160]", "model.imu_tower.cnn.kernel_sizes=[5,5]"]
    worlds, stages = [], []

    def job(name: str, stage: int, steps: int) -> tuple[list[str], int]:
        return [*words, f"name={name}", f"engine.zero_stage={stage}"], steps

    worlds += train(folder, 1, [job("worlds", 0, SHARE)])
    two = [job("worlds", 1, SHARE), job("whole", 0, STEPS + 1)]
    two += [job("stages", stage, 1) for stage in (0, 1, 2, 3, 2, 1, 3, 0)]
    results = train(folder, 2, two)
    worlds += results[:1]
    whole, stages = results[1], results[2:]
    worlds += train(folder, 4, [job("worlds", 3, SHARE)])
    other = ([*words, "name=stages", "runs_dir=" + str(folder / "other"), "model.head.dim=16"], 1)
    (folder / "other/stages").mkdir(parents=True)
    (folder / "other/stages/checkpoints").symlink_to(folder / "stages/checkpoints")
    *last, refused = train(folder, 1, [job("worlds", 0, STEPS + 1), other])
    return folder, whole, worlds + last, stages, refused


@pytest.mark.slow
@pytest.mark.parametrize(("name", "number"), [("worlds", 2), ("stages", 3)])
def test_the_loss_and_the_order_go_on_as_if_nothing_had_changed(trained, name, number):
    folder, whole, *parts = trained
    assert [step for step, _ in parts[number - 2]] == {
        "worlds": [2, 4, 6, 8],
        "stages": [1, 2, 3, 4, 5, 6, 7, 8],
    }[name]
    assert list(chain.from_iterable(seen for _, seen in parts[number - 2])) == whole[1]
    expected, found = ([line["loss"] for line in lines_of(folder / run)] for run in ("whole", name))
    assert len(found) == STEPS
    assert found == pytest.approx(expected, rel=2e-5)
    for expected_part, found_part in zip(
        weights_of(folder / "whole", STEPS), weights_of(folder / name, STEPS), strict=True
    ):
        assert expected_part.keys() == found_part.keys()
        for key in expected_part:
            # The gradient of the first kernel has a part that is nothing but rounding: see test_run.
            if "convolutions.0" not in key and not key.endswith("running_mean"):
                torch.testing.assert_close(found_part[key], expected_part[key], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_state_of_another_model_is_refused_in_one_line(trained):
    message = trained[-1][0]
    assert "is the state of another model" in message
    assert "head" in message
    assert "\n" not in message


def state(folder: Path, stretches: dict[str, torch.Tensor]) -> SavedState:
    shapes = {"parameters": {"a": [2, 3]}, "buffers": {}}
    (folder / "state.json").write_text(json.dumps({"format": 1, "updates": 3, **shapes}))
    for number, (key, tensor) in enumerate(stretches.items()):
        write_tensors(folder / f"part-{number}.safetensors", {key: tensor})
    return SavedState(folder)


def test_stretches_of_any_ranks_are_put_together(tmp_path):
    saved = state(tmp_path, {"parameter/a@4": torch.tensor([4.0, 5]), "parameter/a@0": torch.arange(4.0)})
    assert saved.whole("parameter", "a").tolist() == [0, 1, 2, 3, 4, 5]
    assert saved.whole("exp_avg", "a").tolist() == [0] * 6


@pytest.mark.parametrize("start", [0, 4], ids=["end missing", "beginning missing"])
def test_a_missing_stretch_is_said(tmp_path, start):
    saved = state(tmp_path, {f"parameter/a@{start}": torch.zeros(2)})
    with pytest.raises(UserError, match=r"of parameter a elements from \d on are missing"):
        saved.whole("parameter", "a")
