"""Recordings to a dataset of shards: list, read in worker processes, assemble, read back, publish."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import logging
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from imuvid.data.format import (
    DATASET_NAME,
    INDEX_NAME,
    INDEX_SCHEMA,
    SPLITS,
    DatasetInfo,
    read_dataset_info,
    read_index,
)
from imuvid.errors import UserError
from shards.config import BuildConfig, check
from shards.fragment import Fragment, Skipped, digest_of, make_fragment, read_fragment
from shards.sources import make_source
from shards.sources.base import RecordingRef
from shards.splits import Identities, public_config, salt_of
from shards.summary import BuildSummary, Progress
from shards.workers import Lost, num_workers, run_jobs
from shards.write import Piece, WrittenShard, replacing, sync_folder, write_shard

logger = logging.getLogger(__name__)

WORK_FOLDER = ".build"
"""What an unfinished build keeps within the dataset's folder; removed when the dataset is complete."""


def build(config: BuildConfig) -> BuildSummary:
    """Build the dataset of a config, or go on with one that was interrupted.

    Whatever is wrong with a recording is logged in one line, and the others are built. The bytes of the dataset
    follow from the recordings and the config; the number of workers and interruptions do not change them.

    Raises:
        UserError: the config, the source or the folder cannot be used; too many recordings cannot be used.
    """
    check(config)
    started = time.monotonic()
    out = Path(config.out).expanduser()
    identities = Identities(salt_of(config.subjects), config.split)
    described = public_config(config, identities)
    if _is_complete(out, described["digest"]):
        return dataclasses.replace(_summary(config, out), existed=True)
    source = make_source(config.source)
    refs, skipped = _unique(source.list())
    identifiers = _identifiers(refs, identities)
    with _work_folder(out) as work:
        fragments, failed = _fragments(config, source, identities, refs, work)
        used = [ref.name for ref in refs if ref.name in fragments]
        if not used:
            raise UserError(f"{out}: none of {len(refs)} recordings can be used; the first: {_first(failed)}")
        _warn_of_unknown_subjects(config, identities, fragments)
        _assemble(config, described, [fragments[name] for name in used], work)
        shutil.rmtree(work)
    kinds = sorted(kind for fragment in fragments.values() for kind in fragment.marked)
    return dataclasses.replace(
        _summary(config, out),
        skipped=sorted(skipped + failed),
        num_padded=sum(
            sample["covered_s"] < config.window.length_s - 0.5 / config.window.rate_hz
            for fragment in fragments.values()
            for sample in fragment.samples
        ),
        marked={kind: kinds.count(kind) for kind in kinds},
        identifiers={name: identifiers[name] for name in used},
        seconds=time.monotonic() - started,
    )


def _is_complete(out: Path, digest: str) -> bool:
    if not (out / DATASET_NAME).exists():
        return False
    if read_dataset_info(out).config.get("digest") != digest:
        raise UserError(f"{out}: holds a dataset of another config: choose another 'out', or delete that folder")
    shutil.rmtree(out / WORK_FOLDER, ignore_errors=True)
    return True


def _unique(refs: list[RecordingRef]) -> tuple[list[RecordingRef], list[tuple[str, str, str]]]:
    unique: dict[str, RecordingRef] = {}
    skipped: list[tuple[str, str, str]] = []
    for ref in sorted(refs, key=lambda ref: ref.name):
        if unique.setdefault(ref.name, ref) is not ref:
            _skip(skipped, ref.name, "duplicate", "is listed twice: the first is used")
    return list(unique.values()), skipped


def _identifiers(refs: list[RecordingRef], identities: Identities) -> dict[str, str]:
    identifiers = {ref.name: identities.recording(ref.name) for ref in refs}
    if len(set(identifiers.values())) < len(refs):
        raise UserError("two recordings have the same salted hash: set another subjects.salt")
    return identifiers


@contextmanager
def _work_folder(out: Path) -> Iterator[Path]:
    """Give the folder of the unfinished build to this process alone."""
    work = out / WORK_FOLDER
    try:
        if out.exists() and not work.exists() and any(out.iterdir()):
            raise UserError(f"{out}: holds files but no unfinished build: choose another 'out', or empty that folder")
        work.mkdir(parents=True, exist_ok=True)
        lock = (work / "lock").open("w")
    except OSError as error:
        raise UserError(f"{out}: cannot be written to: {error.strerror}: choose another 'out'") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"{out}: another build is writing there: wait for it, or choose another 'out'") from error
        yield work


