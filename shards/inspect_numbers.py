"""What the index and the recordings of a dataset say in numbers, computed on whole columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imuvid.data.dataset_json import DatasetInfo
from imuvid.data.dataset_tables import QUALITY, SPLITS
from shards.gates import GATES

NUM_BINS = 20
MAX_GROUPS = 20
OTHERS = "others"

UNITS = {
    "acc_std": "m/s²",
    "gyro_rms": "rad/s",
    "frame_change": "grey levels",
    "sync_offset_s": "s",
    "covered_s": "s",
    "duration_s": "s",
    "sync_drift_ppm": "ppm",
}
"""Of the measurements that are no shares."""
SHARES = tuple(name for name in QUALITY if name.endswith("_share") or name == "sync_confidence")


@dataclass
class Distribution:
    """One measurement over all windows or recordings."""

    name: str
    unit: str
    count: int
    """Values that are there."""
    missing: int
    """Values that are not."""
    smallest: float | None = None
    p05: float | None = None
    median: float | None = None
    p95: float | None = None
    largest: float | None = None
    edges: list[float] = field(default_factory=list)
    """Of the histogram's bins; values outside are counted in the first and the last bin."""
    counts: list[int] = field(default_factory=list)
    limits: list[float] = field(default_factory=list)
    """Bounds of the gate that looks at it; values outside fail."""
    gate: str | None = None
    """Name of that gate."""


@dataclass
class Group:
    """Windows that share a split, a source, a subject or a label."""

    name: str
    windows: int
    hours: float
    """Without padding."""
    hours_by_split: dict[str, float] = field(default_factory=dict)


@dataclass
class Choice:
    """A window that the page shows."""

    row: int
    """Of the index."""
    reason: str
    """Why: the gates that it fails and its worst measurement, or that it was drawn."""
    worst: bool


def column(table: pa.Table, name: str) -> np.ndarray:
    """Return a numeric column as float64 [N]; NaN where null."""
    return pc.cast(table[name], pa.float64()).to_numpy()


def codes(values: pa.ChunkedArray) -> tuple[np.ndarray, list[Any]]:
    """Return what each value is as a number [N] int64, and the distinct values by that number (None = null)."""
    encoded = values.dictionary_encode(null_encoding="encode").combine_chunks()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()


def window_hours(index: pa.Table, window_s: float) -> np.ndarray:
    """Return the duration of each window without padding, hours, float64 [N]."""
    covered = column(index, "covered_share")
    return np.where(np.isnan(covered), 1.0, covered) * window_s / 3600


def gate_bounds(info: DatasetInfo) -> dict[str, float]:
    """Return the bound of each gate that the dataset's config sets, by the gate's name."""
    settings = info.config.get("gates")
    if not isinstance(settings, dict):
        return {}
    bounds = {name: settings.get(gate.bound) for name, gate in GATES.items()}
    if not bounds["sync_unknown"]:
        bounds["sync_unknown"] = None
    return {gate: float(bound) for gate, bound in bounds.items() if isinstance(bound, int | float)}


def failed_gates(index: pa.Table) -> tuple[dict[str, int] | None, np.ndarray]:
    """Return how many windows fail each gate, most first, and how many gates each window fails, int64 [N].

    The first is None where the index has no verdicts.
    """
    which, verdicts = codes(index["verdict"])
    names = [verdict.split(",") if verdict else [] for verdict in verdicts]
    if not any(verdict is not None for verdict in verdicts):
        return None, np.zeros(len(which), dtype=np.int64)
    totals: Counter[str] = Counter()
    for failed, count in zip(names, np.bincount(which, minlength=len(names)).tolist(), strict=True):
        totals.update(dict.fromkeys(failed, count))
    return dict(totals.most_common()), np.array([len(failed) for failed in names])[which]


def window_distributions(index: pa.Table, info: DatasetInfo) -> dict[str, Distribution]:
    """Return the distribution of each measurement of the windows, by name, and of the seconds that are covered."""
    found = {}
    bounds = gate_bounds(info)
    for name in QUALITY:
        gate = next((key for key, one in GATES.items() if one.column == name and key in bounds), None)
        limits: list[float] = []
        if gate is not None:
            bound, side = bounds[gate], GATES[gate].side
            limits = [-bound, bound] if side == "beyond" else [1 - bound if gate == "imu_missing" else bound]
        found[name] = distribution(name, column(index, name), limits, gate)
    found["covered_s"] = distribution("covered_s", 3600 * window_hours(index, info.window_s))
    return found


