"""What the writers of manifests share: checks of folders, runs of labels, and the files that they write."""

from __future__ import annotations

import csv
import itertools
import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from imuvid.errors import UserError

logger = logging.getLogger(__name__)


def need_folders(layout: str, root: Path, folders: Sequence[str], hint: str) -> None:
    """Check that the parts of a layout are there.

    Args:
        layout: name of the data set, for the message.
        root: folder of the data set.
        folders: paths below it that must be folders.
        hint: what a right one looks like.

    Raises:
        UserError: the root or one of the folders is missing; one line.
    """
    if not root.is_dir():
        raise UserError(f"{root}: there is no such folder: give the folder of {layout}")
    missing = [name for name in folders if not (root / name).is_dir()]
    if missing:
        raise UserError(f"{root}: no folder '{missing[0]}' there, so not the folder of {layout}, which holds {hint}")


def write_rows(out_csv: Path, rows: list[dict[str, str]]) -> None:
    """Write a manifest; a cell that a row lacks is empty.

    Raises:
        UserError: the file cannot be written.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    _write_csv(out_csv, [names, *([row.get(name, "") for name in names] for row in rows)])


def write_segments(path: Path, runs: Sequence[tuple[int, int, str]], rate_hz: float) -> None:
    """Write labelled stretches, given in samples from start to before stop, in seconds.

    Raises:
        UserError: the file cannot be written.
    """
    cells = [[f"{start / rate_hz:.6f}", f"{stop / rate_hz:.6f}", label] for start, stop, label in runs]
    _write_csv(path, [["start_s", "end_s", "label"], *cells])


def write_columns(path: Path, columns: dict[str, np.ndarray]) -> None:
    """Write columns as Parquet.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        pyarrow.parquet.write_table(pa.table(columns), path)
    except OSError as error:
        raise _not_written(path, error) from error


def derived_folder(out_csv: Path) -> Path:
    """Make and return the folder beside a manifest that takes the files derived for it.

    Raises:
        UserError: it cannot be made.
    """
    folder = out_csv.resolve().with_name(f"{out_csv.stem}_files")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise _not_written(folder, error) from error
    return folder


def runs_of(labels: np.ndarray) -> list[tuple[int, int, str]]:
    """Return the stretches of equal labels as (start, stop, label): samples start to before stop.

    Args:
        labels: [N] of any type that compares, N at least 1.
    """
    edges = [0, *(np.flatnonzero(labels[1:] != labels[:-1]) + 1).tolist(), len(labels)]
    return [(start, stop, str(labels[start])) for start, stop in itertools.pairwise(edges)]


class LeftOut:
    """Collects what a manifest leaves out and why, and says so in a line for each reason."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = defaultdict(list)

    def __len__(self) -> int:
        return sum(map(len, self._names.values()))

    def add(self, name: str, reason: str) -> None:
        """Note that a recording is left out; equal reasons are counted together."""
        self._names[reason].append(name)

    def lines(self) -> list[str]:
        """Return one line a reason, such as ``left out 12, such as sbj_3: no video``."""
        return [f"left out {len(names)}, such as {min(names)}: {reason}" for reason, names in self._names.items()]

    def log(self) -> None:
        """Log the lines as warnings."""
        for line in self.lines():
            logger.warning("%s", line)


def _write_csv(path: Path, cells: list[list[str]]) -> None:
    # Under another name first: a manifest that is cut off would pass for a smaller data set.
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(cells)
        os.replace(part, path)
    except OSError as error:
        raise _not_written(path, error) from error


def _not_written(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be written: {error.strerror}")
