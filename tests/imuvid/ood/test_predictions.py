"""Which representation and which shots each row of the table comes from."""

from __future__ import annotations

import numpy as np
import pytest

from imuvid.errors import UserError
from imuvid.ood.datasets.base import Windows
from imuvid.ood.predictions import read_predictions, to_table
from imuvid.ood.protocols.folds import ProtocolConfig, make_folds
from imuvid.ood.protocols.frozen import frozen
from imuvid.ood.protocols.task import Task, check_task
from imuvid.ood.settings import EvaluationSettings
from imuvid.ood.summary import summarise


def labelled(num_subjects: int = 12, per_subject: int = 20) -> Windows:
    num = num_subjects * per_subject
    subject = np.repeat([f"s{i:02d}" for i in range(num_subjects)], per_subject)
    return Windows(
        name="toy",
        imu=np.zeros((num, 2, 1, 6), np.float32),
        valid=np.ones((num, 2, 1, 2), bool),
        label=np.tile([0, 1], num // 2),
        subject=subject,
        recording=subject,
        start_s=np.tile(np.arange(per_subject) * 1.0, num_subjects),
        classes=["no", "yes"],
        positions=["waist"],
        rate_hz=50.0,
    )


def run(windows: Windows, representations: dict[str, list[np.ndarray]], num_draws: int = 2):
    folds = make_folds(windows.subject, ProtocolConfig("grouped-folds", num_folds=3), "toy")
    settings = EvaluationSettings(shots=[1, 5], num_draws=num_draws)
    task = Task(windows, "grouped-3-folds", folds, {}, representations, settings, ["frozen"])
    notes = check_task(task)
    return to_table(task, [block for fold in folds for block in frozen(task, fold)]), notes


def test_each_draw_has_its_own_random_encoder_and_the_same_shots_for_all():
    windows = labelled()
    rng = np.random.default_rng(0)
    useful = rng.standard_normal((len(windows.label), 4)).astype(np.float32)
    useful[:, 0] += 8 * windows.label
    useless = rng.standard_normal((len(windows.label), 4)).astype(np.float32)
    table, notes = run(windows, {"pretrained": [useful], "handmade": [useful], "random": [useful, useless]})
    rows = {}
    for row in table.to_pylist():
        if row["probe"] == "linear":
            rows.setdefault((row["representation"], row["shots"], row["draw"]), []).append(row)
    scores = {key: np.array([row["scores"] for row in part]) for key, part in rows.items()}
    for shots, draw in ((1, 0), (1, 1), (5, 0), (5, 1), (None, 0)):  # which do not depend on the method
        assert (scores["pretrained", shots, draw] == scores["handmade", shots, draw]).all()
    assert (scores["random", 5, 0] == scores["pretrained", 5, 0]).all()
    assert (scores["random", 5, 1] != scores["pretrained", 5, 1]).any()
    right = {
        draw: np.mean([(row["scores"][1] > 0.5) == (row["label"] == "yes") for row in rows["random", None, draw]])
        for draw in (0, 1)
    }
    assert right[0] > 0.95
    assert right[1] < 0.65
    assert not notes


def test_few_subjects_give_a_warning_and_enough_do_not():
    windows = labelled(num_subjects=8)
    array = np.random.default_rng(0).standard_normal((len(windows.label), 3))
    table, _ = run(windows, {"pretrained": [array], "random": [array], "handmade": [array]})
    assert summarise(table, 50, 0)["toy/grouped-3-folds"]["warnings"] == []
    windows = labelled(num_subjects=7)
    table, _ = run(windows, {"pretrained": [array[:140]], "random": [array[:140]], "handmade": [array[:140]]})
    assert "Only 7 test subjects" in summarise(table, 50, 0)["toy/grouped-3-folds"]["warnings"][0]


def test_a_fold_without_two_classes_is_refused():
    windows = labelled()
    windows.label[windows.subject != "s00"] = 0
    with pytest.raises(UserError, match="training windows of fold group-0 are all of one class"):
        run(windows, {"pretrained": [np.zeros((len(windows.label), 2))]})


def test_a_class_that_a_fold_lacks_is_noted():
    windows = labelled()
    windows.classes = ["no", "yes", "rare"]
    windows.label[:5] = 2  # of the first subject only
    array = np.random.default_rng(0).standard_normal((len(windows.label), 3))
    _, notes = run(windows, {"pretrained": [array]})
    assert notes[0] == "Fold group-0 has no training window of class rare."


def test_another_file_is_no_table_of_predictions(tmp_path):
    path = tmp_path / "predictions.parquet"
    with pytest.raises(UserError, match="run 'imuvid evaluate' again"):
        read_predictions(path)
    path.write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match="cannot be read"):
        read_predictions(path)
