"""Shoaib: 10 people, seven activities, phones at five places.

Shoaib et al., "Fusion of Smartphone Motion Sensors for Physical Activity Recognition", Sensors 14(6), 2014. Layout, as
public readers of the data set agree on it: ``DataSet/Participant_1.csv``, two lines of headers, then for left pocket,
right pocket, wrist, upper arm and belt 13 columns each: time stamp (ms), acceleration, linear acceleration, gyroscope,
magnetometer; an empty column between the places and the activity at the end (70 columns). m/s^2 and rad/s at 50 Hz; the
stamps jump between activities, so lines are taken for 1/50 s apart. "upsatirs" is the authors' spelling of upstairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from imuvid.ood.datasets.recording import Card, Recording, segments_of
from imuvid.ood.datasets.tables import Sensor, even_times, files, locate, read_csv, streams_of

RATE_HZ = 50.0
NUM_COLUMNS = 70
SENSORS = [
    Sensor(position, range(14 * i + 1, 14 * i + 4), range(14 * i + 7, 14 * i + 10))
    for i, position in enumerate(("left_pocket", "right_pocket", "right_wrist", "right_upper_arm", "waist"))
]
LABELS = {
    "walking": "walking",
    "standing": "standing",
    "jogging": "jogging",
    "sitting": "sitting",
    "biking": "biking",
    "upstairs": "upstairs",
    "upsatirs": "upstairs",
    "downstairs": "downstairs",
}


def read(folder: Path) -> Iterator[Recording]:
    """Yield one recording a person."""
    base = locate(folder, "Participant_*.csv", "shoaib")
    columns = [column for sensor in SENSORS for column in sensor.columns]
    for path, match in files(base, "*.csv", r"Participant_(\d+)\.csv"):
        table = read_csv(path, columns, [NUM_COLUMNS - 1], header=False, skip_rows=2)
        times_s = even_times(len(table), RATE_HZ)
        codes = np.array([(code or "").strip().lower() for code in table.columns[NUM_COLUMNS - 1]])
        segments = segments_of(times_s, codes, LABELS, path, "activity")
        yield Recording(path.stem, match[1], path, streams_of(table, times_s, SENSORS), segments)


CARD = Card(
    key="shoaib",
    title="Shoaib (sensors activity)",
    population="healthy adults",
    citation="Shoaib et al., Sensors 14(6), 2014",
    homepage="https://www.utwente.nl/en/eemcs/ps/research/dataset/",
    licence="for research, cite the paper; no licence is stated",
    rate_hz=(RATE_HZ, RATE_HZ),
    positions=tuple(sensor.position for sensor in SENSORS),
    default_positions=("waist",),
    sensors="acc m/s^2, gyro rad/s",
    labels=tuple(dict.fromkeys(LABELS.values())),
    read=read,
    subjects=10,
    recordings=10,
    steps="Open the page, download sensors-activity-recognition-dataset-shoaib.rar, unpack it.",
    note="The time in the files is implied by the rate.",
)
