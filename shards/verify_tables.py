"""What can be wrong with the index and the recordings of a dataset by themselves and against ``dataset.json``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from imuvid.data.dataset_json import DATASET_NAME, DatasetInfo
from imuvid.data.dataset_tables import INDEX_NAME, RECORDINGS_NAME, SPLITS
from shards.assemble import USED
from shards.gates import GatesConfig, verdict, weight
from shards.places import names_of_places

MAX_PROBLEMS_A_KIND = 20


def index_problems(index: pa.Table, info: DatasetInfo) -> list[str]:
    """Return what is wrong with the rows of an index, one line each."""
    problems: list[str] = []
    keys = index["key"].value_counts().to_pylist()
    problems += _some(
        f"{INDEX_NAME}: key {entry['values']} is there {entry['counts']} times" for entry in keys if entry["counts"] > 1
    )
    shards = set(index["shard"].unique().to_pylist())
    problems += [
        f"{INDEX_NAME}: names the shard {name}, {DATASET_NAME} does not" for name in sorted(shards - set(info.sha256))
    ]
    for column in ("subject", "recording"):
        places = index.select([column, "split"]).group_by([column, "split"]).aggregate([]).to_pylist()
        problems += _some(_in_two_splits(column, [(place[column], str(place["split"])) for place in places]))
    for split in sorted({str(split) for split in index["split"].unique().to_pylist()} - set(SPLITS)):
        problems.append(f"{INDEX_NAME}: unknown split '{split}'")
    counts = {
        "samples": index.num_rows,
        "recordings": pc.count_distinct(index["recording"]).as_py(),
        "subjects": pc.count_distinct(index["subject"]).as_py(),
        "shards": sum(name.endswith(".tar") for name in info.sha256),
    }
    if counts != info.counts:
        problems.append(f"{DATASET_NAME}: counts {info.counts}, but the index has {counts}")
    if sorted(index["label"].unique().drop_null().to_pylist()) != info.labels:
        problems.append(f"{DATASET_NAME}: the labels are not those of the index")
    covered = pc.sum(index["covered_share"].cast(pa.float64())).as_py() or 0.0
    if not index["covered_share"].null_count and not math.isclose(
        covered * info.window_s / 3600, info.hours, rel_tol=1e-4, abs_tol=1e-6
    ):
        problems.append(
            f"{DATASET_NAME}: {info.hours:.6f} hours, but the index has {covered * info.window_s / 3600:.6f}"
        )
    return problems + _gate_problems(index, info)


def recordings_problems(recordings: pa.Table, index: pa.Table, info: DatasetInfo) -> list[str]:
    """Return what is wrong with the rows of ``recordings.parquet``, one line each."""
    rows = recordings.to_pylist()
    found = index.select(["recording", "subject", "split"])
    counted = found.group_by(["recording", "subject", "split"]).aggregate([([], "count_all")]).to_pylist()
    windows: dict[str, list[dict[str, Any]]] = {}
    for entry in counted:
        windows.setdefault(entry["recording"], []).append(entry)
    problems: list[str] = []
    seen: set[str] = set()
    for row in rows:
        name, expected = row["recording"], windows.get(row["recording"], [])
        if name in seen:
            problems.append(f"recording {name} is there twice")
        seen.add(name)
        if row["status"] != USED:
            if expected:
                problems.append(f"recording {name} is '{row['status']}', but the index has windows of it")
            if row["split"] is not None:
                problems.append(f"recording {name} is '{row['status']}', but in the split {row['split']}")
            continue
        if row["num_windows"] != sum(entry["count_all"] for entry in expected) or not expected:
            total = sum(entry["count_all"] for entry in expected)
            problems.append(f"recording {name} has {row['num_windows']} windows, but {total} in the index")
        for column in ("subject", "split"):
            if {entry[column] for entry in expected} - {row[column]}:
                stated = sorted({str(entry[column]) for entry in expected})
                problems.append(f"recording {name}: {column} is {row[column]}, but {', '.join(stated)} in the index")
    problems += [line for row in rows for line in _statistics_problems(row, 6 * len(info.positions))]
    problems += [f"recording {name} of the index is missing" for name in sorted(windows.keys() - seen)]
    problems += [f"recording {row['recording']}: {line}" for row in rows for line in names_of_places(row)]
    used = sum(row["status"] == USED for row in rows)
    if used != info.counts.get("recordings"):
        problems.append(f"{used} recordings are used, but {DATASET_NAME} counts {info.counts.get('recordings')}")
    return _some(f"{RECORDINGS_NAME}: {line}" for line in problems)


def _statistics_problems(row: dict[str, Any], num_channels: int) -> Iterator[str]:
    mean, deviation = row["imu_mean"], row["imu_deviation"]
    if mean is None and deviation is None:
        return
    for name, values in (("imu_mean", mean or []), ("imu_deviation", deviation or [])):
        if len(values) != num_channels:
            yield f"recording {row['recording']}: {name} has {len(values)} numbers, expected {num_channels}"
        elif not all(value is not None and math.isfinite(value) for value in values):
            yield f"recording {row['recording']}: {name} holds a value that is not finite"
        elif name == "imu_deviation" and min(values) <= 0:
            yield f"recording {row['recording']}: {name} holds {min(values)}, expected numbers above 0"


def _gate_problems(index: pa.Table, info: DatasetInfo) -> list[str]:
    stated = info.config.get("gates")
    if stated is None:
        return []
    try:
        gates = GatesConfig(**stated)
    except TypeError as error:
        return [f"{DATASET_NAME}: its gates cannot be read: {error}"]

    def lines() -> Iterator[str]:
        for batch in index.to_batches(max_chunksize=10_000):
            for row in batch.to_pylist():
                expected = (verdict(row, gates), weight(row, gates))
                if row["verdict"] != expected[0]:
                    yield f"{row['key']}: verdict is '{row['verdict']}', but '{expected[0]}' by the gates"
                elif row["weight"] is None or not math.isclose(row["weight"], expected[1], abs_tol=1e-6):
                    yield f"{row['key']}: weight is {row['weight']}, but {expected[1]} by the gates"

    return _some(f"{INDEX_NAME}: {line}" for line in lines())


def _in_two_splits(column: str, places: list[tuple[str | None, str]]) -> Iterator[str]:
    splits: dict[str, list[str]] = {}
    for name, split in places:
        if name is not None:
            splits.setdefault(name, []).append(split)
    for name, found in sorted(splits.items()):
        if len(found) > 1:
            yield f"{INDEX_NAME}: {column} {name} is in the splits {', '.join(sorted(found))}"


def _some(lines: Any) -> list[str]:
    """Return the first lines, and how many more there are."""
    kept = list(lines)
    rest = len(kept) - MAX_PROBLEMS_A_KIND
    return (
        kept if rest <= 0 else [*kept[:MAX_PROBLEMS_A_KIND], f"{kept[0].partition(':')[0]}: and {rest} problems more"]
    )
