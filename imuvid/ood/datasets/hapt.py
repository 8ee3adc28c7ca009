"""HAPT: 30 people with a phone at the waist, daily activities and transitions of posture (UCI data set 341).

Reyes-Ortiz, Oneto, Sama, Parra, Anguita: Transition-Aware Human Activity Recognition Using Smartphones,
Neurocomputing 2016. The raw version: ``RawData/acc_expEE_userUU.txt``, ``gyro_expEE_userUU.txt`` (50 Hz, three
columns, g and rad/s; plain or gzip'd) and ``RawData/labels.txt`` (experiment, user, activity, first and last sample,
counted from 1, both inclusive).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from imuvid.errors import UserError
from imuvid.imu.units import to_si
from imuvid.ood.datasets.base import Windows, WindowsBuilder, data_folder, read_table, to_grid
from imuvid.ood.datasets.recording import Card, Download, Recording, Segment, Stream
from imuvid.ood.datasets.tables import locate
from imuvid.ood.protocols.folds import ProtocolConfig

RATE_HZ = 50.0
ACTIVITIES = (
    "walking",
    "walking_upstairs",
    "walking_downstairs",
    "sitting",
    "standing",
    "laying",
    "stand_to_sit",
    "sit_to_stand",
    "sit_to_lie",
    "lie_to_sit",
    "stand_to_lie",
    "lie_to_stand",
)
PUBLISHED_RECORDINGS = 61


@dataclass
class HAPTConfig:
    """Where HAPT lies and what is scored."""

    root: str | None = None
    """Folder that holds RawData; None: hapt under $IMUVID_REALDATA."""
    num_activities: int = 6
    """6 (daily activities) or 12 (with the transitions of posture, which last 2 to 5 s)."""
    protocol: ProtocolConfig = field(
        default_factory=lambda: ProtocolConfig(
            kind="subject-split",
            train_subjects=[str(i) for i in range(1, 21)],
            test_subjects=[str(i) for i in range(21, 31)],
        )
    )
    """By default subjects 1 to 20 train and 21 to 30 test."""


def read_hapt(config: HAPTConfig, rate_hz: float, window_s: float) -> Windows:
    """Read HAPT as windows within its labelled segments.

    Args:
        config: where and what.
        rate_hz: of the windows.
        window_s: their length, seconds.

    Raises:
        UserError: a file is missing or damaged, or the files do not fit each other.
    """
    if config.num_activities not in (6, 12):
        raise UserError(f"hapt.num_activities={config.num_activities}: HAPT has 6 daily activities, 12 in all")
    folder = data_folder(config.root, "hapt") / "RawData"
    segments = _read_labels(folder / "labels.txt")
    classes = list(ACTIVITIES[: config.num_activities])
    builder = WindowsBuilder("hapt", classes, ["waist"], rate_hz, window_s)
    num_samples = 0
    for (experiment, user), rows in sorted(segments.items()):
        name = f"exp{experiment:02d}_user{user:02d}"
        if not _either(folder / f"acc_{name}.txt").is_file():
            raise UserError(
                f"{folder / 'labels.txt'}: it names {name}, but there is no acc_{name}.txt: fetch the recording; "
                "if it never existed, the columns are not experiment, user, activity, first and last sample"
            )
        acc, gyro = _read_signals(folder, name)
        num_samples += len(acc)
        if rows[-1][2] > len(acc):
            raise UserError(
                f"{folder / 'labels.txt'}: {name} is labelled up to sample {rows[-1][2]}, but its signals have only "
                f"{len(acc)}: fetch the recording again"
            )
        imu, valid = to_grid(np.arange(len(acc)) / RATE_HZ, acc[:, None], gyro[:, None], rate_hz)
        for activity, first, last in rows:
            if activity <= config.num_activities:
                for start in builder.starts((first - 1) / RATE_HZ, last / RATE_HZ):
                    builder.add(imu, valid, start, activity - 1, str(user), name)
    provenance = {
        "recordings": len(segments),
        "subjects": len({user for _, user in segments}),
        "segments": sum(map(len, segments.values())),
        "hours": num_samples / RATE_HZ / 3600,
        "native_rate_hz": RATE_HZ,
    }
    notes = []
    if len(segments) != PUBLISHED_RECORDINGS:
        notes.append(f"Only {len(segments)} of the {PUBLISHED_RECORDINGS} published recordings are there.")
    return builder.build(None, provenance, notes)


def _read_labels(path: Path) -> dict[tuple[int, int], list[tuple[int, int, int]]]:
    """Return (experiment, user) to its segments (activity, first, last), in order of time."""
    segments = defaultdict(list)
    for number, row in enumerate(read_table(path, 5).astype(int).tolist(), start=1):
        experiment, user, activity, first, last = row
        if not 1 <= activity <= len(ACTIVITIES) or not 1 <= first <= last:
            raise UserError(
                f"{path}: line {number}: {' '.join(map(str, row))} is not experiment, user, activity (1 to 12), first "
                "and last sample: fetch the file again"
            )
        segments[experiment, user].append((activity, first, last))
    return {key: sorted(rows, key=lambda row: row[2]) for key, rows in segments.items()}


def _read_signals(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return acceleration and angular rate of a recording, float64 [N, 3], m/s^2 and rad/s."""
    acc, gyro = (read_table(_either(folder / f"{kind}_{name}.txt"), 3) for kind in ("acc", "gyro"))
    if len(acc) != len(gyro):
        raise UserError(
            f"{folder}: {name} has {len(acc)} samples of acceleration but {len(gyro)} of the gyroscope: fetch it again"
        )
    typical = float(np.median(np.linalg.norm(acc, axis=1)))
    if not 0.5 < typical < 2.0:
        raise UserError(
            f"{folder / f'acc_{name}.txt'}: the median acceleration is {typical:.3g}, expected about 1 (g): it is not "
            "the published file"
        )
    return to_si(acc, "g"), to_si(gyro, "rad/s")


