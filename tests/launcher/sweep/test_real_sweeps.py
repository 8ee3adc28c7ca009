"""Sweeps of real runs, one of each kind, on a Ray cluster that each starts for itself on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.sweep import records
from launcher.sweep.records import Trial
from tests.imuvid.ood.fakes import write_hapt
from tests.soak import times
from tests.tiny_dataset import write_tiny_dataset

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not times(0, 1), reason="minutes of starting runs: make soak")]
REPOSITORY = Path(__file__).parents[3]
BASE = {
    "data": {"batch_size": 8, "num_workers": 0},
    "model": {
        "imu_tower": {"cnn": {"channels": [8], "kernel_sizes": [5]}},
        "video_tower": {"cnn": {"channels": [8], "time_strides": [2]}},
        "head": {"dim": 8},
    },
    "train": {"epochs": 8, "log_every_steps": 1, "checkpoint_every_steps": 5, "validate_every_epochs": 2},
}


class Sweep:
    """A sweep of the tiny dataset and its command."""

    def __init__(self, folder: Path, changes: dict[str, Any], epochs: int = 8):
        self.path, self.folder, self.metric = folder, folder / "s", changes.get("metric", "mrr_imu_to_video")
        write_tiny_dataset(folder / "data")
        (folder / "base.yaml").write_text(yaml.safe_dump(BASE))
        config = {
            "name": "s",
            "runs_dir": str(folder),
            "base": str(folder / "base.yaml"),
            "words": [f"data.path={folder}/data", f"train.epochs={epochs}"],
            "space": {"optimizer.lr": {"loguniform": [1e-5, 1e-1]}},
            "search": {"kind": "random"},
            "schedule": {"kind": "none"},
            "trial": {"grace_s": 20},
            "ray": {"cpus": 2},
        }
        (folder / "sweep.yaml").write_text(yaml.safe_dump({**config, **changes}))

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        with (self.path / "output.txt").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "launcher.cli", "sweep", str(self.path / "sweep.yaml"), *words],
                cwd=REPOSITORY,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            )

    def run(self, *words: str, code: int = 0) -> list[Trial]:
        driver = self.start(*words)
        assert driver.wait(timeout=600) == code, self.said()
        return self.trials()

    def trials(self) -> list[Trial]:
        return records.read_trials(self.folder, self.metric)

    def said(self) -> str:
        return (self.path / "output.txt").read_text()


def test_hyperband_pauses_trials_and_goes_on_with_the_better_ones(tmp_path: Path):
    # By this reduction: two trials are in a bracket where all do all steps, the others in one that halves.
    schedule = {"kind": "hyperband", "reduction": 50}
    trials = Sweep(tmp_path, {"schedule": schedule, "limits": {"trials": 5}}).run()
    assert [trial.state for trial in trials[:2]] == ["finished"] * 2
    rest = trials[2:]
    assert sorted(trial.state for trial in rest) == ["finished", "stopped", "stopped"]
    first = {trial.number: trial.scores[0].value for trial in rest}
    winner = next(trial for trial in rest if trial.state == "finished")
    assert first[winner.number] == max(first.values())
    assert "resumed at step" in (winner.folder / "host-0.log").read_text()


def test_pbt_gives_the_worse_the_state_of_the_better_with_other_parameters(tmp_path: Path):
    sweep = Sweep(tmp_path, {"schedule": {"kind": "pbt", "perturb_percent": 30}, "limits": {"trials": 2}}, epochs=24)
    trials = sweep.run()
    assert [trial.state for trial in trials] == ["finished"] * 2
    taken = [run for number in (0, 1) for run in records.generations(sweep.folder, number)[1:]]
    assert taken
    lines = [json.loads(line) for line in (sweep.folder / "trials.jsonl").read_text().splitlines()]
    assert len(lines) == 2 + len(taken)
    for run in taken:
        number = int(run.name.split("-")[1].split(".")[0])
        steps = [line["step"] for line in records.read_lines(run / "metrics.jsonl") if line["split"] == "train"]
        assert steps[0] > 30  # it did not begin at the beginning
        rates = [line["parameters"]["optimizer.lr"] for line in lines if line["number"] == number]
        assert len(set(rates)) > 1
        assert yaml.safe_load((run / "config.yaml").read_text())["optimizer"]["lr"] in rates[1:]


def test_a_sweep_by_the_ood_validation_score_and_its_confirmation(tmp_path: Path):
    write_hapt(tmp_path / "hapt")
    people = {"kind": "subject-split", "train_subjects": ["1", "2", "3", "4"], "test_subjects": ["5", "6"]}
    ood = {"datasets": ["hapt"], "hapt": {"root": str(tmp_path / "hapt"), "protocol": people}, "device": "cpu"}
    (tmp_path / "ood.yaml").write_text(yaml.safe_dump({**ood, "num_bootstrap": 100}))
    changes = {"metric": "ood_validation", "ood": {"config": str(tmp_path / "ood.yaml")}, "limits": {"trials": 2}}
    sweep = Sweep(tmp_path, changes, epochs=4)
    trials = sweep.run("--confirm", "2")
    for trial in trials:
        assert trial.state == "finished"
        assert trial.scores[-1].percent == 100
        assert 0 <= trial.scores[-1].value <= 1
    again = records.read_trials(sweep.folder / "confirm", "ood_validation")
    assert len(again) == 4
    said = sweep.said()
    assert "best: ood_validation" in said
    assert "default: ood_validation" in said
    assert "over 2 seeds" in said
    best = ["pretrain", str(sweep.folder / "best.yaml"), "train.epochs=1"]
    done = subprocess.run([sys.executable, "-m", "launcher.cli", *best], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "finished: 6 steps" in done.stdout


def test_a_limit_and_a_signal_end_a_sweep_that_is_gone_on_with(tmp_path: Path):
    sweep = Sweep(tmp_path, {"limits": {"trials": 2, "hours": 8 / 3600}}, epochs=60)
    trials = sweep.run()
    assert "not complete: limits.hours=0.00222222 are over; --resume goes on with it" in sweep.said()
    assert trials[0].state == "unfinished"
    driver = sweep.start("--resume", "limits.hours=null")
    deadline = time.monotonic() + 120
    while not any(trial.scores for trial in sweep.trials()):
        assert time.monotonic() < deadline
        assert driver.poll() is None, sweep.said()
        time.sleep(0.2)
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(timeout=90) == 128 + signal.SIGTERM
    running = [trial for trial in sweep.trials() if trial.scores]
    assert all("stopped by SIGTERM at step" in (trial.folder / "host-0.log").read_text() for trial in running)
    trials = sweep.run("--resume", "limits.hours=null")
    assert [trial.state for trial in trials] == ["finished"] * 2
