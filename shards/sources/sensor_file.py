"""One file of IMU samples: which columns, units, rate, axes and clock it has, and its samples in SI units."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imuvid.imu.units import ACC_UNITS, GYRO_UNITS, signed_permutation, to_si
from shards.sources.base import RecordingError, Signal, Stream
from shards.sources.imu_files import Columns, read_columns
from shards.sources.instants import parse_instant

TIME_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "iso": 1e-9}
"""Name of a time unit to its size in seconds; dates and times are read as nanoseconds."""
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
FIRST_SAMPLE = "first sample"
"""Instead of the start of a video: the clock of a file counts from its first sample."""
_YES, _NO = ("yes", "true", "1"), ("no", "false", "0")
_LONGEST_S = 1e8
"""Time stamps that start later than this (three years) count from another clock's 0."""


@dataclass
class SensorFileConfig:
    """What is known of a file of IMU samples."""

    key: str = ""
    """Variable of MAT and NPZ files."""
    skip_rows: int = 0
    """Lines of text files before the header."""
    position: str = "unknown"
    """Where on the body the sensor is."""
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


class SensorFile:
    """One IMU file, with what is known of it.

    Args:
        path: of the file.
        config: what holds where ``row`` says nothing.
        row: values of OF_SENSOR as text; empty or absent ones are the config's.
        video_start: the instant that the recording's clock counts from; empty where the time stamps count from it, and
            FIRST_SAMPLE for a file without video.
    """

    def __init__(self, path: Path, config: SensorFileConfig, row: dict[str, str], video_start: str):
        self.path = path
        self.video_start = video_start
        self._values: dict[str, Any] = {name: row.get(name) or getattr(config, name, None) for name in OF_SENSOR}
        if row.get("time_column") or row.get("rate_hz"):
            # A file's own rate replaces a default time column, and the other way round.
            self._values |= {name: row.get(name) for name in ("time_column", "rate_hz")}
        self.offset_s = self._number("offset_s")

    def read(self) -> Stream:
        """Return the sensor in SI units, in the axes of the body, on the recording's clock.

        Raises:
            RecordingError: a value makes no sense, or the file cannot be read, has other columns or bad time stamps.
        """
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
        if self.video_start == FIRST_SAMPLE:
            return (stamps - stamps[:1]) * size_s
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
