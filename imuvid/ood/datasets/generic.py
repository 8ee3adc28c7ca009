"""Own data without a reader: a folder of CSV, Parquet or NPZ files, and a small YAML that says what they hold.

The YAML is ``dataset.yaml`` in the folder, or lies elsewhere (generic.layout). For example::

    name: clinic
    files: "*.csv"
    rate_hz: 100                      # or: time: t_ms, time_unit: ms
    subject_from_name: '(P\\d+)_'      # or: subject: patient
    label: state                      # or: label_from_name: '_(\\w+)\\.csv'
    labels: {0: rest, 1: tremor}      # names of codes; other codes are unlabelled. Without it, the texts are the labels
    positive: tremor                  # the rare class of two, if there is one
    sensors:
      - {position: left_wrist, acc: [ax, ay, az], acc_unit: g, gyro: [gx, gy, gz], gyro_unit: deg/s}

A file is a recording; where a column says the subject, each subject of a file is one. An NPZ has an array for each
column, or ``data`` [rows, columns] with ``columns``, the names.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from imuvid import config as configs
from imuvid.errors import UserError
from imuvid.imu.units import ACC_UNITS, GYRO_UNITS
from imuvid.ood.datasets.base import Windows, data_folder
from imuvid.ood.datasets.public_windows import PublicConfig, read_public
from imuvid.ood.datasets.recording import POSITIONS, Card, Recording, Segment, in_order, segments_of
from imuvid.ood.datasets.tables import AGAIN, Sensor, Table, even_times, files, grouped, read_csv, streams_of

TIME_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
LAYOUT = "dataset.yaml"


@dataclass
class GenericSensor:
    """Columns of the sensors at one place."""

    position: str = "???"
    """Where it is worn, in the words of the other data sets: left_wrist, lower_back, waist, ..."""
    acc: list[str] = field(default_factory=list)
    """Columns of x, y, z of the accelerometer; none: there is none."""
    acc_unit: str = "m/s2"
    """m/s2, g or mg."""
    gyro: list[str] = field(default_factory=list)
    """Columns of x, y, z of the gyroscope; none: there is none."""
    gyro_unit: str = "rad/s"
    """rad/s or deg/s."""


@dataclass
class GenericLayout:
    """What the files of an own data set hold."""

    name: str = "???"
    """Of the data set, in the report."""
    files: str = "*.csv"
    """Glob pattern of the files below the folder; their ending says what they are: csv, csv.gz, tsv, parquet, npz."""
    sensors: list[GenericSensor] = field(default_factory=list)
    rate_hz: float | None = None
    """Samples a second; with a time column, what its stamps should come to."""
    time: str | None = None
    """Column of time stamps; none: samples are evenly spaced at rate_hz."""
    time_unit: str = "s"
    """s, ms, us or ns."""
    subject: str | None = None
    """Column that names the person."""
    subject_from_name: str | None = None
    """Regular expression that finds the person in a file's path below the folder: its first group."""
    label: str | None = None
    """Column of the label of each sample."""
    label_from_name: str | None = None
    """Regular expression that finds the label of a whole file in its path below the folder: its first group."""
    labels: dict[Any, str] = field(default_factory=dict)
    """Codes of the label column to names; codes without a name are unlabelled. None: each text is a label."""
    positive: str | None = None
    """The rare class of a data set with two."""
    gravity: bool = True
    """Is gravity in the acceleration."""


@dataclass
class GenericConfig(PublicConfig):
    """Where an own data set lies and what of it is scored."""

    layout: str | None = None
    """The YAML that says what the files hold; none: dataset.yaml in the folder."""


def read_generic(config: GenericConfig, rate_hz: float, window_s: float) -> Windows:
    """Read an own data set as windows, by its YAML.

    Args:
        config: where it lies and what is scored.
        rate_hz: of the windows.
        window_s: their length, seconds.

    Raises:
        UserError: the YAML does not fit the files, or a file is damaged.
    """
    folder = data_folder(config.root, "generic")
    path = Path(config.layout) if config.layout is not None else folder / LAYOUT
    layout = configs.load(GenericLayout, path)
    card = generic_card(layout, path)
    settings = dataclasses.replace(config, root=str(folder))
    return dataclasses.replace(read_public(card, settings, rate_hz, window_s), name=layout.name)


