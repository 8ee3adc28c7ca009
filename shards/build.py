"""Recordings to a dataset of shards: list, read in worker processes, assemble, read back, publish."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imuvid.data.storage import Store
from imuvid.errors import UserError
from shards.assemble import USED, Dataset, assemble, change_gates, finish_publishing, workers_for
from shards.config import BuildConfig, check
from shards.embedder import with_fixed_tower
from shards.fragment import Fragment, Skipped, digest_of, keep_skipped, make_fragment, read_fragment
from shards.sources import make_source
from shards.sources.base import RecordingRef, Source
from shards.splits import Identities, public_config, salt_of
from shards.summary import BuildSummary, Progress
from shards.work import Busy, work_folder, work_path
from shards.workers import Executor, Lost, num_workers, run_jobs

logger = logging.getLogger(__name__)

PASSING = ("timeout", "crash", "failed", "missing")
"""Reasons that may lie in the machine rather than in the recording: it is tried again although its files are the
same."""


@dataclass(frozen=True)
class Part:
    """One of several builds that share the work, as in a job array."""

    number: int
    """Counted from 0."""
    count: int


@dataclass
class _Job:
    """A recording that the dataset does not hold yet."""

    ref: RecordingRef
    identity: str
    path: Path
    digest: str


def build(config: BuildConfig, execute: Executor = run_jobs, part: Part | None = None) -> BuildSummary:
    """Build the dataset of a config, go on with one that was interrupted, or extend one by new recordings.

    Whatever is wrong with a recording is logged in one line, and the others are built. The bytes of the dataset
    follow from the recordings and the config; executor, number of workers and interruptions do not change them. What
    is in a complete dataset stays as it is: new recordings form new shards.

    Args:
        config: of the build.
        execute: runs the reading of the recordings.
        part: read only this part of the recordings; the part that is done last assembles the dataset.

    Raises:
        UserError: the config, the source or the folder cannot be used; too many recordings cannot be used.
    """
    check(config)
    config = dataclasses.replace(config, frames=with_fixed_tower(config.frames))
    started = time.monotonic()
    store = Store(config.out)
    identities = Identities(salt_of(config.subjects), config.split)
    described = public_config(config, identities)
    work = work_path(store, config.build.work_dir)
    finish_publishing(store, work)
    dataset = _dataset(config, store, described, work)
    if dataset.info is not None:
        # What the dataset's other samples have, where the config says "all that occur".
        config = dataclasses.replace(config, positions=dataset.info.positions)
    source = make_source(config.source)
    refs, skipped = _unique(source.list())
    jobs = _jobs(config, identities, refs, dataset, work)
    if not jobs and dataset.info is not None:
        with work_folder(work, store, shared=False):
            regated = change_gates(dataset, described["gates"], work)
            shutil.rmtree(work)
        return dataclasses.replace(_summary(config, dataset), existed=True, regated=regated)
    with work_folder(work, store, shared=part is not None):
        mine = jobs if part is None else jobs[part.number :: part.count]
        _read(config, source, identities, mine, len(refs), execute)
        if part is None:
            summary = _complete(config, identities, described, dataset, jobs, len(refs), work, execute)
    if part is not None:
        waiting = BuildSummary(name=config.name, out=config.out, waiting=True, seconds=time.monotonic() - started)
        if any(read_fragment(job.path, job.digest) is None for job in jobs):
            return waiting
        try:
            with work_folder(work, store, shared=False):
                dataset = _dataset(config, store, described, work)
                if not _jobs(config, identities, refs, dataset, work):
                    return dataclasses.replace(_summary(config, dataset), existed=True)
                summary = _complete(config, identities, described, dataset, jobs, len(refs), work, execute)
        except Busy as busy:
            logger.info("%s", busy)
            return waiting
    return dataclasses.replace(summary, skipped=sorted(skipped + summary.skipped), seconds=time.monotonic() - started)


def _complete(
    config: BuildConfig,
    identities: Identities,
    described: dict[str, Any],
    dataset: Dataset,
    jobs: list[_Job],
    num_refs: int,
    work: Path,
    execute: Executor,
) -> BuildSummary:
    """Make the results of all jobs a part of the dataset, whose work folder this process holds alone."""
    fragments, failed = _results(jobs)
    _check_splits(dataset, fragments)
    _check_budget(config, failed, num_refs)
    _warn_of_unknown_subjects(config, identities, dataset, fragments)
    assemble(config, described, dataset, list(fragments.values()), _failures(jobs, failed), work, execute)
    shutil.rmtree(work)
    return dataclasses.replace(
        _summary(config, dataset),
        skipped=failed,
        identifiers={job.ref.name: job.identity for job in jobs if job.ref.name in fragments},
        **_told(config, list(fragments.values())),
    )


def _dataset(config: BuildConfig, store: Store, described: dict[str, Any], work: Path) -> Dataset:
    """Return what is there of the dataset.

    Raises:
        UserError: there is something else.
    """
    dataset = Dataset.at(store)
    if dataset.info is None:
        there = store.names()
        if there and not work.exists():
            raise UserError(
                f"{config.out}: holds '{there[0]}' but neither a dataset nor an unfinished build: "
                "choose another 'out', or empty it"
            )
    elif dataset.info.config.get("digest") != described["digest"]:
        raise UserError(f"{config.out}: holds a dataset of another config: choose another 'out', or delete that one")
    return dataset


def _unique(refs: list[RecordingRef]) -> tuple[list[RecordingRef], list[tuple[str, str, str]]]:
    unique: dict[str, RecordingRef] = {}
    skipped: list[tuple[str, str, str]] = []
    for ref in sorted(refs, key=lambda ref: ref.name):
        if unique.setdefault(ref.name, ref) is not ref:
            _skip(skipped, ref.name, "duplicate", "is listed twice: the first is used")
    return list(unique.values()), skipped


def _jobs(
    config: BuildConfig, identities: Identities, refs: list[RecordingRef], dataset: Dataset, work: Path
) -> list[_Job]:
    """Return the recordings that the dataset lacks, but for those that it could not use and that are as they were."""
    jobs = []
    for ref in refs:
        identity = identities.recording(ref.name)
        digest = digest_of(config, identities.salt, ref)
        status, known = dataset.recordings.get(identity, (None, None))
        if status == USED or (status is not None and known == digest and status not in PASSING):
            continue
        jobs.append(_Job(ref, identity, work / f"{identity}.tar", digest))
    if len({job.identity for job in jobs}) < len(jobs):
        raise UserError("two recordings have the same salted hash: set another subjects.salt")
    return jobs


def _read(
    config: BuildConfig, source: Source, identities: Identities, jobs: list[_Job], num_refs: int, execute: Executor
) -> None:
    """Make the fragments that are not there yet."""
    missing = [job for job in jobs if not isinstance(read_fragment(job.path, job.digest), Fragment)]
    if len(missing) < len(jobs):
        logger.info("%d of %d recordings are there from an interrupted build", len(jobs) - len(missing), len(jobs))
    settings = config.build
    workers = workers_for(config, len(missing))
    # Where there are fewer recordings than cores, the decoders share the rest.
    num_threads = max(1, num_workers(0) // workers) if settings.executor == "local" else 1
    arguments = [(config, source, identities, job.ref, job.path, job.digest, num_threads) for job in missing]
    skipped: list[tuple[str, str, str]] = []
    progress = Progress("recordings", len(missing))
    for number, result in execute(make_fragment, arguments, workers, settings.recording_timeout_s):
        job = missing[number]
        if isinstance(result, Skipped | Lost):
            _skip(skipped, job.ref.name, result.reason, result.message)
            keep_skipped(job.path, job.digest, Skipped(result.reason, result.message))
            _check_budget(config, skipped, num_refs)
        else:
            for line in result.marked.values():
                logger.warning("%s: %s", job.ref.name, line)
        progress.advance()


def _results(jobs: list[_Job]) -> tuple[dict[str, Fragment], list[tuple[str, str, str]]]:
    """Return what became of the recordings, by plain name in the order of the jobs, and what was skipped."""
    fragments: dict[str, Fragment] = {}
    failed: list[tuple[str, str, str]] = []
    for job in jobs:
        result = read_fragment(job.path, job.digest)
        if isinstance(result, Fragment):
            fragments[job.ref.name] = result
        elif result is not None:
            failed.append((job.ref.name, result.reason, result.message))
        else:
            raise RuntimeError(f"{job.path}: the fragment of '{job.ref.name}' has vanished: build again")
    return fragments, failed


def _failures(jobs: list[_Job], failed: list[tuple[str, str, str]]) -> list[dict[str, Any]]:
    """Return the rows of RECORDINGS_SCHEMA of the recordings that cannot be used."""
    by_name = {job.ref.name: job for job in jobs}
    return [
        {"recording": by_name[name].identity, "status": reason, "digest": by_name[name].digest, "num_windows": 0}
        for name, reason, _ in failed
    ]


def _check_splits(dataset: Dataset, fragments: dict[str, Fragment]) -> None:
    """Raise UserError where recordings of one subject are in different splits, as a source's own list may have it."""
    splits = {row["subject"]: row["split"] for row in dataset.listing if row["subject"]}
    for name, fragment in fragments.items():
        if fragment.subject and splits.setdefault(fragment.subject, fragment.split) != fragment.split:
            raise UserError(
                f"recording '{name}' is in {fragment.split}, but its subject has others in {splits[fragment.subject]}: "
                "mend the list of the source, or list subjects in the config's split section"
            )


