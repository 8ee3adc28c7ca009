"""PAMAP2: 9 people, 18 activities, sensors on wrist, chest and ankle (UCI data set 231).

Reiss, Stricker, "Introducing a New Benchmarked Dataset for Activity Monitoring", ISWC 2012. Layout, as in the archive's
readme: ``{Protocol,Optional}/subject101.dat``, 54 columns separated by blanks: time in s, activity, heart rate, then
for hand, chest and ankle 17 columns each: temperature, acceleration at +-16 g, at +-6 g (saturates, says the readme),
gyroscope, magnetometer, orientation. m/s^2 and rad/s at 100 Hz; NaN where packets were lost. The side is the dominant.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from imuvid.ood.datasets.recording import Card, Download, Recording, in_order, segments_of
from imuvid.ood.datasets.tables import Sensor, files, locate, read_blank, streams_of

RATE_HZ = 100.0
NUM_COLUMNS = 54
SENSORS = [
    Sensor(position, range(first + 1, first + 4), range(first + 7, first + 10))
    for position, first in (("wrist", 3), ("chest", 20), ("ankle", 37))
]
LABELS = {
    0: None,
    1: "lying",
    2: "sitting",
    3: "standing",
    4: "walking",
    5: "running",
    6: "cycling",
    7: "nordic_walking",
    9: "watching_tv",
    10: "computer_work",
    11: "car_driving",
    12: "ascending_stairs",
    13: "descending_stairs",
    16: "vacuum_cleaning",
    17: "ironing",
    18: "folding_laundry",
    19: "house_cleaning",
    20: "playing_soccer",
    24: "rope_jumping",
}
OPTIONAL = ("watching_tv", "computer_work", "car_driving", "folding_laundry", "house_cleaning", "playing_soccer")


def read(folder: Path) -> Iterator[Recording]:
    """Yield one recording a file."""
    base = locate(folder, "Protocol/subject*.dat", "pamap2")
    columns = [0, 1, *[column for sensor in SENSORS for column in sensor.columns]]
    for part in ("Protocol", "Optional"):
        for path, match in files(base / part, "*.dat", r"subject(\d+)\.dat"):
            table = read_blank(path, NUM_COLUMNS, columns)
            times_s, keep = in_order(table.columns[0], 1.0, path)
            table = table.rows(keep)
            segments = segments_of(times_s, table.columns[1], LABELS, path, "activity")
            streams = streams_of(table, times_s, SENSORS, allow_nan=True)
            yield Recording(f"{part}_{match[1]}", match[1], path, streams, segments, {"session": part})


CARD = Card(
    key="pamap2",
    title="PAMAP2",
    population="healthy adults",
    citation="Reiss, Stricker, ISWC 2012",
    homepage="https://archive.ics.uci.edu/dataset/231",
    licence="CC BY 4.0",
    rate_hz=(RATE_HZ, RATE_HZ),
    positions=tuple(sensor.position for sensor in SENSORS),
    sensors="acc m/s^2, gyro rad/s",
    labels=tuple(name for name in LABELS.values() if name is not None),
    read=read,
    subjects=9,
    recordings=14,
    subsets={"protocol": tuple(name for name in LABELS.values() if name is not None and name not in OPTIONAL)},
    downloads=(
        Download("https://archive.ics.uci.edu/static/public/231/pamap2+physical+activity+monitoring.zip", "pamap2.zip"),
    ),
)
