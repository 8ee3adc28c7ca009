"""From the table of predictions to the numbers of the report, and from nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imuvid.ood.metrics import (
    BINARY_METRICS,
    METRICS,
    Tally,
    mean_of_defined,
    measure,
    recall,
    tally,
    weighted_confusion,
)
from imuvid.ood.names import FINETUNE, FOREST, HANDMADE, KNN, LINEAR, MAJORITY, NONE, ORACLE, PRETRAINED, RANDOM, RAW
from imuvid.ood.predictions import task_facts
from imuvid.ood.statistics import LEVEL, MIN_SUBJECTS, draw_weights, holm, interval, p_value, subject_weights

ALL = "all"
"""What stands for the number of shots of a probe on all training windows."""
HEADLINE_METRIC = "balanced_accuracy"
Comparisons = dict[tuple[str, str], tuple[tuple[str, str], ...]]
"""Representation and probe to those that they are compared with."""
COMPARISONS: Comparisons = {
    (PRETRAINED, LINEAR): (
        (RANDOM, LINEAR),
        (HANDMADE, LINEAR),
        (HANDMADE, FOREST),
        (RAW, KNN),
        (RANDOM, FINETUNE),
        (NONE, MAJORITY),
    ),
    (PRETRAINED, FINETUNE): ((HANDMADE, LINEAR), (HANDMADE, FOREST), (RANDOM, FINETUNE)),
}
"""Representation and probe to the baselines that it is compared with."""


@dataclass(frozen=True)
class Key:
    """What has one score: a method as it was trained and tested."""

    representation: str
    probe: str
    selection: str
    shots: int | str
    stressor: str = ""
    severity: float = 0.0

    @property
    def method(self) -> str:
        """Name of the method in the report, ``REPRESENTATION/PROBE``."""
        return f"{self.representation}/{self.probe}"


@dataclass
class Score:
    """Of one key: bootstrap values, the data as it is first."""

    metrics: dict[str, np.ndarray]
    """Metric to float64 [1 + B], mean over draws (and domains)."""
    by_draw: dict[str, np.ndarray]
    """Metric to float64 [draws], on the data as it is."""
    recalls: np.ndarray
    """float64 [1 + B, K], of the windows of all domains."""
    confusion: np.ndarray
    """float64 [K, K], mean over draws."""
    domains: dict[str, np.ndarray]
    """Domain to float64 [1 + B] of the headline metric."""


def summarise(table: pa.Table, num_bootstrap: int, seed: int, comparisons: Comparisons = COMPARISONS) -> dict[str, Any]:
    """Return, by task, every number that the report shows. Plain dicts, lists and scalars; None for undefined.

    A score is the mean over draws, and over domains where the protocol leaves out one at a time. Its interval resamples
    the test subjects, with all their windows, and the draws; the difference of two methods is taken within each
    resample, so it is paired.

    Args:
        table: of :mod:`imuvid.ood.predictions`.
        num_bootstrap: resamples.
        seed: of the resamples.
        comparisons: what is compared with what.
    """
    results = {}
    for name, fact in task_facts(table).items():
        chosen = pc.and_(pc.equal(table["dataset"], fact["dataset"]), pc.equal(table["protocol"], fact["protocol"]))
        results[name] = _summarise_task(table.filter(chosen), fact, num_bootstrap, seed, comparisons)
    return results


def _summarise_task(
    table: pa.Table, fact: dict[str, Any], num_bootstrap: int, seed: int, comparisons: Comparisons
) -> dict[str, Any]:
    classes: list[str] = fact["classes"]
    positive = classes.index(fact["positive"]) if fact["positive"] else None
    subjects = sorted(pc.unique(table["subject"]).to_pylist())
    domains = sorted(pc.unique(table["domain"]).to_pylist())
    groups = _groups(table, classes, subjects, domains, positive)
    # People of joined data sets are named DATASET/PERSON: each data set is resampled on its own.
    stratum = np.array([name.rpartition("/")[0] if domains != [""] else "" for name in subjects])
    weights = np.concatenate(
        [np.ones((1, len(subjects))), subject_weights(len(subjects), num_bootstrap, seed, stratum)]
    )
    names = [*METRICS, *(BINARY_METRICS if positive is not None else ())]
    scores = {key: _score(draws, weights, names, num_bootstrap, seed) for key, draws in groups.items()}
    counts = sum(part.confusion.sum(axis=(0, 2)) for part in next(iter(groups.values()))[0].values())
    chance = {HEADLINE_METRIC: 1.0 / len(classes)}
    if positive is not None:
        chance |= {"auc": 0.5, "average_precision": float(counts[positive] / counts.sum())}
    warnings = []
    if len(subjects) < MIN_SUBJECTS:
        warnings.append(
            f"Only {len(subjects)} test subjects: intervals over fewer than {MIN_SUBJECTS} subjects are not to be "
            "trusted."
        )
    return {
        "dataset": fact["dataset"],
        "protocol": fact["protocol"],
        "strict": fact["strict"],
        "classes": classes,
        "positive": fact["positive"],
        "domains": domains if domains != [""] else [],
        "test_subjects": subjects,
        "num_test_windows": int(counts.sum()),
        "test_windows_by_class": {label: int(count) for label, count in zip(classes, counts, strict=True)},
        "interval": {
            "level": LEVEL,
            "unit": "test subject, and draw where there are several",
            "method": "expanded percentile of a two-way cluster bootstrap; p values corrected by Holm over the "
            "baselines that a method is compared with at one number of shots",
            "resamples": num_bootstrap,
        },
        "chance": chance,
        "scores": [_entry(key, score, classes, len(subjects)) for key, score in scores.items()],
        "differences": _differences(scores, names, len(subjects), comparisons),
        "warnings": warnings,
    }


def _score(
    draws: list[dict[str, Tally]], weights: np.ndarray, names: list[str], num_bootstrap: int, seed: int
) -> Score:
    """Return the score of one key from its tallies by draw and domain."""
    shares = np.concatenate([np.full((1, len(draws)), 1 / len(draws)), draw_weights(len(draws), num_bootstrap, seed)])
    measured = [{name: measure(counts, weights) for name, counts in draw.items()} for draw in draws]
    by_domain = {
        domain: {name: np.stack([draw[domain][name] for draw in measured], axis=1) for name in names}
        for domain in draws[0]
    }
    metrics, by_draw = {}, {}
    for name in names:
        mean = mean_of_defined(np.stack([values[name] for values in by_domain.values()]), axis=0)
        metrics[name], by_draw[name] = (mean * shares).sum(axis=1), mean[0]
    confusions = np.stack([sum(weighted_confusion(counts, weights) for counts in draw.values()) for draw in draws])
    return Score(
        metrics=metrics,
        by_draw=by_draw,
        recalls=np.einsum("bd,dbk->bk", shares, recall(confusions)),
        confusion=confusions[:, 0].mean(axis=0),
        domains={name: (values[HEADLINE_METRIC] * shares).sum(axis=1) for name, values in by_domain.items()},
    )


def _entry(key: Key, score: Score, classes: list[str], num_subjects: int) -> dict[str, Any]:
    metrics = {}
    for name, values in score.metrics.items():
        draws = score.by_draw[name]
        metrics[name] = _estimate(values, num_subjects) | {
            "sd_draws": _number(draws.std(ddof=1)) if len(draws) > 1 else None,
            "by_draw": [_number(value) for value in draws],
        }
    entry: dict[str, Any] = {
        "method": key.method,
        "representation": key.representation,
        "probe": key.probe,
        "selection": key.selection,
        "shots": key.shots,
        "stressor": key.stressor,
        "severity": key.severity,
        "num_draws": len(next(iter(score.by_draw.values()))),
        "metrics": metrics,
        "recall": {label: _estimate(score.recalls[:, i], num_subjects) for i, label in enumerate(classes)},
    }
    if key.shots == ALL and not key.stressor:
        entry["confusion"] = score.confusion.tolist()
    if list(score.domains) != [""]:
        entry["domains"] = {name: _estimate(values, num_subjects) for name, values in score.domains.items()}
        worst = min(score.domains, key=lambda name: score.domains[name][0])
        entry["worst"] = {"domain": worst, **entry["domains"][worst]}
    return entry


def _differences(
    scores: dict[Key, Score], names: list[str], num_subjects: int, comparisons: Comparisons
) -> list[dict[str, Any]]:
    """Return the comparisons with baselines, on clean windows; settings chosen by the test windows enter none."""
    rows = []
    for key, own in scores.items():
        if key.stressor or key.selection == ORACLE:
            continue
        family = []
        for reference in comparisons.get((key.representation, key.probe), ()):
            found = [
                candidate
                for candidate in scores
                if (candidate.representation, candidate.probe) == reference
                and (candidate.shots, candidate.stressor) == (key.shots, "")
                and candidate.selection in (key.selection, "fixed")
            ]
            if found:
                other = scores[next((c for c in found if c.selection == key.selection), found[0])]
                family.append(_difference(key, own, "/".join(reference), other, names, num_subjects))
        for name in names:
            corrected = holm([_nan(row["metrics"][name]["p"]) for row in family])
            for row, p in zip(family, corrected, strict=True):
                row["metrics"][name]["p_holm"] = _number(p)
        rows += family
    return rows


def _difference(
    key: Key, own: Score, reference: str, other: Score, names: list[str], num_subjects: int
) -> dict[str, Any]:
    metrics = {}
    for name in names:
        values = own.metrics[name] - other.metrics[name]
        by_draw = own.by_draw[name] - other.by_draw[name]
        metrics[name] = _estimate(values, num_subjects) | {
            "p": _number(p_value(values[1:], num_subjects)),
            "draws_won": int((by_draw > 0).sum()),
            "num_draws": len(by_draw),
        }
    return {
        "method": key.method,
        "reference": reference,
        "selection": key.selection,
        "shots": key.shots,
        "metrics": metrics,
    }


def _groups(
    table: pa.Table, classes: list[str], subjects: list[str], domains: list[str], positive: int | None
) -> dict[Key, list[dict[str, Tally]]]:
    """Return the key to the tallies of its draws by domain, in the order of the shots, those on all windows last."""
    columns: list[tuple[np.ndarray, list[str]]] = [
        _factorise(table[name]) for name in ("representation", "probe", "selection", "stressor", "domain")
    ]
    shots = pc.fill_null(table["shots"], 0).to_numpy()
    severity, levels = _levels(table["severity"].to_numpy())
    codes = np.stack([column[0] for column in columns] + [severity, shots, table["draw"].to_numpy()])
    keys, inverse = np.unique(codes, axis=1, return_inverse=True)
    inverse = inverse.ravel()
    order = np.argsort(inverse, kind="stable")
    bounds = np.searchsorted(inverse[order], np.arange(keys.shape[1] + 1))
    label, subject = _codes(table["label"], classes), _codes(table["subject"], subjects)
    scores = pc.list_flatten(table["scores"]).to_numpy().reshape(len(table), len(classes))
    groups: dict[Key, dict[int, dict[str, Tally]]] = {}
    for i in sorted(range(keys.shape[1]), key=lambda i: (keys[6, i] == 0, keys[6, i], *keys[:, i])):
        rows = order[bounds[i] : bounds[i + 1]]
        named = [names[code] for (_, names), code in zip(columns, keys[:5, i], strict=True)]
        representation, probe, selection, stressor, domain = named
        key = Key(representation, probe, selection, int(keys[6, i]) or ALL, stressor, levels[keys[5, i]])
        counts = tally(label[rows], scores[rows], subject[rows], len(subjects), positive)
        groups.setdefault(key, {}).setdefault(int(keys[7, i]), {})[domain] = counts
    return {key: list(draws.values()) for key, draws in groups.items()}


def _levels(values: np.ndarray) -> tuple[np.ndarray, list[float]]:
    levels, codes = np.unique(values, return_inverse=True)
    return codes.ravel(), [float(level) for level in levels]


def _factorise(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    names = sorted(pc.unique(column).to_pylist())
    return _codes(column, names), names


def _codes(column: pa.ChunkedArray, names: list[str]) -> np.ndarray:
    """Return the index of each value in ``names``, int64."""
    indices = pc.index_in(column.cast(pa.string()), value_set=pa.array(names, pa.string()))
    return indices.to_numpy().astype(np.int64)


def _estimate(values: np.ndarray, num_subjects: int) -> dict[str, Any]:
    """Return the value on the data as it is (first) and its interval (the rest)."""
    low, high = interval(values[1:], num_subjects)
    return {"value": _number(values[0]), "low": _number(low), "high": _number(high)}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _nan(value: float | None) -> float:
    return math.nan if value is None else value
