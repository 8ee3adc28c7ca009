"""The published data sets themselves: their counts, and a baseline whose score is known."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score

from imuvid.ood.datasets.daphnet import DaphnetConfig, read_daphnet
from imuvid.ood.datasets.hapt import HAPTConfig, read_hapt
from imuvid.ood.features import handmade_features
from imuvid.ood.predictions import merge, to_table
from imuvid.ood.protocols.folds import ProtocolConfig, make_folds
from imuvid.ood.protocols.frozen import frozen
from imuvid.ood.protocols.task import Task
from imuvid.ood.settings import EvaluationSettings
from imuvid.ood.summary import summarise


@pytest.mark.slow
def test_hapt_counts_and_baseline(realdata):
    config = HAPTConfig(str(realdata / "hapt"))
    windows = read_hapt(config, rate_hz=50.0, window_s=5.0)
    facts = windows.provenance
    assert (facts["subjects"], facts["recordings"], facts["segments"]) == (30, 61, 1214)
    assert facts["hours"] == pytest.approx(6.24, abs=0.005)
    assert list(facts["windows_by_class"].values()) == [423, 371, 349, 454, 494, 492]
    assert np.linalg.norm(windows.imu[..., :3], axis=-1).mean() == pytest.approx(9.8, abs=0.4)

    # Subject-disjoint, a random forest on such features was measured at macro-F1 0.956 elsewhere.
    features = {"handmade": [handmade_features(windows.imu, windows.valid, 50.0)]}
    folds = make_folds(windows.subject, ProtocolConfig("grouped-folds", num_folds=5), "hapt")
    task = Task(windows, "grouped-5-folds", folds, {}, features, EvaluationSettings(shots=[]), ["frozen"])
    table = merge([to_table(task, frozen(task, fold)) for fold in folds])
    scores = {row["method"]: row["metrics"]["macro_f1"] for row in summarise(table, 500, 0)[task.key]["scores"]}
    assert scores["handmade/forest"]["value"] == pytest.approx(0.956, abs=0.015)
    assert scores["handmade/forest"]["low"] < 0.956 < scores["handmade/forest"]["high"]
    assert scores["handmade/linear"]["value"] > 0.93
    assert scores["none/majority"]["value"] < 0.1


@pytest.mark.slow
def test_daphnet_counts_and_baseline(realdata):
    windows = read_daphnet(DaphnetConfig(str(realdata / "pd_daphnet")), rate_hz=50.0, window_s=5.0)
    assert set(windows.subject) == {"S01", "S02", "S03", "S06", "S07"}
    assert windows.provenance["recordings"] == 7
    assert windows.provenance["freeze_s"] == pytest.approx(24 + 55 + 126 + 36 + 21, abs=3)
    assert not windows.valid[..., 1].any()
    assert not windows.label[windows.subject == "S06"].any()

    # The same forest on windows of 320 samples, cut and scored without the reader, gives AUC 0.86.
    features = handmade_features(windows.imu, windows.valid, 50.0)
    scores = np.empty(len(windows.label))
    for fold in make_folds(windows.subject, ProtocolConfig(), "daphnet"):
        forest = RandomForestClassifier(100, class_weight="balanced", min_samples_leaf=3, random_state=0)
        forest.fit(features[fold.train], windows.label[fold.train])
        scores[fold.test] = forest.predict_proba(features[fold.test])[:, 1]
    assert 0.82 < roc_auc_score(windows.label, scores) < 0.95


@pytest.mark.slow
def test_daphnet_the_dead_thigh_sensor_is_absent(realdata):
    config = DaphnetConfig(str(realdata / "pd_daphnet"), positions=["ankle", "thigh", "trunk"])
    windows = read_daphnet(config, rate_hz=50.0, window_s=2.0)
    dead = windows.recording == "S03R03"
    assert not windows.valid[dead][..., 1, 0].any()
    assert windows.valid[dead][..., [0, 2], 0].all()
    assert windows.valid[~dead][..., 0].mean() > 0.999
    assert windows.provenance["dead_sensors"] == ["S03R03 thigh"]
