"""Intervals and p values against simulations and formulas whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from imuvid.ood.metrics import measure, tally
from imuvid.ood.statistics import draw_weights, holm, interval, p_value, subject_weights
from tests.soak import times


@pytest.mark.parametrize("num_subjects", [10, 30])
def test_interval_covers_the_truth_as_often_as_it_says(num_subjects):
    """People differ in how well they are recognised; the windows of one are alike, so they count once."""
    rng = np.random.default_rng(0)
    per_class, repeats = 15, times(200, 500)
    subject = np.repeat(np.arange(num_subjects), 2 * per_class)
    label = np.tile(np.repeat([0, 1], per_class), num_subjects)
    weights = subject_weights(num_subjects, times(500, 2000), seed=1)
    covered = 0
    for _ in range(repeats):
        skill = rng.beta(8, 4, num_subjects)  # mean 2/3: the balanced accuracy of the population
        right = rng.random(len(label)) < skill[subject]
        scores = np.eye(2)[np.where(right, label, 1 - label)]
        values = measure(tally(label, scores, subject, num_subjects, None), weights)["balanced_accuracy"]
        low, high = interval(values, num_subjects)
        covered += low <= 2 / 3 <= high
    slack = times(1, 0) * 0.015
    assert 0.93 - slack <= covered / repeats <= 0.97 + slack


def test_a_p_value_is_that_of_the_t_test_on_subjects():
    rng = np.random.default_rng(3)
    for shift in (0.0, 0.3, 0.5, 0.7):
        values = rng.standard_normal(20) + shift
        means = subject_weights(20, 2000, seed=0) @ values / 20
        assert p_value(means, 20) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=0.5, abs=0.012)


def test_a_large_difference_of_few_people_is_rarer_than_the_resamples_are_many():
    values = np.array([0.12, 0.17, 0.15, 0.2, 0.11, 0.16, 0.13, 0.18])
    p = p_value(subject_weights(8, 2000, seed=0) @ values / 8, 8)
    assert stats.ttest_1samp(values, 0).pvalue / 3 < p < 1e-4


def test_an_interval_excludes_zero_where_p_is_below_five_percent():
    rng = np.random.default_rng(4)
    verdicts = set()
    for _ in range(60):
        num = int(rng.integers(4, 30))
        values = rng.standard_normal(num) + rng.choice([0.0, 0.5, 1.0])
        means = subject_weights(num, 2000, seed=0) @ values / num
        low, high = interval(means, num)
        p = p_value(means, num)
        if abs(p - 0.05) > 0.005:
            assert (p < 0.05) == (low > 0 or high < 0)
            verdicts.add(p < 0.05)
    assert verdicts == {True, False}


def test_holm_equals_the_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    corrected = holm([0.5, float("nan"), 0.01])
    assert corrected[0] == 0.5
    assert np.isnan(corrected[1])
    assert corrected[2] == 0.02


def test_weights_are_paired_and_sum_to_the_sample():
    weights = subject_weights(12, 50, seed=4)
    assert (weights.sum(axis=1) == 12).all()
    assert (weights == subject_weights(12, 50, seed=4)).all()
    assert (weights != subject_weights(12, 50, seed=5)).any()
    assert draw_weights(5, 50, seed=4).sum(axis=1) == pytest.approx(np.ones(50))
    assert (draw_weights(1, 50, seed=4) == 1).all()


def test_each_data_set_is_resampled_on_its_own():
    stratum = np.array(list("aabbbbaabb"))
    weights = subject_weights(10, 50, seed=4, stratum=stratum)
    assert (weights[:, stratum == "a"].sum(axis=1) == 4).all()
    assert (weights[:, stratum == "b"].sum(axis=1) == 6).all()
