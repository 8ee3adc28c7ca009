"""Intervals by the bootstrap of subjects: people are the unit that a new study draws, windows of one person are not.

Where a score is a mean over few draws of shots or of random encoders, the draws are resampled beside the subjects
(a two-way cluster bootstrap; Owen 2007): other draws would have given another mean.
"""

from __future__ import annotations

import numpy as np

MIN_SUBJECTS = 8
"""Below this many subjects a percentile interval over subjects is too narrow to be trusted."""
LEVEL = 0.95


def subject_weights(num_subjects: int, num_resamples: int, seed: int) -> np.ndarray:
    """Return how often each subject is drawn in each resample, with replacement: float64 [num_resamples, num_subjects].

    The same arguments give the same resamples, so two methods scored with them are paired.
    """
    rng = np.random.default_rng([seed, num_subjects])
    share = np.full(num_subjects, 1.0 / num_subjects)
    return rng.multinomial(num_subjects, share, size=num_resamples).astype(np.float64)


def draw_weights(num_draws: int, num_resamples: int, seed: int) -> np.ndarray:
    """Return the weight of each draw in each resample of the draws, rows of sum 1: float64 [num_resamples, num_draws].

    The same arguments give the same resamples, as of :func:`subject_weights`.
    """
    rng = np.random.default_rng([seed, num_draws, 1])
    return rng.multinomial(num_draws, np.full(num_draws, 1.0 / num_draws), size=num_resamples) / num_draws


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return the percentile interval (Efron 1979) of LEVEL of bootstrap values [B].

    Values that are not defined (NaN: a resample without positives) are left out; all of them NaN gives NaN.
    """
    defined = values[~np.isnan(values)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