def recording_distributions(recordings: pa.Table) -> dict[str, Distribution]:
    """Return the distributions of the recordings' durations and synchrony, by name."""
    names = ("duration_s", "sync_offset_s", "sync_drift_ppm", "sync_confidence")
    return {name: distribution(name, column(recordings, name)) for name in names}


def distribution(
    name: str, values: np.ndarray, limits: list[float] | None = None, gate: str | None = None
) -> Distribution:
    """Summarise float64 [N]; what is not finite counts as missing."""
    there = values[np.isfinite(values)]
    result = Distribution(name, UNITS.get(name, ""), len(there), len(values) - len(there), gate=gate)
    result.limits = limits or []
    if not len(there):
        return result
    smallest, p05, median, p95, p99, largest = np.quantile(there, [0, 0.05, 0.5, 0.95, 0.99, 1]).tolist()
    result.smallest, result.p05, result.median, result.p95, result.largest = smallest, p05, median, p95, largest
    if name in SHARES:
        low, high = 0.0, 1.0
    elif smallest >= 0 and len(result.limits) < 2:
        low, high = 0.0, max(min(largest, 2 * p99), *result.limits, 1e-6)
    else:
        reach = 1.5 * max(map(abs, (p05, p95, *result.limits, 1e-6)))
        low, high = -reach, reach
    counts, edges = np.histogram(np.clip(there, low, high), bins=NUM_BINS, range=(low, high))
    result.counts, result.edges = counts.tolist(), edges.tolist()
    return result


def hours_by(index: pa.Table, recordings: pa.Table | None, info: DatasetInfo) -> dict[str, list[Group]]:
    """Return the hours and windows by split, source, subject and label, most hours first, the rest of many as one."""
    hours = window_hours(index, info.window_s)
    split_codes, splits = codes(index["split"])
    columns = {
        "split": (*codes(index["split"]), "none"),
        "source": (*_sources(index, recordings, info), "not known"),
        "subject": (*codes(index["subject"]), "not known"),
        "label": (*codes(index["label"]), "no label"),
    }
    groups = {
        name: _groups(which, names, hours, split_codes, splits, unknown)
        for name, (which, names, unknown) in columns.items()
    }
    order = [*SPLITS, *(group.name for group in groups["split"])]
    groups["split"].sort(key=lambda group: order.index(group.name))
    return groups


def not_used(recordings: pa.Table) -> dict[str, int]:
    """Return the number of recordings that are not used by reason, most first."""
    return _counts(recordings["status"], leave_out="used")


def marked(recordings: pa.Table) -> dict[str, int]:
    """Return the number of recordings by kind of what was marked or left out in them, most first."""
    return _counts(pc.list_flatten(recordings["marked"]))


def sync_verdicts(recordings: pa.Table) -> dict[str, int]:
    """Return the number of recordings by verdict on their synchrony, most first."""
    return _counts(recordings["sync_verdict"])


def choose(index: pa.Table, info: DatasetInfo, num_failed: np.ndarray, num: int, seed: int) -> list[Choice]:
    """Return the windows to show: the worst first, at most half of ``num``, then some drawn at random.

    Worst are those that fail the most gates (``num_failed`` [N]), among equals those whose worst measurement is the
    highest: each measurement counts from 0 (nothing wrong) to 1 (all of it), an offset by its seconds. At most two
    windows of a recording are among the worst, so that one bad recording does not hide the others. Draws depend on
    ``seed`` and the number of windows alone.
    """
    rng = np.random.default_rng(seed)
    measured = badness(index, info)
    severity = np.zeros(index.num_rows)
    culprit = np.zeros(index.num_rows, dtype=np.int64)
    for number, values in enumerate(measured.values()):
        culprit[values > severity] = number
        np.maximum(severity, values, out=severity)
    score = 2.0 * num_failed + severity
    pool = min(index.num_rows, 100 * num)
    ranked = np.argpartition(-score, pool - 1)[:pool] if pool else np.zeros(0, dtype=np.int64)
    ranked = ranked[np.lexsort((rng.random(pool), -score[ranked]))]
    recordings = index["recording"].take(pa.array(ranked)).to_pylist()
    seen: Counter[str] = Counter()
    worst: list[int] = []
    for row, recording in zip(ranked.tolist(), recordings, strict=True):
        if score[row] <= 0 or len(worst) == (num + 1) // 2:
            break
        seen[recording] += 1
        if seen[recording] <= 2:
            worst.append(row)
    names = list(measured)
    choices = [_choice(index, row, names[culprit[row]], severity[row]) for row in worst]
    drawn = rng.choice(index.num_rows, min(index.num_rows, num), replace=False).tolist()
    taken = set(worst)
    drawn = [row for row in drawn if row not in taken][: num - len(worst)]
    return choices + [Choice(row, "drawn at random", False) for row in drawn]


