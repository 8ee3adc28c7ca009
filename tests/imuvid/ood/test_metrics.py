"""The metrics against scikit-learn, on the data as it is and on resamples of subjects."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, recall_score, roc_auc_score

from imuvid.ood.metrics import measure, recall, tally, weighted_confusion
from imuvid.ood.statistics import interval, subject_weights


def predictions(num_classes: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    num = 400
    label = rng.choice(num_classes, num, p=rng.dirichlet(np.full(num_classes, 2.0)))
    # Rounded, so that scores tie; shifted by the label, so that they say something.
    scores = (rng.random((num, num_classes)) + 0.4 * np.eye(num_classes)[label]).round(1)
    return label, scores, rng.integers(0, 9, num)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_classes", [2, 3, 6])
def test_metrics_equal_scikit_learn(num_classes, seed):
    label, scores, subject = predictions(num_classes, seed)
    counts = tally(label, scores, subject, 9, positive=1)
    values = {name: value[0] for name, value in measure(counts, np.ones((1, 9))).items()}
    predicted = scores.argmax(axis=1)
    assert values["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(label, predicted))
    assert values["macro_f1"] == pytest.approx(f1_score(label, predicted, average="macro"))
    assert values["auc"] == pytest.approx(roc_auc_score(label == 1, scores[:, 1]))
    assert values["average_precision"] == pytest.approx(average_precision_score(label == 1, scores[:, 1]))
    recalls = recall(weighted_confusion(counts, np.ones((1, 9))))[0]
    assert recalls == pytest.approx(recall_score(label, predicted, average=None, labels=range(num_classes)))


def test_a_resample_equals_the_metric_of_the_repeated_subjects():
    label, scores, subject = predictions(3, 11)
    weights = subject_weights(9, 20, seed=3)
    values = measure(tally(label, scores, subject, 9, positive=2), weights)
    for row, weight in enumerate(weights.astype(int)):
        index = np.concatenate([np.tile(np.flatnonzero(subject == s), weight[s]) for s in range(9)])
        predicted = scores[index].argmax(axis=1)
        assert values["balanced_accuracy"][row] == pytest.approx(balanced_accuracy_score(label[index], predicted))
        assert values["macro_f1"][row] == pytest.approx(f1_score(label[index], predicted, average="macro"))
        assert values["auc"][row] == pytest.approx(roc_auc_score(label[index] == 2, scores[index, 2]))
        expected = average_precision_score(label[index] == 2, scores[index, 2])
        assert values["average_precision"][row] == pytest.approx(expected)


def test_a_resample_without_positives_has_no_auc_and_is_left_out_of_the_interval():
    label, subject = np.array([0, 1, 0, 0]), np.array([0, 0, 1, 1])
    scores = np.array([[0.8, 0.2], [0.1, 0.9], [0.7, 0.3], [0.6, 0.4]])
    values = measure(tally(label, scores, subject, 2, positive=1), np.array([[1.0, 1.0], [0.0, 2.0]]))
    assert values["auc"][0] == 1.0
    assert np.isnan(values["auc"][1])
    assert np.isnan(values["average_precision"][1])
    assert interval(values["auc"], 2) == (1.0, 1.0)
    assert values["balanced_accuracy"][1] == 1.0  # of the class that is there


def test_calibration_error_equals_the_sum_over_bins():
    label, scores, subject = predictions(3, 4)
    scores = scores / scores.sum(axis=1, keepdims=True)
    weights = subject_weights(9, 5, seed=3)
    values = measure(tally(label, scores, subject, 9, None), np.concatenate([np.ones((1, 9)), weights]))["ece"]
    for value, weight in zip(values, [np.ones(9, int), *weights.astype(int)], strict=True):
        index = np.concatenate([np.tile(np.flatnonzero(subject == s), weight[s]) for s in range(9)])
        confidence, right = scores[index].max(axis=1), scores[index].argmax(axis=1) == label[index]
        expected = 0.0
        for low, high in itertools.pairwise(np.arange(16) / 15):
            inside = (confidence > low) & (confidence <= high)
            if inside.any():
                expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
        assert value == pytest.approx(expected)
