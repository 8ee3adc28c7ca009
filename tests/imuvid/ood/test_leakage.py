"""A model that only memorises is at chance under every strict protocol, and near 1 under the paper's."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from imuvid.ood.datasets.base import Windows
from imuvid.ood.predictions import merge, to_table
from imuvid.ood.probes import ProbeConfig
from imuvid.ood.protocols.folds import ProtocolConfig, make_folds, validation_folds
from imuvid.ood.protocols.frozen import frozen
from imuvid.ood.protocols.joined import AXES, joined_tasks
from imuvid.ood.protocols.paper import PROTOCOL, few_shot, paper_folds
from imuvid.ood.protocols.task import Task
from imuvid.ood.settings import EvaluationSettings
from imuvid.ood.summary import summarise

SETTINGS = EvaluationSettings(probe=ProbeConfig(neighbours=1), shots=[], num_draws=1)
NAMES = [str(i) for i in range(40)]


def memorable(name: str = "toy", seed: int = 0, num_positions: int = 1, devices: int = 1) -> Task:
    """Return windows by which each person is known exactly, at every position, with labels of pure chance.

    A person has four kinds of windows, 6 of each, all alike, and the label of a kind is drawn for the person: to have
    seen the person is worth 1.0, everything else nothing.
    """
    rng = np.random.default_rng(seed)
    subject = np.repeat(NAMES, 24)
    codes = np.repeat(rng.standard_normal((len(NAMES) * 4, 8)), 6, axis=0)
    codes = (codes + 0.001 * rng.standard_normal(codes.shape)).astype(np.float32)
    windows = Windows(
        name=name,
        imu=np.zeros((len(subject), 4, num_positions, 6), np.float32),
        valid=np.ones((len(subject), 4, num_positions, 2), bool),
        label=np.repeat(rng.permutation(np.arange(len(NAMES) * 4) % 2), 6),
        subject=subject,
        recording=subject,
        start_s=np.tile(np.arange(24.0), len(NAMES)),
        classes=["walking", "sitting"],
        positions=["left_wrist", "waist", "chest"][:num_positions],
        rate_hz=50.0,
        provenance={"native_rate_hz": 50.0 + seed, "window_s": 0.08},
        domain={"device": np.array([f"phone {int(name) % devices}" for name in subject])},
    )
    features = {"raw": [np.tile(codes, num_positions)]}
    return Task(windows, "by subject", [], {}, features, SETTINGS, ["frozen"])


def score(task: Task, evaluator=frozen) -> float:
    table = merge([to_table(task, evaluator(task, fold)) for fold in task.folds])
    rows = summarise(table, 10, 0)[task.key]["scores"]
    return next(row for row in rows if row["method"] == "raw/knn")["metrics"]["balanced_accuracy"]["value"]


@pytest.mark.parametrize(
    "protocol",
    [
        ProtocolConfig("subject-split", NAMES[:20], NAMES[20:]),
        ProtocolConfig("leave-one-subject-out"),
        ProtocolConfig("grouped-folds", num_folds=5),
    ],
    ids=lambda protocol: protocol.kind,
)
def test_within_a_data_set(protocol):
    task = memorable()
    task.folds = make_folds(task.windows.subject, protocol, "toy")
    assert score(task) == pytest.approx(0.5, abs=0.15)


def test_on_validation_subjects():
    task = memorable()
    split = ProtocolConfig("subject-split", NAMES[:30], NAMES[30:])
    task.folds = validation_folds(task.windows.subject, split, "toy")
    used = {name for fold in task.folds for rows in (fold.train, fold.test) for name in task.windows.subject[rows]}
    assert used == set(NAMES[:30])
    assert score(task) == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("axis", AXES)
def test_where_a_domain_is_left_out(axis):
    parts = [memorable("a", 0, num_positions=3, devices=2), memorable("b", 1, num_positions=2, devices=3)]
    (task,) = joined_tasks(parts, [axis], {"a": "healthy adults", "b": "patients"}, set())
    people = task.windows.subject
    for fold in task.folds:
        assert not set(people[fold.train]) & set(people[fold.test])
        assert not set(task.domain[fold.train]) & set(task.domain[fold.test])
    tested = np.sort(np.concatenate([fold.test for fold in task.folds]))
    assert (tested == np.arange(len(people))).all()  # every window of every sensor once
    assert score(task) == pytest.approx(0.5, abs=0.15)


def test_the_papers_protocol_leaks_and_says_so():
    task = memorable()
    folds = paper_folds(task.windows.label, 5, seed=0)
    task = dataclasses.replace(
        task,
        protocol=PROTOCOL,
        folds=folds,
        strict=False,
        drawn=True,
        settings=dataclasses.replace(SETTINGS, shots=[100]),
    )
    table = merge([to_table(task, few_shot(task, fold)) for fold in folds])
    result = summarise(table, 10, 0)["toy/paper"]
    (row,) = [row for row in result["scores"] if row["method"] == "raw/knn"]
    assert row["metrics"]["balanced_accuracy"]["value"] > 0.6
    assert row["num_draws"] == 5
    assert not result["strict"]
    for fold in folds:
        assert np.bincount(task.windows.label[fold.test]).tolist() == [20, 20]
        assert np.bincount(task.windows.label[fold.train]).tolist() == [100, 100]
        assert not set(fold.train) & set(fold.test)
    assert len({tuple(fold.test) for fold in folds}) == 5


def test_people_of_the_pretraining_train_but_are_not_tested_in_joined_sets():
    parts = [memorable("a", 0), memorable("b", 1)]
    (task,) = joined_tasks(parts, ["dataset"], {}, {"3", "4"})
    tested = {name for fold in task.folds for name in task.windows.subject[fold.test]}
    assert tested == {f"{part}/{name}" for part in "ab" for name in NAMES if name not in ("3", "4")}
    assert "4 people are not tested" in task.notes[-1]
