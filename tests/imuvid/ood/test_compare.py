"""Several models beside each other, and the checkpoints of a run as they come."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from imuvid.errors import UserError
from imuvid.manifest import file_sums, write_manifest
from imuvid.models.encoder import load_encoder, save_encoder
from imuvid.ood.compare import evaluate_all, model_names
from imuvid.ood.job import evaluate
from imuvid.ood.model import FunctionModel
from imuvid.ood.predictions import read_predictions
from imuvid.ood.watch import watch
from imuvid.training.checkpoint import write_finished
from tests.imuvid.ood.fakes import write_encoder
from tests.imuvid.ood.small_job import no_pictures, prepare_job

TASK = "hapt/grouped-3-folds"

__all__ = ["no_pictures"]
pytestmark = pytest.mark.usefixtures("no_pictures")


def chance(imu: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Features that say nothing: the last bits of the signal."""
    return (1e6 * imu[:, :4, 0, 0]) % 1


def test_models_are_compared_pairwise_on_the_same_people(tmp_path):
    checkpoint, config = prepare_job(tmp_path, out=str(tmp_path / "both"), num_bootstrap=400)
    models = [checkpoint, FunctionModel(chance, 50.0, 2.0, "chance"), FunctionModel(chance, 50.0, 2.0, "again")]
    found = evaluate_all(models, config)
    names = [model["name"] for model in found.comparison["models"]]
    assert names[1:] == ["chance", "again"]
    assert sorted(path.name for path in found.out.iterdir()) == sorted([*names, "comparison.json", "report.html"])
    assert json.loads((found.out / "comparison.json").read_text()) == found.comparison
    rows = {
        (row["method"], row["reference"]): row["metrics"]["balanced_accuracy"]
        for row in found.comparison["results"][TASK]["differences"]
        if row["shots"] == "all" and row["method"].endswith("linear")
    }
    assert len(rows) == 3
    worse = rows["chance/linear", f"{names[0]}/linear"]
    assert worse["high"] < 0
    # The difference of the points is that of scikit-learn on the saved predictions.
    points = []
    for name in names[:2]:
        table = read_predictions(found.out / name / "predictions.parquet").to_pylist()
        kept = [r for r in table if (r["representation"], r["probe"], r["shots"]) == ("pretrained", "linear", None)]
        classes = found.comparison["results"][TASK]["classes"]
        guess = [classes[int(np.argmax(r["scores"]))] for r in kept]
        points.append(balanced_accuracy_score([r["label"] for r in kept], guess))
    assert worse["value"] == pytest.approx(points[1] - points[0])
    # Paired: a model differs from its twin by nothing in every resample.
    same = rows["again/linear", "chance/linear"]
    assert (same["value"], same["low"], same["high"]) == (0, 0, 0)
    assert same["p_holm"] == 1
    assert names[0] in (found.out / "report.html").read_text()
    assert any("corrected p" in line for line in found.lines())


def test_names_tell_checkpoints_apart():
    paths = ["runs/a/checkpoints/step-00000100", "runs/a/checkpoints/step-00000200"]
    assert model_names(paths) == ["step-00000100", "step-00000200"]
    assert model_names(["runs/a/checkpoints/latest", "runs/b/checkpoints/latest"]) == ["a", "b"]
    with pytest.raises(UserError, match="given twice"):
        model_names(["runs/a", "runs/a"])


def test_a_comparison_needs_a_folder(tmp_path):
    checkpoint, config = prepare_job(tmp_path)
    with pytest.raises(UserError, match="out=FOLDER"):
        evaluate_all([checkpoint, checkpoint / "encoder"], config)


def add_checkpoint(run: Path, step: int, whole: bool = True) -> Path:
    checkpoint = write_encoder(run, step)
    if whole:
        write_manifest(checkpoint, file_sums(checkpoint, [path for path in checkpoint.rglob("*") if path.is_file()]))
    return checkpoint


def test_each_checkpoint_is_evaluated_once_until_the_run_ends(tmp_path):
    _, config = prepare_job(tmp_path)
    run = tmp_path / "watched"
    looks = []

    def sleep(seconds: float) -> None:
        """What the run does while the watch sleeps."""
        looks.append(sorted(path.name for path in (run / "report").glob("step-*")))
        if len(looks) == 1:
            add_checkpoint(run, 100)
        elif len(looks) == 2:
            assert looks[-1] == ["step-00000100"]
            add_checkpoint(run, 200, whole=False)  # half written: it does not exist yet
        elif len(looks) == 3:
            assert looks[-1] == ["step-00000100"]
            add_checkpoint(run, 200)
            broken = add_checkpoint(run, 300)
            config_file = broken / "encoder/config.json"
            config_file.write_text("{}")
            write_manifest(broken, file_sums(broken, list(broken.rglob("encoder/*"))))
        else:
            write_finished(run, 300)

    results = watch(run, config, sleep=sleep)
    assert [result.out.name for result in results] == ["step-00000100", "step-00000200"]
    assert len(looks) == 4
    # Started again, it has nothing to do but for what could not be read, and one that is added to a finished run.
    add_checkpoint(run, 400)
    write_finished(run, 400)
    assert [result.out.name for result in watch(run, config, sleep=sleep)] == ["step-00000400"]
    assert len(list((run / "report/tensorboard").iterdir())) == 3


def test_a_watch_does_not_wait_for_ever(tmp_path):
    _, config = prepare_job(tmp_path)
    slept = []
    with pytest.raises(UserError, match="no checkpoint came within 60 s"):
        watch(tmp_path / "nowhere", config, poll_s=25, limit_s=60, sleep=slept.append)
    assert slept == [25, 25, 25]
    with pytest.raises(UserError, match="out is not for --watch"):
        watch(tmp_path / "run", prepare_job(tmp_path, out="x")[1])


def test_the_encoder_may_vanish_while_it_is_judged(tmp_path):
    """A run keeps few checkpoints: that which is being evaluated may be deleted once it was read."""
    checkpoint, config = prepare_job(tmp_path)

    def deletes(function, jobs, workers, timeout_s):
        for path in (checkpoint / "encoder").glob("*"):
            path.unlink()
        for number, job in enumerate(jobs):
            yield number, function(*job)

    encoder = load_encoder(checkpoint)
    result = evaluate(checkpoint, config, deletes)
    assert result.report["headline"]["value"] > 0.5
    save_encoder(checkpoint / "encoder", encoder.config, encoder.tower.state_dict())
    assert evaluate(checkpoint, config).report["results"] == result.report["results"]
