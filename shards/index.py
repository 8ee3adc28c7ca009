"""Tars that were made elsewhere: a scan of them writes the index, the recordings and ``dataset.json``."""

from __future__ import annotations

import dataclasses
import hashlib
import mmap
import shutil
import tempfile
import zlib
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import simplejpeg

from imuvid.data.dataset_json import DATASET_NAME, DatasetInfo
from imuvid.data.dataset_tables import INDEX_SCHEMA, QUALITY
from imuvid.data.format import KEY_PATTERN, Sample, decode_members
from imuvid.data.storage import Store
from imuvid.data.tar import BLOCK, parse_tar, tar_entries
from imuvid.errors import UserError
from shards.assemble import USED, Dataset, publish, regated
from shards.gates import GatesConfig
from shards.operations import OperationReport, report_of
from shards.places import names_of_places
from shards.splits import split_by_hash
from shards.summary import Progress
from shards.work import work_folder, work_path
from shards.workers import Lost, num_workers, run_jobs


@dataclass
class Moments:
    """Of the IMU of a recording, channel by channel, where it is valid."""

    num: np.ndarray
    """int64 [P * 6]"""
    total: np.ndarray
    """float64 [P * 6]: sum."""
    squares: np.ndarray
    """float64 [P * 6]: sum of squares."""

    @classmethod
    def of(cls, sample: Sample) -> Moments:
        """Those of one window."""
        valid = np.repeat(sample.valid, 3, axis=2)
        imu = np.where(valid, sample.imu.astype(np.float64), 0.0)
        return cls(valid.sum(axis=0).ravel(), imu.sum(axis=0).ravel(), (imu**2).sum(axis=0).ravel())

    def add(self, other: Moments) -> None:
        """Count in those of others."""
        self.num, self.total = self.num + other.num, self.total + other.total
        self.squares = self.squares + other.squares

    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and deviation; 0 and 1 where there is no sensor, deviation 1 where a channel is constant."""
        num = np.maximum(self.num, 1)
        mean = self.total / num
        deviation = np.sqrt(np.maximum(self.squares / num - mean**2, 0.0))
        # Below this a difference of two large sums is rounding.
        deviation[deviation <= 1e-6 * np.maximum(np.abs(mean), 1e-6)] = 1.0
        return mean.tolist(), deviation.tolist()


@dataclass
class Layout:
    """What all samples of a dataset have in common."""

    window_s: float
    imu_rate_hz: float
    positions: list[str]
    num_frames: int
    frame_size: list[int]
    embedding_dim: int | None


@dataclass
class Scan:
    """What was found in a shard."""

    sha256: str = ""
    layout: Layout | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Of INDEX_SCHEMA but for split, verdict and weight."""
    sources: dict[str, str] = field(default_factory=dict)
    """Kind of source of each recording."""
    moments: dict[str, Moments] = field(default_factory=dict)
    """Of each recording."""


def index_tars(location: str | Path, val: float = 0.1, test: float = 0.1, workers: int = 0) -> OperationReport:
    """Make a dataset of WebDataset tars that hold our members (see :mod:`imuvid.data.format`) but have no index.

    The tars are read and stay as they are. The members of a sample must be adjacent, in any order. Quality gates with
    their default bounds are applied where every sample has its measurements, as in shards of a build.

    Args:
        location: folder or URL that has the tars.
        val: share of the subjects (recordings, where no subject is known) in the split val, by hash, 0 to 1.
        test: share of them in the split test.
        workers: processes; 0 = one a core.

    Raises:
        UserError: there is a dataset already or no tar, a tar is damaged or not as described, or the samples do not fit
            together. Names tar and sample.
    """
    if min(val, test) < 0 or val + test > 1:
        raise UserError(f"index: val={val:g} and test={test:g} must be 0 or more and at most 1 in sum")
    store = Store(location)
    names = store.names()
    if DATASET_NAME in names:
        raise UserError(f"{store}: has a {DATASET_NAME} already: nothing to do ('imuvid shards split' changes splits)")
    tars = [name for name in names if name.endswith(".tar")]
    if not tars:
        raise UserError(f"{store}: there is no .tar file")
    scans: dict[int, Scan] = {}
    progress = Progress("shards", len(tars))
    jobs = [(store.location, name) for name in tars]
    for job, result in run_jobs(scan_tar, jobs, max(1, min(num_workers(workers), len(jobs)))):
        if isinstance(result, Lost):
            raise RuntimeError(f"{store.where(tars[job])}: {result.message}")
        if isinstance(result, str):
            raise UserError(f"{store.where(tars[job])}: {result}")
        scans[job] = result
        progress.advance()
    dataset = _dataset(store, {name: scans[job] for job, name in enumerate(tars)}, val, test)
    work = work_path(store)
    with work_folder(work, store):
        publish(dataset, work)
        shutil.rmtree(work)
    return report_of(dataset, [f"read {len(tars)} tars"])


def scan_tar(location: str, name: str) -> Scan | str:
    """Return what a tar holds, or in one line what is wrong with it.

    Args:
        location: folder or URL.
        name: of the tar there.
    """
    store = Store(location)
    with tempfile.TemporaryDirectory(prefix="imuvid-index-") as folder:
        try:
            path = store.local / name if store.local else Path(folder) / "shard.tar"
            if store.local is None:
                store.fetch(name, path)
            if path.stat().st_size == 0:
                return "is empty"
            with path.open("rb") as file:
                return _scan(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), name)
        except (OSError, ValueError) as error:
            return " ".join(str(error).split())


