"""What every kind of source gives: recordings, with all streams in SI units on the video's clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np


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
    """float64 [N, 3], m/s^2 or rad/s; NaN where the sensor gave nothing."""


@dataclass
class Stream:
    """One IMU: an accelerometer, a gyroscope, or both, at one place on the body."""

    position: str
    acc: Signal | None = None
    gyro: Signal | None = None


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
    video: Path | None = None
    """None where there is no video (allowed only for datasets without frames)."""
    subject: str | None = None
    segments: list[Segment] = field(default_factory=list)
    text: str | None = None
    sync_offset_s: float = 0.0
    """Known shift that was applied to the IMU clocks, seconds."""


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
