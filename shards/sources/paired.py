"""Recordings that a manifest pairs: a video, and one or more IMU files on its clock.

The manifest is a CSV file with a header and one row an IMU file. Rows of the same ``recording`` are its sensors; two
rows of one ``position`` may give its accelerometer and its gyroscope, at rates of their own. Columns of the recording:

    recording    name; required
    video        video file; may be empty for datasets without frames
    subject      who
    split        train, val or test, where the data set has lists of its own; else by the config
    label        what, where the whole recording is one thing
    segments     CSV file of start_s,end_s,label (seconds after the first video frame, no overlaps): labelled stretches
    text         narration
    video_start  when the first video frame was taken, ISO 8601 (2024-05-17T10:30:00.25+02:00) or seconds since 1970:
                 the time stamps of the IMU are then absolute times as well

Columns of the sensor:

    imu          text (.csv, .tsv, .txt), Parquet, NPY, NPZ or MAT file; required
    key          variable of a MAT or NPZ file
    skip_rows    lines of a text file before its header; comment lines (# or %) and delimiters are found out
    position     where on the body the sensor is
    camera       yes where the sensor is fixed to the camera, by which synchrony can be checked; else no
    rate_hz      of samples at a constant rate, or else:
    time_column, time_unit  name or index of the time stamps; s, ms, us, ns, or iso (dates and times as text)
    offset_s     added to the times of the samples to get to the video's clock (first frame = 0), seconds
    acc_columns, gyro_columns  x y z: names or indices, separated by spaces
    acc_unit, gyro_unit  m/s2, g or mg; rad/s or deg/s
    acc_sensitivity, gyro_sensitivity  of raw counts: how many make one unit, as in data sheets (16384 counts a g)
    acc_range, gyro_range  largest reading of an axis in the unit (8 for +-8 g), by which saturation is found
    axes         which axes of the sensor are x, y and z of the body, such as "-y x z"
    left_handed  yes where axes is meant to be a reflection, as of an accelerometer that reads -1 g upwards

A column that is missing or a cell that is empty has the value of the config, where it has one.
"""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import MISSING

from imuvid.data.format import SPLITS
from imuvid.errors import UserError
from imuvid.imu.units import ACC_UNITS, GYRO_UNITS, signed_permutation, to_si
from shards.places import names_of_places
from shards.sources.base import Recording, RecordingError, RecordingRef, Segment, Signal, Stream
from shards.sources.imu_files import Columns, read_columns
from shards.sources.instants import parse_instant
from shards.sources.segments import read_segments
from shards.video import probe

TIME_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "iso": 1e-9}
"""Name of a time unit to its size in seconds; dates and times are read as nanoseconds."""
REQUIRED = ("recording", "imu")
OF_RECORDING = ("video", "subject", "split", "label", "segments", "text", "video_start")
OF_SENSOR = (
    "imu",
    "key",
    "skip_rows",
    "position",
    "camera",
    "rate_hz",
    "time_column",
    "time_unit",
    "offset_s",
    "acc_columns",
    "gyro_columns",
    "acc_unit",
    "gyro_unit",
    "acc_sensitivity",
    "gyro_sensitivity",
    "acc_range",
    "gyro_range",
    "axes",
    "left_handed",
)
_YES, _NO = ("yes", "true", "1"), ("no", "false", "0")
_LONGEST_S = 1e8
"""Time stamps that start later than this (three years) count from another clock's 0."""


