"""Columns of numbers out of IMU files: CSV, TSV, Parquet, NPY, NPZ and MAT."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
import scipy.io

from shards.sources.base import RecordingError

SUFFIXES = (".csv", ".tsv", ".parquet", ".npy", ".npz", ".mat")
_NUMBER = re.compile(r"\s*([-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|nan|[-+]?inf|)\s*", re.IGNORECASE)
# The names that loggers give to three-axis columns; whatever else is used is named in the manifest.
_AXES = {
    "acc": r"(a|acc|accel|accelerometer|acceleration)[ _.]?",
    "gyro": r"(g|gyr|gyro|gyroscope|w|angvel)[ _.]?",
}


@dataclass
class Columns:
    """A table of an IMU file; columns are read one by one, so that text elsewhere in the file does no harm."""

    path: Path
    names: list[str]
    """Empty where the file gives no names."""
    count: int
    read: Callable[[int], np.ndarray]
    """Returns column i as float64 [N] (int64 where the file holds integers), NaN where a cell is empty."""

    def column(self, name: str) -> np.ndarray:
        """Return the column of a name or, where none is called so, of an index counted from 0.

        Raises:
            RecordingError: ``no_column``; ``not_a_number`` where a cell holds text.
        """
        if name in self.names:
            return self.read(self.names.index(name))
        if name.isdecimal() and int(name) < self.count:
            return self.read(int(name))
        known = " ".join(self.names) if self.names else f"0 to {self.count - 1}"
        raise RecordingError("no_column", f"{self.path}: there is no column '{name}', only {known}")

    def axes(self, sensor: str) -> list[str]:
        """Return the x, y and z columns of ``acc`` or ``gyro``, by their usual names or place, or an empty list.

        Without names, 3 columns are an accelerometer's and 6 those of an accelerometer and a gyroscope.
        """
        if not self.names:
            first = {"acc": 0, "gyro": 3}[sensor]
            return [str(first + i) for i in range(3)] if self.count in (3, 6) and first < self.count else []
        found = []
        for axis in "xyz":
            matches = [n for n in self.names if re.fullmatch(_AXES[sensor] + axis, n.strip(), re.IGNORECASE)]
            found += matches[:1]
        return found if len(found) == 3 else []


def read_columns(path: Path, key: str = "") -> Columns:
    """Open an IMU file.

    Args:
        path: its suffix says what it is: one of SUFFIXES.
        key: variable of a MAT or NPZ file; empty where it holds only one table.

    Raises:
        RecordingError: ``missing``, ``empty``, ``unreadable``, ``unknown_format`` or ``no_variable``.
    """
    if not path.is_file():
        raise RecordingError("missing", f"{path}: there is no such IMU file")
    if path.stat().st_size == 0:
        raise RecordingError("empty", f"{path}: is empty")
    suffix = path.suffix.lower()
    try:
        if suffix in (".csv", ".tsv"):
            return _from_text(path, "," if suffix == ".csv" else "\t")
        if suffix == ".parquet":
            return _from_arrow(path, pyarrow.parquet.read_table(path), named=True)
        if suffix == ".npy":
            return _from_array(path, np.load(path, allow_pickle=False))
        if suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return _from_array(path, archive[_variable(path, list(archive.files), key)])
        if suffix == ".mat":
            return _from_mat(path, key)
    # NotImplementedError is what the libraries raise of a compression or version that they cannot read.
    except (pa.ArrowException, OSError, ValueError, EOFError, BadZipFile, TypeError, NotImplementedError) as error:
        problem = (str(error).splitlines() or [type(error).__name__])[0]  # some have no text
        raise RecordingError("unreadable", f"{path}: cannot be read: {problem}") from error
    raise RecordingError("unknown_format", f"{path}: is none of {', '.join(SUFFIXES)}")


def _from_text(path: Path, delimiter: str) -> Columns:
    with path.open("rb") as file:
        first = file.readline().decode("utf-8-sig", "replace").rstrip("\r\n").split(delimiter)
    named = not all(_NUMBER.fullmatch(cell) for cell in first)
    table = pyarrow.csv.read_csv(
        path,
        read_options=pyarrow.csv.ReadOptions(autogenerate_column_names=not named, use_threads=False),
        parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter),
        convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True),
    )
    return _from_arrow(path, table, named)


def _from_arrow(path: Path, table: pa.Table, named: bool) -> Columns:
    def read(i: int) -> np.ndarray:
        column = table.column(i).combine_chunks()
        if pa.types.is_timestamp(column.type):
            raise RecordingError("not_a_number", f"{path}: column '{table.column_names[i]}' holds dates, not numbers")
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            for row, cell in enumerate(column.to_pylist()):
                if cell is not None and not _NUMBER.fullmatch(cell):
                    name = table.column_names[i]
                    raise RecordingError(
                        "not_a_number", f"{path}: '{cell[:30]}' in row {row + 1} of column '{name}' is not a number"
                    )
            column = pc.replace_substring_regex(column, r"^\s+|\s+$", "")
        if pa.types.is_integer(column.type) and column.null_count == 0:
            return column.to_numpy(zero_copy_only=False).astype(np.int64)
        try:
            return column.cast(pa.float64()).to_numpy(zero_copy_only=False)
        except pa.ArrowException as error:
            name = table.column_names[i]
            raise RecordingError("not_a_number", f"{path}: column '{name}' holds {column.type}, no numbers") from error

    return Columns(path, table.column_names if named else [], table.num_columns, read)


def _from_array(path: Path, array: np.ndarray) -> Columns:
    if array.dtype.names:
        names = list(array.dtype.names)
        return Columns(path, names, len(names), lambda i: _numbers(path, array[names[i]]))
    if array.ndim != 2:
        raise RecordingError("bad_shape", f"{path}: the array is {list(array.shape)}, expected [samples, columns]")
    return Columns(path, [], array.shape[1], lambda i: _numbers(path, array[:, i]))


def _numbers(path: Path, column: np.ndarray) -> np.ndarray:
    if column.ndim != 1 or column.dtype.kind not in "iuf":
        raise RecordingError("not_a_number", f"{path}: the array holds {column.dtype} {list(column.shape)}, no numbers")
    return column.astype(np.int64 if column.dtype.kind in "iu" else np.float64)


def _from_mat(path: Path, key: str) -> Columns:
    try:
        variables = scipy.io.loadmat(path)
    except NotImplementedError as error:  # scipy's answer to HDF5-based files
        raise RecordingError("unreadable", f"{path}: is a MAT file of version 7.3: save it with '-v7'") from error
    except scipy.io.matlab.MatReadError as error:
        raise RecordingError("unreadable", f"{path}: cannot be read as a MAT file: {error}") from error
    tables = [
        name
        for name, value in variables.items()
        if not name.startswith("__") and isinstance(value, np.ndarray) and value.dtype.kind in "iuf" and value.size > 1
    ]
    return _from_array(path, variables[_variable(path, tables, key)])


def _variable(path: Path, names: list[str], key: str) -> str:
    if key in names:
        return key
    if key:
        raise RecordingError("no_variable", f"{path}: there is no variable '{key}', only {' '.join(sorted(names))}")
    if len(names) != 1:
        found = " ".join(sorted(names)) or "none"
        raise RecordingError("no_variable", f"{path}: name the variable to read as 'key': {found}")
    return names[0]
