"""HARTH and HAR70+: everyday life with accelerometers at the lower back and the thigh (UCI data sets 779 and 780).

HARTH: Logacjov et al., "HARTH: A Human Activity Recognition Dataset for Machine Learning", Sensors 21(23), 2021; 22
adults, ``harth/S006.csv``. HAR70+: Ustad et al., "Validation of an Activity Type Recognition Model Classifying Daily
Physical Behavior in Older Adults", Sensors 23(5), 2023; 18 people of 70 to 95 years, ``har70plus/501.csv``. Layout, as
on their UCI pages: columns timestamp (2019-01-12 00:00:00.000), back_{x,y,z}, thigh_{x,y,z} in g, label; 50 Hz. A few
files of HARTH have an index column besides, so columns are taken by name. The thigh is the right one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from imuvid.ood.datasets.recording import Card, Download, Recording, in_order, segments_of, xyz
from imuvid.ood.datasets.tables import Sensor, files, locate, read_csv, streams_of

RATE_HZ = 50.0
SENSORS = [
    Sensor("lower_back", xyz("back_{}"), acc_unit="g"),
    Sensor("right_thigh", xyz("thigh_{}"), acc_unit="g"),
]
LABELS: dict[int, str | None] = {
    1: "walking",
    2: "running",
    3: "shuffling",
    4: "stairs_ascending",
    5: "stairs_descending",
    6: "standing",
    7: "sitting",
    8: "lying",
    13: "cycling",
    14: "cycling_standing",
    130: "cycling_sitting_inactive",
    140: "cycling_standing_inactive",
}
OLDER = (1, 3, 4, 5, 6, 7, 8)
"""Labels that occur in HAR70+."""


def read_harth(folder: Path) -> Iterator[Recording]:
    """Yield one recording a person."""
    yield from _read(folder, "S*.csv", r"(S\d+)\.csv", "harth")


def read_har70plus(folder: Path) -> Iterator[Recording]:
    """Yield one recording a person."""
    yield from _read(folder, "5*.csv", r"(5\d\d)\.csv", "har70plus")


def _read(folder: Path, pattern: str, name: str, key: str) -> Iterator[Recording]:
    base = locate(folder, pattern, key)
    columns = [column for sensor in SENSORS for column in sensor.columns]
    for path, match in files(base, pattern, name):
        table = read_csv(path, [*columns, "label"], dates=["timestamp"])
        times_s, keep = in_order(table.columns["timestamp"], 1e-6, path)
        table = table.rows(keep)
        segments = segments_of(times_s, table.columns["label"], LABELS, path)
        yield Recording(match[1], match[1], path, streams_of(table, times_s, SENSORS), segments)


def _card(key: str, title: str, population: str, citation: str, number: int, labels: tuple[str, ...], **rest) -> Card:
    return Card(
        key=key,
        title=title,
        population=population,
        citation=citation,
        homepage=f"https://archive.ics.uci.edu/dataset/{number}",
        licence="CC BY 4.0",
        rate_hz=(RATE_HZ, RATE_HZ),
        positions=tuple(sensor.position for sensor in SENSORS),
        sensors="acc g",
        labels=labels,
        **rest,
    )


CARD_HARTH = _card(
    "harth",
    "HARTH",
    "healthy adults, everyday life",
    "Logacjov et al., Sensors 21(23), 2021",
    779,
    tuple(name for name in LABELS.values() if name is not None),
    read=read_harth,
    subjects=22,
    recordings=22,
    hours=35.9,
    downloads=(Download("https://archive.ics.uci.edu/static/public/779/harth.zip", "harth.zip"),),
)
CARD_HAR70PLUS = _card(
    "har70plus",
    "HAR70+",
    "older adults (70 to 95), some with walking aids",
    "Ustad et al., Sensors 23(5), 2023",
    780,
    tuple(name for number, name in LABELS.items() if number in OLDER and name is not None),
    read=read_har70plus,
    subjects=18,
    recordings=18,
    hours=12.55,
    downloads=(Download("https://archive.ics.uci.edu/static/public/780/har70.zip", "har70.zip"),),
)
