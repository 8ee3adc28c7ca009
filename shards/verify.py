"""Is a dataset of shards whole, and do its tars, its index, its recordings and ``dataset.json`` say the same?"""

from __future__ import annotations

import hashlib
import mmap
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from imuvid.data.dataset_json import DATASET_NAME, DatasetInfo, read_dataset_info
from imuvid.data.dataset_tables import (
    INDEX_NAME,
    INDEX_SCHEMA,
    RECORDINGS_NAME,
    RECORDINGS_SCHEMA,
    read_index,
    read_recordings,
)
from imuvid.data.storage import Store, check_file_name
from imuvid.errors import UserError
from shards.places import names_of_places
from shards.verify_sample import check_sample
from shards.verify_tables import index_problems, recordings_problems
from shards.workers import Lost, num_workers, run_jobs
from shards.write import END_OF_ARCHIVE

MAX_PROBLEMS_PER_SHARD = 20
MAX_PROBLEMS = 1000
MAX_CHARACTERS = 500


@dataclass
class VerifyReport:
    """What was found; ``problems`` is empty where the dataset is whole."""

    folder: str
    samples: int = 0
    """Samples that were read and decoded without a problem."""
    shards: int = 0
    """Shards that were read."""
    problems: list[str] = field(default_factory=list)
    """One line each, sorted; the last says how many more there are, where there are too many."""

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        verdict = "no problem" if self.ok else f"{len(self.problems)} problems"
        return [*self.problems, f"{self.folder}: {self.samples} samples in {self.shards} shards, {verdict}"]

    def __str__(self) -> str:
        return "\n".join(self.lines())


def verify(location: str | Path, workers: int = 0) -> VerifyReport:
    """Read all of a dataset and compare its parts.

    Checksums of all files; the tables' schemas; every sample decodes (arrays, JPEGs and their sizes) and is what the
    index says (CRC-32, every measurement, label, times, positions); verdicts and weights are those of the gates in
    ``dataset.json``; recordings, index and counts agree; keys are unique; no subject and no recording is in two
    splits; nothing names a place on a disk; no file is missing or extra.

    Args:
        location: folder or URL of the dataset; shards of an object store are fetched one a process at a time.
        workers: processes; 0 = one a core.

    Raises:
        UserError: there is no complete dataset of this format version.
        OSError: the object store does not answer.
    """
    store = Store(location)
    info = read_dataset_info(location)
    report = VerifyReport(str(store))
    problems = report.problems
    present = set(store.names())
    listed = sorted(name for name in info.sha256 if name.endswith(".tar"))
    problems += [f"{name}: extra file, {DATASET_NAME} does not list it" for name in _extra(present, info)]
    problems += [f"{name}: missing shard" for name in listed if name not in present]
    problems += [f"{DATASET_NAME}: {place}" for place in names_of_places(info.config)]
    index = _table(store, info, INDEX_NAME, INDEX_SCHEMA, read_index, problems)
    recordings = _table(store, info, RECORDINGS_NAME, RECORDINGS_SCHEMA, read_recordings, problems)
    if index is not None:
        problems += index_problems(index, info)
    if index is not None and recordings is not None:
        problems += recordings_problems(recordings, index, info)
    rows = _by_shard(index if index is not None else INDEX_SCHEMA.empty_table())
    empty = INDEX_SCHEMA.empty_table()
    jobs = [(store.location, name, info, rows.get(name, empty)) for name in listed if name in present]
    for job, result in run_jobs(verify_shard, jobs, max(1, min(num_workers(workers), len(jobs)))):
        report.shards += 1
        if isinstance(result, Lost):
            problems.append(f"{jobs[job][1]}: {result.message}")
        else:
            report.samples += result[0]
            problems += result[1]
    # Names come from the files: they may hold anything.
    problems[:] = sorted(" ".join(problem.split())[:MAX_CHARACTERS] for problem in problems)
    if len(problems) > MAX_PROBLEMS:
        problems[MAX_PROBLEMS:] = [f"and {len(problems) - MAX_PROBLEMS} problems more"]
    return report


