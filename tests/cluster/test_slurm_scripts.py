"""The sbatch scripts on a real Slurm cluster of two hosts, with a stand-in for the program that they start."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.cluster.slurm_cluster import SlurmCluster

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
REPOSITORY = Path(__file__).parents[2]
PRETRAIN = REPOSITORY / "slurm" / "pretrain.sh"
EVALUATE = REPOSITORY / "slurm" / "evaluate.sh"


@pytest.fixture
def env(tmp_path: Path) -> Mapping[str, str]:
    program = tmp_path / "imuvid"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).parent}/stand_in.py "$@"\n')
    program.chmod(0o755)
    return {"IMUVID": str(program), "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


def every_step_once(log: str, steps: int) -> bool:
    """Whether both ranks did each step from 1 to ``steps`` exactly once, over all runs of the job."""
    done = Counter(re.findall(r"rank (\d) on n\d: did step (\d+)\n", log))
    return done == Counter((rank, str(step)) for rank in "01" for step in range(1, steps + 1))


def test_two_hosts_are_one_run_and_reduce_over_the_network(slurm_cluster: SlurmCluster, env, tmp_path: Path):
    job = slurm_cluster.submit(PRETRAIN, str(tmp_path), "steps=1", "reduce=1", env=env)
    slurm_cluster.wait_for(job, ["COMPLETED"], timeout_s=60)
    log = slurm_cluster.log(job)
    assert "rank 0 on n1: sum 3 with 2 ranks by n1" in log
    assert "rank 1 on n2: sum 3 with 2 ranks by n1" in log


@pytest.mark.parametrize("how", [["--signal=USR1"], ["--signal=USR1", "--full"]])
def test_usr1_saves_requeues_and_goes_on(slurm_cluster: SlurmCluster, env, tmp_path: Path, how: list[str]):
    job = slurm_cluster.submit(PRETRAIN, str(tmp_path), "steps=30", env=env)
    slurm_cluster.wait_for_log(job, "rank 1 on n2: did step 3", timeout_s=30)
    slurm_cluster.run("scancel", *how, job)
    shown = slurm_cluster.wait_for(job, ["COMPLETED"], timeout_s=40, restarts=1)
    assert shown["Restarts"] == "1"
    assert every_step_once(slurm_cluster.log(job), 30)


def test_the_time_limit_saves_requeues_and_goes_on(slurm_cluster: SlurmCluster, env, tmp_path: Path):
    # Slurm looks at the limits every 30 s, and warns 30 s early to be sure: at once, with these 40 s of one minute.
    options = ["--time=1", "--signal=USR1@40"]
    job = slurm_cluster.submit(PRETRAIN, str(tmp_path), "steps=350", env=env, options=options)
    shown = slurm_cluster.wait_for(job, ["RUNNING"], timeout_s=60, restarts=1)
    assert shown["Restarts"] == "1"
    assert "on signal 10" in slurm_cluster.log(job)


def test_preemption_saves_requeues_and_goes_on(slurm_cluster: SlurmCluster, env, tmp_path: Path):
    options = ["--partition=low", "--exclusive"]
    job = slurm_cluster.submit(PRETRAIN, str(tmp_path), "steps=40", env=env, options=options)
    slurm_cluster.wait_for_log(job, "rank 1 on n2: did step 3", timeout_s=30)
    other = tmp_path / "urgent.sh"
    other.write_text("#!/bin/bash\nsleep 1\n")
    urgent = slurm_cluster.submit(other, options=["--partition=high", "--exclusive"])
    slurm_cluster.wait_for(urgent, ["COMPLETED"], timeout_s=30)
    assert slurm_cluster.wait_for(job, ["COMPLETED"], timeout_s=40, restarts=1)["Restarts"] == "1"
    assert "saved step" in slurm_cluster.log(job)
    assert every_step_once(slurm_cluster.log(job), 40)


def test_a_cancelled_job_saves_and_stays_cancelled(slurm_cluster: SlurmCluster, env, tmp_path: Path):
    job = slurm_cluster.submit(PRETRAIN, str(tmp_path), "steps=600", env=env)
    slurm_cluster.wait_for_log(job, "rank 1 on n2: did step 3", timeout_s=30)
    slurm_cluster.run("scancel", job)
    assert slurm_cluster.wait_for(job, ["CANCELLED"], timeout_s=20)["Restarts"] == "0"
    log = slurm_cluster.wait_for_log(job, "rank 1 on n2: saved step", timeout_s=5)
    assert "rank 0 on n1: saved step" in log


def test_a_lost_rank_requeues_the_job(slurm_cluster: SlurmCluster, env, tmp_path: Path):
    job = slurm_cluster.submit(PRETRAIN, str(tmp_path), "steps=8", "kill=3", env=env)
    assert slurm_cluster.wait_for(job, ["COMPLETED"], timeout_s=40, restarts=1)["Restarts"] == "1"
    assert f"the ranks ended with code 137: job {job} is requeued" in slurm_cluster.log(job)


def test_a_job_that_crashes_at_every_start_is_started_three_times(slurm_cluster: SlurmCluster, env, tmp_path: Path):
    job = slurm_cluster.submit(PRETRAIN, str(tmp_path), "steps=600", "crash=3", env=env)
    shown = slurm_cluster.wait_for(job, ["FAILED"], timeout_s=60)
    assert (shown["ExitCode"], shown["Restarts"]) == ("1:0", "2")
    assert "the last 3 starts made no new checkpoint, so the job is not requeued" in slurm_cluster.log(job)


def test_a_users_mistake_fails_the_job_at_once(slurm_cluster: SlurmCluster, env, tmp_path: Path):
    job = slurm_cluster.submit(PRETRAIN, str(tmp_path), "steps=600", "mistake=3", env=env)
    shown = slurm_cluster.wait_for(job, ["FAILED"], timeout_s=30)
    assert (shown["ExitCode"], shown["Restarts"]) == ("2:0", "0")


def test_a_cancelled_job_whose_ranks_crash_over_it_stays_cancelled(slurm_cluster: SlurmCluster, env, tmp_path: Path):
    job = slurm_cluster.submit(PRETRAIN, str(tmp_path), "steps=600", "upset=1", env=env)
    slurm_cluster.wait_for_log(job, "rank 1 on n2: did step 3", timeout_s=30)
    slurm_cluster.run("scancel", job)
    slurm_cluster.wait_for(job, ["CANCELLED"], timeout_s=30)
    slurm_cluster.clear()  # until it has left its hosts
    assert "is COMPLETING: it is not requeued" in slurm_cluster.log(job)
    shown = slurm_cluster.show(job)
    assert (shown["JobState"], shown["Restarts"]) == ("CANCELLED", "0")


def test_usr1_requeues_one_task_of_an_array(slurm_cluster: SlurmCluster, env, tmp_path: Path):
    job = slurm_cluster.submit(PRETRAIN, str(tmp_path), "steps=80", nodes=1, env=env, options=["--array=0-1"])
    last = f"{job}_1"
    for task in (f"{job}_0", last):
        slurm_cluster.wait_for_log(task, "did step 3", timeout_s=30)
    slurm_cluster.run("scancel", "--signal=USR1", last)
    assert slurm_cluster.wait_for(last, ["COMPLETED"], timeout_s=40, restarts=1)["Restarts"] == "1"
    assert slurm_cluster.wait_for(f"{job}_0", ["COMPLETED"], timeout_s=20)["Restarts"] == "0"


def test_evaluation_waits_for_the_pretraining(slurm_cluster: SlurmCluster, env, tmp_path: Path):
    job = slurm_cluster.submit(PRETRAIN, str(tmp_path), "steps=10", env=env)
    options = [f"--dependency=afterok:{job}"]
    after = slurm_cluster.submit(EVALUATE, str(tmp_path / "none"), "steps=1", nodes=1, env=env, options=options)
    slurm_cluster.wait_for(after, ["COMPLETED"], timeout_s=40)
    assert slurm_cluster.show(job)["JobState"] == "COMPLETED"
    assert "of evaluate" in slurm_cluster.log(after)
