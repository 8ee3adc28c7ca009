"""The product on a real Slurm cluster of two hosts: slurm/pretrain.sh and slurm/evaluate.sh, nothing stood in."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.cluster.slurm_cluster import SlurmCluster
from tests.tiny_dataset import write_tiny_dataset

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
REPOSITORY = Path(__file__).parents[2]
CONFIG = REPOSITORY / "configs" / "pretrain" / "demo.yaml"
STEPS = 40
TINY = [
    "model.imu_tower.cnn.channels=[8]",
    "model.imu_tower.cnn.kernel_sizes=[5]",
    "model.video_tower.cnn.channels=[8]",
    "model.video_tower.cnn.time_strides=[1]",
    "data.batch_size=8",
    f"train.epochs={STEPS * 8 / 44}",
    "train.log_every_steps=1",
    "train.validate_every_epochs=100",
    "train.checkpoint_every_steps=1000",
]


def metrics(run: Path) -> dict[int, dict]:
    """Training lines of a run by step; a step that stands twice would be lost here, so that is checked."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    training = [line for line in lines if line["split"] == "train"]
    assert len({line["step"] for line in training}) == len(training)
    return {line["step"]: line for line in training}


def encoder_bytes(run: Path) -> bytes:
    return (run / f"checkpoints/step-{STEPS:08d}/encoder/model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_dataset(tmp_path_factory.mktemp("cluster") / "dataset")


@pytest.fixture(scope="module")
def local_run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training by two ranks of this machine, undisturbed."""
    runs = tmp_path_factory.mktemp("local")
    words = [f"data.path={dataset}", f"runs_dir={runs}", "name=run", *TINY]
    command = [sys.executable, "-m", "launcher.cli", "pretrain", str(CONFIG), "--nproc", "2", *words]
    subprocess.run(command, check=True, timeout=180, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    return runs / "run"


@pytest.fixture
def env(tmp_path: Path) -> Mapping[str, str]:
    program = tmp_path / "imuvid"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m launcher.cli "$@"\n')
    program.chmod(0o755)
    return {"IMUVID": str(program), "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


def test_two_hosts_train_as_one_survive_a_warning_and_the_checkpoint_is_evaluated(
    slurm_cluster: SlurmCluster, env: Mapping[str, str], dataset: Path, local_run: Path, tmp_path: Path
):
    run = tmp_path / "run"
    patients = write_tiny_dataset(tmp_path / "patients", people="p")
    ood = [f"shards.root={patients}", "shards.protocol.num_folds=2", "'shots=[1,2]'"]
    words = [f"data.path={dataset}", f"runs_dir={tmp_path}", "name=run", *TINY]
    words += ["train.checkpoint_every_steps=20", "train.keep_every_steps=20", "evaluate.every=20"]
    words += [f"evaluate.config={REPOSITORY / 'configs/ood/demo.yaml'}", f"evaluate.words=[{','.join(ood)}]"]
    job = slurm_cluster.submit(REPOSITORY / "slurm/pretrain.sh", str(CONFIG), *words, env=env)
    slurm_cluster.wait_for_log(job, "step 3/", timeout_s=120)
    slurm_cluster.run("scancel", "--signal=USR1", job)
    shown = slurm_cluster.wait_for(job, ["COMPLETED"], timeout_s=180, restarts=1)
    log = slurm_cluster.log(job)
    assert shown["Restarts"] == "1", log
    assert "on 2 ranks" in log
    assert "stopped by SIGUSR1 at step" in log
    assert "resumed at step" in log

    # With negatives from its own host alone a rank would see 4 candidates and not 8: another loss at every step.
    ours, theirs = metrics(run), metrics(local_run)
    assert sorted(ours) == list(range(1, STEPS + 1))
    for step, line in ours.items():
        assert line["loss"] == pytest.approx(theirs[step]["loss"], rel=1e-6)
        assert line["lr"] == theirs[step]["lr"]
    assert encoder_bytes(run) == encoder_bytes(local_run)

    # A job for each checkpoint that is kept, and no more for the second start; one after another.
    submitted = json.loads((run / "evaluations.json").read_text())
    assert sorted(submitted) == ["step-00000020", f"step-{STEPS:08d}"]
    for name, evaluation in submitted.items():
        slurm_cluster.wait_for(evaluation, ["COMPLETED"], timeout_s=180)
        report = json.loads((run / "report" / name / "report.json").read_text())
        assert f"step-{report['encoder']['provenance']['step']:08d}" == name
        assert (run / "report" / name / "report.html").stat().st_size > 10_000
    assert log.count("is evaluated by job") == 2
