"""Scores of a classifier, from counts kept by subject, so that resampling subjects costs one matrix product.

Every metric takes weights [B, S]: how often each of S subjects occurs in each of B resamples. All ones is the data
as it is; a bootstrap of subjects is B rows of multinomial counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

METRICS = ("balanced_accuracy", "macro_f1", "ece")
BINARY_METRICS = ("auc", "average_precision")
NUM_BINS = 15
"""Of equal width between 0 and 1, of the confidence, for the calibration error."""


@dataclass
class Tally:
    """What the metrics need to know of N predictions on windows of S subjects and K classes."""

    confusion: np.ndarray
    """float64 [S, K, K]: windows of each subject by true class, then predicted class."""
    calibration: np.ndarray
    """float64 [S, NUM_BINS, 2]: by subject and bin of the highest score, the sum of (is it right - highest score), and
    the number of windows."""
    ranking: Ranking | None = None
    """Of the positive class against the rest; None where there is no positive class."""


@dataclass
class Ranking:
    """How the scores of the positive class order the windows."""

    wins: np.ndarray
    """float64 [S, S]: pairs (positive of subject s, negative of subject t) in the right order, ties a half."""
    num_positive: np.ndarray
    """float64 [S]."""
    num_negative: np.ndarray
    """float64 [S]."""
    true_positive: np.ndarray
    """float64 [S, M]: positives of each subject that score at least the m-th of the M distinct scores of positives,
    highest first."""
    false_positive: np.ndarray
    """float64 [S, M]: the same of the negatives."""


def tally(label: np.ndarray, scores: np.ndarray, subject: np.ndarray, num_subjects: int, positive: int | None) -> Tally:
    """Count predictions by subject.

    Args:
        label: int [N], true class of each window.
        scores: float [N, K], the class with the highest score (the first of equals) is the predicted one.
        subject: int [N], 0 to num_subjects - 1.
        num_subjects: S.
        positive: the class whose ranking is scored, None for none.
    """
    num_classes = scores.shape[1]
    confusion = np.zeros((num_subjects, num_classes, num_classes))
    predicted = scores.argmax(axis=1)
    np.add.at(confusion, (subject, label, predicted), 1.0)
    confidence = scores.max(axis=1).astype(np.float64)
    place = np.searchsorted(np.arange(1, NUM_BINS) / NUM_BINS, confidence, side="left")
    calibration = np.zeros((num_subjects, NUM_BINS, 2))
    gaps = np.stack([(predicted == label) - confidence, np.ones(len(label))], axis=1)
    np.add.at(calibration, (subject, place), gaps)
    ranking = None if positive is None else _rank(scores[:, positive], label == positive, subject, num_subjects)
    return Tally(confusion, calibration, ranking)


def _rank(score: np.ndarray, positive: np.ndarray, subject: np.ndarray, num_subjects: int) -> Ranking:
    hit, hit_subject = score[positive], subject[positive]
    wins = np.zeros((num_subjects, num_subjects))
    thresholds = np.unique(hit)[::-1]
    true_positive, false_positive = (np.zeros((num_subjects, len(thresholds))) for _ in range(2))
    for t in range(num_subjects):
        own_hits = np.sort(hit[hit_subject == t])
        misses = np.sort(score[~positive & (subject == t)])
        below, up_to = (np.searchsorted(misses, hit, side) for side in ("left", "right"))
        wins[:, t] = np.bincount(hit_subject, (below + up_to) / 2, minlength=num_subjects)
        true_positive[t] = len(own_hits) - np.searchsorted(own_hits, thresholds, "left")
        false_positive[t] = len(misses) - np.searchsorted(misses, thresholds, "left")
    return Ranking(
        wins=wins,
        num_positive=np.bincount(hit_subject, minlength=num_subjects).astype(float),
        num_negative=np.bincount(subject[~positive], minlength=num_subjects).astype(float),
        true_positive=true_positive,
        false_positive=false_positive,
    )


def measure(counts: Tally, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Return every metric of METRICS, and of BINARY_METRICS where there is a positive class, as float64 [B].

    NaN where a metric is not defined: AUC and average precision of a resample with one class only.

    Args:
        counts: of S subjects.
        weights: float [B, S].
    """
    confusion = weighted_confusion(counts, weights)
    values = {
        "balanced_accuracy": balanced_accuracy(confusion),
        "macro_f1": macro_f1(confusion),
        "ece": calibration_error(counts, weights),
    }
    if counts.ranking is not None:
        values["auc"] = auc(counts.ranking, weights)
        values["average_precision"] = average_precision(counts.ranking, weights)
    return values


