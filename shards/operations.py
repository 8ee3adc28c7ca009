"""What merge, split and filter have in common: they read finished datasets and publish one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from imuvid.data.dataset_json import DATASET_NAME, read_dataset_info
from imuvid.data.dataset_tables import RECORDINGS_NAME
from imuvid.data.storage import Store
from imuvid.errors import UserError
from shards.assemble import USED, Dataset, finish_publishing
from shards.summary import Progress
from shards.work import LOCK, work_folder, work_path
from shards.workers import num_workers


@dataclass
class OperationReport:
    """What a dataset is after merge, split or filter."""

    out: str
    name: str
    counts: dict[str, int]
    """samples, recordings, subjects, shards."""
    hours: float
    """Sum of the windows' durations without padding, hours."""
    splits: dict[str, int]
    """Windows by split."""
    verdicts: dict[str, int]
    """Windows by verdict of the quality gates; '' = good."""
    notes: list[str] = field(default_factory=list)
    """One line each: what the command changed."""

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        counts = self.counts
        failed = {verdict: number for verdict, number in self.verdicts.items() if verdict}
        return [
            *self.notes,
            f"{self.out}: {counts['samples']} windows ({self.hours:.2f} h) of {counts['recordings']} recordings, "
            f"{counts['subjects']} subjects, in {counts['shards']} shards",
            "windows by split: " + _listing(self.splits),
            "windows that fail a quality gate: " + (_listing(failed) or "none"),
        ]

    def __str__(self) -> str:
        return "\n".join(self.lines())


def report_of(dataset: Dataset, notes: list[str]) -> OperationReport:
    """Return the report of a dataset that is published."""
    assert dataset.info is not None
    return OperationReport(
        out=str(dataset.store),
        name=dataset.info.name,
        counts=dataset.info.counts,
        hours=dataset.info.hours,
        splits=dataset.count("split"),
        verdicts=dataset.count("verdict"),
        notes=notes,
    )


def existing(location: str | Path) -> Dataset:
    """Return a finished dataset.

    Raises:
        UserError: there is none, or it is damaged.
    """
    dataset = Dataset.at(Store(location))
    if dataset.info is None:
        read_dataset_info(location)
    used = {row["recording"] for row in dataset.listing if row["status"] == USED}
    unknown = sorted(set(dataset.index["recording"].unique().to_pylist()) - used)
    if unknown:
        raise UserError(
            f"{dataset.store}: its index has windows of {unknown[0]:.80}, which {RECORDINGS_NAME} does not list as "
            f"used: run 'imuvid shards verify {dataset.store}'"
        )
    return dataset


@contextmanager
def changing(location: str | Path) -> Iterator[tuple[Dataset, Path]]:
    """Give a finished dataset to this process alone, with the folder that its next state is prepared in.

    A change that was interrupted is completed first. Readers see the old state or the new one, or, for the moment in
    between, files that do not fit together, which they refuse.

    Raises:
        UserError: there is no dataset, it is damaged, or another process is changing it.
    """
    store = Store(location)
    if not store.exists(DATASET_NAME):
        read_dataset_info(location)
    work = work_path(store)
    with work_folder(work, store):
        finish_publishing(store, work)
        yield existing(location), work
        # What an unfinished build, which extends the dataset, keeps there stays.
        if {path.name for path in work.iterdir()} <= {LOCK}:
            shutil.rmtree(work)


@contextmanager
def making(location: str | Path, task: dict[str, Any]) -> Iterator[tuple[Dataset, Path]]:
    """Give a new, empty dataset to this process alone, with its work folder.

    Where the same task was interrupted, what it left is overwritten.

    Args:
        location: folder or URL: not there, empty, or left by the same task.
        task: what makes the dataset; JSON.

    Raises:
        UserError: there is something else, or another process is writing there.
    """
    store = Store(location)
    work = work_path(store)
    marker = work / "task.json"
    content = json.dumps(task, sort_keys=True)
    resumed = marker.exists() and marker.read_text() == content
    there = store.names()
    if DATASET_NAME in there:
        raise UserError(f"{store}: holds a dataset already: choose another folder, or delete that one")
    if not resumed and (there or work.exists()):
        what = f"'{there[0]}'" if there else f"unfinished work of another command, in {work}"
        raise UserError(f"{store}: holds {what}: choose a new or empty place, or delete that")
    with work_folder(work, store):
        marker.write_text(content)
        for name in there:
            store.delete(name)
        yield Dataset(store), work
        shutil.rmtree(work)


