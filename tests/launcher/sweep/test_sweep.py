"""Sweeps of real runs on a Ray cluster of this machine: what kills, stops and failures leave behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from imuvid import config as configs
from imuvid.errors import UserError
from launcher.ray_cluster import connect
from launcher.sweep import records, run
from launcher.sweep.config import SweepConfig
from tests.soak import times
from tests.tiny_dataset import write_tiny_dataset

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).parents[3]
METRIC = "mrr_imu_to_video"
CPUS = 2
RATES = [0.05, 1.0e-6, *times([], [1.0e30])]
SEEDS = times(1, 3)
OPTIONS = ("--include-dashboard=false", "--disable-usage-stats")
BASE = """
data: {batch_size: 8, num_workers: 0}
model:
  imu_tower: {cnn: {channels: [8], kernel_sizes: [5]}}
  video_tower: {cnn: {channels: [8], time_strides: [2]}}
  head: {dim: 8}
train: {epochs: 10, log_every_steps: 1, checkpoint_every_steps: 10, validate_every_epochs: 2}
"""
CONFIG = """
name: sweep
runs_dir: {folder}
base: {folder}/base.yaml
words: [data.path={folder}/data]
space: {{optimizer.lr: {{grid: [{rates}]}}, seed: {{grid: [{seeds}]}}}}
search: {{kind: grid}}
schedule: {{kind: asha, first_rung_percent: 50, reduction: 2}}
limits: {{trials: null}}
trial: {{ranks_per_node: 2, cpus_per_rank: 1, grace_s: 20}}
"""


class Cluster:
    """Ray on this machine with CPUs for one trial of two ranks, and what it says of itself."""

    def __init__(self, folder: Path):
        self.port = 6400 + os.getpid() % 1000  # Ray keeps those from 10002 on for itself
        program = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--port={self.port}", "--block"]
        self.process = subprocess.Popen(
            [*program, f"--num-cpus={CPUS}", *OPTIONS],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )
        self.address = f"127.0.0.1:{self.port}"

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    import ray

    found = Cluster(tmp_path_factory.mktemp("ray"))
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                connect(found.address, CPUS)
                break
            except UserError:
                assert time.monotonic() < deadline
                time.sleep(0.5)
        yield found
    finally:
        ray.shutdown()
        found.end()


def placement_groups(state: str) -> set[str]:
    """Groups with the CPUs of a trial, by Ray's own table."""
    from ray.util import placement_group_table

    groups = {name: group for name, group in placement_group_table().items() if group["state"] == state}
    return {name for name, group in groups.items() if sum(b.get("CPU", 0) for b in group["bundles"].values()) >= CPUS}


