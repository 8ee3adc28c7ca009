"""UESTC-MMEA-CL, the inertial files: 32 daily activities, 10 people, a sensor on smart glasses.

Xu et al., "Towards Continual Egocentric Activity Recognition: A Multi-Modal Egocentric Activity Dataset for Continual
Learning", IEEE Transactions on Multimedia 2023, doi 10.1109/TMM.2023.3295899. Layout, as in the readme of the authors'
code: ``sensor/27_open_close_door/27_open_close_door_2022_05_05_16_05_51.csv``, six columns of raw counts without header
(accelerometer, gyroscope) at 25 Hz; 16.4 counts a deg/s. Published code divides the accelerometer by 8192 or by 16384
counts a g: gravity tells which, clip by clip. Clips that fit neither are left out as long as they are few.

No file says who wears the glasses. Clips of one day are kept together as one "subject": a split by day is stricter than
the official one, which is by clip, but the same person may be on both sides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from imuvid.ood.datasets.recording import Card, Recording, Segment
from imuvid.ood.datasets.tables import Sensor, even_times, files, locate, read_csv, streams_of

RATE_HZ = 25.0
ACC_SENSITIVITIES = (16384.0, 8192.0)
"""Published counts a g."""
GYRO_SENSITIVITY = 16.4
"""Published counts a deg/s."""
PAPER = ("standing", "walking", "sit_stand", "downstairs", "fall")
"""Five activities that Cheshmi et al. (MLHC 2025) score, by their code."""


def read(folder: Path) -> Iterator[Recording]:
    """Yield the clips."""
    base = locate(folder, "sensor/*_*/*.csv", "uestc_mmea_cl") / "sensor"
    for path, _ in files(base, "*_*/*.csv", r".*\.csv"):
        activity = re.fullmatch(r"\d+_(\w+)", path.parent.name)
        if activity is None:
            continue
        table = read_csv(path, range(6), header=False)
        counts = float(np.median(np.linalg.norm(table.numbers(range(3)), axis=1)))
        sensitivity = min(ACC_SENSITIVITIES, key=lambda one: abs(np.log(max(counts, 1.0) / one)))
        for column in (3, 4, 5):
            table.columns[column] = table.columns[column] / GYRO_SENSITIVITY
        times_s = even_times(len(table), RATE_HZ)
        sensor = Sensor("head", (0, 1, 2), (3, 4, 5), "g", "deg/s")
        streams = streams_of(table, times_s, [sensor], acc_scale=1 / sensitivity)
        day = re.search(r"_(\d{4}_\d\d_\d\d)_", path.stem)
        segment = Segment(0.0, len(table) / RATE_HZ, activity[1])
        yield Recording(path.stem, day[1] if day else path.stem, path, streams, [segment])


CARD = Card(
    key="uestc_mmea_cl",
    title="UESTC-MMEA-CL (inertial)",
    population="healthy adults",
    citation="Xu et al., IEEE Transactions on Multimedia, 2023",
    homepage="https://ivipclab.github.io/publication_uestc-mmea-cl/mmea-cl",
    licence="for educational or non-commercial purposes",
    rate_hz=(RATE_HZ, RATE_HZ),
    positions=("head",),
    sensors="acc raw counts, gyro raw counts",
    labels=(),
    read=read,
    subjects=None,
    hours=30.4,
    subsets={"paper": PAPER},
    steps="Open the page, follow its download link, unpack the sensor folder.",
    note="Who wears the glasses is not published: 'subjects' are days, and one person may be in training and test.",
)
