"""Intervals by the bootstrap of subjects: people are the unit that a new study draws, windows of one person are not.

Where a score is a mean over few draws of shots or of random encoders, the draws are resampled beside the subjects
(a two-way cluster bootstrap; Owen 2007): other draws would have given another mean.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

MIN_SUBJECTS = 8
"""Below this many subjects no interval over subjects is to be trusted."""
LEVEL = 0.95
MIN_TAIL = 10


def subject_weights(num_subjects: int, num_resamples: int, seed: int, stratum: np.ndarray | None = None) -> np.ndarray:
    """Return how often each subject is drawn in each resample, with replacement: float64 [num_resamples, num_subjects].

    The same arguments give the same resamples, so two methods scored with them are paired.

    Args:
        num_subjects: S.
        num_resamples: B.
        seed: of the resamples.
        stratum: [S]; each stratum (the people of one data set) is resampled on its own. None: all are one.
    """
    stratum = np.zeros(num_subjects, int) if stratum is None else np.unique(stratum, return_inverse=True)[1]
    weights = np.empty((num_resamples, num_subjects))
    for number in range(stratum.max() + 1):
        members = np.flatnonzero(stratum == number)
        rng = np.random.default_rng([seed, len(members), number])
        share = np.full(len(members), 1.0 / len(members))
        weights[:, members] = rng.multinomial(len(members), share, size=num_resamples)
    return weights


def draw_weights(num_draws: int, num_resamples: int, seed: int) -> np.ndarray:
    """Return the weight of each draw in each resample of the draws, rows of sum 1: float64 [num_resamples, num_draws].

    The same arguments give the same resamples, as of :func:`subject_weights`.
    """
    rng = np.random.default_rng([seed, num_draws, 1])
    return rng.multinomial(num_draws, np.full(num_draws, 1.0 / num_draws), size=num_resamples) / num_draws


def interval(values: np.ndarray, num_subjects: int) -> tuple[float, float]:
    """Return the expanded percentile interval (Hesterberg 2015, section 3.3) of LEVEL of bootstrap values [B].

    The plain percentile interval is too narrow by the factor sqrt((n - 1) / n) and for using the normal distribution
    where Student's holds; the quantiles are moved outwards to make up for both. Values that are not defined (NaN: a
    resample without positives) are left out; all of them NaN gives NaN.

    Args:
        values: float64 [B].
        num_subjects: n, that were resampled.
    """
    defined = values[~np.isnan(values)]
    if not len(defined):
        return float("nan"), float("nan")
    tail = stats.norm.cdf(stats.t.ppf((1 - LEVEL) / 2, _freedom(num_subjects)) * _expansion(num_subjects))
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def p_value(differences: np.ndarray, num_subjects: int) -> float:
    """Return the two-sided p value of no difference that belongs to :func:`interval`; NaN where nothing is defined.

    An interval of LEVEL that just touches 0 has p = 1 - LEVEL. Where fewer than MIN_TAIL resamples lie beyond 0, too
    few to say how rare that is, the tail is taken to be that of a normal distribution with their mean and deviation.

    Args:
        differences: float64 [B], of two methods within each resample.
        num_subjects: n, that were resampled.
    """
    defined = differences[~np.isnan(differences)]
    if not len(defined):
        return float("nan")
    # One is added to both counts: no number of resamples shows that a p value is 0 (Davison and Hinkley 1997, 4.2).
    below, above = ((1 + np.count_nonzero(tail)) / (len(defined) + 1) for tail in (defined <= 0, defined >= 0))
    z = stats.norm.ppf(min(below, above, 0.5))
    if min(below, above) * (len(defined) + 1) <= MIN_TAIL and defined.std() > 0:
        z = min(z, -abs(defined.mean()) / defined.std())
    return float(2 * stats.t.cdf(z / _expansion(num_subjects), _freedom(num_subjects)))


def holm(p_values: list[float]) -> list[float]:
    """Return the p values corrected for their number by Holm (1979), in their order; NaN stays and does not count."""
    known = sorted((p, i) for i, p in enumerate(p_values) if not np.isnan(p))
    corrected, largest = list(p_values), 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        corrected[i] = largest
    return corrected


def _freedom(num_subjects: int) -> int:
    return max(num_subjects - 1, 1)


def _expansion(num_subjects: int) -> float:
    return float(np.sqrt(max(num_subjects, 2) / _freedom(num_subjects)))
