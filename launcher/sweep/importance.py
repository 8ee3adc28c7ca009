"""How much each parameter has to do with the score."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from launcher.sweep.records import FINISHED, STOPPED, Trial

LEAST_TRIALS = 8
TREES = 200
NO_PART = -1e30
"""Below every value: of a parameter that a condition left out."""


@dataclass
class Importance:
    """Of the parameters of a sweep."""

    shares: dict[str, float]
    """Of each parameter: how much worse a forest predicts the scores with its values shuffled; they add up to 1."""
    explained: float
    """R² of the forest on trials that each of its trees has not seen; near or below 0 the shares say nothing."""


def importances(trials: list[Trial]) -> Importance | str:
    """Return the importance of each parameter by permutation in a random forest (Breiman, Machine Learning 2001).

    Trials that were stopped early count with their last score, beside how far they were as one more input, so that
    a parameter is not credited for what steps have done.

    Returns:
        The importance, or in one line why there is none.
    """
    judged = [t for t in trials if t.state in (FINISHED, STOPPED) and t.value is not None and math.isfinite(t.value)]
    if len(judged) < LEAST_TRIALS:
        return f"{len(judged)} trials have a score: {LEAST_TRIALS} are needed to tell the parameters apart"
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    keys = list(dict.fromkeys(key for trial in trials for key in trial.parameters))
    inputs = np.array([[_number(key, trial.parameters.get(key), judged) for key in keys] for trial in judged])
    inputs = np.column_stack([inputs, [trial.scores[-1].percent for trial in judged]])
    scores = np.array([trial.value for trial in judged])
    if np.ptp(scores) == 0:
        return "all trials have the same score"
    forest = RandomForestRegressor(TREES, oob_score=True, random_state=0).fit(inputs, scores)
    found = permutation_importance(forest, inputs, scores, n_repeats=10, random_state=0).importances_mean
    parts = np.clip(found[: len(keys)], 0, None)
    total = float(parts.sum())
    shares = {key: float(part) / total if total else 0.0 for key, part in zip(keys, parts, strict=True)}
    return Importance(dict(sorted(shares.items(), key=lambda item: -item[1])), float(forest.oob_score_))


def _number(key: str, value: Any, trials: list[Trial]) -> float:
    """A value as a forest takes it: only the order counts, so no scale is needed."""
    if value is None:
        return NO_PART
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        known = sorted({json.dumps(trial.parameters.get(key)) for trial in trials})
        return float(known.index(json.dumps(value)))
    return float(value)