def weighted_confusion(counts: Tally, weights: np.ndarray) -> np.ndarray:
    """Return the confusion matrices float64 [B, K, K] (true, predicted) of the resamples ``weights`` [B, S]."""
    num_classes = counts.confusion.shape[1]
    flat = weights @ counts.confusion.reshape(len(counts.confusion), -1)
    return flat.reshape(-1, num_classes, num_classes)


def recall(confusion: np.ndarray) -> np.ndarray:
    """Return the recall of each class, float64 [..., K]; NaN for a class without windows."""
    right, total = np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(axis=-1)
    return np.divide(right, total, out=np.full(total.shape, np.nan), where=total > 0)


def balanced_accuracy(confusion: np.ndarray) -> np.ndarray:
    """Return the mean recall of the classes that have windows, float64 [...], from [..., K, K]; NaN without any."""
    return mean_of_defined(recall(confusion), axis=-1)


def macro_f1(confusion: np.ndarray) -> np.ndarray:
    """Return the mean F1 of the classes that occur or are predicted, float64 [...], from [..., K, K].

    F1 = 2 TP / (2 TP + FP + FN), which is (windows of the class) + (predictions of it) in the denominator.
    """
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    total = confusion.sum(axis=-1) + confusion.sum(axis=-2)
    f1 = np.divide(2 * right, total, out=np.full(total.shape, np.nan), where=total > 0)
    return mean_of_defined(f1, axis=-1)


def mean_of_defined(values: np.ndarray, axis: int) -> np.ndarray:
    """Return the mean over an axis of what is not NaN; NaN where all is."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=axis)
    total = np.where(defined, values, 0.0).sum(axis=axis)
    return np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)


def calibration_error(counts: Tally, weights: np.ndarray) -> np.ndarray:
    """Return the expected calibration error of the predicted class, float64 [B] (Guo et al. 2017).

    The mean over windows of the difference between accuracy and confidence in their bin; NaN without windows.
    """
    by_bin = (weights @ counts.calibration.reshape(len(counts.calibration), -1)).reshape(-1, NUM_BINS, 2)
    gap, total = np.abs(by_bin[..., 0]).sum(axis=1), by_bin[..., 1].sum(axis=1)
    return np.divide(gap, total, out=np.full(len(total), np.nan), where=total > 0)


def auc(ranking: Ranking, weights: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve, float64 [B].

    It is the share of (positive, negative) pairs in the right order, ties a half (Hanley and McNeil 1982), pooled
    over subjects.
    """
    wins = np.einsum("bs,st,bt->b", weights, ranking.wins, weights, optimize=True)
    pairs = (weights @ ranking.num_positive) * (weights @ ranking.num_negative)
    return np.divide(wins, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def average_precision(ranking: Ranking, weights: np.ndarray) -> np.ndarray:
    """Return the average precision, float64 [B]: sum over score thresholds of precision times the gain in recall."""
    hits, misses = weights @ ranking.true_positive, weights @ ranking.false_positive
    found = hits + misses
    precision = np.divide(hits, found, out=np.zeros_like(hits), where=found > 0)
    gained = np.diff(hits, axis=1, prepend=0.0)
    total = weights @ ranking.num_positive
    return np.divide((precision * gained).sum(axis=1), total, out=np.full(len(total), np.nan), where=total > 0)
