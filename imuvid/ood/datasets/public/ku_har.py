"""KU-HAR: 90 people, 18 activities, a phone at the waist.

Sikder, Nahid, "KU-HAR: An open dataset for heterogeneous human activity recognition", Pattern Recognition Letters 146,
2021; data at Mendeley, doi 10.17632/45f952y38r. Layout, as on that page:
``1.Raw_time_domian_data/11.Walk/1001_L_1.csv`` (person, activity, trial), eight columns without header: time and
acceleration (m/s^2), time and angular rate (rad/s), about 100 Hz. The page says milliseconds for the times; readers of
the files use seconds, so the unit is taken by which of both gives the rate. Gravity was removed from the
acceleration by the phone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from imuvid.ood.datasets.recording import Card, Recording, Segment, Stream, in_order
from imuvid.ood.datasets.tables import files, locate, read_csv

RATE_HZ = 100.0
LABELS = (
    *("stand", "sit", "talk_sit", "talk_stand", "stand_sit", "lay", "lay_stand", "pick", "jump", "push_up", "sit_up"),
    *("walk", "walk_backward", "walk_circle", "run", "stair_up", "stair_down", "table_tennis"),
)
FOLDER = "1.Raw_time_domian_data"
"""The publisher's spelling."""


def read(folder: Path) -> Iterator[Recording]:
    """Yield the trials."""
    base = locate(folder, f"{FOLDER}/*.*/*.csv", "ku_har") / FOLDER
    for path, match in files(base, "*.*/*.csv", r"(\d+)_[A-Z]+_(\d+).*\.csv"):
        number, _, _ = path.parent.name.partition(".")
        if not number.isdigit() or int(number) >= len(LABELS):
            continue
        table = read_csv(path, range(8), header=False)
        values = table.numbers(range(8))
        streams = []
        for kind, first in (("acc", 0), ("gyro", 4)):
            unit_s = 1e-3 if np.median(np.diff(values[:, first])) > 1 else 1.0
            times_s, keep = in_order(values[:, first], unit_s, path)
            streams.append(Stream("waist", kind, times_s, values[keep, first + 1 : first + 4]))
        segment = Segment(0.0, max(stream.times_s[-1] for stream in streams), LABELS[int(number)])
        yield Recording(f"{number}_{path.stem}", match[1], path, streams, [segment], {"session": match[2]})


CARD = Card(
    key="ku_har",
    title="KU-HAR",
    population="healthy adults",
    citation="Sikder, Nahid, Pattern Recognition Letters 146, 2021",
    homepage="https://data.mendeley.com/datasets/45f952y38r",
    licence="CC BY 4.0",
    rate_hz=(RATE_HZ, RATE_HZ),
    positions=("waist",),
    sensors="acc m/s^2 without gravity, gyro rad/s",
    labels=LABELS,
    read=read,
    subjects=90,
    recordings=1945,
    gravity=False,
    steps="Open the page, download 1.Raw_time_domian_data.zip, unpack it.",
    note="Gravity is not in the acceleration, unlike in other data sets.",
)