def copy_shards(shards: Sequence[tuple[Store, str, str, str]], target: Store, scratch: Path, workers: int) -> None:
    """Copy shards, several at a time.

    Args:
        shards: of each: the store that has it, its name there, its sha256, its name in ``target``.
        target: of the dataset that gets them.
        scratch: folder for shards that come from an object store, ``workers`` at a time.
        workers: 0 = one a core.

    Raises:
        as :func:`copy_shard`.
    """
    progress = Progress("shards", len(shards))
    with ThreadPoolExecutor(num_workers(workers)) as pool:
        copies = [
            pool.submit(copy_shard, source, name, sha256, target, new_name, scratch)
            for source, name, sha256, new_name in shards
        ]
        try:
            for copy in copies:
                copy.result()
                progress.advance()
        finally:
            pool.shutdown(cancel_futures=True)


def copy_shard(source: Store, name: str, sha256: str, target: Store, new_name: str, scratch: Path) -> None:
    """Give a dataset a shard of another, byte for byte; on the same disk it is the same file.

    Args:
        source: of the dataset that has the shard.
        name: of the shard there.
        sha256: that it must have, where its bytes move at all.
        target: of the dataset that gets it.
        new_name: of the shard there.
        scratch: folder for a shard that comes from an object store.

    Raises:
        UserError: the shard is missing or damaged.
        OSError: it cannot be read or written.
    """
    path = source.local / name if source.local else scratch / f"{new_name}.fetched"
    try:
        if source.local is None:
            source.fetch(name, path)
        if target.local is not None:
            target.put(new_name, path)
            moved = target.local / new_name
            if source.local is None or not moved.samefile(path):
                _check_sha256(moved, sha256, source, name)
        else:
            _check_sha256(path, sha256, source, name)
            target.put(new_name, path)
    except FileNotFoundError as error:
        raise UserError(f"{source.where(name)}: is missing: run 'imuvid shards verify {source}'") from error
    finally:
        if source.local is None:
            path.unlink(missing_ok=True)


def check_shard_sizes(dataset: Dataset) -> None:
    """Raise UserError where a shard is missing, or shorter than the index says."""
    ends = dataset.index.append_column("end", pc.add(dataset.index["offset"], dataset.index["size"]))
    for row in ends.group_by("shard").aggregate([("end", "max")]).to_pylist():
        try:
            size = dataset.store.size(row["shard"])
        except FileNotFoundError:
            size = -1
        if size < row["end_max"]:
            problem = "is missing" if size < 0 else f"has {size} bytes, its index speaks of {row['end_max']}"
            raise UserError(
                f"{dataset.store.where(row['shard'])}: {problem}: run 'imuvid shards verify {dataset.store}'"
            )


def counts_of(dataset: Dataset, num_shards: int) -> dict[str, int]:
    """Return the counts of ``dataset.json`` that follow from index and listing."""
    used = [row for row in dataset.listing if row["status"] == USED]
    return {
        "samples": dataset.index.num_rows,
        "recordings": len(used),
        "subjects": len({row["subject"] for row in used} - {None}),
        "shards": num_shards,
    }


def provenance(config: dict[str, Any], step: dict[str, Any]) -> dict[str, Any]:
    """Return the config of a dataset with one more step in the list of what was done to it after its build.

    The same step again changes nothing, so that a command that was interrupted can be given again.
    It has no digest of a build any more: a build that would extend the dataset does not know what was done to it.
    """
    kept = {key: value for key, value in config.items() if key != "digest"}
    done = config.get("operations", [])
    return kept | {"operations": done if done[-1:] == [step] else [*done, step]}


def with_config(dataset: Dataset, config: dict[str, Any]) -> None:
    """Change the config that ``dataset.json`` will have."""
    assert dataset.info is not None
    dataset.info = dataclasses.replace(dataset.info, config=config)


def _check_sha256(path: Path, sha256: str, source: Store, name: str) -> None:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != sha256:
        raise UserError(f"{source.where(name)}: is damaged (sha256): run 'imuvid shards verify {source}'")


def _listing(numbers: dict[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in numbers.items())