def generic_card(layout: GenericLayout, path: Path) -> Card:
    """Return the card of an own data set.

    Args:
        layout: what its files hold.
        path: the YAML, for messages.

    Raises:
        UserError: the layout contradicts itself.
    """
    _check(layout, path)
    named = tuple(dict.fromkeys(layout.labels.values()))
    rate = layout.rate_hz
    return Card(
        key="generic",
        title=layout.name,
        population="own data",
        citation="",
        homepage="",
        licence="own",
        rate_hz=(rate, rate) if rate is not None else (1.0, 1e4),
        positions=tuple(sensor.position for sensor in layout.sensors),
        sensors="acc" + (", gyro" if any(sensor.gyro for sensor in layout.sensors) else ""),
        labels=named,
        read=functools.partial(_read, layout),
        subjects=None,
        positive=layout.positive,
        gravity=layout.gravity,
        seen=True,
    )


def _check(layout: GenericLayout, path: Path) -> None:
    if not layout.sensors:
        raise UserError(f"{path}: sensors is empty: list at least one, with position and acc or gyro")
    for sensor in layout.sensors:
        if sensor.position not in POSITIONS:
            raise UserError(f"{path}: position '{sensor.position}' is unknown: {', '.join(sorted(POSITIONS))}")
        if sensor.acc_unit not in ACC_UNITS or sensor.gyro_unit not in GYRO_UNITS:
            raise UserError(f"{path}: {sensor.position}: units are {', '.join(ACC_UNITS)}; {', '.join(GYRO_UNITS)}")
        if not (sensor.acc or sensor.gyro) or len(sensor.acc) not in (0, 3) or len(sensor.gyro) not in (0, 3):
            raise UserError(f"{path}: {sensor.position}: acc and gyro name three columns each, or none")
    if layout.rate_hz is None and layout.time is None:
        raise UserError(f"{path}: give rate_hz, or time: the column of time stamps")
    if layout.rate_hz is not None and layout.rate_hz <= 0:
        raise UserError(f"{path}: rate_hz={layout.rate_hz}: must be above 0")
    if layout.time_unit not in TIME_UNITS:
        raise UserError(f"{path}: time_unit={layout.time_unit}: choose from {', '.join(TIME_UNITS)}")
    if (layout.subject is None) == (layout.subject_from_name is None):
        raise UserError(f"{path}: give either subject, a column, or subject_from_name, a regular expression")
    if (layout.label is None) == (layout.label_from_name is None):
        raise UserError(f"{path}: give either label, a column, or label_from_name, a regular expression")
    for name in ("subject_from_name", "label_from_name"):
        pattern = getattr(layout, name)
        try:
            if pattern is not None and re.compile(pattern).groups < 1:
                raise UserError(f"{path}: {name}: '{pattern}' has no group in parentheses")
        except re.error as error:
            raise UserError(f"{path}: {name}: '{pattern}' is no regular expression ({error})") from error
    if layout.positive is not None and layout.labels and layout.positive not in layout.labels.values():
        raise UserError(f"{path}: positive: '{layout.positive}' is not among labels")


