"""DSADS, daily and sports activities: 8 people, 19 activities, sensors at five places (UCI data set 256).

Altun, Barshan, Tuncel, "Comparative study on classifying human activities with miniature inertial and magnetic
sensors", Pattern Recognition 43(10), 2010. Layout, as in the archive's description: ``data/a01/p1/s01.txt``, 125
lines (5 s at 25 Hz) of 45 columns separated by commas: for torso, right arm, left arm, right leg, left leg the
acceleration (m/s^2), gyroscope (rad/s, as the sensors, Xsens MTx, give it) and magnetometer. The arms' sensors are at
the wrists, the legs' beside the knees. The 60 segments are five minutes cut up, so they are joined again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from imuvid.errors import UserError
from imuvid.ood.datasets.recording import Card, Download, Recording, Segment
from imuvid.ood.datasets.tables import Sensor, Table, even_times, files, locate, read_csv, streams_of

RATE_HZ = 25.0
SEGMENT = 125
NUM_COLUMNS = 45
SENSORS = [
    Sensor(position, range(9 * i, 9 * i + 3), range(9 * i + 3, 9 * i + 6))
    for i, position in enumerate(("chest", "right_wrist", "left_wrist", "right_knee", "left_knee"))
]
LABELS = (
    *("sitting", "standing", "lying_on_back", "lying_on_right_side", "ascending_stairs", "descending_stairs"),
    *("standing_in_elevator", "moving_in_elevator", "walking_in_parking_lot", "walking_on_treadmill"),
    *("walking_on_inclined_treadmill", "running_on_treadmill", "exercising_on_stepper", "exercising_on_cross_trainer"),
    *("cycling_horizontal", "cycling_vertical", "rowing", "jumping", "playing_basketball"),
)


def read(folder: Path) -> Iterator[Recording]:
    """Yield one recording for each activity and person."""
    base = locate(folder, "a*/p*/s01.txt", "dsads")
    for person in sorted(path for path in base.glob("a*/p*") if path.is_dir()):
        activity = int(person.parent.name[1:]) if person.parent.name[1:].isdigit() else 0
        if not 1 <= activity <= len(LABELS):
            raise UserError(f"{person}: {person.parent.name} is not a01 to a{len(LABELS)}: not the published folder")
        parts = []
        for path, _ in files(person, "s*.txt", r"s\d+\.txt"):
            table = read_csv(path, range(NUM_COLUMNS), header=False)
            if len(table) != SEGMENT:
                raise UserError(f"{path}: {len(table)} lines, published are {SEGMENT}: the file is cut off")
            parts.append(table)
        table = Table(person, {c: np.concatenate([part.columns[c] for part in parts]) for c in range(NUM_COLUMNS)})
        times_s = even_times(len(table), RATE_HZ)
        segment = Segment(0.0, len(table) / RATE_HZ, LABELS[activity - 1])
        name = f"{person.parent.name}_{person.name}"
        yield Recording(name, person.name[1:], person, streams_of(table, times_s, SENSORS), [segment])


CARD = Card(
    key="dsads",
    title="DSADS (daily and sports activities)",
    population="healthy adults",
    citation="Altun, Barshan, Tuncel, Pattern Recognition 43(10), 2010",
    homepage="https://archive.ics.uci.edu/dataset/256",
    licence="CC BY 4.0",
    rate_hz=(RATE_HZ, RATE_HZ),
    positions=tuple(sensor.position for sensor in SENSORS),
    default_positions=("right_wrist",),
    sensors="acc m/s^2, gyro rad/s",
    labels=LABELS,
    read=read,
    subjects=8,
    recordings=152,
    hours=12.67,
    downloads=(Download("https://archive.ics.uci.edu/static/public/256/daily+and+sports+activities.zip", "dsads.zip"),),
)