def _check_budget(config: BuildConfig, skipped: list[tuple[str, str, str]], num_refs: int) -> None:
    if len(skipped) > config.build.max_failed_share * num_refs or len(skipped) == num_refs:
        name, reason, message = min(skipped)
        raise UserError(
            f"{len(skipped)} of {num_refs} recordings cannot be used (build.max_failed_share="
            f"{config.build.max_failed_share:g}); the first: {name} ({reason}): {message}"
        )


def _told(config: BuildConfig, fragments: list[Fragment]) -> dict[str, Any]:
    kinds = sorted(kind for fragment in fragments for kind in fragment.marked)
    verdicts = sorted(fragment.sync_verdict for fragment in fragments if fragment.sync_verdict)
    whole_s = config.window.length_s - 0.5 / config.window.rate_hz
    return {
        "num_padded": sum(sample["covered_s"] < whole_s for fragment in fragments for sample in fragment.samples),
        "marked": {kind: kinds.count(kind) for kind in kinds},
        "sync": {verdict: verdicts.count(verdict) for verdict in verdicts},
    }


def _summary(config: BuildConfig, dataset: Dataset) -> BuildSummary:
    assert dataset.info is not None
    return BuildSummary(
        name=config.name,
        out=config.out,
        counts=dataset.info.counts,
        hours=dataset.info.hours,
        splits=dataset.count("split"),
        verdicts=dataset.count("verdict"),
    )


def _warn_of_unknown_subjects(
    config: BuildConfig, identities: Identities, dataset: Dataset, fragments: dict[str, Fragment]
) -> None:
    found = {fragment.subject for fragment in fragments.values()} | dataset.subjects
    for key in ("val_subjects", "test_subjects"):
        for name in getattr(config.split, key):
            if identities.subject(name) not in found:
                logger.warning("split.%s names '%s', but no recording that can be used is of that subject", key, name)


def _skip(skipped: list[tuple[str, str, str]], name: str, reason: str, message: str) -> None:
    skipped.append((name, reason, message))
    logger.warning("skipped %s (%s): %s", name, reason, message)
