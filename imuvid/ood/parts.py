"""The evaluation in parts: one fold of one task each, in any order and process, kept until the report is written.

A part is a pure function of the encoder, the config and the data, and is computed by one thread wherever it runs, so
the number of processes and kills do not change a result by a bit. Its file has the hash of all that in its name and
appears only when it is whole: a job that was killed goes on with the parts that are missing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from threadpoolctl import threadpool_limits

import imuvid.imu
import imuvid.models
from imuvid.errors import UserError
from imuvid.ood.cache import code_sha256, content_key
from imuvid.ood.predictions import merge, read_predictions, write_predictions
from imuvid.ood.protocols.folds import Fold
from imuvid.ood.protocols.task import Task

logger = logging.getLogger(__name__)

Execute = Callable[[Callable[..., Any], Sequence[tuple], int, float], Iterator[tuple[int, Any]]]
"""Runs jobs in other processes: (function, arguments of each call, processes at a time, limit of a call in seconds, 0
for none) to pairs (which call, what it returned), as they end."""
RunFold = Callable[[Task, Fold], pa.Table]
PARTS = "parts"
"""Folder beside the report while it is being made."""


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread: what several sum up in another order differs in the last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


_CODE = (
    Path(__file__).parent,
    Path(imuvid.models.__path__[0]),
    Path(imuvid.imu.__path__[0]),
)


@dataclass
class Parts:
    """Tables of predictions in a folder."""

    folder: Path
    identity: list[Any]
    """What the parts follow from besides their task and fold, as of :func:`content_key`."""
    _code: str = field(default_factory=lambda: code_sha256(*_CODE))
    _data: dict[str, str] = field(default_factory=dict)

    def path(self, task: Task, fold: Fold) -> Path:
        """Return where the table of a fold of a task lies, or will."""
        windows = task.windows
        if task.key not in self._data:
            content = (windows.imu, windows.valid, windows.label, windows.start_s, windows.classes, windows.positive)
            self._data[task.key] = content_key(*content, windows.subject, windows.recording, task.evaluators)
        key = content_key(
            "part 1", self._code, self.identity, self._data[task.key], task.key, fold.name, fold.train, fold.test
        )
        return self.folder / f"{key}.parquet"

    def missing(self, tasks: Sequence[Task]) -> list[tuple[Task, Fold]]:
        """Return the parts that have no table yet, in order."""
        return [(task, fold) for task in tasks for fold in task.folds if not self.path(task, fold).exists()]

    def make(self, task: Task, fold: Fold, run_fold: RunFold) -> None:
        """Compute the table of a fold and keep it."""
        with one_thread():
            table = run_fold(task, fold)
        path = self.path(task, fold)
        partial = path.with_suffix(f".{os.getpid()}-{secrets.token_hex(4)}.partial")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_predictions(table, partial)
            os.replace(partial, path)
        except OSError as error:
            raise UserError(
                f"{path.parent}: cannot be written ({error}): choose another folder with out=FOLDER"
            ) from error

    def table(self, tasks: Sequence[Task], run_fold: RunFold) -> pa.Table:
        """Return the predictions of all parts; one whose file is damaged is made again."""
        tables = []
        for task in tasks:
            for fold in task.folds:
                path = self.path(task, fold)
                try:
                    tables.append(read_predictions(path))
                except UserError:
                    logger.warning("%s: damaged, made again", path)
                    self.make(task, fold, run_fold)
                    tables.append(read_predictions(path))
        return merge(tables)

    def clear(self) -> None:
        """Delete the folder: the report is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)


def run_here(parts: Parts, tasks: Sequence[Task], run_fold: RunFold) -> pa.Table:
    """Compute the missing parts one after another in this process, and return all predictions."""
    total, missing = sum(len(task.folds) for task in tasks), parts.missing(tasks)
    for left, (task, fold) in reversed(list(enumerate(reversed(missing)))):
        parts.make(task, fold, run_fold)
        _say(total - left, total)
    return parts.table(tasks, run_fold)


def run_elsewhere(
    parts: Parts,
    tasks: Sequence[Task],
    run_fold: RunFold,
    execute: Execute,
    workers: int,
    function: Callable[..., None],
    arguments: tuple,
) -> pa.Table:
    """Compute the missing parts by ``function(*arguments, key of the task, name of the fold)`` in other processes.

    A part whose process died is computed here, so that what killed it is seen.
    """
    missing = parts.missing(tasks)
    total = sum(len(task.folds) for task in tasks)
    if missing:
        jobs = [(*arguments, task.key, fold.name) for task, fold in missing]
        for done, (which, lost) in enumerate(execute(function, jobs, workers, 0.0), start=1):
            if lost is not None:
                logger.warning("%s, fold %s: %s: computed again", missing[which][0].key, missing[which][1].name, lost)
            _say(total - len(missing) + done, total)
    return run_here(parts, tasks, run_fold)


def _say(done: int, total: int) -> None:
    logger.info("%d of %d parts", done, total)
