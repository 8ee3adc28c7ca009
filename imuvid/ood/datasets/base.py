"""What every labelled data set is read into: windows of one length, at one rate, in SI units."""

from __future__ import annotations

import os
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from imuvid.errors import UserError
from imuvid.imu.resample import resample

REALDATA = "IMUVID_REALDATA"
MIN_PRESENT = 0.5
"""Share of a window in which a sensor must be present for the window to be scored."""


@dataclass
class Windows:
    """N labelled windows of T instants from P sensor positions."""

    name: str
    """Of the data set."""
    imu: np.ndarray
    """float32 [N, T, P, 6]: acc x y z in m/s^2, then gyro x y z in rad/s; 0 where not valid."""
    valid: np.ndarray
    """bool [N, T, P, 2]: is the accelerometer, is the gyroscope, present."""
    label: np.ndarray
    """int64 [N], index into ``classes``."""
    subject: np.ndarray
    """str [N]."""
    recording: np.ndarray
    """str [N]."""
    start_s: np.ndarray
    """float64 [N], on the recording's clock."""
    classes: list[str]
    positions: list[str]
    rate_hz: float
    positive: str | None = None
    """The rare class of a two-class data set, which AUC and average precision are of."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """What was read: counts, sensors, rates. No paths."""
    notes: list[str] = field(default_factory=list)
    """One sentence each, for the report: what a reader of the scores should know."""
    domain: dict[str, np.ndarray] = field(default_factory=dict)
    """What else is known of each window, str [N] each, empty where it is not: session, device, population."""

    @property
    def ids(self) -> np.ndarray:
        """Unique name of each window, str [N]: ``RECORDING@START``."""
        return np.array([f"{name}@{start:.3f}" for name, start in zip(self.recording, self.start_s, strict=True)])


class WindowsBuilder:
    """Collects windows of one data set.

    Args:
        name: of the data set.
        classes: names of the classes, in the order of the scores.
        positions: P sensor positions, the same in every recording.
        rate_hz: of the windows.
        window_s: length of the windows, seconds.

    Raises:
        UserError: the window is shorter than two samples.
    """

    def __init__(self, name: str, classes: list[str], positions: list[str], rate_hz: float, window_s: float):
        self.name, self.classes, self.positions = name, classes, positions
        self.rate_hz, self.window_s = rate_hz, window_s
        self.num_steps = round(window_s * rate_hz)
        if self.num_steps < 2:
            raise UserError(f"window_s={window_s}: a window must hold at least 2 samples at {rate_hz:g} Hz")
        self.num_blind = 0
        self._imu: list[np.ndarray] = []
        self._valid: list[np.ndarray] = []
        self._rows: list[tuple[int, str, str, float]] = []
        self._domains: list[dict[str, str]] = []

    def starts(self, start_s: float, end_s: float) -> Iterator[int]:
        """Yield the first grid sample of each whole window, without overlap, that lies in [start_s, end_s)."""
        first = int(np.ceil(start_s * self.rate_hz - 1e-6))
        stop = int(np.floor(end_s * self.rate_hz + 1e-6))
        yield from range(first, stop - self.num_steps + 1, self.num_steps)

    def add(
        self,
        imu: np.ndarray,
        valid: np.ndarray,
        first: int,
        label: int,
        subject: str,
        recording: str,
        origin_s: float = 0.0,
        domain: dict[str, str] | None = None,
    ) -> None:
        """Add the window that starts at sample ``first``, unless less than half of it has any sensor present.

        Args:
            imu: float [M, P, 6], sample i at time ``origin_s + i / rate_hz``.
            valid: bool [M, P, 2].
            first: index into them.
            label: class index.
            subject: of the recording.
            recording: its name.
            origin_s: time of sample 0 on the recording's clock, seconds.
            domain: what else is known of the recording.
        """
        span = slice(first, first + self.num_steps)
        if valid[span].any(axis=(1, 2)).mean() < MIN_PRESENT:
            self.num_blind += 1
            return
        self._imu.append(imu[span].astype(np.float32))
        self._valid.append(valid[span])
        self._rows.append((label, subject, recording, origin_s + first / self.rate_hz))
        self._domains.append(domain or {})

    def order_classes(self, names: list[str], keep_all: bool) -> None:
        """Put the classes in another order and, unless all are to be kept, drop those without a window.

        Args:
            names: all of ``classes``, in the new order.
            keep_all: leave classes without a window to :meth:`build`, which refuses them.
        """
        found = {row[0] for row in self._rows}
        kept = [name for name in names if keep_all or self.classes.index(name) in found]
        number = {self.classes.index(name): kept.index(name) for name in kept}
        self._rows = [(number[row[0]], *row[1:]) for row in self._rows]
        self.classes = kept

    def build(self, positive: str | None, provenance: dict[str, Any], notes: list[str]) -> Windows:
        """Return the windows.

        Raises:
            UserError: a class, or the data set, has no window.
        """
        label = np.array([row[0] for row in self._rows], dtype=np.int64)
        if not self.classes:
            raise UserError(f"{self.name}: no window of {self.window_s:g} s: shorten window_s, or take another sensor")
        for index, name in enumerate(self.classes):
            if not (label == index).any():
                raise UserError(
                    f"{self.name}: no window of {self.window_s:g} s of class '{name}': shorten window_s, or leave the "
                    "class or the sensor position out"
                )
        if self.num_blind:
            notes = [*notes, f"{self.num_blind} windows are left out: no sensor is present in half of them."]
        subject, recording = (np.array([row[i] for row in self._rows]) for i in (1, 2))
        counts = {name: int((label == i).sum()) for i, name in enumerate(self.classes)}
        provenance = {
            **provenance,
            "windows": len(label),
            "windows_by_class": counts,
            "subjects_with_windows": len(set(subject.tolist())),
            "window_s": self.num_steps / self.rate_hz,
            "rate_hz": self.rate_hz,
            "positions": self.positions,
        }
        return Windows(
            name=self.name,
            imu=np.stack(self._imu),
            valid=np.stack(self._valid),
            label=label,
            subject=subject,
            recording=recording,
            start_s=np.array([row[3] for row in self._rows]),
            classes=self.classes,
            positions=self.positions,
            rate_hz=self.rate_hz,
            positive=positive,
            provenance=provenance,
            notes=notes,
            domain={
                key: np.array([domain.get(key, "") for domain in self._domains])
                for key in sorted({key for domain in self._domains for key in domain})
            },
        )


def to_grid(
    times_s: np.ndarray, acc: np.ndarray, gyro: np.ndarray | None, rate_hz: float
) -> tuple[np.ndarray, np.ndarray]:
    """Resample the sensors of a recording onto instants i / rate_hz, with anti-aliasing.

    Args:
        times_s: float64 [N], increasing, from 0.
        acc: float64 [N, P, 3], m/s^2; NaN where a sensor gave nothing.
        gyro: the same in rad/s, or None where there is no gyroscope.
        rate_hz: of the grid.

    Returns:
        float32 [M, P, 6], 0 where not valid, and bool [M, P, 2].
    """
    steps = int(np.floor(times_s[-1] * rate_hz + 1e-6)) + 1
    grid_s = np.arange(steps) / rate_hz
    imu = np.zeros((steps, acc.shape[1], 6), dtype=np.float32)
    valid = np.zeros((steps, acc.shape[1], 2), dtype=bool)
    for sensor, signal in enumerate([acc] if gyro is None else [acc, gyro]):
        for position in range(signal.shape[1]):
            values, valid[:, position, sensor] = resample(times_s, signal[:, position], grid_s, rate_hz)
            imu[:, position, 3 * sensor : 3 * sensor + 3] = values
    return imu, valid


def data_folder(root: str | None, key: str) -> Path:
    """Return the folder of a data set: ``root``, or ``key`` or ``pd_key`` under $IMUVID_REALDATA where root is None.

    Raises:
        UserError: neither is given, or the folder does not exist.
    """
    if root is None:
        base = os.environ.get(REALDATA)
        if not base:
            raise UserError(f"{key}.root is not set: give the data set's folder, or the folder above it in ${REALDATA}")
        patients = Path(base) / f"pd_{key}"
        root = str(patients if patients.is_dir() else Path(base) / key)
    folder = Path(root)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder: set {key}.root to the folder of the data set")
    return folder


def read_table(path: Path, num_columns: int) -> np.ndarray:
    """Read a text file of numbers separated by blanks, plain or gzip'd: float64 [rows, num_columns].

    Raises:
        UserError: it is missing, empty, cut off, has another number of columns, or holds something else.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of an empty file, which is refused below
            table = np.loadtxt(path, ndmin=2)
    except FileNotFoundError as error:
        raise UserError(f"{path}: the file is missing: fetch the data set again") from error
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}): fetch the file again") from error
    if not len(table):
        raise UserError(f"{path}: the file is empty: fetch it again")
    if table.shape[1] != num_columns:
        raise UserError(f"{path}: {table.shape[1]} columns, expected {num_columns}: it is not the published file")
    if not np.isfinite(table).all():
        row = int(np.flatnonzero(~np.isfinite(table).all(axis=1))[0]) + 1
        raise UserError(f"{path}: line {row} holds a value that is not a finite number: fetch the file again")
    return table
