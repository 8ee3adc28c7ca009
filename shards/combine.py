"""Several datasets made one: their shards stay as they are, under new numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from imuvid.data.dataset_json import DatasetInfo
from imuvid.errors import UserError
from shards.assemble import USED, Dataset, publish
from shards.operations import (
    OperationReport,
    check_shard_sizes,
    copy_shards,
    counts_of,
    existing,
    making,
    report_of,
)

SAME = ("window_s", "imu_rate_hz", "positions", "num_frames", "frame_size", "video_embedding")
"""Fields of ``dataset.json`` in which datasets must agree to be merged."""


def merge(
    locations: Sequence[str | Path], out: str | Path, name: str | None = None, workers: int = 0
) -> OperationReport:
    """Make one dataset of several that have the same windows, rate, positions, frames and gates.

    The shards are copied byte for byte (linked, on one disk) and numbered in the order of ``locations``. Subjects are
    told apart by their salted hashes: who is in datasets that were built with different salts counts as two people.

    Args:
        locations: folders or URLs of at least two datasets.
        out: folder or URL of the new one.
        name: of the new one; None = the last part of ``out``.
        workers: shards copied at the same time; 0 = one a core.

    Raises:
        UserError: they do not fit together, or a recording is in two of them, or a subject is in different splits.
    """
    if len(locations) < 2:
        raise UserError("merge needs at least two datasets")
    inputs = [existing(location) for location in locations]
    _check_alike(inputs)
    for dataset in inputs:
        check_shard_sizes(dataset)
    infos = [_info(dataset) for dataset in inputs]
    listing = _listing(inputs)
    merged = [{"name": info.name, "fingerprint": info.fingerprint, "config": info.config} for info in infos]
    with making(out, {"merge": [info.fingerprint for info in infos]}) as (dataset, work):
        tables, jobs = [], []
        sha256: dict[str, str] = {}
        for part, info in zip(inputs, infos, strict=True):
            shards = sorted(shard for shard in info.sha256 if shard.endswith(".tar"))
            new_names = {shard: f"{len(sha256) + i:05d}.tar" for i, shard in enumerate(shards)}
            sha256 |= {new_names[shard]: info.sha256[shard] for shard in shards}
            jobs += [(part.store, shard, info.sha256[shard], new_names[shard]) for shard in shards]
            tables.append(_renamed(part, new_names))
        copy_shards(jobs, dataset.store, work, workers)
        dataset.index, dataset.listing = pa.concat_tables(tables), listing
        dataset.info = DatasetInfo(
            name=name or re.sub(r"[^\w.-]", "-", dataset.store.location.rpartition("/")[2]),
            counts=counts_of(dataset, len(jobs)),
            hours=sum(info.hours for info in infos),
            window_s=infos[0].window_s,
            imu_rate_hz=infos[0].imu_rate_hz,
            positions=infos[0].positions,
            num_frames=infos[0].num_frames,
            frame_size=infos[0].frame_size,
            video_embedding=infos[0].video_embedding,
            labels=sorted({label for info in infos for label in info.labels}),
            sha256=sha256,
            config={"operations": [{"merge": merged}]}
            | ({"gates": infos[0].config["gates"]} if "gates" in infos[0].config else {}),
        )
        publish(dataset, work)
    return report_of(dataset, [f"merged {', '.join(info.name for info in infos)}"])


def _info(dataset: Dataset) -> DatasetInfo:
    assert dataset.info is not None
    return dataset.info


def _check_alike(inputs: list[Dataset]) -> None:
    first = inputs[0]
    seen: dict[str, Dataset] = {}
    for dataset in inputs:
        info = _info(dataset)
        if info.fingerprint in seen:
            raise UserError(f"{dataset.store}: is the same dataset as {seen[info.fingerprint].store}: give it once")
        seen[info.fingerprint] = dataset
        for field in SAME:
            stated, expected = getattr(info, field), getattr(_info(first), field)
            if stated != expected:
                raise UserError(
                    f"{dataset.store}: {field} is {stated}, but {expected} in {first.store}: build them with the same"
                )
        if info.config.get("gates") != _info(first).config.get("gates"):
            raise UserError(
                f"{dataset.store}: its gates are not those of {first.store}: give both the same by "
                "'imuvid shards filter DATASET gates.NAME=VALUE'"
            )
    keys = pa.chunked_array([chunk for dataset in inputs for chunk in dataset.index["key"].chunks])
    for dataset in inputs:
        used = [row["recording"] for row in dataset.listing if row["status"] == USED]
        for other in inputs:
            if other is dataset:
                break
            both = sorted(set(used) & {row["recording"] for row in other.listing if row["status"] == USED})
            if both:
                raise UserError(
                    f"recording {both[0]} is in {other.store} and in {dataset.store} ({len(both)} such recordings): "
                    f"leave them out of one: imuvid shards filter {dataset.store} --out DIR "
                    f"--where \"recording not in ('{both[0]}',)\""
                )
    if pc.count_distinct(keys).as_py() < len(keys):
        raise UserError("two of the datasets have samples of the same key: build one of them with another salt")


def _listing(inputs: list[Dataset]) -> list[dict[str, Any]]:
    """Return the rows of all recordings; one that could be used somewhere is listed as used."""
    rows: dict[str, dict[str, Any]] = {}
    places: dict[str, tuple[str, Dataset]] = {}
    for dataset in inputs:
        for row in dataset.listing:
            if row["status"] == USED or row["recording"] not in rows:
                rows[row["recording"]] = row
            if row["status"] != USED or row["subject"] is None:
                continue
            split, place = places.setdefault(row["subject"], (row["split"], dataset))
            if split != row["split"]:
                raise UserError(
                    f"subject {row['subject']} is in {split} in {place.store} but in {row['split']} in "
                    f"{dataset.store}: give both the same splits first: imuvid shards split DATASET"
                )
    return list(rows.values())


def _renamed(dataset: Dataset, new_names: dict[str, str]) -> pa.Table:
    index = dataset.index
    at = index.schema.get_field_index("shard")
    try:
        names = [new_names[shard] for shard in index["shard"].to_pylist()]
    except KeyError as error:
        raise UserError(
            f"{dataset.store}: its index names the shard {error.args[0]}, dataset.json does not: "
            f"run 'imuvid shards verify {dataset.store}'"
        ) from error
    return index.set_column(at, index.schema.field(at), pa.array(names, pa.string()))