def _either(path: Path) -> Path:
    packed = path.with_name(path.name + ".gz")
    return packed if packed.is_file() and not path.is_file() else path


def _recordings(folder: Path) -> Iterator[Recording]:
    """Yield the experiments."""
    raw = locate(folder, "RawData/labels.txt", "hapt") / "RawData"
    for (experiment, user), rows in sorted(_read_labels(raw / "labels.txt").items()):
        name = f"exp{experiment:02d}_user{user:02d}"
        acc, gyro = _read_signals(raw, name)
        times_s = np.arange(len(acc)) / RATE_HZ
        streams = [Stream("waist", "acc", times_s, acc), Stream("waist", "gyro", times_s, gyro)]
        segments = [
            Segment((first - 1) / RATE_HZ, last / RATE_HZ, ACTIVITIES[activity - 1]) for activity, first, last in rows
        ]
        yield Recording(name, str(user), raw / f"acc_{name}.txt", streams, segments)


CARD = Card(
    key="hapt",
    title="HAPT",
    population="healthy adults",
    citation="Reyes-Ortiz et al., Neurocomputing 2016",
    homepage="https://archive.ics.uci.edu/dataset/341",
    licence="cite the paper; its README: no commercial use",
    rate_hz=(RATE_HZ, RATE_HZ),
    positions=("waist",),
    sensors="acc g, gyro rad/s",
    labels=ACTIVITIES,
    read=_recordings,
    subjects=30,
    recordings=PUBLISHED_RECORDINGS,
    hours=6.24,
    downloads=(
        Download(
            "https://archive.ics.uci.edu/static/public/341/"
            "smartphone+based+recognition+of+human+activities+and+postural+transitions.zip",
            "hapt.zip",
        ),
    ),
    seen=True,
)