def verify_shard(location: str, name: str, info: DatasetInfo, rows: pa.Table) -> tuple[int, list[str]]:
    """Return the number of good samples of a shard and its problems, given its rows of the index.

    Args:
        location: folder or URL of the dataset.
        name: of the shard.
        info: of the dataset.
        rows: of the shard, of INDEX_SCHEMA.
    """
    store = Store(location)
    with tempfile.TemporaryDirectory(prefix="imuvid-verify-") as folder:
        try:
            check_file_name(name)
            path = store.local / name if store.local else Path(folder) / "shard.tar"
            if store.local is None:
                store.fetch(name, path)
            if path.stat().st_size == 0:
                return 0, [f"{name}: is empty"]
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                good, problems = _check_shard(content, name, info, rows.sort_by("offset").to_pylist())
        except (OSError, UserError) as error:
            return 0, [f"{name}: cannot be read: {error}"]
    if len(problems) > MAX_PROBLEMS_PER_SHARD:
        rest = len(problems) - MAX_PROBLEMS_PER_SHARD
        problems = [*problems[:MAX_PROBLEMS_PER_SHARD], f"{name}: and {rest} problems more"]
    return good, problems


def _check_shard(content: mmap.mmap, name: str, info: DatasetInfo, rows: list[dict[str, Any]]) -> tuple[int, list[str]]:
    problems: list[str] = []
    good = position = 0
    if hashlib.sha256(content).hexdigest() != info.sha256[name]:
        problems.append(f"{name}: sha256 is not that of {DATASET_NAME}: the file was changed or damaged")
    for row in rows:
        if row["offset"] != position:
            problems.append(f"{name}: {row['key']} begins at byte {row['offset']}, expected {position}")
        position = row["offset"] + row["size"]
        try:
            check_sample(content[row["offset"] : position], row, info)
            good += 1
        except ValueError as error:
            problems.append(f"{name}: {row['key']} at byte {row['offset']}: {error}")
    rest = content[position:]
    if len(rest) < len(END_OF_ARCHIVE) or any(rest):
        problems.append(
            f"{name}: {len(rest)} bytes after the last sample of the index, expected nothing but the "
            f"{len(END_OF_ARCHIVE)} or more zeros of the end of the archive"
        )
    return good, problems


def _extra(present: set[str], info: DatasetInfo) -> list[str]:
    known = {DATASET_NAME, INDEX_NAME, RECORDINGS_NAME} | set(info.sha256)
    return sorted(name for name in present - known if not name.startswith("."))


def _table(
    store: Store,
    info: DatasetInfo,
    name: str,
    schema: pa.Schema,
    read: Callable[..., pa.Table],
    problems: list[str],
) -> pa.Table | None:
    """Read a table although its checksum may be wrong, and note that, and what is wrong with its schema."""
    try:
        content = store.read(name)
        table = read(store.location)
        found = pq.read_schema(pa.BufferReader(content))
    except (UserError, OSError, pa.ArrowException) as error:
        problems.append(f"{name}: cannot be read: {str(error).splitlines()[0]}")
        return None
    if hashlib.sha256(content).hexdigest() != info.sha256.get(name):
        problems.append(f"{name}: sha256 is not that of {DATASET_NAME}: the file was changed or damaged")
    if not found.equals(schema):
        odd = sorted({str(column) for column in found} ^ {str(column) for column in schema})
        problems.append(f"{name}: other columns than in the format, or in another order: {', '.join(odd[:6])}")
    return table


def _by_shard(index: pa.Table) -> dict[str, pa.Table]:
    """Return the rows of each shard; as tables, which are smaller and faster to send than rows."""
    shards = index["shard"].to_numpy(zero_copy_only=False).astype(str)
    order = np.argsort(shards, kind="stable")
    names, starts = np.unique(shards[order], return_index=True)
    ends = np.append(starts, len(order))[1:]
    return {str(name): index.take(order[start:end]) for name, start, end in zip(names, starts, ends, strict=True)}
