"""Recordings that a manifest pairs: a video, and one or more IMU files on its clock.

The manifest is a CSV file with a header and one row an IMU file; rows of the same ``recording`` are its sensors:

    recording    name; required
    imu          CSV, TSV, Parquet, NPY, NPZ or MAT file; required
    video        video file; may be empty for datasets without frames
    position     where on the body the sensor is
    subject, label, text                who, what (of the whole recording), narration
    acc_unit, gyro_unit                 see imuvid.imu.units
    rate_hz  or  time_column, time_unit  uniform samples, or their time stamps in s, ms, us or ns
    acc_columns, gyro_columns           x y z: names or indices, separated by spaces
    key          variable of a MAT or NPZ file
    offset_s     time of the IMU's 0 on the video's clock (first frame = 0), seconds

A column that is missing or a cell that is empty has the value of the config.
"""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import MISSING

from imuvid.errors import UserError
from imuvid.imu.units import ACC_UNITS, GYRO_UNITS, to_si
from shards.sources.base import Recording, RecordingError, RecordingRef, Segment, Signal, Stream
from shards.sources.imu_files import Columns, read_columns
from shards.video import probe

TIME_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
REQUIRED = ("recording", "imu")
OF_RECORDING = ("video", "subject", "label", "text")
OF_SENSOR = (
    "imu",
    "position",
    "acc_unit",
    "gyro_unit",
    "rate_hz",
    "time_column",
    "time_unit",
    "acc_columns",
    "gyro_columns",
    "key",
    "offset_s",
)


@dataclass
class PairedConfig:
    """The manifest, and the values of what it leaves out."""

    manifest: str = MISSING
    """CSV file; see :mod:`shards.sources.paired`."""
    root: str | None = None
    """Folder that the files in the manifest are relative to; null = the manifest's own."""
    position: str = "unknown"
    """Where on the body the sensor is."""
    acc_unit: str = "m/s2"
    """m/s2, g or mg."""
    gyro_unit: str = "rad/s"
    """rad/s or deg/s."""
    rate_hz: float | None = None
    """Rate of samples without time stamps, Hz."""
    time_column: str | None = None
    """Column of time stamps, by name or index."""
    time_unit: str = "s"
    """Of the time stamps: s, ms, us or ns."""
    acc_columns: str = ""
    """Accelerometer x y z, names or indices; with neither this nor gyro_columns, the usual names are tried."""
    gyro_columns: str = ""
    """Gyroscope x y z, names or indices."""
    key: str = ""
    """Variable of MAT and NPZ files."""
    offset_s: float = 0.0
    """Time of the IMU's 0 on the video's clock, seconds."""


class PairedSource:
    """The recordings of a :class:`PairedConfig`; see :class:`shards.sources.base.Source`."""

    def __init__(self, config: PairedConfig):
        self.config = config

    def list(self) -> list[RecordingRef]:
        """Return one reference a recording of the manifest, sorted by name.

        A row that is there twice gives a second reference of the same name, for the build to count as a duplicate.

        Raises:
            UserError: the manifest is missing, empty or unreadable, or has unknown or missing columns.
        """
        rows: dict[str, list[dict[str, str]]] = {}
        repeated: list[str] = []
        for row in _rows(self.config):
            known = rows.setdefault(row["recording"], [])
            if row in known:
                repeated.append(row["recording"])
            else:
                known.append(row)
        refs = [RecordingRef(name, {"rows": rows[name]}) for name in sorted(rows)]
        first: dict[Path, str] = {}
        for ref in refs:
            video = _common(ref.payload["rows"], "video")
            ref.payload["video"] = str(_path(self.config, video)) if video else ""
            ref.payload["files"] = [str(_path(self.config, row["imu"])) for row in ref.payload["rows"]]
            if video and first.setdefault(_path(self.config, video), ref.name) != ref.name:
                ref.payload["same_video_as"] = first[_path(self.config, video)]
        refs += [RecordingRef(name, {"rows": []}) for name in repeated]
        return sorted(refs, key=lambda ref: ref.name)

    def open(self, ref: RecordingRef) -> Recording:
        """Read the IMU files of a recording and the times of its video.

        Raises:
            RecordingError: ``duplicate``, ``conflicting_rows``, ``bad_manifest``, ``bad_unit``, ``bad_time``,
                ``time_backwards``, ``bad_shape``, ``all_nan`` or what the files' readers raise.
        """
        rows, video = ref.payload["rows"], ref.payload["video"]
        if "same_video_as" in ref.payload:
            other = ref.payload["same_video_as"]
            raise RecordingError("duplicate", f"{video}: is the video of recording '{other}' too: give each its own")
        for column in OF_RECORDING:
            found = sorted({row[column] for row in rows})
            if len(found) > 1:
                raise RecordingError("conflicting_rows", f"its rows disagree on {column}: {' / '.join(found)}")
        info = probe(Path(video)) if video else None
        streams: dict[str, Stream] = {}
        ends_s, offsets_s = [], []
        for row in rows:
            stream, offset_s = _stream(self.config, row)
            known = streams.setdefault(stream.position, Stream(stream.position))
            for sensor in ("acc", "gyro"):
                signal = getattr(stream, sensor)
                if signal is None:
                    continue
                if getattr(known, sensor) is not None:
                    raise RecordingError(
                        "conflicting_rows", f"two files give the {sensor} at '{stream.position}', one is {row['imu']}"
                    )
                setattr(known, sensor, signal)
                ends_s.append(float(signal.times_s[-1] + np.median(np.diff(signal.times_s))))
            offsets_s.append(offset_s)
        duration_s = info.duration_s if info else max(ends_s)
        label = rows[0]["label"]
        return Recording(
            name=ref.name,
            source="paired",
            streams=list(streams.values()),
            duration_s=duration_s,
            video=Path(video) if video else None,
            subject=rows[0]["subject"] or None,
            segments=[Segment(0.0, duration_s, label)] if label else [],
            text=rows[0]["text"] or None,
            sync_offset_s=float(np.mean(offsets_s)),
        )