def _fragments(
    config: BuildConfig, source: Any, identities: Identities, refs: list[RecordingRef], work: Path
) -> tuple[dict[str, Fragment], list[tuple[str, str, str]]]:
    """Make the fragments that are not there yet; return all by plain name, and what was skipped."""
    paths = {ref.name: work / f"{identities.recording(ref.name)}.tar" for ref in refs}
    digests = {ref.name: digest_of(config, identities.salt, ref) for ref in refs}
    fragments: dict[str, Fragment] = {}
    for ref in refs:
        found = read_fragment(paths[ref.name], digests[ref.name])
        if found is not None:
            fragments[ref.name] = found
    if fragments:
        logger.info("%d of %d recordings are there from an interrupted build", len(fragments), len(refs))
    missing = [ref for ref in refs if ref.name not in fragments]
    workers = min(num_workers(config.workers), max(len(missing), 1))
    num_threads = max(1, num_workers(0) // workers)
    jobs = [(config, source, identities, ref, paths[ref.name], digests[ref.name], num_threads) for ref in missing]
    skipped: list[tuple[str, str, str]] = []
    progress = Progress("recordings", len(missing))
    for job, result in run_jobs(make_fragment, jobs, workers, config.recording_timeout_s):
        name = missing[job].name
        if isinstance(result, Skipped | Lost):
            _skip(skipped, name, result.reason, result.message)
            if len(skipped) > config.max_failed_share * len(refs):
                raise UserError(
                    f"{len(skipped)} of {len(refs)} recordings cannot be used, more than max_failed_share="
                    f"{config.max_failed_share:g}; the first: {_first(skipped)}"
                )
        else:
            fragments[name] = result
            for line in result.marked.values():
                logger.warning("%s: %s", name, line)
        progress.advance()
    return fragments, skipped


def _assemble(config: BuildConfig, described: dict[str, Any], fragments: list[Fragment], work: Path) -> None:
    """Write the shards, the index and, last, ``dataset.json``."""
    out = work.parent
    for stale in [path for path in out.iterdir() if re.fullmatch(r"\d{5}\.tar(\.tmp)?", path.name)]:
        stale.unlink()
    positions = config.positions or sorted({position for fragment in fragments for position in fragment.positions})
    samples = [(fragment, sample) for fragment in fragments for sample in fragment.samples]
    groups = [samples[i : i + config.samples_per_shard] for i in range(0, len(samples), config.samples_per_shard)]
    jobs = [
        (
            out / f"{number:05d}.tar",
            [Piece(work / f"{fragment.recording}.tar", sample["offset"], sample["size"]) for fragment, sample in group],
            positions,
            config.frames.num,
            config.frames.size,
        )
        for number, group in enumerate(groups)
    ]
    shards: dict[int, WrittenShard] = {}
    progress = Progress("shards", len(jobs))
    for job, result in run_jobs(write_shard, jobs, min(num_workers(config.workers), len(jobs))):
        if isinstance(result, Lost):
            raise RuntimeError(f"{jobs[job][0]}: {result.message}")
        shards[job] = result
        progress.advance()
    rows: list[dict[str, Any]] = [
        {"shard": shards[i].name, "offset": offset, "size": size}
        | {name: getattr(fragment, name) for name in ("recording", "subject", "split")}
        | {name: sample[name] for name in ("key", "label", "start_s", "imu_share", "frame_share")}
        for i, group in enumerate(groups)
        for (fragment, sample), (offset, size) in zip(group, shards[i].spans, strict=True)
    ]
    with replacing(out / INDEX_NAME) as file:
        pq.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), file)
    sha256 = {shard.name: shard.sha256 for _, shard in sorted(shards.items())}
    sha256[INDEX_NAME] = hashlib.sha256((out / INDEX_NAME).read_bytes()).hexdigest()
    info = DatasetInfo(
        name=config.name,
        counts={
            "samples": len(rows),
            "recordings": len({row["recording"] for row in rows}),
            "subjects": len({fragment.subject for fragment in fragments if fragment.subject}),
            "shards": len(shards),
        },
        hours=sum(sample["covered_s"] for _, sample in samples) / 3600,
        window_s=config.window.length_s,
        imu_rate_hz=config.window.rate_hz,
        positions=positions,
        num_frames=config.frames.num,
        frame_size=[config.frames.size, config.frames.size] if config.frames.num else [],
        labels=sorted({row["label"] for row in rows if row["label"] is not None}),
        sha256=sha256,
        config=described,
    )
    sync_folder(out)
    with replacing(out / DATASET_NAME) as file:
        file.write(json.dumps(dataclasses.asdict(info), indent=1, sort_keys=True).encode())
    sync_folder(out)


def _summary(config: BuildConfig, out: Path) -> BuildSummary:
    info = read_dataset_info(out)
    splits = read_index(out).column("split").to_pylist()
    return BuildSummary(
        name=config.name,
        out=str(out),
        counts=info.counts,
        hours=info.hours,
        splits={split: splits.count(split) for split in SPLITS},
    )


def _warn_of_unknown_subjects(config: BuildConfig, identities: Identities, fragments: dict[str, Fragment]) -> None:
    found = {fragment.subject for fragment in fragments.values()}
    for key in ("val_subjects", "test_subjects"):
        for name in getattr(config.split, key):
            if identities.subject(name) not in found:
                logger.warning("split.%s names '%s', but no recording that can be used is of that subject", key, name)


def _skip(skipped: list[tuple[str, str, str]], name: str, reason: str, message: str) -> None:
    skipped.append((name, reason, message))
    logger.warning("skipped %s (%s): %s", name, reason, message)


def _first(skipped: list[tuple[str, str, str]]) -> str:
    name, reason, message = min(skipped)
    return f"{name} ({reason}): {message}"
