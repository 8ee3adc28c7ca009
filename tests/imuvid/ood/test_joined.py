"""Data sets on common activities: which windows, under which names, with which scores."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from imuvid.ood.datasets.base import Windows
from imuvid.ood.predictions import merge, to_table
from imuvid.ood.protocols.frozen import frozen
from imuvid.ood.protocols.joined import joined_tasks
from imuvid.ood.protocols.task import Task
from imuvid.ood.settings import EvaluationSettings
from imuvid.ood.summary import summarise


def part(name: str, classes: list[str], shift: float, positions=("waist",), num_subjects: int = 9) -> Task:
    """Return a data set whose classes lie apart in the first feature, all moved by ``shift``."""
    rng = np.random.default_rng(len(name))
    label = np.tile(np.arange(len(classes)), 8 * num_subjects)
    subject = np.repeat([f"p{i}" for i in range(num_subjects)], 8 * len(classes))
    shape = (len(label), 2, len(positions))
    windows = Windows(
        name=name,
        imu=np.zeros((*shape, 6), np.float32),
        valid=np.ones((*shape, 2), bool),
        label=label,
        subject=subject,
        recording=subject,
        start_s=np.arange(len(label)) * 1.0,
        classes=classes,
        positions=list(positions),
        rate_hz=50.0,
        provenance={"native_rate_hz": 64.0, "window_s": 0.04},
    )
    order = ["walk", "laying", "no_freeze", "freeze", "yoga"]
    place = np.array([order.index(c.replace("walking", "walk")) for c in classes])[label]
    columns = [
        np.column_stack([place + shift + 0.3 * rng.standard_normal(len(label)), np.full(len(label), p)])
        for p in range(len(positions))
    ]
    features = {"handmade": [np.concatenate(columns, axis=1).astype(np.float32)]}
    return Task(windows, "own", [], {}, features, EvaluationSettings(shots=[2], num_draws=2), ["frozen"])


def predicted(task: Task):
    return merge([to_table(task, frozen(task, fold)) for fold in task.folds])


def test_activities_are_joined_under_common_names_and_others_are_left_out():
    parts = [
        part("x", ["walking", "laying", "yoga"], 0),
        part("yy", ["walk", "laying"], 0),
        part("zzz", ["no_freeze", "freeze"], 0),
    ]
    (task,) = joined_tasks(parts, ["dataset"], {}, set())
    windows = task.windows
    assert (task.key, windows.classes) == ("common_activities/leave-one-dataset-out", ["walking", "lying"])
    assert [fold.name for fold in task.folds] == ["x", "yy"]
    assert len(windows.label) == 9 * 8 * 2 * 2
    for name, first in (("walking", 0.0), ("lying", 1.0)):
        chosen = windows.label == windows.classes.index(name)
        assert task.features["handmade"][0][chosen, 0].mean() == pytest.approx(first, abs=0.1)


def test_two_sets_of_patients_make_a_task_with_a_positive_class():
    parts = [part("x", ["no_freeze", "freeze"], 0), part("yy", ["freeze", "no_freeze"], 0)]
    (task,) = joined_tasks(parts, ["dataset"], {}, set())
    assert task.windows.name == "common_freezing"
    assert task.windows.positive == "freeze"
    result = summarise(predicted(task), 20, 0)[task.key]
    assert result["scores"][-1]["metrics"]["auc"]["value"] is not None


def test_each_sensor_is_a_window_of_its_own_with_its_own_features():
    parts = [
        part("x", ["walking", "laying"], 0, ("left_ankle", "chest")),
        part("yy", ["walk", "laying"], 0, ("right_ankle",)),
    ]
    parts[0].windows.valid[:8, :, 0] = False
    (task,) = joined_tasks(parts, ["position"], {}, set())
    windows = task.windows
    assert sorted(set(task.domain)) == ["ankle", "chest"]
    assert len(windows.label) == 3 * 9 * 8 * 2 - 8  # a sensor that is absent gives no window
    assert windows.imu.shape[2] == 1
    assert (task.features["handmade"][0][:, 1] == (task.domain == "chest")).all()


def test_the_score_is_the_mean_over_domains_and_the_worst_is_named():
    parts = [
        part("x", ["walking", "laying"], 0),
        part("yy", ["walk", "laying"], 0.1),
        part("zzz", ["walk", "laying"], 0.9),
    ]
    (task,) = joined_tasks(parts, ["dataset"], {}, set())
    table = predicted(task)
    result = summarise(table, 200, 0)[task.key]
    row = next(r for r in result["scores"] if r["method"] == "handmade/linear" and r["shots"] == "all")
    expected = {}
    for name in ("x", "yy", "zzz"):
        rows = [r for r in table.to_pylist() if r["domain"] == name and r["probe"] == "linear" and r["shots"] is None]
        label = [result["classes"].index(r["label"]) for r in rows]
        expected[name] = balanced_accuracy_score(label, [np.argmax(r["scores"]) for r in rows])
        assert row["domains"][name]["value"] == pytest.approx(expected[name])
        assert row["domains"][name]["low"] <= expected[name] <= row["domains"][name]["high"]
    assert row["metrics"]["balanced_accuracy"]["value"] == pytest.approx(np.mean(list(expected.values())))
    assert row["worst"]["domain"] == "zzz" == min(expected, key=expected.get)
    assert result["domains"] == ["x", "yy", "zzz"]


def test_a_data_set_that_shares_too_little_is_not_tested_and_that_is_noted():
    parts = [part("x", ["walking", "laying"], 0), part("yy", ["walk", "laying"], 0), part("zzz", ["walk", "yoga"], 0)]
    (task,) = joined_tasks(parts, ["dataset"], {}, set())
    assert [fold.name for fold in task.folds] == ["x", "yy"]
    assert task.notes == ["zzz is not tested: it shares 1 activities with the other domains."]
    assert joined_tasks(parts[:1], ["dataset"], {}, set()) == []
