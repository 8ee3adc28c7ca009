"""MHEALTH: 10 people, 12 activities, sensors on chest, left ankle and right wrist (UCI data set 319).

Banos et al., "mHealthDroid: a novel framework for agile development of mobile health applications", IWAAL 2014. Layout,
as in the archive's README: ``MHEALTHDATASET/mHealth_subject1.log``, 24 columns separated by blanks at 50 Hz:
acceleration of the chest, two ECG leads, then acceleration, gyroscope and magnetometer of the left ankle and of the
right lower arm, and the label (0: none). m/s^2 and deg/s; the chest has no gyroscope.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from imuvid.ood.datasets.recording import Card, Download, Recording, segments_of
from imuvid.ood.datasets.tables import Sensor, even_times, files, locate, read_blank, streams_of

RATE_HZ = 50.0
NUM_COLUMNS = 24
SENSORS = [
    Sensor("chest", (0, 1, 2)),
    Sensor("left_ankle", (5, 6, 7), (8, 9, 10), gyro_unit="deg/s"),
    Sensor("right_wrist", (14, 15, 16), (17, 18, 19), gyro_unit="deg/s"),
]
LABELS = {
    0: None,
    1: "standing",
    2: "sitting",
    3: "lying",
    4: "walking",
    5: "climbing_stairs",
    6: "waist_bends",
    7: "arm_elevation",
    8: "knees_bending",
    9: "cycling",
    10: "jogging",
    11: "running",
    12: "jumping",
}


def read(folder: Path) -> Iterator[Recording]:
    """Yield one recording a person."""
    base = locate(folder, "mHealth_subject*.log", "mhealth")
    columns = [column for sensor in SENSORS for column in sensor.columns]
    for path, match in files(base, "*.log", r"mHealth_subject(\d+)\.log"):
        table = read_blank(path, NUM_COLUMNS, [*columns, NUM_COLUMNS - 1])
        times_s = even_times(len(table), RATE_HZ)
        segments = segments_of(times_s, table.columns[NUM_COLUMNS - 1], LABELS, path)
        yield Recording(path.stem, match[1], path, streams_of(table, times_s, SENSORS), segments)


CARD = Card(
    key="mhealth",
    title="MHEALTH",
    population="healthy adults",
    citation="Banos et al., IWAAL 2014",
    homepage="https://archive.ics.uci.edu/dataset/319",
    licence="CC BY 4.0",
    rate_hz=(RATE_HZ, RATE_HZ),
    positions=tuple(sensor.position for sensor in SENSORS),
    default_positions=("right_wrist",),
    sensors="acc m/s^2, gyro deg/s (not at the chest)",
    labels=tuple(name for name in LABELS.values() if name is not None),
    read=read,
    subjects=10,
    recordings=10,
    downloads=(Download("https://archive.ics.uci.edu/static/public/319/mhealth+dataset.zip", "mhealth.zip"),),
    note="The time in the files is implied by the rate; running and jogging are two labels here.",
)