def badness(index: pa.Table, info: DatasetInfo) -> dict[str, np.ndarray]:
    """Return how bad each measurement of the windows is, float64 [N], 0 (nothing wrong, or not known) to 1.

    The keys say it in words, for :meth:`str.format` with the value.
    """
    covered = np.nan_to_num(column(index, "covered_share"), nan=1.0).clip(1e-9)
    found = {"IMU missing {:.2g}": 1 - column(index, "imu_share") / covered}
    if info.num_frames:
        found["frames missing {:.2g}"] = 1 - column(index, "frame_share") / covered
    found["readings stuck {:.2g}"] = column(index, "flat_share")
    found["readings saturated {:.2g}"] = column(index, "saturated_share")
    found["frames black {:.2g}"] = column(index, "black_share")
    found["frames frozen {:.2g}"] = column(index, "frozen_share")
    found["offset left {:.2g} s"] = np.abs(column(index, "sync_offset_s"))
    return {name: np.nan_to_num(values, nan=0.0).clip(0, 1) for name, values in found.items()}


def _choice(index: pa.Table, row: int, culprit: str, severity: float) -> Choice:
    verdict = index["verdict"][row].as_py()
    gates = verdict.replace(",", ", ") if verdict else "fails no gate" if verdict is not None else ""
    measured = culprit.format(severity) if severity > 0 else ""
    return Choice(row, " · ".join(filter(None, (gates, measured))), True)


def _counts(values: pa.ChunkedArray, leave_out: str | None = None) -> dict[str, int]:
    found = {row["values"]: row["counts"] for row in pc.value_counts(values).to_pylist()}
    found = {name: count for name, count in found.items() if name is not None and name != leave_out}
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _sources(index: pa.Table, recordings: pa.Table | None, info: DatasetInfo) -> tuple[np.ndarray, list[Any]]:
    """Return the kind of source of each window: of its recording, else of the dataset's config."""
    settings = info.config.get("source")
    only = settings.get("kind") if isinstance(settings, Mapping) else None
    if recordings is None:
        return np.zeros(index.num_rows, dtype=np.int64), [only]
    which, names = codes(index["recording"])
    kinds = dict(zip(recordings["recording"].to_pylist(), recordings["source"].to_pylist(), strict=True))
    of_recording, sources = codes(pa.chunked_array([pa.array([kinds.get(name, only) for name in names], pa.string())]))
    return of_recording[which], sources


def _groups(
    which: np.ndarray, names: list[Any], hours: np.ndarray, split_codes: np.ndarray, splits: list[Any], unknown: str
) -> list[Group]:
    totals = np.bincount(which, weights=hours, minlength=len(names))
    windows = np.bincount(which, minlength=len(names))
    by_split = np.bincount(which * len(splits) + split_codes, weights=hours, minlength=len(names) * len(splits))
    by_split = by_split.reshape(len(names), len(splits))
    order = np.argsort(-totals, kind="stable").tolist()
    # One more than the limit costs no more room than the line that counts it.
    shown = order if len(order) <= MAX_GROUPS + 1 else order[:MAX_GROUPS]
    parts = [(unknown if names[i] is None else names[i], [i]) for i in shown]
    if len(shown) < len(order):
        parts.append((f"{len(order) - len(shown)} {OTHERS}", order[len(shown) :]))
    return [
        Group(
            name,
            int(windows[rows].sum()),
            float(totals[rows].sum()),
            {split: float(by_split[rows, i].sum()) for i, split in enumerate(splits)},
        )
        for name, rows in parts
        if rows and windows[rows].sum()
    ]
