"""From the table of predictions to the numbers of the report, and from nothing else."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imuvid.ood.metrics import BINARY_METRICS, METRICS, Tally, measure, recall, tally, weighted_confusion
from imuvid.ood.predictions import HANDMADE, METADATA_KEY, PRETRAINED, RANDOM
from imuvid.ood.statistics import LEVEL, MIN_SUBJECTS, draw_weights, interval, subject_weights

ALL = "all"
"""What stands for the number of shots of the linear probe on all training windows."""


def summarise(table: pa.Table, num_bootstrap: int, seed: int) -> dict[str, Any]:
    """Return, by data set, every number that the report shows. Plain dicts, lists and scalars; None for undefined.

    A score is the mean over draws. Its interval resamples the test subjects, with all their windows, and the draws;
    the difference of two methods is taken within each resample, so it is paired.

    Args:
        table: of :mod:`imuvid.ood.predictions`.
        num_bootstrap: resamples.
        seed: of the resamples.
    """
    facts = json.loads(table.schema.metadata[METADATA_KEY])
    return {
        name: _summarise_dataset(table.filter(pc.equal(table["dataset"], name)), fact, num_bootstrap, seed)
        for name, fact in facts.items()
    }


def _summarise_dataset(table: pa.Table, fact: dict[str, Any], num_bootstrap: int, seed: int) -> dict[str, Any]:
    classes: list[str] = fact["classes"]
    positive = classes.index(fact["positive"]) if fact["positive"] else None
    subjects = sorted(pc.unique(table["subject"]).to_pylist())
    names = [*METRICS, *(BINARY_METRICS if positive is not None else ())]
    groups = _groups(table, classes, subjects, positive)
    weights = np.concatenate([np.ones((1, len(subjects))), subject_weights(len(subjects), num_bootstrap, seed)])

    scores, values, points = [], {}, {}
    for (method, shots), tallies in groups.items():
        draws = [measure(counts, weights) for counts in tallies]
        confusions = np.stack([weighted_confusion(counts, weights) for counts in tallies])
        shares = np.concatenate(
            [np.full((1, len(draws)), 1 / len(draws)), draw_weights(len(draws), num_bootstrap, seed)]
        )
        recalls = np.einsum("bd,dbk->bk", shares, recall(confusions))
        metrics = {}
        for name in names:
            by_draw = np.stack([draw[name] for draw in draws], axis=1)
            values[method, shots, name] = (by_draw * shares).sum(axis=1)
            points[method, shots, name] = by_draw[0]
            metrics[name] = _estimate(values[method, shots, name])
            metrics[name]["sd_draws"] = _number(by_draw[0].std(ddof=1)) if len(draws) > 1 else None
        entry = {
            "method": method,
            "shots": shots,
            "num_draws": len(draws),
            "metrics": metrics,
            "recall": {label: _estimate(recalls[:, i]) for i, label in enumerate(classes)},
        }
        if shots == ALL:
            entry["confusion"] = confusions[:, 0].mean(axis=0).tolist()
        scores.append(entry)

    differences = []
    for reference in (RANDOM, HANDMADE):
        for shots in [shots for method, shots in groups if method == PRETRAINED and (reference, shots) in groups]:
            metrics = {}
            for name in names:
                metrics[name] = _estimate(values[PRETRAINED, shots, name] - values[reference, shots, name])
                by_draw = points[PRETRAINED, shots, name] - points[reference, shots, name]
                metrics[name] |= {"draws_won": int((by_draw > 0).sum()), "num_draws": len(by_draw)}
            differences.append({"method": PRETRAINED, "reference": reference, "shots": shots, "metrics": metrics})

    counts = next(iter(groups.values()))[0].confusion.sum(axis=(0, 2))
    chance = {"balanced_accuracy": 1.0 / len(classes)}
    if positive is not None:
        chance |= {"auc": 0.5, "average_precision": float(counts[positive] / counts.sum())}
    warnings = []
    if len(subjects) < MIN_SUBJECTS:
        warnings.append(
            f"Only {len(subjects)} test subjects: intervals over fewer than {MIN_SUBJECTS} subjects are too narrow "
            "to be trusted."
        )
    return {
        "protocol": pc.unique(table["protocol"]).to_pylist()[0],
        "classes": classes,
        "positive": fact["positive"],
        "test_subjects": subjects,
        "num_test_windows": int(counts.sum()),
        "test_windows_by_class": {label: int(count) for label, count in zip(classes, counts, strict=True)},
        "interval": {
            "level": LEVEL,
            "unit": "test subject, and draw where there are several",
            "method": "percentile of a two-way cluster bootstrap",
            "resamples": num_bootstrap,
        },
        "chance": chance,
        "scores": scores,
        "differences": differences,
        "warnings": warnings,
    }


def _groups(
    table: pa.Table, classes: list[str], subjects: list[str], positive: int | None
) -> dict[tuple[str, int | str], list[Tally]]:
    """Return (method, shots) to the tallies of its draws, in the order of the shots, the linear probe last."""
    method, draw = table["method"].cast(pa.string()), table["draw"].to_numpy()
    shots = pc.fill_null(table["shots"], 0).to_numpy()
    label = _codes(table["label"], classes)
    subject = _codes(table["subject"], subjects)
    scores = pc.list_flatten(table["scores"]).to_numpy().reshape(len(table), len(classes))
    codes, names = _factorise(method)
    keys, inverse = np.unique(np.stack([codes, shots, draw]), axis=1, return_inverse=True)
    groups: dict[tuple[str, int | str], list[Tally]] = {}
    order = np.argsort(inverse.ravel(), kind="stable")
    bounds = np.searchsorted(inverse.ravel()[order], np.arange(keys.shape[1] + 1))
    for i in sorted(range(keys.shape[1]), key=lambda i: (keys[1, i] == 0, keys[1, i], keys[0, i], keys[2, i])):
        rows = order[bounds[i] : bounds[i + 1]]
        key = (names[keys[0, i]], int(keys[1, i]) or ALL)
        counts = tally(label[rows], scores[rows], subject[rows], len(subjects), positive)
        groups.setdefault(key, []).append(counts)
    return groups


def _factorise(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    names = sorted(pc.unique(column).to_pylist())
    return _codes(column, names), names


def _codes(column: pa.ChunkedArray, names: list[str]) -> np.ndarray:
    """Return the index of each value in ``names``, int64."""
    indices = pc.index_in(column.cast(pa.string()), value_set=pa.array(names, pa.string()))
    return indices.to_numpy().astype(np.int64)


def _estimate(values: np.ndarray) -> dict[str, float | None]:
    """Return the value on the data as it is (first) and its interval (the rest)."""
    low, high = interval(values[1:])
    return {"value": _number(values[0]), "low": _number(low), "high": _number(high)}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
