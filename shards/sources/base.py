"""What every kind of source gives: recordings, with all streams in SI units on the video's clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:  # what reads video imports this module
    from shards.video_chapters import Chapters

LARGEST_READING = 1e9
"""No sensor reads as much in any unit, m/s^2 or rad/s: a file that says so is damaged there."""


class RecordingError(Exception):
    """One recording cannot be used; the others are still built.

    Args:
        reason: short machine-readable kind, counted in the summary, such as ``no_telemetry`` or ``bad_unit``.
        message: one line: what is wrong, in which file, how to mend it.
    """

    def __init__(self, reason: str, message: str):
        super().__init__(reason, message)
        self.reason = reason
        self.message = " ".join(message.split())

    def __str__(self) -> str:
        return self.message


@dataclass
class Signal:
    """One three-axis sensor."""

    times_s: np.ndarray
    """float64 [N], strictly increasing, seconds on the recording's clock (0 = first video frame)."""
    values: np.ndarray
    """float64 [N, 3], m/s^2 or rad/s; NaN where the sensor gave nothing, or more than LARGEST_READING."""

    def __post_init__(self) -> None:
        absurd = np.abs(self.values) > LARGEST_READING
        if absurd.any():
            self.values = np.where(absurd, np.nan, self.values)


@dataclass
class Stream:
    """One IMU: an accelerometer, a gyroscope, or both, at one place on the body."""

    position: str
    acc: Signal | None = None
    gyro: Signal | None = None
    acc_range: float | None = None
    """Largest reading of each axis, m/s^2; None where it is not known."""
    gyro_range: float | None = None
    """Largest reading of each axis, rad/s; None where it is not known."""


@dataclass
class Segment:
    """A labelled stretch of a recording."""

    start_s: float
    end_s: float
    label: str


@dataclass
class Recording:
    """Everything of one recording but its pictures, which are decoded from ``video`` when they are needed."""

    name: str
    source: str
    streams: list[Stream]
    duration_s: float
    """Length of the recording on its clock, seconds: the windows lie in [0, duration_s]."""
    video: Path | Chapters | None = None
    """One file, or those of the camera's chapters; None where there is none (only for datasets without frames)."""
    subject: str | None = None
    split: str | None = None
    """train, val or test, where the source has a list of its own; None = by the config."""
    segments: list[Segment] = field(default_factory=list)
    text: str | None = None
    sync_offset_s: float = 0.0
    """Known shift that was applied to the IMU clocks, seconds."""
    camera_position: str | None = None
    """Position of the IMU that is fixed to the camera, by which synchrony can be checked; None where there is none,
    as with a camera on a tripod."""

    def camera_gyro(self) -> Signal | None:
        """Return the gyroscope that is fixed to the camera, if there is one."""
        found = [stream.gyro for stream in self.streams if stream.position == self.camera_position]
        return found[0] if found else None


@dataclass
class RecordingRef:
    """What is known of a recording before it is opened. Sent to worker processes, so it must pickle."""

    name: str
    """Unique within the source; recordings are sorted by it."""
    payload: dict[str, Any]
    """Whatever the source needs to open it."""


class Source(Protocol):
    """A kind of recordings. Instances pickle: they are sent to the worker processes of a build."""

    def list(self) -> list[RecordingRef]:
        """Return the recordings, cheaply, without opening them.

        Raises:
            imuvid.errors.UserError: the source as a whole cannot be used (no manifest, no folder, no match).
        """
        ...

    def open(self, ref: RecordingRef) -> Recording:
        """Read one recording.

        Raises:
            RecordingError: this recording cannot be used; the build goes on without it.
        """
        ...
