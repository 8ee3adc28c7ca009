"""Daphnet: freezing of gait in Parkinson's disease, three accelerometers, no gyroscope (UCI data set 245).

Baechlin et al.: Wearable Assistant for Parkinson's Disease Patients With the Freezing of Gait Symptom, IEEE
Transactions on Information Technology in Biomedicine 14(2), 2010. Files ``SssRrr.txt``, 64 Hz: time in ms, then
acceleration in mg of ankle, thigh and trunk (three columns each), then 0 (not part of the experiment), 1 (no
freeze) or 2 (freeze).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from imuvid.errors import UserError
from imuvid.imu.units import to_si
from imuvid.ood.datasets.base import Windows, WindowsBuilder, data_folder, read_table, to_grid
from imuvid.ood.datasets.recording import Card, Download, Recording, Stream, segments_of
from imuvid.ood.datasets.tables import files, locate
from imuvid.ood.protocols.folds import ProtocolConfig

RATE_HZ = 64.0
POSITIONS = ("ankle", "thigh", "trunk")
CLASSES = ("no_freeze", "freeze")
PUBLISHED_FILES = 17
FILE_NAME = re.compile(r"(S\d\d)R\d\d\.txt(\.gz)?")


@dataclass
class DaphnetConfig:
    """Where Daphnet lies and what is scored."""

    root: str | None = None
    """Folder that holds the files S01R01.txt and so on; None: pd_daphnet under $IMUVID_REALDATA."""
    positions: list[str] = field(default_factory=lambda: ["ankle"])
    """Sensors that are used: any of ankle, thigh, trunk."""
    freeze_share: float = 0.5
    """A window counts as freeze if at least this share of it is labelled so, 0 to 1."""
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    """By default one patient is left out at a time."""


def read_daphnet(config: DaphnetConfig, rate_hz: float, window_s: float) -> Windows:
    """Read Daphnet as windows within the experiments; the gyroscope is marked absent, and so is an accelerometer
    while it reads zero on all axes.

    Args:
        config: where and what.
        rate_hz: of the windows.
        window_s: their length, seconds.

    Raises:
        UserError: a file is missing or damaged, or a position unknown.
    """
    if not config.positions or not set(config.positions) <= set(POSITIONS):
        raise UserError(f"daphnet.positions={config.positions}: choose from {', '.join(POSITIONS)}")
    if not 0 < config.freeze_share <= 1:
        raise UserError(f"daphnet.freeze_share={config.freeze_share}: must lie between 0 and 1")
    folder = data_folder(config.root, "daphnet")
    files = {match[0]: match[1] for path in folder.iterdir() if (match := FILE_NAME.fullmatch(path.name))}
    if not files:
        raise UserError(f"{folder}: no file named like S01R01.txt there: set daphnet.root to the data set's folder")
    builder = WindowsBuilder("daphnet", list(CLASSES), list(config.positions), rate_hz, window_s)
    dead, experiment_s, freeze_s = [], 0.0, 0.0
    for file, subject in sorted(files.items()):
        acc, label = _read_file(folder / file)
        experiment_s += float((label > 0).sum()) / RATE_HZ
        freeze_s += float((label == 2).sum()) / RATE_HZ
        name = file.partition(".")[0]
        acc = acc[:, [POSITIONS.index(position) for position in config.positions]]
        # Gravity acts on every sensor that is connected: zero on all three axes means that it gave nothing.
        silent = (acc == 0).all(axis=-1)
        acc[silent] = np.nan
        share = silent[label > 0].mean(axis=0) if (label > 0).any() else silent.mean(axis=0)
        dead += [f"{name} {position}" for position, s in zip(config.positions, share, strict=True) if s > 0.5]
        imu, valid = to_grid(np.arange(len(acc)) / RATE_HZ, acc, None, rate_hz)
        for first, stop in _runs(label > 0):
            for start in builder.starts(first / RATE_HZ, stop / RATE_HZ):
                begin_s = start / rate_hz
                span = slice(round(begin_s * RATE_HZ), round((begin_s + window_s) * RATE_HZ))
                frozen = float((label[span] == 2).mean()) >= config.freeze_share
                builder.add(imu, valid, start, int(frozen), subject, name)
    provenance = {
        "recordings": len(files),
        "subjects": len(set(files.values())),
        "hours": experiment_s / 3600,
        "freeze_s": freeze_s,
        "native_rate_hz": RATE_HZ,
        "dead_sensors": dead,
    }
    notes = ["There is no gyroscope: it is marked absent in every window."]
    notes += [
        f"The sensor {name} reads zero on all axes for most of the experiment and is marked absent there."
        for name in dead
    ]
    if len(files) != PUBLISHED_FILES:
        notes.append(f"Only {len(files)} of the {PUBLISHED_FILES} published recordings are there.")
    return builder.build(CLASSES[1], provenance, notes)


def _read_file(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return acceleration float64 [N, 3 positions, 3], m/s^2, and label int [N]."""
    table = read_table(path, 11)
    steps, label = np.diff(table[:, 0]), table[:, 10]
    if not np.isin(label, (0, 1, 2)).all():
        row = int(np.flatnonzero(~np.isin(label, (0, 1, 2)))[0]) + 1
        raise UserError(
            f"{path}: line {row}: the last column must be 0, 1 or 2: the columns are not the published ones"
        )
    if len(steps) and (steps.min() < 10 or steps.max() > 20):
        row = int(np.flatnonzero((steps < 10) | (steps > 20))[0]) + 2
        raise UserError(
            f"{path}: line {row}: the time in the first column must advance by 15 or 16 ms: lines are missing or the "
            "columns are not the published ones"
        )
    acc = table[:, 1:10].reshape(-1, 3, 3)
    typical = np.median(np.linalg.norm(acc[label > 0], axis=-1), axis=0) if (label > 0).any() else np.array([1000.0])
    if not ((typical == 0) | ((typical > 300) & (typical < 3000))).all():
        raise UserError(
            f"{path}: the median acceleration is {typical.max():.3g}, expected about 1000 (mg): it is not the "
            "published file"
        )
    return to_si(acc, "mg"), label.astype(int)


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """Return first and stop of each stretch of True in bool [N]."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _recordings(folder: Path) -> Iterator[Recording]:
    """Yield the recordings, labelled within the experiments."""
    base = locate(folder, "S*R*.txt*", "daphnet")
    for path, match in files(base, "S*R*.txt*", FILE_NAME.pattern):
        acc, label = _read_file(path)
        times_s = np.arange(len(acc)) / RATE_HZ
        streams = [Stream(position, "acc", times_s, acc[:, i]) for i, position in enumerate(POSITIONS)]
        segments = segments_of(times_s, label, {0: None, 1: CLASSES[0], 2: CLASSES[1]}, path)
        yield Recording(path.name.partition(".")[0], match[1], path, streams, segments)


CARD = Card(
    key="daphnet",
    title="Daphnet (freezing of gait)",
    population="Parkinson's disease, freezing of gait",
    citation="Baechlin et al., IEEE Trans. Information Technology in Biomedicine 14(2), 2010",
    homepage="https://archive.ics.uci.edu/dataset/245",
    licence="CC BY 4.0",
    rate_hz=(RATE_HZ, RATE_HZ),
    positions=POSITIONS,
    sensors="acc mg",
    labels=CLASSES,
    read=_recordings,
    subjects=10,
    recordings=PUBLISHED_FILES,
    positive=CLASSES[1],
    downloads=(Download("https://archive.ics.uci.edu/static/public/245/daphnet+freezing+of+gait.zip", "daphnet.zip"),),
    seen=True,
)
