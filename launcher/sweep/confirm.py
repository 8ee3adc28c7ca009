"""Whether the best of a sweep is better than the default, or was lucky: both again, with seeds of their own."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import stats

from launcher.sweep.config import OOD_METRIC, LimitsConfig, ScheduleConfig, SearchConfig, SweepConfig
from launcher.sweep.records import FINISHED, Trial
from launcher.sweep.run import sweep

FIRST_SEED = 1001
"""Far from those of the trials, which the best was chosen on."""
LEVEL = 0.95


def confirm_best(config: SweepConfig, best: Trial, seeds: int) -> dict[str, Any]:
    """Train the best and the default configuration with ``seeds`` seeds each and compare their scores.

    The runs are a sweep of their own in the folder ``confirm``; one that was stopped is gone on with. The score is
    ood_validation where ood.config is set, else the sweep's metric.

    Args:
        config: of the sweep.
        best: trial.
        seeds: runs of each; at least 2.

    Returns:
        seeds, metric, rows (name, values by seed, mean, low, high), difference (mean, low, high) and lines to print.
        Intervals are Student's, over seeds; the difference is paired by seed.

    Raises:
        RuntimeError: a run did not come to its end.
    """
    arms = {"best": {k: v for k, v in best.parameters.items() if k != "seed"}, "default": {}}
    again = replace(
        config,
        name="confirm",
        runs_dir=str(config.folder.resolve()),
        metric=OOD_METRIC if config.ood.config else config.metric,
        search=SearchConfig(kind="random"),
        schedule=ScheduleConfig(kind="none"),
        limits=LimitsConfig(trials=2 * seeds),
    )
    listed = [{**arm, "seed": FIRST_SEED + seed} for seed in range(seeds) for arm in arms.values()]
    result = sweep(again, resume=True, listed=listed)
    failed = [trial for trial in result.trials if trial.state != FINISHED or trial.value is None]
    if failed or not result.complete:
        what = f"trial {failed[0].number}: {failed[0].state} {failed[0].message}" if failed else result.why
        raise RuntimeError(f"the confirmation in {result.folder} did not come to its end: {what}")
    scores = np.array([trial.value for trial in result.trials[: 2 * seeds]]).reshape(seeds, 2)
    rows = [_interval(name, scores[:, place]) for place, name in enumerate(arms)]
    difference = _interval("best - default", scores[:, 0] - scores[:, 1])
    return {
        "seeds": seeds,
        "metric": again.metric,
        "rows": rows,
        "difference": difference,
        "lines": _lines(again, rows, difference),
    }


def _interval(name: str, values: np.ndarray) -> dict[str, Any]:
    mean, count = float(values.mean()), len(values)
    half = float(stats.t.ppf((1 + LEVEL) / 2, count - 1) * values.std(ddof=1) / math.sqrt(count))
    return {"name": name, "values": values.tolist(), "mean": mean, "low": mean - half, "high": mean + half}


def _lines(config: SweepConfig, rows: list[dict[str, Any]], difference: dict[str, Any]) -> list[str]:
    low, high = (
        (difference["low"], difference["high"]) if config.maximise else (-difference["high"], -difference["low"])
    )
    verdict = "better than the default" if low > 0 else "worse than the default" if high < 0 else "no clear difference"
    lines = [f"{row['name']}: {config.metric} {row['mean']:.4f} [{row['low']:.4f}, {row['high']:.4f}]" for row in rows]
    lines.append(
        f"difference {difference['mean']:+.4f} [{difference['low']:+.4f}, {difference['high']:+.4f}] over"
        f" {len(rows[0]['values'])} seeds: {verdict}"
    )
    return lines
