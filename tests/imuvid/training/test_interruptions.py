"""Whatever ends a run, the next start goes on from the last checkpoint, and the end is that of an undisturbed run."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.imuvid.training.jobs import Job, train
from tests.imuvid.training.test_checkpoint import flip
from tests.imuvid.training.test_run import Run, lines_of, steps_of, weights_of
from tests.soak import times

pytestmark = pytest.mark.slow
STEPS = 44  # 8 epochs of 44 windows by 8
WORDS = ("train.epochs=8", "train.checkpoint_every_steps=5", "train.validate_every_epochs=2", "engine.timeout_s=60")


def same_end(one: Path, other: Path) -> None:
    for expected, found in zip(weights_of(one, STEPS), weights_of(other, STEPS), strict=True):
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)
    for split in ("train", "val"):
        expected_lines, found_lines = (lines_of(folder, split) for folder in (one, other))
        name = "loss" if split == "train" else "mrr_imu_to_video"
        assert [(line["step"], line[name]) for line in found_lines] == [
            (line["step"], line[name]) for line in expected_lines
        ]


@pytest.fixture(scope="module")
def undisturbed(tiny_dataset, tmp_path_factory) -> Path:
    run = Run(tmp_path_factory.mktemp("whole"), tiny_dataset, *WORDS)
    code, _, errors = run.end()
    assert (code, errors) == (0, "")
    assert "checkpoint_share" in lines_of(run.folder)[0]
    return run.folder


def newest(folder: Path) -> int:
    pointer = folder / "checkpoints/latest"
    return int(pointer.read_text().strip().removeprefix("step-")) if pointer.exists() else 0


def test_killed_at_random_instants(undisturbed, tiny_dataset, tmp_path):
    rng = random.Random(times(5, 6))
    kills = 0
    while True:
        run = Run(tmp_path, tiny_dataset, *WORDS)
        before = newest(run.folder)
        if kills == times(3, 20):
            code, _, errors = run.end()
            assert (code, errors) == (0, "")
            break
        # From the first step on, so that a start makes a checkpoint now and then, as it must.
        run.wait_for_step(min(before + 1, STEPS - 1))
        deadline = time.monotonic() + rng.uniform(0, 1.2)
        while time.monotonic() < deadline and run.process.poll() is None:
            time.sleep(0.001)
        with contextlib.suppress(ProcessLookupError, IndexError, FileNotFoundError):
            os.kill(rng.choice([*run.ranks(), run.process.pid]), signal.SIGKILL)
        run.end()
        # No work older than an interval is lost, but what was on its way to the disk.
        assert newest(run.folder) >= (steps_of(run.folder) or [0])[-1] - 10
        kills += 1
        (run.folder / "starts.json").unlink(missing_ok=True)  # kills may follow one another too soon for a checkpoint
    same_end(undisturbed, run.folder)


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=False).returncode:
        pytest.skip("no permission to mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_and_a_read_only_disk_cost_nothing_but_the_start(undisturbed, tiny_dataset, tmp_path):
    with small_disk(tmp_path / "disk", "40m") as disk:
        run = Run(disk, tiny_dataset, *WORDS)
        run.wait_for_step(7)
        (disk / "filler").write_bytes(bytes(1024))
        with contextlib.suppress(OSError), (disk / "filler").open("wb") as file:
            while True:
                file.write(bytes(1 << 14))
        code, _, errors = run.end()
        assert code == 1
        assert "could not be written: rank" in errors or "No space left" in errors
        kept = newest(run.folder)
        assert kept >= 5
        (disk / "filler").unlink()
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        elsewhere = tmp_path / "words"
        elsewhere.mkdir()
        code, _, errors = Run(elsewhere, tiny_dataset, *WORDS, f"runs_dir={disk}").end()
        assert code == 2
        assert "Read-only file system" in errors
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        run = Run(disk, tiny_dataset, *WORDS)
        code, output, errors = run.end()
        assert (code, errors) == (0, "")
        assert f"resumed at step {kept}" in output
        same_end(undisturbed, run.folder)


def test_a_vanished_shard_is_named_and_costs_nothing_once_it_is_back(undisturbed, tiny_dataset, tmp_path):
    copied = shutil.copytree(tiny_dataset, tmp_path / "copy")
    away = (copied / "00001.tar").rename(tmp_path / "away.tar")
    started = time.monotonic()
    code, _, errors = Run(tmp_path, copied, *WORDS).end()
    assert code in (1, 2)
    assert "00001.tar" in errors
    assert "Traceback" not in errors
    assert time.monotonic() - started < 60  # engine.timeout_s
    away.rename(copied / "00001.tar")
    run = Run(tmp_path, copied, *WORDS)
    code, _, errors = run.end()
    assert (code, errors) == (0, "")
    same_end(undisturbed, run.folder)


def test_a_damaged_checkpoint_is_said_and_the_one_before_it_taken(undisturbed, tiny_dataset, tmp_path):
    words = [f"data.path={tiny_dataset}", f"runs_dir={tmp_path}", *WORDS]
    outcomes = {}
    for name, damage in (
        ("flipped", flip),
        ("truncated", lambda path: os.truncate(path, path.stat().st_size // 2)),
    ):
        shutil.copytree(undisturbed, tmp_path / name / "run")
        damage(next((tmp_path / name / f"run/checkpoints/step-{STEPS:08d}/engine").glob("part-*")))
        outcomes[name] = Job([*words, f"runs_dir={tmp_path / name}", "name=run", "data.num_workers=0"])
    stops = [*words, "name=stops", "data.num_workers=0"]
    (tmp_path / "stops").mkdir()
    (tmp_path / "stops/STOP").touch()
    jobs = [*outcomes.values(), Job(stops), Job(stops, stop_in_validation=True), Job(stops)]
    jobs += [Job([*words, "name=loops"])]
    (tmp_path / "loops").mkdir()
    (tmp_path / "loops/starts.json").write_text(json.dumps({"checkpoint": None, "starts": 3}))
    *damaged, asked, in_validation, finished, loops = train(tmp_path, 2, jobs)
    output = (tmp_path / "output.txt").read_text()
    for name, outcome in zip(("flipped", "truncated"), damaged, strict=True):
        assert outcome.finished
        assert len(outcome.samples) == STEPS - 40
        assert f"resumed at step 40 from {tmp_path / name}" in output
        same_end(undisturbed, tmp_path / name / "run")
    assert "damaged checkpoint: " in output
    assert ("its content has changed" in output, "bytes instead of" in output) == (True, True)

    assert (asked.step, asked.finished) == (1, False)
    assert "stopped by STOP at step 1" in output
    assert not (tmp_path / "stops/STOP").exists()
    assert (in_validation.step, in_validation.finished) == (11, False)
    assert finished.finished
    same_end(undisturbed, tmp_path / "stops")

    assert "3 starts one after another made no new checkpoint after the beginning" in loops.error
    assert json.loads((tmp_path / "loops/starts.json").read_text())["starts"] == 3
