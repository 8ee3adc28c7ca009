"""What the writers of small copies share: signals that a body could make, and faults in how they are written."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import scipy.io

G = 9.80665
DEG = np.pi / 180


@dataclass
class Truth:
    """What a reader must make of one recording."""

    name: str
    subject: str
    rate_hz: float
    labels: list[str]
    """Of the labelled stretches, in order."""
    streams: dict[tuple[str, str], np.ndarray]
    """(position, kind) to [samples, 3], SI units, as it was written."""
    source: Path
    """A file with its signals."""


@dataclass
class Writer:
    """Writes one small copy."""

    folder: Path
    subjects: int = 2
    unit: float = 1.0
    """Factor by which accelerations are written wrong."""
    exchanged: bool = False
    """Are the columns of data written in the reverse order, under the same header."""
    truths: list[Truth] = field(default_factory=list)
    seed: int = 0

    def motion(self, num_samples: int, rate_hz: float, gravity: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Return acceleration and angular rate [samples, 3] of a limb that swings in gravity, m/s^2 and rad/s."""
        self.seed += 1
        rng = np.random.default_rng(self.seed)
        t = np.arange(num_samples) / rate_hz
        phase = 2 * np.pi * 0.4 * t + rng.uniform(0, 6)
        angle = 0.6 * np.sin(phase)
        gyro = np.zeros((num_samples, 3))
        gyro[:, 0] = 0.6 * 2 * np.pi * 0.4 * np.cos(phase)
        acc = np.stack([np.zeros_like(t), np.sin(angle), np.cos(angle)], axis=1) * (G if gravity else 0.0)
        acc[:, 0] += 0.4 * np.sin(2 * np.pi * 1.5 * t + rng.uniform(0, 6))
        return acc, gyro

    def truth(
        self,
        name: str,
        subject: object,
        rate_hz: float,
        labels: Sequence[str],
        streams: dict[str, Sequence[np.ndarray | None]],
        source: Path,
    ) -> None:
        """Note what was written; ``streams`` is position to (acc, gyro)."""
        kinds = {
            (position, kind): values
            for position, pair in streams.items()
            for kind, values in zip(("acc", "gyro"), pair, strict=False)
            if values is not None
        }
        self.truths.append(Truth(name, str(subject), rate_hz, list(labels), kinds, source))

    def table(
        self,
        path: Path | str,
        columns: Sequence[object],
        header: str | Sequence[str] | None = None,
        sep: str = ",",
        end: str = "\n",
    ) -> Path:
        """Write columns, each of numbers [N] or [N, k] or of texts, as a delimited file; gzip'd by its ending."""
        path = self.folder / path
        path.parent.mkdir(parents=True, exist_ok=True)
        data = self.text(columns, header, sep, end).encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
        return path

    def text(self, columns: Sequence[object], header=None, sep: str = ",", end: str = "\n") -> str:
        cells: list[list[str]] = []
        for column in columns:
            array = np.asarray(column)
            for one in array.T if array.ndim == 2 else [array]:
                cells.append([_cell(value) for value in one.tolist()])
        if self.exchanged:
            cells.reverse()
        lines = [sep.join(row) for row in zip(*cells, strict=True)]
        top = [] if header is None else [header if isinstance(header, str) else sep.join(header)]
        return "".join(line + end for line in [*top, *lines])

    def mat(self, path: str, variable: str, columns: Sequence[np.ndarray]) -> Path:
        """Write columns as a matrix of a MAT file."""
        full = self.folder / path
        full.parent.mkdir(parents=True, exist_ok=True)
        values = np.column_stack(columns)
        scipy.io.savemat(full, {variable: values[:, ::-1] if self.exchanged else values})
        return full

    def zip(self, path: str, members: dict[str, str | bytes]) -> Path:
        """Write a ZIP archive."""
        full = self.folder / path
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_bytes(zipped(members))
        return full


def zipped(members: dict[str, str | bytes]) -> bytes:
    """Return a ZIP archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def clock(num_samples: int, rate_hz: float, start_s: float = 0.0) -> np.ndarray:
    """Return the times of samples, seconds."""
    return start_s + np.arange(num_samples) / rate_hz


def dates(times_s: np.ndarray) -> list[str]:
    """Return dates and times of day, in milliseconds."""
    stamps = np.datetime64("2019-01-12T00:00:00.000") + np.round(times_s * 1000).astype("timedelta64[ms]")
    return [str(stamp).replace("T", " ") for stamp in stamps]


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "NaN" if np.isnan(value) else f"{value:.7g}" if abs(value) < 1e6 else f"{value:.3f}"
    return str(value)
