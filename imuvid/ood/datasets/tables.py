"""Tables of numbers in the files of public data sets (CSV, blank-separated text, MAT), and sensors as columns of them.

Everything that is wrong with a file is a UserError of one line that names the file.
"""

from __future__ import annotations

import gzip
import io
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import scipy.io

from imuvid.errors import UserError
from imuvid.imu.units import to_si
from imuvid.ood.datasets.recording import Stream
from imuvid.ood.protocols.folds import natural_order

DEPTH = 3
"""Folders below the given one in which a data set is looked for."""
AGAIN = "fetch it again"


@dataclass
class Table:
    """Columns of one file, by name or by number from 0."""

    source: Path
    columns: dict[str | int, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def numbers(self, keys: Sequence[str | int], allow_nan: bool = False) -> np.ndarray:
        """Return columns side by side, float64 [rows, len(keys)].

        Raises:
            UserError: a value is missing or not finite and ``allow_nan`` is False.
        """
        values = np.stack([self.columns[key] for key in keys], axis=1).astype(np.float64)
        bad = ~np.isfinite(values).all(axis=1)
        if bad.any() and not allow_nan:
            row = int(np.flatnonzero(bad)[0]) + 1
            raise UserError(f"{self.source}: row {row} holds a value that is not a finite number: {AGAIN}")
        return values

    def rows(self, keep: np.ndarray | slice) -> Table:
        """Return a table of some of the rows."""
        return Table(self.source, {key: column[keep] for key, column in self.columns.items()})


@dataclass(frozen=True)
class Sensor:
    """Columns of an accelerometer, and of the gyroscope at the same place if there is one."""

    position: str
    acc: Sequence[str | int] | None
    gyro: Sequence[str | int] | None = None
    acc_unit: str = "m/s2"
    gyro_unit: str = "rad/s"

    @property
    def columns(self) -> list[str | int]:
        """All of its columns."""
        return [*(self.acc or ()), *(self.gyro or ())]


def streams_of(
    table: Table, times_s: np.ndarray, sensors: Sequence[Sensor], allow_nan: bool = False, acc_scale: float = 1.0
) -> list[Stream]:
    """Return the sensors of a table as streams in SI units.

    Args:
        table: of N rows.
        times_s: float64 [N], seconds.
        sensors: their columns and units.
        allow_nan: may readings be missing.
        acc_scale: factor from the file's numbers to the sensors' ``acc_unit``.

    Raises:
        UserError: a reading is not finite and ``allow_nan`` is False.
    """
    streams = []
    for sensor in sensors:
        for kind, columns, unit in (("acc", sensor.acc, sensor.acc_unit), ("gyro", sensor.gyro, sensor.gyro_unit)):
            if columns is not None:
                values = to_si(table.numbers(columns, allow_nan), unit)
                streams.append(Stream(sensor.position, kind, times_s, values * acc_scale if kind == "acc" else values))
    return streams


def even_times(num_samples: int, rate_hz: float) -> np.ndarray:
    """Return the times of samples without time stamps, float64 [num_samples], seconds."""
    return np.arange(num_samples) / rate_hz


def read_csv(
    source: Path,
    numbers: Sequence[str | int],
    texts: Sequence[str | int] = (),
    *,
    dates: Sequence[str | int] = (),
    content: bytes | None = None,
    header: bool = True,
    skip_rows: int = 0,
    delimiter: str = ",",
) -> Table:
    """Read columns of a delimited file, plain or gzip'd; an empty field of a number is NaN.

    Args:
        source: the file.
        numbers: columns of numbers: names, or numbers from 0 where there is no header.
        texts: columns of text; an empty field is an empty text.
        dates: columns of dates with times of day, which become int64 microseconds.
        content: of the file, where it was read already.
        header: does the first line name the columns.
        skip_rows: lines before the header or the data.
        delimiter: between fields.

    Raises:
        UserError: it is missing, empty, cut off, lacks a column, or holds something else than numbers.
    """
    data = read_content(source) if content is None else content
    name = str if header else "f{}".format
    columns = {name(key): pa.float64() for key in numbers}
    columns |= {name(key): pa.dictionary(pa.int32(), pa.string()) for key in texts}
    columns |= {name(key): pa.timestamp("us") for key in dates}
    try:
        table = pyarrow.csv.read_csv(
            io.BytesIO(data),
            read_options=pyarrow.csv.ReadOptions(
                use_threads=False, skip_rows=skip_rows, autogenerate_column_names=not header
            ),
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter),
            convert_options=pyarrow.csv.ConvertOptions(column_types=columns, include_columns=list(columns)),
        )
    except KeyError as error:
        missing = str(error).split("'")[1] if "'" in str(error) else str(error)
        raise UserError(f"{source}: there is no column '{missing}': it is not the published file") from error
    except pa.ArrowException as error:
        raise UserError(f"{source}: cannot be read ({_short(error)}): {AGAIN}") from error
    if not table.num_rows:
        raise UserError(f"{source}: there is no line of data: {AGAIN}")
    arrays = [_array(column) for column in table.columns]
    return Table(source, dict(zip([*numbers, *texts, *dates], arrays, strict=True)))