def _scan(content: mmap.mmap, name: str) -> Scan:
    scan = Scan(hashlib.sha256(content).hexdigest())
    seen: set[str] = set()
    for key, start, end in _spans(content):
        if key in seen:
            raise ValueError(f"the members of sample {key:.80} are not adjacent: write them one after the other")
        seen.add(key)
        if not KEY_PATTERN.fullmatch(key):
            raise ValueError(f"sample key '{key:.80}' may hold only letters, digits, '_' and '-', and no folder")
        raw = content[start:end]
        sample = decode_members(parse_tar(raw))
        for place in names_of_places(dataclasses.asdict(sample.meta)):
            raise ValueError(f"{key}: {place}")
        _agree(scan, _layout(sample), key)
        meta = sample.meta
        scan.sources[meta.recording] = meta.source
        if meta.recording in scan.moments:
            scan.moments[meta.recording].add(Moments.of(sample))
        else:
            scan.moments[meta.recording] = Moments.of(sample)
        scan.rows.append(
            {"key": key, "shard": name, "offset": start, "size": end - start, "crc32": zlib.crc32(raw)}
            | {"recording": meta.recording, "subject": meta.subject, "label": meta.label, "start_s": meta.start_s}
            | {measure: meta.quality.get(measure) for measure in QUALITY}
        )
    if not scan.rows:
        raise ValueError("holds no sample")
    return scan


def _spans(content: mmap.mmap) -> list[tuple[str, int, int]]:
    """(key, first byte, byte after the last) of each run of adjacent members of one key."""
    begins: list[tuple[str, int]] = []
    end = 0
    for member, begin, start, size in tar_entries(memoryview(content)):
        folder, _, base = member.rpartition("/")
        key = f"{folder}/{base.partition('.')[0]}" if folder else base.partition(".")[0]
        if not begins or begins[-1][0] != key:
            begins.append((key, begin))
        end = start + -(-size // BLOCK) * BLOCK
    return [(key, begin, after) for (key, begin), (_, after) in pairwise([*begins, ("", end)])]


def _layout(sample: Sample) -> Layout:
    shapes = {simplejpeg.decode_jpeg_header(frame)[:2] for frame in sample.frames}
    if len(shapes) > 1:
        raise ValueError(f"{sample.key}: its frames differ in size")
    meta = sample.meta
    size = list(shapes.pop()) if shapes else []
    dim = None if sample.embedding is None else len(sample.embedding)
    return Layout(meta.duration_s, meta.imu_rate_hz, meta.positions, len(meta.frame_times_s), size, dim)


def _agree(scan: Scan, layout: Layout, key: str) -> None:
    scan.layout = scan.layout or layout
    if scan.layout != layout:
        raise ValueError(_difference(scan.rows[0]["key"], scan.layout, key, layout))


def _difference(a: str, first: Layout, b: str, other: Layout) -> str:
    name = next(f.name for f in dataclasses.fields(Layout) if getattr(first, f.name) != getattr(other, f.name))
    return f"sample {b} has {name} {getattr(other, name)}, sample {a} {getattr(first, name)}: a dataset has one"


def _dataset(store: Store, scans: dict[str, Scan], val: float, test: float) -> Dataset:
    first = next(iter(scans.values()))
    assert first.layout is not None
    layout, rows = first.layout, [row for scan in scans.values() for row in scan.rows]
    keys: dict[str, str] = {}
    recordings: dict[str, dict[str, Any]] = {}
    moments: dict[str, Moments] = {}
    for name, scan in scans.items():
        assert scan.layout is not None
        if scan.layout != layout:
            key = scan.rows[0]["key"]
            raise UserError(f"{store.where(name)}: {_difference(first.rows[0]['key'], layout, key, scan.layout)}")
        for row in scan.rows:
            if keys.setdefault(row["key"], name) != name:
                raise UserError(f"{store.where(name)}: sample {row['key']} is in {keys[row['key']]} as well")
            listed = recordings.setdefault(
                row["recording"],
                {"recording": row["recording"], "subject": row["subject"], "status": USED, "num_windows": 0}
                | {"split": split_by_hash(row["subject"] or row["recording"], val, test), "marked": [], "digest": ""}
                | {"source": scan.sources[row["recording"]], "positions": layout.positions},
            )
            if listed["subject"] != row["subject"]:
                raise UserError(f"{store.where(name)}: recording {row['recording']} has two subjects")
            row["split"], row["verdict"], row["weight"] = listed["split"], "", 1.0
            listed["num_windows"] += 1
        for recording, found in scan.moments.items():
            if recording in moments:
                moments[recording].add(found)
            else:
                moments[recording] = found
    for recording, listed in recordings.items():
        listed["imu_mean"], listed["imu_deviation"] = moments[recording].statistics()
    index = pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)
    config: dict[str, Any] = {"operations": [{"index": {"val": val, "test": test}}]}
    if not index["imu_share"].null_count:
        config["gates"] = dataclasses.asdict(GatesConfig())
        index = regated(index, GatesConfig())
    covered = sum(1.0 if row["covered_share"] is None else row["covered_share"] for row in rows)
    embedding = {"dim": layout.embedding_dim, "num_frames": layout.num_frames, "frame_size": layout.frame_size}
    info = DatasetInfo(
        name=store.location.rstrip("/").rpartition("/")[2],
        counts={
            "samples": len(rows),
            "recordings": len(recordings),
            "subjects": len({listed["subject"] for listed in recordings.values()} - {None}),
            "shards": len(scans),
        },
        hours=covered * layout.window_s / 3600,
        window_s=layout.window_s,
        imu_rate_hz=layout.imu_rate_hz,
        positions=layout.positions,
        num_frames=layout.num_frames,
        frame_size=layout.frame_size,
        labels=sorted({row["label"] for row in rows} - {None}),
        sha256={name: scan.sha256 for name, scan in scans.items()},
        config=config,
        video_embedding=None if layout.embedding_dim is None else embedding,
    )
    return Dataset(store, info, index, list(recordings.values()))