@dataclass
class PairedConfig:
    """The manifest, and the values of what it leaves out."""

    manifest: str = MISSING
    """CSV file; see :mod:`shards.sources.paired`."""
    root: str | None = None
    """Folder that the files in the manifest are relative to; null = the manifest's own."""
    key: str = ""
    """Variable of MAT and NPZ files."""
    skip_rows: int = 0
    """Lines of text files before the header."""
    position: str = "unknown"
    """Where on the body the sensor is."""
    camera: bool = False
    """Whether the sensor is fixed to the camera."""
    rate_hz: float | None = None
    """Rate of samples without time stamps, Hz."""
    time_column: str | None = None
    """Column of time stamps, by name or index."""
    time_unit: str = "s"
    """Of the time stamps: s, ms, us, ns or iso."""
    offset_s: float = 0.0
    """Time of the IMU's 0 on the video's clock, seconds."""
    acc_columns: str = ""
    """Accelerometer x y z, names or indices; with neither this nor gyro_columns, the usual names are tried."""
    gyro_columns: str = ""
    """Gyroscope x y z, names or indices."""
    acc_unit: str = "m/s2"
    """m/s2, g or mg."""
    gyro_unit: str = "rad/s"
    """rad/s or deg/s."""
    acc_sensitivity: float | None = None
    """Raw counts an acc_unit; null = the values are in the unit."""
    gyro_sensitivity: float | None = None
    """Raw counts a gyro_unit; null = the values are in the unit."""
    acc_range: float | None = None
    """Largest reading of an axis, in acc_unit; null = not known."""
    gyro_range: float | None = None
    """Largest reading of an axis, in gyro_unit; null = not known."""
    axes: str = "x y z"
    """Axes of the sensor that are x, y and z of the body, each with or without a minus sign."""
    left_handed: bool = False
    """Whether axes is a reflection on purpose."""


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
            named = [row[column] for row in ref.payload["rows"] for column in ("imu", "segments") if row[column]]
            ref.payload["files"] = [str(_path(self.config, name)) for name in named]
            if video and first.setdefault(_path(self.config, video), ref.name) != ref.name:
                ref.payload["same_video_as"] = first[_path(self.config, video)]
        refs += [RecordingRef(name, {"rows": []}) for name in repeated]
        return sorted(refs, key=lambda ref: ref.name)

    def open(self, ref: RecordingRef) -> Recording:
        """Read the IMU files of a recording and the times of its video.

        Raises:
            RecordingError: ``duplicate``, ``conflicting_rows``, ``bad_manifest``, ``bad_unit``, ``bad_axes``,
                ``bad_time``, ``time_backwards``, ``bad_shape``, ``bad_segments`` or what the files' readers raise.
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
        ends_s, offsets_s, on_camera = [], [], set()
        for row in rows:
            sensor = _Sensor(self.config, row)
            stream = sensor.read()
            known = streams.setdefault(stream.position, Stream(stream.position))
            for name in ("acc", "gyro"):
                signal = getattr(stream, name)
                if signal is None:
                    continue
                if getattr(known, name) is not None:
                    twice = f"two files give the {name} at '{stream.position}', one is {row['imu']}"
                    raise RecordingError("conflicting_rows", twice)
                setattr(known, name, signal)
                setattr(known, f"{name}_range", getattr(stream, f"{name}_range"))
                ends_s.append(float(signal.times_s[-1] + np.median(np.diff(signal.times_s))))
            offsets_s.append(sensor.offset_s)
            if sensor.yes("camera"):
                on_camera.add(stream.position)
        if len(on_camera) > 1:
            both = " and ".join(f"'{position}'" for position in sorted(on_camera))
            raise RecordingError("conflicting_rows", f"its rows fix sensors at {both} to the camera")
        duration_s = info.duration_s if info else max(ends_s)
        label, listed = rows[0]["label"], rows[0]["segments"]
        if label and listed:
            manifest = self.config.manifest
            raise RecordingError("bad_manifest", f"{manifest}: give '{ref.name}' a label or segments, not both")
        shown = {"label": label, "text": rows[0]["text"], "position": list(streams)}
        for place in names_of_places(shown):
            raise RecordingError("bad_manifest", f"{self.config.manifest}: '{ref.name}': {place}")
        segments = [Segment(0.0, duration_s, label)] if label else []
        if listed:
            segments = read_segments(_path(self.config, listed), duration_s)
        return Recording(
            name=ref.name,
            source="paired",
            streams=list(streams.values()),
            duration_s=duration_s,
            video=Path(video) if video else None,
            subject=rows[0]["subject"] or None,
            split=_split(rows[0]),
            segments=segments,
            text=rows[0]["text"] or None,
            sync_offset_s=float(np.mean(offsets_s)),
            camera_position=on_camera.pop() if on_camera else None,
        )


def _split(row: dict[str, str]) -> str | None:
    if row["split"] not in ("", *SPLITS):
        raise RecordingError(
            "bad_manifest", f"{row['recording']}: split '{row['split']}' is none of {', '.join(SPLITS)}"
        )
    return row["split"] or None


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


class _Sensor:
    """One row of the manifest, read with the defaults of the config."""

    def __init__(self, config: PairedConfig, row: dict[str, str]):
        self.path = _path(config, row["imu"])
        self.video_start = row["video_start"]
        self._values: dict[str, Any] = {name: row[name] or getattr(config, name, None) for name in OF_SENSOR}
        if row["time_column"] or row["rate_hz"]:
            # A file's own rate replaces a default time column, and the other way round.
            self._values |= {name: row[name] for name in ("time_column", "rate_hz")}
        self.offset_s = self._number("offset_s")

    def read(self) -> Stream:
        """Return the sensor in SI units, in the axes of the body, on the video's clock."""
        for name, units in (("acc_unit", ACC_UNITS), ("gyro_unit", GYRO_UNITS), ("time_unit", TIME_UNITS)):
            if self._values[name] not in units:
                raise self._error("bad_unit", f"{name} '{self._values[name]}' is none of {', '.join(units)}")
        skip_rows = self._number("skip_rows")
        if skip_rows < 0 or skip_rows % 1:
            raise self._error("bad_manifest", f"skip_rows {skip_rows:g} is no number of lines")
        table = read_columns(self.path, self._values["key"] or "", int(skip_rows))
        chosen = {name: (self._values[f"{name}_columns"] or "").split() for name in ("acc", "gyro")}
        if not any(chosen.values()):
            chosen = {name: table.axes(name) for name in chosen}
        if not any(chosen.values()):
            known = " ".join(table.names) if table.names else f"0 to {table.count - 1}"
            raise self._error("no_column", f"set acc_columns or gyro_columns; its columns are {known}")
        axes = self._axes()
        times_s = self._times(table)
        stream = Stream(str(self._values["position"]))
        for name, columns in chosen.items():
            if not columns:
                continue
            if len(columns) != 3:
                raise self._error("bad_manifest", f"{name}_columns '{' '.join(columns)}' are not three")
            data = np.stack([table.column(column) for column in columns], axis=1).astype(np.float64)
            if len(data) < 2:
                raise self._error("imu_too_short", f"holds {len(data)} samples")
            stamps_s = np.arange(len(data)) / times_s if isinstance(times_s, float) else times_s
            unit = str(self._values[f"{name}_unit"])
            order, signs = axes
            values = to_si(data / (self._positive(f"{name}_sensitivity") or 1.0), unit)[:, order] * signs
            full_scale = self._positive(f"{name}_range")
            setattr(stream, name, Signal(stamps_s + self.offset_s, values))
            setattr(stream, f"{name}_range", None if full_scale is None else float(to_si(np.array(full_scale), unit)))
        return stream

    def yes(self, name: str) -> bool:
        """Return a column of yes or no."""
        text = str(self._values[name]).lower()
        if text not in (*_YES, *_NO):
            raise self._error("bad_manifest", f"{name} '{self._values[name]}' is neither yes nor no")
        return text in _YES

    def _axes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return which axis of the sensor is each of the body's, and its sign."""
        text = str(self._values["axes"])
        try:
            order, signs, right_handed = signed_permutation(text)
        except ValueError as error:
            raise self._error("bad_axes", str(error)) from error
        if right_handed == self.yes("left_handed"):
            kind = "a rotation" if right_handed else "a reflection"
            hint = "no" if right_handed else "yes if that is meant"
            raise self._error("bad_axes", f"axes '{text}' is {kind}: check the signs, or set left_handed {hint}")
        return order, signs

    def _times(self, table: Columns) -> np.ndarray | float:
        """Return the time stamps of the samples (s), or their rate (Hz) where there are none."""
        column, unit = self._values["time_column"], self._values["time_unit"]
        if column and self._values["rate_hz"]:
            raise self._error("bad_manifest", "give rate_hz or time_column, not both")
        if not column:
            rate_hz = self._positive("rate_hz")
            if rate_hz is None:
                raise self._error("bad_manifest", "give rate_hz or time_column")
            return rate_hz
        stamps, zoned = table.instants(str(column)) if unit == "iso" else (table.column(str(column)), True)
        if not np.isfinite(stamps).all():
            row = int(np.flatnonzero(~np.isfinite(stamps))[0]) + 1
            raise self._error("bad_time", f"row {row} has no time stamp")
        if not (np.diff(stamps) > 0).all():
            row = int(np.flatnonzero(np.diff(stamps) <= 0)[0]) + 2
            raise self._error(
                "time_backwards", f"time stands still or goes backwards in row {row}: sort or mend the file"
            )
        size_s = TIME_UNITS[unit]
        if self.video_start:
            times_s = self._since_video_start(stamps, size_s, zoned)
        elif unit == "iso":
            raise self._error("bad_time", "its times are dates: set video_start to the time of the first video frame")
        else:
            times_s = stamps * size_s
        if len(times_s) and abs(times_s[0] + self.offset_s) > _LONGEST_S:
            raise self._error(
                "bad_time",
                f"starts {times_s[0] + self.offset_s:.4g} s after the video: check time_unit, "
                "or set video_start where the time stamps count from 1970",
            )
        return times_s

    def _since_video_start(self, stamps: np.ndarray, size_s: float, zoned: bool) -> np.ndarray:
        try:
            start_ns, start_zoned = parse_instant(self.video_start)
        except ValueError as error:
            raise self._error("bad_time", f"video_start: {error}") from error
        if zoned != start_zoned:
            raise self._error(
                "bad_time",
                f"{'only its time stamps count' if zoned else 'only video_start counts'} from a known time zone: "
                "write it to both, such as +02:00, or to neither",
            )
        size_ns = round(size_s * 1e9)
        if stamps.dtype.kind == "i" and len(stamps) and np.abs(stamps).max() < 2**62 // size_ns:
            return (stamps * size_ns - start_ns) * 1e-9  # as whole numbers: seconds since 1970 have too many digits
        return stamps * size_s - start_ns * 1e-9

    def _positive(self, name: str) -> float | None:
        if self._values[name] in (None, ""):
            return None
        number = self._number(name)
        if number <= 0:
            raise self._error("bad_manifest", f"{name} {number:g} is not above 0")
        return number

    def _number(self, name: str) -> float:
        try:
            number = float(self._values[name])
        except ValueError:
            number = float("nan")
        if not np.isfinite(number):
            raise self._error("bad_manifest", f"{name} '{self._values[name]}' is not a number")
        return number

    def _error(self, reason: str, message: str) -> RecordingError:
        return RecordingError(reason, f"{self.path}: {message}")
