"""MotionSense: 24 people, six activities, an iPhone in the front trouser pocket.

Malekzadeh et al., "Mobile Sensor Data Anonymization", IoTDI 2019. Layout, as in the readme of the authors' repository::

    A_DeviceMotion_data/wlk_7/sub_1.csv

with columns attitude.{roll,pitch,yaw}, gravity.{x,y,z}, rotationRate.{x,y,z}, userAcceleration.{x,y,z}: g and rad/s at
50 Hz, a line a sample. An iPhone gives acceleration as minus what an accelerometer feels (gravity is -1 g on z where it
lies face up), so gravity and user acceleration are added and the sign is changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from imuvid.imu.units import to_si
from imuvid.ood.datasets.recording import Card, Download, Recording, Segment, Stream, xyz
from imuvid.ood.datasets.tables import even_times, files, locate, read_csv

RATE_HZ = 50.0
LABELS = {
    "dws": "downstairs",
    "ups": "upstairs",
    "sit": "sitting",
    "std": "standing",
    "wlk": "walking",
    "jog": "jogging",
}
COLUMNS = [column for kind in ("gravity", "userAcceleration", "rotationRate") for column in xyz(kind + ".{}")]


def read(folder: Path) -> Iterator[Recording]:
    """Yield the trials."""
    base = locate(folder, "*_*/sub_*.csv", "motionsense")
    for path, match in files(base, "*_*/sub_*.csv", r"sub_(\d+)\.csv"):
        activity, _, trial = path.parent.name.partition("_")
        if activity not in LABELS or not trial.isdigit():
            continue
        values = read_csv(path, COLUMNS).numbers(COLUMNS)
        times_s = even_times(len(values), RATE_HZ)
        streams = [
            Stream("pocket", "acc", times_s, to_si(-(values[:, :3] + values[:, 3:6]), "g")),
            Stream("pocket", "gyro", times_s, np.ascontiguousarray(values[:, 6:])),
        ]
        segment = Segment(0.0, len(values) / RATE_HZ, LABELS[activity])
        name = f"{path.parent.name}_sub_{match[1]}"
        yield Recording(name, match[1], path, streams, [segment], {"session": trial})


CARD = Card(
    key="motionsense",
    title="MotionSense",
    population="healthy adults",
    citation="Malekzadeh et al., IoTDI 2019",
    homepage="https://github.com/mmalekzadeh/motion-sense",
    licence="ODbL",
    rate_hz=(RATE_HZ, RATE_HZ),
    positions=("pocket",),
    sensors="acc g (gravity and user acceleration apart), gyro rad/s",
    labels=tuple(LABELS.values()),
    read=read,
    subjects=24,
    recordings=360,
    downloads=(
        Download(
            "https://github.com/mmalekzadeh/motion-sense/raw/master/data/A_DeviceMotion_data.zip",
            "A_DeviceMotion_data.zip",
        ),
    ),
)
