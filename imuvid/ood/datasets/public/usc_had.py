"""USC-HAD: 14 people, 12 activities, a sensor at the front right hip.

Zhang, Sawchuk, "USC-HAD: A Daily Activity Dataset for Ubiquitous Activity Recognition Using Wearable Sensors", UbiComp
2012. Layout, as in the archive's readme: ``USC-HAD/Subject1/a1t1.mat`` (activity 1, trial 1), variable sensor_readings
[samples, 6]: acceleration in g, gyroscope in deg/s, 100 Hz. 840 files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from imuvid.errors import UserError
from imuvid.ood.datasets.recording import Card, Recording, Segment
from imuvid.ood.datasets.tables import Sensor, even_times, files, locate, read_mat, streams_of

RATE_HZ = 100.0
LABELS = (
    *("walking_forward", "walking_left", "walking_right", "walking_upstairs", "walking_downstairs", "running_forward"),
    *("jumping_up", "sitting", "standing", "sleeping", "elevator_up", "elevator_down"),
)


def read(folder: Path) -> Iterator[Recording]:
    """Yield the trials."""
    base = locate(folder, "Subject*/a*t*.mat", "usc_had")
    for path, match in files(base, "Subject*/*.mat", r"a(\d+)t(\d+)\.mat"):
        if not 1 <= int(match[1]) <= len(LABELS):
            raise UserError(f"{path}: activity {match[1]} is not 1 to {len(LABELS)}: it is not a published file")
        subject = path.parent.name.removeprefix("Subject")
        table = read_mat(path, "sensor_readings", 6)
        times_s = even_times(len(table), RATE_HZ)
        streams = streams_of(table, times_s, [Sensor("waist", (0, 1, 2), (3, 4, 5), "g", "deg/s")])
        segment = Segment(0.0, len(table) / RATE_HZ, LABELS[int(match[1]) - 1])
        yield Recording(f"s{subject}_{path.stem}", subject, path, streams, [segment], {"session": match[2]})


CARD = Card(
    key="usc_had",
    title="USC-HAD",
    population="healthy adults",
    citation="Zhang, Sawchuk, UbiComp 2012",
    homepage="https://sipi.usc.edu/had/",
    licence="for research, cite the paper",
    rate_hz=(RATE_HZ, RATE_HZ),
    positions=("waist",),
    sensors="acc g, gyro deg/s",
    labels=LABELS,
    read=read,
    subjects=14,
    recordings=840,
    steps="Open the page, download USC-HAD.zip, unpack it.",
)
