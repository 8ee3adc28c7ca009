"""Fragments to shards, and the files that make shards a dataset: what is added to it, and in which order it is made
visible."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from imuvid.data.dataset_json import DATASET_NAME, DatasetInfo, read_dataset_info
from imuvid.data.dataset_tables import (
    INDEX_NAME,
    INDEX_SCHEMA,
    QUALITY,
    RECORDINGS_NAME,
    RECORDINGS_SCHEMA,
    read_index,
    read_recordings,
)
from imuvid.data.storage import Store, replacing, sync_path
from shards.config import BuildConfig
from shards.fragment import Fragment
from shards.gates import GatesConfig, regate
from shards.summary import Progress
from shards.workers import Executor, Lost, num_workers, run_jobs
from shards.write import Piece, WrittenShard, write_shard

FINAL_FOLDER = "final"
"""Within the work folder: the complete files of the dataset but for its shards. Once ``dataset.json`` is there, they
only have to be put in their place."""
ORDER = (INDEX_NAME, RECORDINGS_NAME, DATASET_NAME)
USED = "used"
"""Status of a recording that is in the dataset."""


@dataclass
class Dataset:
    """A dataset as it is now; without ``info``, there is none yet."""

    store: Store
    info: DatasetInfo | None = None
    index: pa.Table = field(default_factory=INDEX_SCHEMA.empty_table)
    listing: list[dict[str, Any]] = field(default_factory=list)
    """Rows of RECORDINGS_SCHEMA."""

    @classmethod
    def at(cls, store: Store) -> Dataset:
        """Read the dataset of a store.

        Raises:
            UserError: it is damaged.
        """
        if not store.exists(DATASET_NAME):
            return cls(store)
        info = read_dataset_info(store.location)
        index, recordings = read_index(store.location, info), read_recordings(store.location, info)
        return cls(store, info, index, recordings.to_pylist())

    @property
    def recordings(self) -> dict[str, tuple[str, str]]:
        """Status and digest of each recording, by identifier."""
        return {row["recording"]: (row["status"], row["digest"]) for row in self.listing}

    @property
    def subjects(self) -> set[str | None]:
        """Identifiers of the subjects."""
        return {row["subject"] for row in self.listing}

    def count(self, column: str) -> dict[str, int]:
        """Return the number of windows by the value of a column of the index, sorted by value."""
        counts = self.index.column(column).value_counts()
        return dict(sorted((entry["values"].as_py() or "", entry["counts"].as_py()) for entry in counts))


def publish(dataset: Dataset, work: Path) -> None:
    """Make ``info``, ``index`` and ``listing`` of a dataset what its readers see; killed within, it can be finished.

    Args:
        dataset: ``info.sha256`` names its shards, which are there; what is not shards is filled in.
        work: folder of the unfinished build.
    """
    assert dataset.info is not None
    final = work / FINAL_FOLDER
    shutil.rmtree(final, ignore_errors=True)
    final.mkdir(parents=True)
    sha256 = {name: value for name, value in dataset.info.sha256.items() if name.endswith(".tar")}
    listing = pa.Table.from_pylist(sorted(dataset.listing, key=lambda row: row["recording"]), schema=RECORDINGS_SCHEMA)
    for name, table in ((INDEX_NAME, dataset.index), (RECORDINGS_NAME, listing)):
        with replacing(final / name) as file:
            pq.write_table(table.combine_chunks(), file)
        sha256[name] = hashlib.sha256((final / name).read_bytes()).hexdigest()
    info = dataclasses.replace(dataset.info, sha256=sha256)
    with replacing(final / DATASET_NAME) as file:
        file.write(json.dumps(dataclasses.asdict(info), indent=1, sort_keys=True).encode())
    sync_path(final)
    finish_publishing(dataset.store, work)


def finish_publishing(store: Store, work: Path) -> None:
    """Put the complete files of a dataset in their place, if there are any waiting for it; ``dataset.json`` last."""
    final = work / FINAL_FOLDER
    if not (final / DATASET_NAME).exists():
        return
    # Where another process finishes the same at the same time, a file may be gone: then it is in its place.
    for name in ORDER:
        with contextlib.suppress(FileNotFoundError):
            store.put(name, final / name)
    shutil.rmtree(final, ignore_errors=True)


def change_gates(dataset: Dataset, gates: dict[str, Any], work: Path) -> bool:
    """Decide verdicts and weights by other gates; return whether they are other ones than before."""
    assert dataset.info is not None
    if dataset.info.config.get("gates") == gates:
        return False
    dataset.index = regated(dataset.index, GatesConfig(**gates))
    dataset.info = dataclasses.replace(dataset.info, config=dataset.info.config | {"gates": gates})
    publish(dataset, work)
    return True


def assemble(
    config: BuildConfig,
    described: dict[str, Any],
    dataset: Dataset,
    fragments: Sequence[Fragment],
    failures: list[dict[str, Any]],
    work: Path,
    execute: Executor = run_jobs,
) -> None:
    """Write the shards of new recordings and publish the dataset that has them.

    Args:
        config: of the build.
        described: of the build, for ``dataset.json``.
        dataset: as it is; becomes what it is then.
        fragments: of the new recordings, in the order that they get; their files are in ``work``.
        failures: rows of RECORDINGS_SCHEMA of the recordings that cannot be used.
        work: folder of the unfinished build.
        execute: runs the writing of the shards.
    """
    info = dataset.info
    listed = info.sha256 if info else {}
    for name in dataset.store.names():
        if re.fullmatch(r"\d{5}\.tar(\.tmp)?", name) and name not in listed:
            dataset.store.delete(name)
    positions = (
        info.positions
        if info
        else config.positions or sorted({position for fragment in fragments for position in fragment.positions})
    )
    samples = [(fragment, sample) for fragment in fragments for sample in fragment.samples]
    size = config.samples_per_shard
    groups = [samples[i : i + size] for i in range(0, len(samples), size)]
    embedding = described["frames"]["embed_with"]
    dim = embedding["dim"] if embedding else None
    shards = _write(config, dataset.store, groups, positions, dim, info.counts["shards"] if info else 0, work, execute)
    new = [_rows(group, shard) for group, shard in zip(groups, shards, strict=True)]
    gates = GatesConfig(**described["gates"])
    kept = dataset.index
    if info and info.config.get("gates") != described["gates"]:
        kept = regated(kept, gates)
    dataset.index = pa.concat_tables([kept, *(regated(table, gates) for table in new)])
    fresh = [_listed(fragment, positions) for fragment in fragments] + failures
    replaced = {row["recording"] for row in fresh}
    dataset.listing = [row for row in dataset.listing if row["recording"] not in replaced] + fresh
    used = [row for row in dataset.listing if row["status"] == USED]
    hours = sum(sample["covered_s"] for _, sample in samples) / 3600
    labels = dataset.index.column("label").unique().drop_null().to_pylist()
    dataset.info = DatasetInfo(
        name=config.name,
        counts={
            "samples": dataset.index.num_rows,
            "recordings": len(used),
            "subjects": len({row["subject"] for row in used} - {None}),
            "shards": len([name for name in listed if name.endswith(".tar")]) + len(shards),
        },
        hours=hours + (info.hours if info else 0.0),
        window_s=config.window.length_s,
        imu_rate_hz=config.window.rate_hz,
        positions=positions,
        num_frames=config.frames.num,
        frame_size=[config.frames.size, config.frames.size] if config.frames.num and not embedding else [],
        labels=sorted(labels),
        sha256=listed | {shard.name: shard.sha256 for shard in shards},
        config=described,
        video_embedding=embedding,
    )
    if dataset.store.local is not None:
        sync_path(dataset.store.local)
    publish(dataset, work)


def workers_for(config: BuildConfig, num_jobs: int) -> int:
    """Return the number of processes for some jobs; 0 leaves it to the executor."""
    if config.build.executor != "local":
        return config.build.workers
    return max(1, min(num_workers(config.build.workers), num_jobs))


def regated(index: pa.Table, gates: GatesConfig) -> pa.Table:
    """Return an index whose verdicts and weights are those of the gates."""
    tables = []
    # In pieces: as Python objects, the rows of a large index would not fit into memory.
    for batch in index.to_batches(max_chunksize=10_000):
        rows = batch.to_pylist()
        regate(rows, gates)
        tables.append(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA))
    return pa.concat_tables(tables) if tables else index


def _write(
    config: BuildConfig,
    store: Store,
    groups: list[list],
    positions: list[str],
    embedding_dim: int | None,
    first: int,
    work: Path,
    execute: Executor,
) -> list[WrittenShard]:
    """Write one shard a group of (fragment, sample); they are numbered from ``first`` on."""
    jobs = [
        (
            store.location,
            f"{first + number:05d}.tar",
            work,
            [Piece(work / f"{fragment.recording}.tar", sample["offset"], sample["size"]) for fragment, sample in group],
            positions,
            config.frames.num,
            config.frames.size,
            embedding_dim,
        )
        for number, group in enumerate(groups)
    ]
    shards: dict[int, WrittenShard] = {}
    progress = Progress("shards", len(jobs))
    for job, result in execute(write_shard, jobs, workers_for(config, len(jobs)), 0.0):
        if isinstance(result, Lost):
            raise RuntimeError(f"{store.where(jobs[job][1])}: {result.message}")
        shards[job] = result
        progress.advance()
    return [shards[job] for job in range(len(jobs))]


def _rows(group: list[tuple[Fragment, dict[str, Any]]], shard: WrittenShard) -> pa.Table:
    """Return the rows of the index of a shard, still without verdict and weight."""
    rows = [
        {"shard": shard.name, "offset": offset, "size": size, "crc32": crc32}
        | {name: getattr(fragment, name) for name in ("recording", "subject", "split")}
        | {name: sample.get(name) for name in ("key", "label", "start_s", *QUALITY)}
        for (fragment, sample), (offset, size, crc32) in zip(group, shard.spans, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)


def _listed(fragment: Fragment, positions: list[str]) -> dict[str, Any]:
    """Return the row of RECORDINGS_SCHEMA of a recording that is used, in a dataset of the given positions."""
    names = [name for name in RECORDINGS_SCHEMA.names if hasattr(fragment, name)]
    row = {name: getattr(fragment, name) for name in names}
    for name, absent in (("imu_mean", 0.0), ("imu_deviation", 1.0)):
        channels = {position: row[name][6 * i : 6 * i + 6] for i, position in enumerate(fragment.positions)}
        row[name] = [value for position in positions for value in channels.get(position, [absent] * 6)]
    return row | {"status": USED, "num_windows": len(fragment.samples), "marked": sorted(fragment.marked)}
