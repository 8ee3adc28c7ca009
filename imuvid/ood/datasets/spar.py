"""SPAR: 10 people, 7 exercises of the shoulder, a watch on the exercising arm (the set of the seglearn package).

Burns, Leung, Hardisty, Whyne, Henry, McLachlin: Shoulder physiotherapy exercise recognition: machine learning the
inertial signals from a smartwatch, Physiological Measurement 39(7), 2018. One file, ``watch_dataset.npy`` (in the
folder ``seglearn/data`` of the package, BSD licence): 140 recordings of one exercise each (person x exercise x side),
50 Hz, acceleration in g and angular rate in rad/s.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from imuvid.errors import UserError
from imuvid.imu.units import to_si
from imuvid.ood.datasets.base import REALDATA, Windows, WindowsBuilder, to_grid
from imuvid.ood.datasets.recording import Card, Recording, Segment, Stream
from imuvid.ood.datasets.tables import locate
from imuvid.ood.protocols.folds import ProtocolConfig

RATE_HZ = 50.0
FILE = "watch_dataset.npy"
CHANNELS = ["ax", "ay", "az", "wx", "wy", "wz"]
PUBLISHED_RECORDINGS = 140
SIDES = ("left", "right")
MIN_QUIET = 0.3
"""The acceleration that 5 % of the samples of a usual recording stay below is larger than this, g."""


@dataclass
class SPARConfig:
    """Where SPAR lies and what is scored."""

    path: str | None = None
    """The file watch_dataset.npy; None: spar/watch_dataset.npy under $IMUVID_REALDATA."""
    protocol: ProtocolConfig = field(
        default_factory=lambda: ProtocolConfig(
            kind="subject-split",
            train_subjects=[str(i) for i in range(1, 7)],
            test_subjects=[str(i) for i in range(7, 11)],
        )
    )
    """By default subjects 1 to 6 train and 7 to 10 test."""


def read_spar(config: SPARConfig, rate_hz: float, window_s: float) -> Windows:
    """Read SPAR as windows of its recordings.

    Args:
        config: where it is.
        rate_hz: of the windows.
        window_s: their length, seconds.

    Raises:
        UserError: the file is missing, or it is not the published one.
    """
    if config.path is None and not os.environ.get(REALDATA):
        raise UserError(f"spar.path is not set: give the file {FILE}, or the folder above spar/{FILE} in ${REALDATA}")
    table = _read(Path(config.path or Path(os.environ[REALDATA]) / "spar" / FILE))
    classes = [str(name) for name in table["y_labels"]]
    builder = WindowsBuilder("spar", classes, ["wrist"], rate_hz, window_s)
    seconds = 0.0
    rows = zip(table["X"], table["y"], table["subject"], table["side"], strict=True)
    for number, (signal, label, subject, side) in enumerate(rows):
        acc, gyro = to_si(signal[:, :3], "g"), to_si(signal[:, 3:], "rad/s")
        imu, valid = to_grid(np.arange(len(signal)) / RATE_HZ, acc[:, None], gyro[:, None], rate_hz)
        seconds += len(signal) / RATE_HZ
        name = _name(number, classes[int(label)], int(side))
        for start in builder.starts(0.0, len(signal) / RATE_HZ):
            builder.add(imu, valid, start, int(label), str(int(subject)), name)
    provenance = {
        "recordings": len(table["X"]),
        "subjects": len(set(table["subject"].tolist())),
        "hours": seconds / 3600,
        "native_rate_hz": RATE_HZ,
    }
    notes = []
    if len(table["X"]) != PUBLISHED_RECORDINGS:
        notes.append(f"Only {len(table['X'])} of the {PUBLISHED_RECORDINGS} published recordings are there.")
    return builder.build(None, provenance, notes)


def _name(number: int, exercise: str, side: int) -> str:
    return f"{number:03d}_{exercise}_{SIDES[side]}"


class _ArraysOnly(pickle.Unpickler):
    """Unpickles NumPy arrays, dicts, lists, numbers and texts; whatever else a pickle could run is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.zeros(0).__reduce__()[0]
        allowed: dict[tuple[str, str], Callable[..., Any]] = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            # How a pickle of an old protocol spells bytes.
            ("_codecs", "encode"): lambda text, _encoding: text.encode("latin1"),
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it holds {module}.{name}")
        return allowed[module, name]