def _read(layout: GenericLayout, folder: Path) -> Iterator[Recording]:
    sensors = [Sensor(s.position, s.acc or None, s.gyro or None, s.acc_unit, s.gyro_unit) for s in layout.sensors]
    numbers = [column for sensor in sensors for column in sensor.columns]
    numbers += [layout.time] if layout.time is not None else []
    people: list[tuple[str, np.ndarray | slice]]
    texts = [name for name in (layout.subject, layout.label) if name is not None]
    for path, _ in files(folder, layout.files, r"[^.].*"):
        if not path.is_file():
            continue
        name = path.relative_to(folder).as_posix()
        table = _table(path, numbers, texts)
        if layout.subject_from_name is not None:
            people = [(_found(layout.subject_from_name, name, path), slice(None))]
        else:
            people = [(who, rows) for (who,), rows in grouped(table.columns[str(layout.subject)].astype(str))]
        for subject, rows in people:
            part = table.rows(rows)
            if layout.time is None:
                times_s = even_times(len(part), float(layout.rate_hz or 0))
            else:
                times_s, keep = in_order(part.columns[layout.time], TIME_UNITS[layout.time_unit], path)
                part = part.rows(keep)
            if layout.label_from_name is not None:
                label = _found(layout.label_from_name, name, path)
                segments = [Segment(0.0, float(times_s[-1]), layout.labels.get(label, label))]
            else:
                codes = np.array([_code(code) for code in part.columns[str(layout.label)]])
                segments = segments_of(times_s, codes, _names(layout, codes), path)
            recording = name if layout.subject is None else f"{name}#{subject}"
            yield Recording(recording, subject, path, streams_of(part, times_s, sensors, allow_nan=True), segments)


def _names(layout: GenericLayout, codes: np.ndarray) -> dict[str, str | None]:
    given = {_code(code): name for code, name in layout.labels.items()}
    return {code: given.get(code) if given else (code or None) for code in np.unique(codes).tolist()}


def _code(value: Any) -> str:
    """Return a label as text, such that 1, 1.0, "1" and "1.0" are the same."""
    text = "" if value is None else str(value).strip()
    if text.lower() in ("nan", "none", "null"):
        return ""
    return text[: -len(".0")] if re.fullmatch(r"-?\d+\.0", text) else text


def _found(pattern: str, name: str, path: Path) -> str:
    match = re.search(pattern, name)
    if match is None:
        raise UserError(f"{path}: '{pattern}' finds nothing in {name}: mend the expression, or narrow files")
    return match[1]


def _table(path: Path, numbers: list[str | int], texts: list[str]) -> Table:
    if path.suffix == ".parquet":
        return _parquet(path, numbers, texts)
    if path.suffix == ".npz":
        return _npz(path, [*numbers, *texts])
    if path.suffixes[-1:] == [".gz"] or path.suffix in (".csv", ".tsv", ".txt"):
        return read_csv(path, numbers, texts, delimiter="\t" if ".tsv" in path.suffixes else ",")
    raise UserError(f"{path}: is not .csv, .csv.gz, .tsv, .txt, .parquet or .npz: narrow files")


def _parquet(path: Path, numbers: list[str | int], texts: list[str]) -> Table:
    try:
        table = pq.read_table(path, columns=[str(name) for name in [*numbers, *texts]])
        columns = {name: table.column(str(name)) for name in [*numbers, *texts]}
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read ({str(error)[:80]}): {AGAIN}") from error
    except KeyError as error:
        raise UserError(f"{path}: there is no column {error}: mend the YAML") from error
    if not table.num_rows:
        raise UserError(f"{path}: there is no row of data")
    return Table(path, {name: np.asarray(column.to_numpy()) for name, column in columns.items()})


def _npz(path: Path, names: list[str | int]) -> Table:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            content = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot be read ({str(error)[:80]}): {AGAIN}") from error
    if {"data", "columns"} <= set(content):
        data, labels = content["data"], content["columns"]
        if data.ndim != 2 or data.shape[1] != len(labels):
            raise UserError(f"{path}: data is {list(data.shape)} for {len(labels)} columns: write the file again")
        content = {str(label): data[:, i] for i, label in enumerate(labels)}
    missing = [name for name in names if name not in content]
    if missing:
        raise UserError(f"{path}: there is no column '{missing[0]}': mend the YAML")
    columns: dict[str | int, np.ndarray] = {name: content[str(name)] for name in names}
    if len({len(column) for column in columns.values()}) != 1 or not len(columns[names[0]]):
        raise UserError(f"{path}: the columns are empty or differ in length: write the file again")
    return Table(path, columns)
