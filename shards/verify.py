"""Is a dataset of shards whole, and do its tars, its index and ``dataset.json`` say the same?"""

from __future__ import annotations

import hashlib
import mmap
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imuvid.data.format import (
    BLOCK,
    INDEX_NAME,
    SPLITS,
    DatasetInfo,
    decode_members,
    parse_tar,
    read_dataset_info,
    read_index,
)
from imuvid.errors import UserError
from shards.workers import Lost, num_workers, run_jobs
from shards.write import END_OF_ARCHIVE, check_frames

MAX_PROBLEMS_PER_SHARD = 20


@dataclass
class VerifyReport:
    """What was found; ``problems`` is empty where the dataset is whole."""

    folder: str
    samples: int = 0
    """Samples that were read and decoded without a problem."""
    shards: int = 0
    """Shards that were read."""
    problems: list[str] = field(default_factory=list)
    """One line each."""

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


def verify(folder: str | Path, workers: int = 0) -> VerifyReport:
    """Read all of a dataset and compare its parts.

    Checksums; every sample decodes (arrays, JPEGs and their sizes); the index agrees with the tars, ``dataset.json``
    with both; keys are unique; no subject and no recording is in two splits.

    Args:
        folder: of the dataset.
        workers: processes; 0 = one a core.

    Raises:
        UserError: there is no complete dataset of this format version.
    """
    folder = Path(folder)
    info = read_dataset_info(folder)
    report = VerifyReport(str(folder))
    listed = sorted(name for name in info.sha256 if name != INDEX_NAME)
    present = {path.name for path in folder.glob("*.tar")}
    report.problems += [f"{name}: extra shard, dataset.json does not list it" for name in sorted(present - set(listed))]
    report.problems += [f"{name}: missing shard" for name in listed if name not in present]
    rows = _index_rows(folder, info, report)
    by_shard: dict[str, list[dict[str, Any]]] = {name: [] for name in listed}
    for row in rows:
        by_shard.setdefault(row["shard"], []).append(row)
    jobs = [(folder / name, info, by_shard[name]) for name in listed if name in present]
    for job, result in run_jobs(verify_shard, jobs, max(1, min(num_workers(workers), len(jobs)))):
        report.shards += 1
        if isinstance(result, Lost):
            report.problems.append(f"{jobs[job][0].name}: {result.message}")
        else:
            report.samples += result[0]
            report.problems += result[1]
    report.problems.sort()
    return report


def verify_shard(path: Path, info: DatasetInfo, rows: list[dict[str, Any]]) -> tuple[int, list[str]]:
    """Return the number of good samples of a shard and its problems, given its rows of the index."""
    problems: list[str] = []
    good = 0
    if path.stat().st_size == 0:
        return 0, [f"{path.name}: is empty"]
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if hashlib.sha256(content).hexdigest() != info.sha256[path.name]:
            problems.append(f"{path.name}: sha256 is not that of dataset.json: the file was changed or damaged")
        position = 0
        for row in sorted(rows, key=lambda row: row["offset"]):
            if row["offset"] != position:
                problems.append(f"{path.name}: {row['key']} begins at byte {row['offset']}, expected {position}")
            position = row["offset"] + row["size"]
            try:
                _check_sample(content[row["offset"] : position], row, info)
                good += 1
            except ValueError as error:
                problems.append(f"{path.name}: {row['key']} at byte {row['offset']}: {error}")
        if content[position:] != END_OF_ARCHIVE:
            problems.append(
                f"{path.name}: {len(content) - position} bytes after the last sample of the index, expected the "
                f"{2 * BLOCK} of the end of the archive"
            )
    if len(problems) > MAX_PROBLEMS_PER_SHARD:
        rest = len(problems) - MAX_PROBLEMS_PER_SHARD
        problems = [*problems[:MAX_PROBLEMS_PER_SHARD], f"{path.name}: and {rest} problems more"]
    return good, problems


def _check_sample(raw: bytes, row: dict[str, Any], info: DatasetInfo) -> None:
    """Raise ValueError unless the sample decodes and is what the index and ``dataset.json`` say."""
    sample = decode_members(parse_tar(raw))
    check_frames(sample, info.num_frames, info.frame_size[0] if info.frame_size else 0)
    meta = sample.meta
    expected = {
        "key": (sample.key, row["key"]),
        "recording": (meta.recording, row["recording"]),
        "subject": (meta.subject, row["subject"]),
        "label": (meta.label, row["label"]),
        "start_s": (meta.start_s, row["start_s"]),
        "positions": (meta.positions, info.positions),
        "duration_s": (meta.duration_s, info.window_s),
        "imu_rate_hz": (meta.imu_rate_hz, info.imu_rate_hz),
    }
    for name, (found, stated) in expected.items():
        if found != stated:
            raise ValueError(f"{name} is {found!r} in the shard but {stated!r} in the index or dataset.json")
    for name in ("imu_share", "frame_share"):
        if abs(meta.quality.get(name, -1.0) - row[name]) > 1e-5:
            raise ValueError(f"{name} is {meta.quality.get(name)} in the shard but {row[name]} in the index")
    if sample.imu[..., :3][~sample.valid[..., 0]].any() or sample.imu[..., 3:][~sample.valid[..., 1]].any():
        raise ValueError("imu is not 0 where it is marked as missing")


def _index_rows(folder: Path, info: DatasetInfo, report: VerifyReport) -> list[dict[str, Any]]:
    """Return the rows of the index, and note what is wrong with them by themselves and against ``dataset.json``."""
    try:
        rows = read_index(folder).to_pylist()
    except UserError as error:
        report.problems.append(str(error))
        return []
    problems = report.problems
    if hashlib.sha256((folder / INDEX_NAME).read_bytes()).hexdigest() != info.sha256.get(INDEX_NAME):
        problems.append(f"{INDEX_NAME}: sha256 is not that of dataset.json: the file was changed or damaged")
    keys = Counter(row["key"] for row in rows)
    problems += [f"{INDEX_NAME}: key {key} is there {count} times" for key, count in keys.items() if count > 1]
    for name in sorted({row["shard"] for row in rows} - set(info.sha256)):
        problems.append(f"{INDEX_NAME}: names the shard {name}, dataset.json does not")
    for column in ("subject", "recording"):
        splits: dict[str, set[str]] = {}
        for row in rows:
            if row[column] is not None:
                splits.setdefault(row[column], set()).add(row["split"])
        for name, found in sorted(splits.items()):
            if len(found) > 1:
                problems.append(f"{INDEX_NAME}: {column} {name} is in the splits {', '.join(sorted(found))}")
    for split in sorted({str(row["split"]) for row in rows} - set(SPLITS)):
        problems.append(f"{INDEX_NAME}: unknown split '{split}'")
    counts = {
        "samples": len(rows),
        "recordings": len({row["recording"] for row in rows}),
        "subjects": len({row["subject"] for row in rows} - {None}),
        "shards": len(info.sha256) - 1,
    }
    if counts != info.counts:
        problems.append(f"dataset.json: counts {info.counts}, but the index has {counts}")
    labels = sorted({row["label"] for row in rows} - {None})
    if labels != info.labels:
        problems.append("dataset.json: the labels are not those of the index")
    return rows