def _read(path: Path) -> dict[str, Any]:
    """Return the table of the file: X (list of float [N, 6]), y, subject, side (int [R]) and y_labels.

    The file is an array of one object, a pickled dict: it is read without running anything in it.
    """
    try:
        with path.open("rb") as file:
            if not path.stat().st_size:
                raise UserError(f"{path}: the file is empty: fetch it again")
            table = _unpickled(file)
    except FileNotFoundError as error:
        raise UserError(f"{path}: the file is missing: it is seglearn/data/{FILE} of the seglearn package") from error
    except (OSError, EOFError, LookupError, ValueError, AttributeError, TypeError, pickle.PickleError) as error:
        raise UserError(f"{path}: cannot be read: it is not the published file ({error}): fetch it again") from error
    return table


def _unpickled(file: BinaryIO) -> dict[str, Any]:
    version = np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file) if version == (1, 0) else ((0,), False, None)
    if shape != () or dtype != np.dtype(object):
        raise ValueError("no array of one object")
    table = _ArraysOnly(file).load()
    table = table.item() if isinstance(table, np.ndarray) else table
    if list(table["X_labels"]) != CHANNELS:
        raise ValueError(f"its channels are {', '.join(map(str, table['X_labels']))}, expected {', '.join(CHANNELS)}")
    count = len(table["X"])
    for key in ("y", "subject", "side"):
        table[key] = np.asarray(table[key]).astype(int)
        if table[key].shape != (count,):
            raise ValueError(f"{key} has {table[key].size} entries for {count} recordings")
    if not (np.isin(table["y"], range(len(table["y_labels"]))).all() and np.isin(table["side"], (0, 1)).all()):
        raise ValueError("a label or a side is none of those that it names")
    table["X"] = [np.asarray(signal, dtype=np.float64) for signal in table["X"]]
    for number, signal in enumerate(table["X"]):
        if signal.ndim != 2 or signal.shape[1] != len(CHANNELS) or len(signal) < 2 or not np.isfinite(signal).all():
            raise ValueError(f"recording {number} is no table of 6 finite columns")
    typical = float(np.median([np.median(np.linalg.norm(signal[:, :3], axis=1)) for signal in table["X"]]))
    if not 0.5 < typical < 2.0:
        raise ValueError(f"the median acceleration is {typical:.3g}, expected about 1 (g)")
    weakest = float(np.median([np.quantile(np.linalg.norm(signal[:, :3], axis=1), 0.05) for signal in table["X"]]))
    if weakest < MIN_QUIET:
        # An arm that exercises is never near free fall; its angular rate is 0 at every turn.
        raise ValueError(f"acceleration falls to {weakest:.2g} g: the columns are others than their names say")
    return table


def _recordings(folder: Path) -> Iterator[Recording]:
    """Yield the recordings of one exercise each."""
    path = locate(folder, FILE, "spar") / FILE
    table = _read(path)
    rows = zip(table["X"], table["y"], table["subject"], table["side"], strict=True)
    for number, (signal, label, subject, side) in enumerate(rows):
        exercise = str(table["y_labels"][int(label)])
        times_s = np.arange(len(signal)) / RATE_HZ
        streams = [
            Stream("wrist", "acc", times_s, to_si(signal[:, :3], "g")),
            Stream("wrist", "gyro", times_s, to_si(signal[:, 3:], "rad/s")),
        ]
        yield Recording(
            _name(number, exercise, int(side)),
            str(int(subject)),
            path,
            streams,
            [Segment(0.0, len(signal) / RATE_HZ, exercise)],
            {"side": SIDES[int(side)]},
        )


CARD = Card(
    key="spar",
    title="SPAR (shoulder exercises, the watch set of seglearn)",
    population="healthy adults",
    citation="Burns et al., Physiological Measurement 39(7), 2018",
    homepage="https://github.com/dmbee/seglearn",
    licence="BSD 3-clause (of the package)",
    rate_hz=(RATE_HZ, RATE_HZ),
    positions=("wrist",),
    sensors="acc g, gyro rad/s",
    labels=("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW"),
    read=_recordings,
    max_rate=10.0,  # two of the published recordings have 7.0 and 7.3
    subjects=10,
    recordings=PUBLISHED_RECORDINGS,
    steps="pip download --no-deps seglearn==1.2.5, unzip it; the file is seglearn/data/watch_dataset.npy.",
    seen=True,
)