def free_cpus() -> float:
    import ray

    return ray.available_resources().get("CPU", 0.0)


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 90.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def processes_of(folder: Path) -> list[int]:
    """Launchers and ranks of the trials below a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if entry.name.isdigit() and "pretrain" in line and str(folder) in line:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def start(folder: Path, config: Path, *words: str) -> subprocess.Popen[bytes]:
    with (folder / "output.txt").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "launcher.cli", "sweep", str(config), *words],
            cwd=REPOSITORY,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )


@pytest.fixture
def config(tmp_path: Path) -> Path:
    write_tiny_dataset(tmp_path / "data")
    (tmp_path / "base.yaml").write_text(BASE)
    path = tmp_path / "sweep.yaml"
    path.write_text(CONFIG.format(folder=tmp_path, rates=str(RATES)[1:-1], seeds=str([*range(SEEDS)])[1:-1]))
    return path


def test_a_sweep_outlives_its_driver_frees_what_it_stops_and_records_what_fails(
    cluster: Cluster, config: Path, tmp_path: Path
):
    folder, address = tmp_path / "sweep", f"ray.address={cluster.address}"
    num_trials = len(RATES) * SEEDS

    def scores(number: int) -> int:
        journal = records.read_journal(folder)
        return len(records.read_trial(folder, number, journal[number], METRIC).scores) if number in journal else 0

    def said() -> str:
        return (tmp_path / "output.txt").read_text()

    driver = start(tmp_path, config, address)
    wait_until(lambda: scores(0) or driver.poll() is not None, "no score")
    assert driver.poll() is None, said()
    pids = [
        pid for pid in processes_of(tmp_path) if "RANK=1" in Path(f"/proc/{pid}/environ").read_text(errors="replace")
    ]
    os.kill(pids[0], signal.SIGKILL)
    before = scores(0)
    wait_until(lambda: scores(0) > before, "no score after the kill of a rank\n" + said())
    driver.kill()
    driver.wait()
    wait_until(lambda: not processes_of(tmp_path), "ranks outlive the driver", 15)
    wait_until(lambda: free_cpus() == CPUS, "Ray still holds what a dead driver had", 30)
    begun = records.read_journal(folder)

    driver = start(tmp_path, config, address, "--resume")
    most = 0
    while driver.poll() is None:
        most = max(most, len(placement_groups("CREATED")))
        time.sleep(0.1)
    assert most == 1  # the trial after a stopped one could only begin because that one's group was gone
    assert driver.returncode == 0, said()

    trials = records.read_trials(folder, METRIC)
    assert [trial.number for trial in trials] == list(range(num_trials))
    assert {number: trials[number].parameters for number in begun} == begun
    by_rate = {rate: {t.state for t in trials if t.parameters["optimizer.lr"] == rate} for rate in RATES}
    assert by_rate.get(1e30, {"diverged"}) == {"diverged"}
    assert by_rate[1e-6] == {"stopped"}
    assert "finished" in by_rate[0.05]
    for trial in trials:
        log = (trial.folder / "host-0.log").read_text()
        assert len(re.findall(r"^finished: [1-9]", log, re.M)) == (trial.state == "finished"), trial
        assert ("stopped by SIGTERM at step" in log) == (trial.state == "stopped"), trial  # it saved before it left
    assert "resumed at step" in (folder / "trials/trial-0000/host-0.log").read_text()
    wait_until(lambda: free_cpus() == CPUS and not placement_groups("CREATED"), "Ray still holds something", 20)
    assert len(placement_groups("REMOVED")) >= num_trials + 1  # one more for the start that was killed

    table = pq.read_table(folder / "sweep.parquet").to_pylist()
    assert {row["trial"]: row["state"] for row in table} == {trial.number: trial.state for trial in trials}
    best = max((trial for trial in trials if trial.state == "finished"), key=lambda trial: trial.value or 0)
    from imuvid.training.config import PretrainConfig

    assert configs.load(PretrainConfig, folder / "best.yaml").optimizer.lr == best.parameters["optimizer.lr"]
    metrics = [json.loads(line) for line in (best.folder / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in metrics if line["split"] == "val"][-1]
    assert (best.steps, best.value) == (last["step"], last[METRIC])
    assert f"best: trial {best.number}" in said()


def test_a_mistake_is_one_line(config: Path, tmp_path: Path):
    driver = start(tmp_path, config, "ray.address=127.0.0.1:1")
    assert driver.wait(timeout=60) == 2
    said = (tmp_path / "output.txt").read_text().splitlines()
    assert said[-1].startswith("imuvid: ray.address=127.0.0.1:1: no Ray cluster answers there")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["metric=test_r_at_1"], "metric=test_r_at_1: a test score is no objective"),
        (["words=[data.val_split=test]"], "data.val_split=test: a sweep that looks at test people"),
        (["trial.ranks_per_node=5"], "data.batch_size=8"),
    ],
)
def test_what_no_trial_can_be_started_with_is_refused_before_ray_starts(
    config: Path, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(run, "connect", None)
    with pytest.raises(UserError, match=re.escape(message)):
        run.sweep(configs.load(SweepConfig, config, words))