def _array(column: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_dictionary(column.type):
        # Each text once: a day at 100 Hz has nine million.
        encoded = column.unify_dictionaries().combine_chunks()
        return np.array(encoded.dictionary.to_pylist(), dtype=object)[encoded.indices.to_numpy(zero_copy_only=False)]
    if pa.types.is_timestamp(column.type):
        return column.to_numpy().astype("datetime64[us]").astype(np.int64)
    return column.to_numpy()


def read_blank(source: Path, num_columns: int, columns: Sequence[str | int]) -> Table:
    """Read columns (numbers from 0) of a text file of numbers separated by blanks, plain or gzip'd; NaN may occur.

    Raises:
        UserError: it is missing, empty, cut off, has another number of columns, or holds something else.
    """
    data = read_content(source)
    first = len(data.split(b"\n", 1)[0].split())
    last = len(data.rstrip().rsplit(b"\n", 1)[-1].split())
    for place, count in (("first", first), ("last", last)):
        if count != num_columns:
            raise UserError(
                f"{source}: the {place} line has {count} columns, published are {num_columns}: the file is cut off or "
                "another one"
            )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            values = np.loadtxt(io.BytesIO(data), ndmin=2, usecols=[int(column) for column in columns])
    except (ValueError, IndexError) as error:
        raise UserError(f"{source}: cannot be read ({_short(error)}): {AGAIN}") from error
    return Table(source, {column: values[:, i] for i, column in enumerate(columns)})


def read_mat(source: Path, variable: str, num_columns: int) -> Table:
    """Read a matrix of a MAT file, [rows, num_columns].

    Raises:
        UserError: it is missing or damaged, or there is no such variable of that shape.
    """
    data = read_content(source)
    try:
        content = scipy.io.loadmat(io.BytesIO(data), variable_names=[variable])
    except Exception as error:  # scipy raises what it meets in a damaged file: ValueError, TypeError, zlib.error, ...
        raise UserError(f"{source}: cannot be read ({_short(error)}): {AGAIN}") from error
    values = content.get(variable)
    if values is None or values.ndim != 2 or values.shape[1] != num_columns or values.dtype.kind not in "fiu":
        shape = "nothing" if values is None else f"{list(values.shape)}"
        raise UserError(
            f"{source}: variable {variable} is {shape}, expected [samples, {num_columns}]: not the published file"
        )
    if not len(values):
        raise UserError(f"{source}: variable {variable} is empty: {AGAIN}")
    return Table(source, {i: values[:, i].astype(np.float64) for i in range(num_columns)})


def read_content(source: Path) -> bytes:
    """Read a file as :func:`read_bytes` does.

    Raises:
        UserError: it is missing, cut off or empty.
    """
    data = read_bytes(source)
    if not data.strip():
        raise UserError(f"{source}: the file is empty: {AGAIN}")
    return data


def read_bytes(source: Path) -> bytes:
    """Return the content of a file, unpacked where its name ends in .gz.

    Raises:
        UserError: it is missing or cut off.
    """
    try:
        data = source.read_bytes()
        return gzip.decompress(data) if source.suffix == ".gz" and data else data
    except FileNotFoundError as error:
        raise UserError(f"{source}: the file is missing: {AGAIN}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{source}: cannot be read ({_short(error)}): {AGAIN}") from error


def read_zip(source: Path, content: bytes | None = None) -> dict[str, bytes]:
    """Return the members of a ZIP archive by name.

    Raises:
        UserError: it is missing, empty or damaged.
    """
    data = read_content(source) if content is None else content
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    # zipfile's answers to damage, to a compression that it does not know and to a password.
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise UserError(f"{source}: cannot be read ({_short(error)}): {AGAIN}") from error


def locate(root: Path, marker: str, key: str) -> Path:
    """Return the folder at or below ``root`` that holds what the pattern ``marker`` names.

    Raises:
        UserError: there is none.
    """
    for depth in range(DEPTH + 1):
        prefix = "*/" * depth
        found = sorted(root.glob(prefix + marker))
        if found:
            return found[0].parents[marker.count("/")]
    raise UserError(
        f"{root}: there is no {marker} there, nor in folders below: give the folder of the unpacked data set as "
        f"{key}.root"
    )


def files(folder: Path, pattern: str, name: str) -> Iterator[tuple[Path, re.Match[str]]]:
    """Yield the files that a glob pattern finds and whose names match a regular expression in full, in natural order.

    Args:
        folder: where the pattern starts.
        pattern: glob pattern.
        name: regular expression of the file's name.
    """
    found = [(path, re.fullmatch(name, path.name)) for path in folder.glob(pattern)]
    for path, match in sorted(found, key=lambda pair: natural_order(str(pair[0]))):
        if match is not None:
            yield path, match


def grouped(*keys: np.ndarray) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """Yield each combination of the values of text columns [N], in order of first appearance, with its rows."""
    number = np.zeros(len(keys[0]), dtype=np.int64)
    for key in keys:
        encoded = pa.array(key, pa.string()).dictionary_encode()
        number = number * len(encoded.dictionary) + encoded.indices.to_numpy()
    order = np.argsort(number, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(number[order])) + 1)
    for rows in sorted(groups, key=lambda rows: int(rows[0])):
        yield tuple(str(key[rows[0]]) for key in keys), rows


def either(path: Path) -> Path:
    """Return the file, or the same with .gz where only that exists."""
    packed = path.with_name(path.name + ".gz")
    return packed if packed.is_file() and not path.is_file() else path


def _short(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:120] or type(error).__name__
