"""The evaluation in parts: any order, any process, killed at any instant, it is the same evaluation."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from imuvid.errors import UserError
from imuvid.ood.job import evaluate
from imuvid.ood.model import FunctionModel
from imuvid.ood.parts import Parts
from imuvid.ood.predictions import read_predictions
from shards.workers import run_jobs
from tests.imuvid.ood.small_job import no_pictures, prepare_job

__all__ = ["no_pictures"]
pytestmark = pytest.mark.usefixtures("no_pictures")


def backwards(function, jobs, workers, timeout_s):
    """Run jobs in this process, last first."""
    for number in reversed(range(len(jobs))):
        yield number, function(*jobs[number])


def processes(function, jobs, workers, timeout_s):
    return run_jobs(function, jobs, 2, timeout_s)


def rows(out: Path) -> list[tuple]:
    table = read_predictions(out / "predictions.parquet")
    columns = [table[name].to_pylist() for name in table.column_names]
    return sorted(repr(row) for row in zip(*columns, strict=True))


@pytest.fixture
def made(monkeypatch) -> list[str]:
    """Names of the folds that were computed."""
    folds: list[str] = []
    make = Parts.make

    def counted(self, task, fold, run_fold):
        folds.append(fold.name)
        make(self, task, fold, run_fold)

    monkeypatch.setattr(Parts, "make", counted)
    return folds


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> tuple[Path, Path]:
    """Folder of the data, and of a report made one after another in one process."""
    root = tmp_path_factory.mktemp("parts")
    checkpoint, config = prepare_job(root, out=str(root / "reference"))
    return root, evaluate(checkpoint, config).out


def test_the_order_of_the_parts_does_not_matter(reference, tmp_path, made):
    root, expected = reference
    checkpoint, config = prepare_job(root, out=str(tmp_path))
    result = evaluate(checkpoint, config, backwards)
    assert made == ["group-2", "group-1", "group-0"]
    assert rows(result.out) == rows(expected)
    theirs = json.loads((expected / "report.json").read_text())["results"]
    assert json.loads((result.out / "report.json").read_text())["results"] == theirs
    assert not (result.out / "parts").exists()


@pytest.mark.slow
def test_the_number_of_processes_does_not_matter(reference, tmp_path):
    root, expected = reference
    checkpoint, config = prepare_job(root, out=str(tmp_path / "out"))
    config.cache.folder = str(tmp_path / "cache")
    result = evaluate(checkpoint, config, processes)
    assert rows(result.out) == rows(expected)
    theirs = (json.loads((out / "report.json").read_text())["results"] for out in (expected, result.out))
    assert next(theirs) == next(theirs)


def test_what_was_finished_is_not_done_again(reference, tmp_path, made):
    root, expected = reference
    checkpoint, config = prepare_job(root, out=str(tmp_path))

    def stops(function, jobs, workers, timeout_s):
        for number, done in backwards(function, jobs, workers, timeout_s):
            yield number, done
            if len(made) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(checkpoint, config, stops)
    assert not (tmp_path / "report.html").exists()
    kept = sorted((tmp_path / "parts").glob("*.parquet"))
    assert len(kept) == 2
    kept[0].write_bytes(kept[0].read_bytes()[:-100])  # a damaged one is made again
    made.clear()
    result = evaluate(checkpoint, config)
    assert len(made) == 2
    assert "group-0" in made
    assert rows(result.out) == rows(expected)


def test_parts_of_another_config_or_encoder_are_not_taken(reference, tmp_path, made):
    root, _ = reference
    checkpoint, config = prepare_job(root, out=str(tmp_path))

    def stops(function, jobs, workers, timeout_s):
        yield from backwards(function, jobs, workers, timeout_s)
        if len(made) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(checkpoint, config, stops)
    assert len(made) == 3
    evaluate(checkpoint, dataclasses.replace(config, seed=1))
    assert len(made) == 6


def test_a_process_that_dies_costs_its_part_alone(reference, tmp_path, made):
    root, expected = reference
    checkpoint, config = prepare_job(root, out=str(tmp_path))

    def loses(function, jobs, workers, timeout_s):
        for number, job in enumerate(jobs):
            yield number, "killed" if number == 1 else function(*job)

    result = evaluate(checkpoint, config, loses)
    assert sorted(made) == ["group-0", "group-1", "group-2"]
    assert rows(result.out) == rows(expected)


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("IMUVID_SOAK"), reason="only in make soak: Ray takes long to start")
def test_on_ray_it_is_the_same(reference, tmp_path):
    from launcher.evaluate_cli import executor

    root, expected = reference
    checkpoint, config = prepare_job(root, out=str(tmp_path / "out"), executor="ray", workers=2)
    config.cache.folder = str(tmp_path / "cache")
    assert rows(evaluate(checkpoint, config, executor(config)).out) == rows(expected)


COMMAND = "import sys; from launcher.cli import main; sys.argv[0] = 'imuvid'; main()"


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("IMUVID_SOAK"), reason="only in make soak: half a minute a kill")
def test_killed_at_any_instant_the_command_goes_on(reference, tmp_path):
    """Both processes of the command, at a random instant; what the next start gives is what an undisturbed one gave."""
    root, expected = reference
    checkpoint, _ = prepare_job(root)
    config = tmp_path / "hapt.yaml"
    config.write_text(
        f"datasets: [hapt]\nshots: [1]\nnum_draws: 2\nnum_bootstrap: 50\ndevice: cpu\nfinetune: {{steps: 0}}\n"
        f"hapt: {{root: {root / 'hapt'}, protocol: {{kind: grouped-folds, num_folds: 3}}}}\n"
        f"cache: {{folder: {tmp_path / 'cache'}}}\nworkers: 2\n"
    )
    rng = np.random.default_rng()
    for number in range(10):
        out = tmp_path / f"out{number}"
        command = [sys.executable, "-c", COMMAND, "evaluate", str(checkpoint), str(config), f"out={out}"]
        victim = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + 60
        while not out.exists() and time.monotonic() < deadline and victim.poll() is None:
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 4))
        os.killpg(victim.pid, signal.SIGKILL)
        victim.wait()
        subprocess.run(command, check=True, timeout=120, stdout=subprocess.DEVNULL)
        assert rows(out) == rows(expected)
        assert not list(out.glob("*.partial"))
        assert not (out / "parts").exists()


class Trap:
    """A pickle that leaves a trace when it is read."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_pickle_in_a_checkpoint_is_not_executed(tmp_path, name):
    checkpoint, config = prepare_job(tmp_path)
    (checkpoint / "encoder" / name).write_bytes(pickle.dumps(Trap(tmp_path / "struck")))
    with pytest.raises(UserError, match="damaged encoder"):
        evaluate(checkpoint, config)
    assert not (tmp_path / "struck").exists()


