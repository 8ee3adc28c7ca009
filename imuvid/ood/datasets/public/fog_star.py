"""FoG-STAR: 22 people with Parkinson's disease, seven tasks, sensors on both ankles, lower back and wrist.

Borzi et al., "FoG-STAR", Scientific Data 13, 2026; data at Zenodo, record 17838806. Layout, as in its README:
``sensor_data.csv`` with columns timestamp (ms), POSITION_{acc,gyro}_{x,y,z} for ankleL, ankleR, back, wrist (g, deg/s;
empty where packets were lost), activity (0 none, 1 walking, 2 sitting, 3 standing, 4 sit-to-stand, 5 stand-to-sit, 6
right turn, 7 left turn), fog (0 or 1), fog_severity, subjectID, sessionID, taskID; 60 Hz. Each person, session and task
is a recording. Two cards read the same file: freezing, and activities.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from imuvid.ood.datasets.recording import Card, Download, Recording, in_order, segments_of, xyz
from imuvid.ood.datasets.tables import Sensor, grouped, locate, read_csv, streams_of

RATE_HZ = 60.0
SENSORS = [
    Sensor(position, xyz(name + "_acc_{}"), xyz(name + "_gyro_{}"), "g", "deg/s")
    for name, position in (
        ("ankleL", "left_ankle"),
        ("ankleR", "right_ankle"),
        ("back", "lower_back"),
        ("wrist", "wrist"),
    )
]
FREEZING: dict[int, str | None] = {-1: None, 0: "no_freeze", 1: "freeze"}
ACTIVITIES: dict[int, str | None] = {
    0: None,
    1: "walking",
    2: "sitting",
    3: "standing",
    4: "sit_to_stand",
    5: "stand_to_sit",
    6: "turning_right",
    7: "turning_left",
}
KEYS = ["subjectID", "sessionID", "taskID"]


def read_freezing(folder: Path) -> Iterator[Recording]:
    """Yield the recordings, labelled by freezing."""
    yield from _read(folder, "fog_star", "fog", FREEZING)


def read_activities(folder: Path) -> Iterator[Recording]:
    """Yield the recordings, labelled by activity."""
    yield from _read(folder, "fog_star_activities", "activity", ACTIVITIES)


def _read(folder: Path, key: str, label: str, names: Mapping[int, str | None]) -> Iterator[Recording]:
    source = locate(folder, "sensor_data.csv", key) / "sensor_data.csv"
    columns = [column for sensor in SENSORS for column in sensor.columns]
    table = read_csv(source, ["timestamp", *columns, "activity", "fog", *KEYS])
    ids = table.numbers(KEYS).astype(int)
    names_of = np.array(["s{}_session{}_task{}".format(*row) for row in ids.tolist()])
    activity = np.nan_to_num(table.columns["activity"])
    table.columns["activity"] = activity
    # Where no activity was annotated, nothing was: that there is no freezing is not known.
    table.columns["fog"] = np.where((activity == 0) & (table.columns["fog"] == 0), -1, table.columns["fog"])
    for (name,), rows in grouped(names_of):
        part = table.rows(rows)
        times_s, keep = in_order(part.columns["timestamp"], 1e-3, source)
        part = part.rows(keep)
        segments = segments_of(times_s, part.columns[label], names, source, label)
        streams = streams_of(part, times_s, SENSORS, allow_nan=True)
        subject, session, task = ids[rows[0]].tolist()
        yield Recording(name, str(subject), source, streams, segments, {"session": str(session), "task": str(task)})


def _card(key: str, title: str, read, labels: tuple[str, ...], positive: str | None) -> Card:
    return Card(
        key=key,
        title=title,
        population="Parkinson's disease, freezing of gait",
        citation="Borzi et al., Scientific Data 13, 2026",
        homepage="https://zenodo.org/records/17838806",
        licence="CC BY 4.0",
        rate_hz=(RATE_HZ, RATE_HZ),
        positions=tuple(sensor.position for sensor in SENSORS),
        default_positions=("lower_back",),
        sensors="acc g, gyro deg/s",
        labels=labels,
        read=read,
        subjects=22,
        hours=1.5,
        positive=positive,
        downloads=(
            Download(
                "https://zenodo.org/records/17838806/files/sensor_data.csv?download=1",
                "sensor_data.csv",
                md5="952a37ab147da35e6d4e7a1e9bac44cb",
            ),
        ),
    )


CARD = _card("fog_star", "FoG-STAR (freezing)", read_freezing, ("no_freeze", "freeze"), "freeze")
CARD_ACTIVITIES = _card(
    "fog_star_activities",
    "FoG-STAR (activities)",
    read_activities,
    tuple(name for name in ACTIVITIES.values() if name is not None),
    None,
)