def _rows(config: PairedConfig) -> list[dict[str, str]]:
    path = Path(config.manifest).expanduser()
    known = ("recording", *OF_RECORDING, *OF_SENSOR)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            header = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = header
            lines = list(reader)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such manifest (source.paired.manifest)") from error
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a CSV manifest: {error}") from error
    unknown = sorted(set(header) - set(known))
    if unknown:
        raise UserError(f"{path}: unknown column '{unknown[0]}', known are {', '.join(known)}")
    for name in REQUIRED:
        if name not in header:
            raise UserError(f"{path}: has no column '{name}'")
    rows = []
    for number, line in enumerate(lines, start=2):
        if None in line or None in line.values():
            raise UserError(f"{path}: line {number} does not have the {len(header)} cells of the header")
        row = dict.fromkeys(known, "") | {name: (value or "").strip() for name, value in line.items()}
        if not row["recording"] or not row["imu"]:
            raise UserError(f"{path}: line {number} names no recording or no imu file")
        rows.append(row)
    if not rows:
        raise UserError(f"{path}: lists no recording")
    return rows


def _common(rows: list[dict[str, str]], column: str) -> str:
    return Counter(row[column] for row in rows).most_common(1)[0][0]


def _path(config: PairedConfig, name: str) -> Path:
    manifest = Path(config.manifest).expanduser()
    root = Path(config.root).expanduser() if config.root else manifest.parent
    return root / name


def _stream(config: PairedConfig, row: dict[str, str]) -> tuple[Stream, float]:
    """Return the sensor of a row in SI units on the video's clock, and the offset that was added (s)."""
    values = {name: row[name] or getattr(config, name, None) for name in OF_SENSOR}
    if row["time_column"] or row["rate_hz"]:
        # A file's own rate replaces a default time column, and the other way round.
        values |= {name: row[name] for name in ("time_column", "rate_hz")}
    path = _path(config, row["imu"])
    for name, units in (("acc_unit", ACC_UNITS), ("gyro_unit", GYRO_UNITS), ("time_unit", TIME_UNITS)):
        if values[name] not in units:
            raise RecordingError("bad_unit", f"{path}: {name} '{values[name]}' is none of {', '.join(units)}")
    offset_s = _number(path, "offset_s", str(values["offset_s"]))
    table = read_columns(path, values["key"] or "")
    chosen = {name: (values[f"{name}_columns"] or "").split() for name in ("acc", "gyro")}
    if not any(chosen.values()):
        chosen = {name: table.axes(name) for name in chosen}
    if not any(chosen.values()):
        known = " ".join(table.names) if table.names else f"0 to {table.count - 1}"
        raise RecordingError("no_column", f"{path}: set acc_columns or gyro_columns; its columns are {known}")
    times_s = _times(path, table, values)
    signals: dict[str, Signal | None] = {"acc": None, "gyro": None}
    for name, columns in chosen.items():
        if not columns:
            continue
        if len(columns) != 3:
            raise RecordingError("bad_manifest", f"{path}: {name}_columns '{' '.join(columns)}' are not three")
        data = np.stack([table.column(column) for column in columns], axis=1).astype(np.float64)
        if len(data) < 2:
            raise RecordingError("imu_too_short", f"{path}: holds {len(data)} samples")
        stamps_s = np.arange(len(data)) / times_s if isinstance(times_s, float) else times_s
        signals[name] = Signal(stamps_s + offset_s, to_si(data, str(values[f"{name}_unit"])))
    return Stream(str(values["position"]), signals["acc"], signals["gyro"]), offset_s


def _times(path: Path, table: Columns, values: dict[str, Any]) -> np.ndarray | float:
    """Return the time stamps of the samples (s), or their rate (Hz) where there are none."""
    if values["time_column"] and values["rate_hz"]:
        raise RecordingError("bad_manifest", f"{path}: give rate_hz or time_column, not both")
    if values["time_column"]:
        stamps = table.column(str(values["time_column"]))
        if not np.isfinite(stamps).all():
            row = int(np.flatnonzero(~np.isfinite(stamps))[0]) + 1
            raise RecordingError("bad_time", f"{path}: row {row} has no time stamp")
        if not (np.diff(stamps) > 0).all():
            row = int(np.flatnonzero(np.diff(stamps) <= 0)[0]) + 2
            raise RecordingError(
                "time_backwards", f"{path}: time stands still or goes backwards in row {row}: sort or mend the file"
            )
        return stamps * TIME_UNITS[values["time_unit"]]
    if not values["rate_hz"]:
        raise RecordingError("bad_manifest", f"{path}: give rate_hz or time_column")
    rate_hz = _number(path, "rate_hz", str(values["rate_hz"]))
    if rate_hz <= 0:
        raise RecordingError("bad_manifest", f"{path}: rate_hz {rate_hz:g} is not above 0")
    return rate_hz


def _number(path: Path, name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not np.isfinite(number):
        raise RecordingError("bad_manifest", f"{path}: {name} '{value}' is not a number")
    return number
