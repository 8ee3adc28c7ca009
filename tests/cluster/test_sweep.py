"""A sweep by sbatch over two hosts: ASHA, and the kill of a rank, of a Ray node and of the driver."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from launcher.sweep import records
from tests.cluster.slurm_cluster import SlurmCluster
from tests.soak import times
from tests.tiny_dataset import write_tiny_dataset

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(not times(0, 1), reason="minutes of starting Ray on two hosts: make soak"),
]
REPOSITORY = Path(__file__).parents[2]
TRIALS = 8
CONFIG = """
name: sweep
runs_dir: {folder}
base: {folder}/base.yaml
words: [data.path={folder}/data]
space:
  optimizer.lr: {{loguniform: [1.0e-5, 3.0e-2]}}
search: {{kind: tpe, startup_trials: 3}}
schedule: {{kind: asha, reduction: 2}}
limits: {{trials: {trials}}}
trial: {{nodes: 2, ranks_per_node: 1, grace_s: 20}}
"""
BASE = """
data: {batch_size: 8, num_workers: 0}
model:
  imu_tower: {cnn: {channels: [8], kernel_sizes: [5]}}
  video_tower: {cnn: {channels: [8], time_strides: [2]}}
  head: {dim: 8}
train: {epochs: 20, log_every_steps: 1, checkpoint_every_steps: 20, validate_every_epochs: 2}
"""


@pytest.fixture
def env(tmp_path: Path) -> Mapping[str, str]:
    program = tmp_path / "imuvid"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m launcher.cli "$@"\n')
    program.chmod(0o755)
    return {"IMUVID": str(program), "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


def processes(*words: str) -> dict[int, list[str]]:
    """Processes on all hosts whose command line has all the words, with their environment's variables."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if entry.name.isdigit() and int(entry.name) != os.getpid() and all(word in line for word in words):
                found[int(entry.name)] = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
    return found


def wait_until(condition: Callable[[], object], what: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def test_a_sweep_over_two_hosts_survives_the_kill_of_a_rank_a_node_and_the_driver(
    slurm_cluster: SlurmCluster, env: Mapping[str, str], tmp_path: Path
):
    write_tiny_dataset(tmp_path / "data")
    (tmp_path / "base.yaml").write_text(BASE)
    config = tmp_path / "sweep.yaml"
    config.write_text(CONFIG.format(folder=tmp_path, trials=TRIALS))
    folder = tmp_path / "sweep"
    script = REPOSITORY / "slurm/sweep.sh"

    def scores() -> int:
        return sum(len(trial.scores) for trial in records.read_trials(folder, "mrr_imu_to_video"))

    job = slurm_cluster.submit(script, str(config), env=env)
    wait_until(lambda: scores() or slurm_cluster.show(job)["JobState"] == "FAILED", "no score", 120)
    assert scores(), slurm_cluster.log(job)
    ranks = processes("launcher.cli", "pretrain", str(tmp_path))
    hosts = {next(word for word in variables if word.startswith("SLURMD_NODENAME=")) for variables in ranks.values()}
    assert hosts == {"SLURMD_NODENAME=n1", "SLURMD_NODENAME=n2"}
    os.kill(next(iter(ranks)), signal.SIGKILL)

    before = scores()
    wait_until(lambda: scores() > before, "no score after the kill of a rank\n" + slurm_cluster.log(job), 120)
    raylet = next(iter(processes("raylet/raylet", "--node_ip_address=10.66.0.12")))
    os.kill(raylet, signal.SIGKILL)

    before = scores()
    wait_until(lambda: scores() > before, "no score after the loss of a node\n" + slurm_cluster.log(job), 180)
    drivers = processes("launcher.cli", "sweep", str(config))
    os.kill(next(pid for pid, words in drivers.items() if "SLURM_PROCID=0" in words), signal.SIGKILL)
    killed_at = time.monotonic()
    wait_until(lambda: not processes("launcher.cli", "pretrain", str(tmp_path)), "ranks outlive the driver", 15)
    print(f"no rank is left {time.monotonic() - killed_at:.1f} s after the kill of the driver")
    slurm_cluster.run("scancel", "--quiet", job)
    begun = records.read_journal(folder)
    wait_until(lambda: slurm_cluster.show(job)["JobState"] not in ("RUNNING", "COMPLETING"), "job stays", 60)

    job = slurm_cluster.submit(script, str(config), env=env)
    slurm_cluster.wait_for(job, ["COMPLETED"], timeout_s=400)
    trials = records.read_trials(folder, "mrr_imu_to_video")
    assert [trial.number for trial in trials] == list(range(TRIALS))
    assert {number: trials[number].parameters for number in begun} == begun
    assert {trial.state for trial in trials} <= {"finished", "stopped"}, slurm_cluster.log(job)
    for trial in trials:
        log = (trial.folder / "host-0.log").read_text()
        assert len(re.findall(r"^finished: [1-9]", log, re.M)) == (trial.state == "finished")
        assert trial.state != "stopped" or "stopped by SIGTERM at step" in log
    assert not processes("raylet/raylet", "10.66.0."), "Ray outlives the job"
    assert "best: trial" in slurm_cluster.log(job)
