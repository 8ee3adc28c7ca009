"""Columns of numbers out of IMU files: CSV, TSV and other text, Parquet, NPY, NPZ and MAT.

Text is separated by tabs, semicolons, commas, bars or spaces, whichever of these, in this order, the first line holds.
Lines that begin with ``#`` or ``%`` are comments.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
import scipy.io

from shards.sources.base import RecordingError
from shards.sources.instants import parse_iso

SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".npy", ".npz", ".mat")
_DELIMITERS = "\t;,| "
_COMMENT = re.compile(rb"^[ \t]*[#%].*(\n|$)", re.MULTILINE)
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
    read_instants: Callable[[int], tuple[np.ndarray, bool]] | None = None
    """Returns column i of dates and times as int64 [N], nanoseconds since 1970, and whether their time zone is given;
    None for formats that hold numbers alone."""

    def column(self, name: str) -> np.ndarray:
        """Return the column of a name or, where none is called so, of an index counted from 0.

        Raises:
            RecordingError: ``no_column``; ``not_a_number`` where a cell holds text.
        """
        return self.read(self._index(name))

    def instants(self, name: str) -> tuple[np.ndarray, bool]:
        """Return a column of dates and times: int64 [N], nanoseconds since 1970, and whether their time zone is given.

        Without a time zone they count from 1970-01-01 00:00 of the same unknown zone.

        Raises:
            RecordingError: ``no_column``; ``bad_time`` where a cell is no date and time.
        """
        if self.read_instants is None:
            raise RecordingError("bad_time", f"{self.path}: holds no text, so no dates and times (time_unit iso)")
        return self.read_instants(self._index(name))

    def _index(self, name: str) -> int:
        if name in self.names:
            return self.names.index(name)
        if name.isdecimal() and int(name) < self.count:
            return int(name)
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


def read_columns(path: Path, key: str = "", skip_rows: int = 0) -> Columns:
    """Open an IMU file.

    Args:
        path: its suffix says what it is: one of SUFFIXES.
        key: variable of a MAT or NPZ file; empty where it holds only one table.
        skip_rows: lines of a text file before its header (or its first sample, where it has none).

    Raises:
        RecordingError: ``missing``, ``empty``, ``unreadable``, ``unknown_format`` or ``no_variable``.
    """
    if not path.is_file():
        raise RecordingError("missing", f"{path}: there is no such IMU file")
    if path.stat().st_size == 0:
        raise RecordingError("empty", f"{path}: is empty")
    suffix = path.suffix.lower()
    try:
        if suffix in (".csv", ".tsv", ".txt"):
            return _from_text(path, skip_rows)
        if suffix == ".parquet":
            return _from_arrow(path, pyarrow.parquet.read_table(path), named=True)
        if suffix == ".npy":
            return _from_array(path, np.load(path, allow_pickle=False))
        if suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return _from_array(path, archive[_variable(path, list(archive.files), key)])
        if suffix == ".mat":
            return _from_mat(path, key)
    except RecordingError:
        raise
    except Exception as error:  # the libraries let out any of damaged files: TokenError, IndexError, zlib.error, ...
        problem = (str(error).splitlines() or [type(error).__name__])[0]  # some have no text
        raise RecordingError("unreadable", f"{path}: cannot be read: {problem}") from error
    raise RecordingError("unknown_format", f"{path}: is none of {', '.join(SUFFIXES)}")


def _from_text(path: Path, skip_rows: int) -> Columns:
    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    for _ in range(skip_rows):
        content = content.partition(b"\n")[2]
    content = _COMMENT.sub(b"", content).lstrip(b"\r\n")
    if not content.strip():
        raise RecordingError("empty", f"{path}: holds nothing but comments and {skip_rows} lines to skip (skip_rows)")
    first = content.partition(b"\n")[0].decode("utf-8", "replace").strip(" \r\n")
    delimiter = next((character for character in _DELIMITERS if character in first), ",")
    if delimiter == " ":
        first = " ".join(first.split())
        content = re.sub(rb" +", b" ", re.sub(rb"^ +| +(?=\r?$)", b"", content, flags=re.MULTILINE))
    named = not all(_NUMBER.fullmatch(cell) for cell in first.split(delimiter))
    table = pyarrow.csv.read_csv(
        pa.BufferReader(content),
        read_options=pyarrow.csv.ReadOptions(
            autogenerate_column_names=not named,
            use_threads=False,
        ),
        parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter),
        convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True),
    )
    return _from_arrow(path, table, named)


def _from_arrow(path: Path, table: pa.Table, named: bool) -> Columns:
    def read(i: int) -> np.ndarray:
        column = table.column(i).combine_chunks()
        if pa.types.is_timestamp(column.type):
            raise RecordingError(
                "not_a_number", f"{path}: column '{table.column_names[i]}' holds dates, not numbers: set time_unit iso"
            )
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

    def read_instants(i: int) -> tuple[np.ndarray, bool]:
        column, name = table.column(i), table.column_names[i]
        if column.null_count:
            row = pc.index(pc.is_null(column), True).as_py() + 1
            raise RecordingError("bad_time", f"{path}: row {row} of column '{name}' has no time stamp")
        if pa.types.is_timestamp(column.type):
            try:
                stamps = column.cast(pa.timestamp("ns", column.type.tz)).cast(pa.int64())
            except pa.ArrowException as error:
                raise RecordingError("bad_time", f"{path}: column '{name}' holds dates out of range") from error
            return stamps.to_numpy(), column.type.tz is not None
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise RecordingError("bad_time", f"{path}: column '{name}' holds {column.type}, no dates and times")
        found = []
        for row, cell in enumerate(column.to_pylist()):
            try:
                found.append(parse_iso(cell))
            except ValueError as error:
                raise RecordingError("bad_time", f"{path}: row {row + 1} of column '{name}': {error}") from error
        if len({zoned for _, zoned in found}) > 1:
            raise RecordingError("bad_time", f"{path}: some cells of column '{name}' have a time zone, others none")
        return np.array([stamp for stamp, _ in found], dtype=np.int64), bool(found) and found[0][1]

    return Columns(path, table.column_names if named else [], table.num_columns, read, read_instants)


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
