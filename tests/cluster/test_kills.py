"""Kills and warnings on a real Slurm cluster of two hosts: whatever comes, a run ends as an undisturbed one does."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from tests.cluster.slurm_cluster import SlurmCluster
from tests.cluster.test_pretrain import CONFIG, REPOSITORY, TINY
from tests.cluster.test_pretrain import dataset as dataset
from tests.cluster.test_pretrain import env as env
from tests.imuvid.training.test_run import lines_of, weights_of
from tests.soak import times

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
EVERY = 5
STEPS = times(44, 330)  # 8 or 60 epochs of 44 windows by 8
WORDS = [*TINY, f"train.epochs={STEPS * 8 / 44}", f"train.checkpoint_every_steps={EVERY}", "data.num_workers=1"]
WORDS += ["train.validate_every_epochs=1", "train.checkpoint_every_minutes=0", "engine.timeout_s=60"]


def newest(run: Path) -> int:
    pointer = run / "checkpoints/latest"
    return int(pointer.read_text().strip().removeprefix("step-")) if pointer.exists() else 0


def last_step(run: Path) -> int:
    lines = lines_of(run)
    return lines[-1]["step"] if lines else 0


def ranks(cluster: SlurmCluster, job: str) -> dict[str, int]:
    """Process of the rank of each host that has one; not its loader's, which it started."""
    found = {}
    for host in ("n1", "n2"):
        if host in cluster.hosts:
            environs = cluster.processes(host)
            ours = {n for n, e in environs.items() if e.get("SLURM_JOB_ID") == job and "SLURM_STEP_NODELIST" in e}
            ours = {n for n in ours if b"launcher.cli" in Path(f"/proc/{n}/cmdline").read_bytes()}
            first = [n for n in ours if parent(n) not in ours]
            if first:
                found[host] = first[0]
    return found


def parent(number: int) -> int:
    return int(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[1])


def batch_script(cluster: SlurmCluster, job: str) -> int:
    for number, environ in cluster.processes("n1").items():
        words = Path(f"/proc/{number}/cmdline").read_bytes()
        if environ.get("SLURM_JOB_ID") == job and b"--srun" in words:
            return number
    raise FileNotFoundError(job)


class Killer:
    """Kills what it is told to, and mends the cluster when the job has noticed."""

    def __init__(self, cluster: SlurmCluster, job: str, rng: random.Random):
        self.cluster, self.job, self.rng = cluster, job, rng
        self._mend: Callable[[], None] = lambda: None

    def mend(self) -> None:
        self._mend()
        self._mend = lambda: None

    def rank(self) -> None:
        os.kill(self.rng.choice(list(ranks(self.cluster, self.job).values())), signal.SIGKILL)

    def host(self) -> None:
        host = self.rng.choice(["n1", "n2"])
        self.cluster.kill_host(host)
        self._mend = lambda: self.cluster.start_host(host)

    def slurmd(self) -> None:
        host = self.rng.choice(["n1", "n2"])
        self.cluster.kill_slurmd(host)
        self._mend = lambda: self.cluster.start_slurmd(host)

    def warning(self) -> None:
        self.cluster.run("scancel", "--signal=USR1", self.job)

    def urgent(self) -> None:
        script = self.cluster.root / "urgent.sh"
        script.write_text("#!/bin/bash\nsleep 1\n")
        self.cluster.submit(script, options=["--partition=high", "--exclusive"])

    def batch(self) -> None:
        os.kill(batch_script(self.cluster, self.job), signal.SIGKILL)


class Watched:
    """The job and its run, and waiting for what becomes of them."""

    def __init__(self, cluster: SlurmCluster, job: str, run: Path):
        self.cluster, self.job, self.run = cluster, job, run

    def starts(self) -> int:
        return self.cluster.log(self.job).count(f"run {self.run}: ")

    def state(self) -> str:
        return self.cluster.show(self.job)["JobState"]

    def wait(self, condition: Callable[[], bool], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, self.cluster.log(self.job)[-3000:]
            time.sleep(0.05)

    def wait_for_step(self, step: int, starts: int) -> None:
        """Wait until start number ``starts`` has done ``step``."""
        self.wait(lambda: self.starts() >= starts and last_step(self.run) >= step, timeout_s=180)


KINDS = times([["host"]], [["rank", "host", "slurmd", "batch", "rank"] * 4, ["warning", "urgent"] * 2])


@pytest.mark.parametrize("kinds", KINDS, ids=["kills", "requests"][: len(KINDS)])
def test_stopped_at_random_instants(
    slurm_cluster: SlurmCluster, env: Mapping[str, str], dataset: Path, tmp_path: Path, kinds: list[str]
):
    rng = random.Random(times(3, 4))
    words = [str(CONFIG), f"data.path={dataset}", f"runs_dir={tmp_path}", *WORDS]
    script = REPOSITORY / "slurm/pretrain.sh"
    whole = slurm_cluster.submit(script, *words, "name=whole", env=env)
    slurm_cluster.wait_for(whole, ["COMPLETED"], timeout_s=180)

    run, story, starts = tmp_path / "run", [], 1
    job = slurm_cluster.submit(script, *words, "name=run", env=env, options=["--partition=low"])
    watched, killer = Watched(slurm_cluster, job, run), Killer(slurm_cluster, job, rng)
    for kind in rng.sample(kinds, len(kinds)):
        watched.wait_for_step(min(newest(run) + 1, STEPS - 1), starts)
        time.sleep(rng.uniform(0, times(0.5, 1.2)))
        with contextlib.suppress(ProcessLookupError, FileNotFoundError, IndexError):  # it may just have ended
            getattr(killer, kind)()
        reached = last_step(run)
        if kind == "slurmd":
            time.sleep(1)  # the tasks go on, and so does the job, since it is back in time
        else:
            watched.wait(lambda: watched.state() != "RUNNING", timeout_s=60)
            starts += 1
        killer.mend()
        story.append((kind, reached, newest(run), watched.state()))
        # A checkpoint that was on its way to the disk is lost with the steps since; none that was there.
        assert newest(run) >= reached - (0 if kind in ("warning", "urgent") else 2 * EVERY), story
        if newest(run) == STEPS:
            break
        if kind == "batch":  # nobody is left who could
            slurm_cluster.clear()
            slurm_cluster.run("scontrol", "requeue", job)
        (run / "starts.json").unlink(missing_ok=True)  # kills may follow one another too soon for a checkpoint
    slurm_cluster.wait_for(job, ["COMPLETED"], timeout_s=180)
    print("kind, last step logged, newest checkpoint, state of the job:", *story, sep="\n")

    for expected, found in zip(weights_of(tmp_path / "whole", STEPS), weights_of(run, STEPS), strict=True):
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)
    ours, theirs = lines_of(run), lines_of(tmp_path / "whole")
    assert [line["step"] for line in ours] == list(range(1, STEPS + 1))
    assert [line["loss"] for line in ours] == [line["loss"] for line in theirs]
    state = json.loads((run / f"checkpoints/step-{STEPS:08d}/stream.json").read_text())
    assert state["samples_seen"] == STEPS * 8
