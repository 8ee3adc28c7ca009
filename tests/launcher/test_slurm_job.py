"""What becomes of a Slurm job when its ranks have ended, and which checkpoints get an evaluation job."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from imuvid import config as configs
from imuvid.errors import UserError
from imuvid.training.config import PretrainConfig
from launcher.evaluations import Evaluations, check_evaluations
from launcher.slurm_job import num_tasks, wants_requeue


@pytest.mark.parametrize(
    ("code", "requeued"),
    [(0, False), (2, False), (130, False), (143, False), (85, True), (1, True), (134, True), (137, True), (139, True)],
)
def test_a_lost_rank_is_no_mistake_and_no_cancellation(tmp_path: Path, monkeypatch, code: int, requeued: bool):
    monkeypatch.setenv("IMUVID_START", "5.0")
    assert wants_requeue(code, tmp_path / "run") == requeued


def test_crashes_are_bounded_until_there_is_a_new_checkpoint(tmp_path: Path, monkeypatch, capsys):
    (tmp_path / "checkpoints").mkdir()

    def crash(number: int) -> bool:
        monkeypatch.setenv("IMUVID_START", f"5.{number}")
        return wants_requeue(1, tmp_path)

    assert [crash(0), crash(1)] == [True, True]
    (tmp_path / "checkpoints/latest").write_text("step-00000010\n")
    assert [crash(2), crash(3), crash(4)] == [True, True, False]
    assert "the last 3 starts made no new checkpoint" in capsys.readouterr().err
    assert not crash(5)


def test_a_job_knows_how_many_ranks_it_has():
    assert num_tasks({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "6"}) == 6
    assert num_tasks({"SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS_PER_NODE": "4"}) == 8
    with pytest.raises(UserError, match="--srun starts the ranks of a Slurm job"):
        num_tasks({})


def config_of(folder: Path, *words: str) -> PretrainConfig:
    words = ("name=r", f"runs_dir={folder}", "data.path=x", "train.checkpoint_every_steps=10", *words)
    return configs.load(PretrainConfig, None, list(words))


def test_what_would_be_gone_before_it_is_evaluated_is_refused(tmp_path: Path):
    (tmp_path / "ood.yaml").touch()
    good = ["evaluate.every=40", "train.keep_every_steps=20", f"evaluate.config={tmp_path / 'ood.yaml'}"]
    check_evaluations(config_of(tmp_path, *good))
    check_evaluations(config_of(tmp_path))
    for word, message in (
        ("evaluate.every=45", r"multiple of train\.checkpoint_every_steps=10"),
        ("train.keep_every_steps=0", r"set train\.keep_every_steps=40"),
        ("evaluate.config=none.yaml", r"evaluate\.config=none\.yaml: there is no such file"),
    ):
        with pytest.raises(UserError, match=message):
            check_evaluations(config_of(tmp_path, *good, word))


SBATCH = """#!/bin/sh
env | grep -c ^SLURM_NTASKS= >> {folder}/leaked
echo "$@" >> {folder}/submitted
grep -c . {folder}/submitted
"""


def test_each_kept_checkpoint_is_submitted_once(tmp_path: Path, monkeypatch, capsys):
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "sbatch").write_text(SBATCH.format(folder=tmp_path))
    (tools / "squeue").write_text("#!/bin/sh\ncat queued 2>/dev/null\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_NTASKS", "64")
    monkeypatch.chdir(tmp_path)
    config = config_of(tmp_path, "evaluate.every=20", "evaluate.config=ood.yaml", "evaluate.words=['shots=[1,2]']")
    config.evaluate.sbatch = ["--gpus=1"]
    checkpoints = tmp_path / "r/checkpoints"

    def publish(step: int) -> None:
        (checkpoints / f"step-{step:08d}").mkdir(parents=True)
        (checkpoints / f"step-{step:08d}/MANIFEST.json").touch()

    def record() -> dict[str, str]:
        return json.loads((tmp_path / "r/evaluations.json").read_text())

    evaluations = Evaluations(config)
    evaluations.submit_new()
    publish(10)
    publish(20)
    for _ in range(2):
        evaluations.submit_new()
    assert record() == {"step-00000020": "1"}
    line = (tmp_path / "submitted").read_text()
    assert "--dependency=singleton --gpus=1" in line
    assert line.strip().endswith(f"{checkpoints / 'step-00000020'} ood.yaml shots=[1,2]")
    assert (tmp_path / "leaked").read_text() == "0\n"
    publish(40)
    (tmp_path / "queued").write_text("step-00000040 77\n")  # submitted by a start that was killed at once
    publish(45)
    again = Evaluations(config)
    again.submit_new()
    again.submit_new(finished=True)
    assert record() == {"step-00000020": "1", "step-00000040": "77", "step-00000045": "2"}
    (tools / "sbatch").write_text("#!/bin/sh\necho no such partition >&2\nexit 1\n")
    publish(60)
    for _ in range(2):
        again.submit_new()
    assert "step-00000060" not in record()
    assert capsys.readouterr().err == "imuvid: step-00000060 is not evaluated: no such partition\n"
    (tmp_path / "r/evaluations.json").write_text("{")
    again.submit_new()
    assert "checkpoints are not evaluated: " in capsys.readouterr().err
