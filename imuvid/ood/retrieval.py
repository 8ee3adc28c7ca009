"""How exactly the shared space places IMU against video: among all held-out windows, and in time within a recording.

Every number is computed from a table of one row a query: its rank, or how far off in time the best match lies.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from imuvid.ood.paired import Paired
from imuvid.ood.statistics import LEVEL, MIN_SUBJECTS, interval, subject_weights

IMU_TO_VIDEO, VIDEO_TO_IMU, TIME_OFFSET = "imu_to_video", "video_to_imu", "time_offset"
CUTOFFS = (1, 5, 10)
MIN_CANDIDATES = 3
"""Windows of a recording within reach of a query, itself among them, below which nothing can be placed."""


def retrieve(paired: Paired, max_offset_s: float) -> pa.Table:
    """Return one row a query: task, window, recording, subject, candidates, rank, offset_s.

    A tie counts against the query, so that a model that embeds everything alike scores nothing. ``offset_s`` is where
    the most similar video of the recording starts, less where the IMU window does; null in the other tasks.

    Args:
        paired: N windows.
        max_offset_s: video is looked for this far away, seconds.
    """
    number = len(paired.imu)
    columns: dict[str, list[np.ndarray]] = {"task": [], "query": [], "candidates": [], "rank": [], "offset_s": []}

    def add(task: str, query: np.ndarray, candidates: np.ndarray, rank: np.ndarray, offset_s: np.ndarray) -> None:
        rows = (np.full(len(query), task), query, candidates, rank, offset_s)
        for name, values in zip(columns, rows, strict=True):
            columns[name].append(values)

    every = np.arange(number)
    for task, queries, gallery in ((IMU_TO_VIDEO, paired.imu, paired.video), (VIDEO_TO_IMU, paired.video, paired.imu)):
        add(task, every, np.full(number, number), _ranks(queries, gallery), np.full(number, np.nan))
    for name in np.unique(paired.recording):
        rows = np.flatnonzero(paired.recording == name)
        offsets = paired.start_s[rows][None] - paired.start_s[rows][:, None]
        near = np.abs(offsets) <= max_offset_s + 1e-6
        scores = np.where(near, paired.imu[rows] @ paired.video[rows].T, -np.inf)
        count = near.sum(axis=1)
        own = np.diagonal(scores)
        rank = (scores >= own[:, None]).sum(axis=1)
        # The own window goes last among equals, as in the ranks.
        best = np.where(np.eye(len(rows), dtype=bool), np.nextafter(scores, -np.inf), scores).argmax(axis=1)
        kept = count >= MIN_CANDIDATES
        add(TIME_OFFSET, rows[kept], count[kept], rank[kept], offsets[np.arange(len(rows)), best][kept])
    query = np.concatenate(columns["query"]).astype(int)
    windows = [f"{name}@{start:.3f}" for name, start in zip(paired.recording, paired.start_s, strict=True)]
    return pa.table(
        {
            "dataset": pa.array([paired.name] * len(query)).dictionary_encode(),
            "task": pa.array(np.concatenate(columns["task"])).dictionary_encode(),
            "window": pa.array(np.array(windows)[query]).dictionary_encode(),
            "recording": pa.array(paired.recording[query]).dictionary_encode(),
            "subject": pa.array(paired.subject[query]).dictionary_encode(),
            "candidates": pa.array(np.concatenate(columns["candidates"]).astype(np.int32)),
            "rank": pa.array(np.concatenate(columns["rank"]).astype(np.int32)),
            "offset_s": pa.array(np.concatenate(columns["offset_s"]), from_pandas=True),
        }
    )


def _ranks(queries: np.ndarray, gallery: np.ndarray, chunk: int = 1024) -> np.ndarray:
    """Return the rank of candidate i for query i, int64 [N], 1 the best."""
    ranks = []
    for start in range(0, len(queries), chunk):
        scores = queries[start : start + chunk] @ gallery.T
        own = scores[np.arange(len(scores)), np.arange(start, start + len(scores))]
        ranks.append((scores >= own[:, None]).sum(axis=1))
    return np.concatenate(ranks)


def summarise_retrieval(table: pa.Table, num_bootstrap: int, seed: int) -> dict[str, Any]:
    """Return the numbers of the report from the table of queries; intervals resample people.

    Returns:
        by task: ``num_queries``, ``candidates`` (median), ``metrics`` (value, low, high, chance).
    """
    result: dict[str, Any] = {"dataset": table["dataset"][0].as_py(), "tasks": {}, "warnings": []}
    names, subject = np.unique(np.asarray(table["subject"].to_pylist()), return_inverse=True)
    task = np.asarray(table["task"].to_pylist())
    weights = np.concatenate([np.ones((1, len(names))), subject_weights(len(names), num_bootstrap, seed)])
    for name in (IMU_TO_VIDEO, VIDEO_TO_IMU, TIME_OFFSET):
        rows = np.flatnonzero(task == name)
        if not len(rows):
            result["warnings"].append(f"{name}: no recording has {MIN_CANDIDATES} windows within reach.")
            continue
        part = table.take(rows)
        rank, candidates = (part[column].to_numpy().astype(float) for column in ("rank", "candidates"))
        metrics = {f"r_at_{k}": ((rank <= k).astype(float), np.minimum(k / candidates, 1.0)) for k in CUTOFFS}
        metrics["mrr"] = (1 / rank, _harmonic(candidates) / candidates)
        if name == TIME_OFFSET:
            error_s = np.abs(part["offset_s"].to_numpy())
            metrics = {"exact": metrics["r_at_1"], "mrr": metrics["mrr"]}
        own = subject[rows]
        total = weights @ np.bincount(own, minlength=len(names))
        found = {}
        for metric, (values, chance) in metrics.items():
            sums = weights @ np.bincount(own, values, minlength=len(names))
            mean = np.divide(sums, total, out=np.full(len(total), np.nan), where=total > 0)
            found[metric] = _estimate(mean, len(names)) | {"chance": float(chance.mean())}
        medians = {"median_rank": rank} if name != TIME_OFFSET else {"median_error_s": error_s}
        for metric, values in medians.items():
            resampled = np.array([_weighted_median(values, weight[own]) for weight in weights])
            found[metric] = _estimate(resampled, len(names))
        if name != TIME_OFFSET:
            found["median_rank"]["chance"] = float(np.median((candidates + 1) / 2))
        result["tasks"][name] = {
            "num_queries": len(rows),
            "candidates": float(np.median(candidates)),
            "metrics": found,
        }
    result["test_subjects"] = names.tolist()
    result["interval"] = {"level": LEVEL, "unit": "test subject", "resamples": num_bootstrap}
    if len(names) < MIN_SUBJECTS:
        result["warnings"].append(f"Only {len(names)} test subjects: the intervals are not to be trusted.")
    return result


def _harmonic(numbers: np.ndarray) -> np.ndarray:
    table = np.cumsum(1 / np.arange(1, int(numbers.max()) + 1))
    return table[numbers.astype(int) - 1]


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)]) if reached[-1] > 0 else float("nan")


def _estimate(values: np.ndarray, num_subjects: int) -> dict[str, Any]:
    low, high = interval(values[1:], num_subjects)
    numbers = {"value": values[0], "low": low, "high": high}
    return {name: None if np.isnan(value) else float(value) for name, value in numbers.items()}