def test_code_that_a_checkpoint_names_is_run_only_where_it_is_trusted(tmp_path, monkeypatch):
    checkpoint, config = prepare_job(tmp_path)
    path = checkpoint / "encoder/config.json"
    content = json.loads(path.read_text())
    content["tower"]["kind"] = "external"
    content["tower"]["external"]["factory"] = "os:mkdir"
    content["tower"]["external"]["arguments"] = {"path": str(tmp_path / "struck")}
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="IMUVID_TRUSTED_FACTORIES=os:mkdir"):
        evaluate(checkpoint, config)
    assert not (tmp_path / "struck").exists()
    monkeypatch.setenv("IMUVID_TRUSTED_FACTORIES", "os:mkdir")
    with pytest.raises(UserError):
        evaluate(checkpoint, config)
    assert (tmp_path / "struck").exists()


def test_a_function_is_judged_like_an_encoder(reference, tmp_path):
    root, _ = reference
    _, config = prepare_job(
        root, out=str(tmp_path), finetune=dataclasses.replace(prepare_job(root)[1].finetune, steps=2)
    )

    def moments(imu: np.ndarray, valid: np.ndarray) -> np.ndarray:
        return np.concatenate([imu.mean(axis=(1, 2)), imu.std(axis=(1, 2))], axis=1)

    result = evaluate(FunctionModel(moments, 50.0, 2.0, "moments"), config, backwards)
    scores = {
        (row["method"], row["shots"]): row["metrics"]
        for row in result.report["results"]["hapt/grouped-3-folds"]["scores"]
    }
    assert scores["pretrained/linear", "all"]["balanced_accuracy"]["value"] > 0.3
    assert not any(method.startswith("random") or method == "pretrained/finetune" for method, _ in scores)
    assert result.report["encoder"] | {"checkpoint": "moments", "weights_sha256": None} == result.report["encoder"]
    leaky = FunctionModel(moments, 50.0, 2.0, "moments", train_subjects=["3"])
    with pytest.raises(UserError, match="first 3, were pretrained on"):
        evaluate(leaky, config)


def test_windows_are_read_once_and_again_when_a_file_changes(tmp_path, monkeypatch):
    from imuvid.ood import job

    checkpoint, config = prepare_job(tmp_path)
    reads = []
    read = job.read_hapt
    monkeypatch.setattr(job, "read_hapt", lambda *arguments: reads.append(1) or read(*arguments))
    first = evaluate(checkpoint, config).report["results"]
    other = dataclasses.replace(config.hapt, protocol=dataclasses.replace(config.hapt.protocol, num_folds=2))
    evaluate(checkpoint, dataclasses.replace(config, hapt=other))
    assert evaluate(checkpoint, config).report["results"] == first
    assert len(reads) == 1
    path = tmp_path / "hapt/RawData/labels.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-6]))
    assert len(evaluate(checkpoint, config).report["results"]["hapt/grouped-3-folds"]["test_subjects"]) == 5
    assert len(reads) == 2


def test_scores_are_scalars_of_the_run(reference):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    root, _ = reference
    checkpoint, config = prepare_job(root)
    for _ in range(2):
        result = evaluate(checkpoint, config)
    [event_file] = (root / "run/report/tensorboard").iterdir()
    board = EventAccumulator(str(event_file))
    board.Reload()
    [scalar] = board.Scalars("ood/hapt/grouped-3-folds/balanced_accuracy/pretrained/linear/all")
    assert scalar.step == 100
    assert scalar.value == pytest.approx(result.report["headline"]["value"])
