"""Opportunity: 4 people in a kitchen, modes of locomotion, sensors all over the body (UCI data set 226).

Roggen et al., "Collecting complex activity datasets in highly rich networked sensor environments", INSS 2010. Layout,
as in the archive's column_names.txt: ``dataset/S1-ADL1.dat`` to ADL5 and ``S1-Drill.dat`` for S1 to S4, 250 columns
separated by blanks, 30 Hz, NaN where radio packets were lost: time in ms, accelerometers in milli-g, and five inertial
units (back, both upper arms, both lower arms: acceleration in milli-g, gyroscope times 1000 "unit unknown", which for
this make is rad/s). Column 244 is the mode of locomotion.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from imuvid.ood.datasets.recording import Card, Download, Recording, in_order, segments_of
from imuvid.ood.datasets.tables import Sensor, files, locate, read_blank, streams_of

RATE_HZ = 30.0
NUM_COLUMNS = 250
LOCOMOTION = 243
UNITS = {"back": 37, "right_upper_arm": 50, "right_forearm": 63, "left_upper_arm": 76, "left_forearm": 89}
"""Place of an inertial unit to its first column, from 0."""
SENSORS = [
    *(Sensor(place, range(c, c + 3), range(c + 3, c + 6), "mg", "rad/s") for place, c in UNITS.items()),
    Sensor("waist", (4, 5, 6), acc_unit="mg"),
]
LABELS = {0: None, 1: "stand", 2: "walk", 4: "sit", 5: "lie"}


def read(folder: Path) -> Iterator[Recording]:
    """Yield one recording a file."""
    base = locate(folder, "S*-*.dat", "opportunity")
    columns = [0, LOCOMOTION, *[column for sensor in SENSORS for column in sensor.columns]]
    for path, match in files(base, "S*-*.dat", r"S(\d)-(ADL\d|Drill)\.dat"):
        table = read_blank(path, NUM_COLUMNS, columns)
        times_s, keep = in_order(table.columns[0], 1e-3, path)
        table = table.rows(keep)
        for sensor in SENSORS:
            for column in sensor.gyro or ():
                table.columns[column] = np.asarray(table.columns[column]) / 1000
        segments = segments_of(times_s, table.columns[LOCOMOTION], LABELS, path, "mode of locomotion")
        streams = streams_of(table, times_s, SENSORS, allow_nan=True)
        yield Recording(path.stem, match[1], path, streams, segments, {"session": match[2]})


CARD = Card(
    key="opportunity",
    title="Opportunity (locomotion)",
    population="healthy adults",
    citation="Roggen et al., INSS 2010",
    homepage="https://archive.ics.uci.edu/dataset/226",
    licence="CC BY 4.0",
    rate_hz=(RATE_HZ, RATE_HZ),
    positions=tuple(sensor.position for sensor in SENSORS),
    sensors="acc milli-g, gyro milli-rad/s (not at the waist)",
    labels=tuple(name for name in LABELS.values() if name is not None),
    read=read,
    subjects=4,
    recordings=24,
    downloads=(
        Download(
            "https://archive.ics.uci.edu/static/public/226/opportunity+activity+recognition.zip", "opportunity.zip"
        ),
    ),
    note="Four people: intervals over people are not to be trusted.",
)
