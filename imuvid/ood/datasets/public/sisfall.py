"""SisFall: falls and daily activities of 23 young and 15 older adults, a sensor at the waist.

Sucerquia, Lopez, Vargas-Bonilla, "SisFall: A Fall and Movement Dataset", Sensors 17(1), 2017. Layout, as in its Readme:
``SisFall_dataset/SA01/D01_SA01_R01.txt`` (activity, person, trial), nine columns of raw counts at 200 Hz, lines that
end with a semicolon: ADXL345 (+-16 g, 13 bits), ITG3200 (+-2000 deg/s, 16 bits), MMA8451Q (+-8 g, 14 bits). The first
two are read. SA are young, SE older adults; D01 to D19 are daily activities, F01 to F15 falls.

A trial of a fall lasts 15 s, most of it before and after: the instant of the fall is taken to be that of the largest
acceleration, and one window is cut around it; the rest of the trial is unlabelled.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from imuvid.ood.datasets.recording import Card, Recording, Segment
from imuvid.ood.datasets.tables import Sensor, even_times, files, locate, read_content, read_csv, streams_of

RATE_HZ = 200.0
G_PER_COUNT = 2 * 16 / 2**13
DEG_S_PER_COUNT = 2 * 2000 / 2**16
SENSOR = Sensor("waist", (0, 1, 2), (3, 4, 5), "g", "deg/s")


def read(folder: Path) -> Iterator[Recording]:
    """Yield the trials."""
    base = locate(folder, "S[AE]*/[DF]*_R*.txt", "sisfall")
    for path, match in files(base, "S[AE]*/*.txt", r"([DF]\d\d)_(S[AE]\d\d)_R(\d\d)\.txt"):
        content = read_content(path).replace(b";", b"").replace(b" ", b"")
        table = read_csv(path, range(9), content=content, header=False)
        for column in (3, 4, 5):
            table.columns[column] = table.columns[column] * DEG_S_PER_COUNT
        times_s = even_times(len(table), RATE_HZ)
        streams = streams_of(table, times_s, [SENSOR], acc_scale=G_PER_COUNT)
        stop_s = len(table) / RATE_HZ
        segment = Segment(0.0, stop_s, "daily_activity")
        if match[1].startswith("F"):
            impact_s = float(times_s[np.linalg.norm(streams[0].values, axis=1).argmax()])
            segment = Segment(0.0, stop_s, "fall", impact_s)
        domain = {"activity": match[1], "population": "young" if match[2].startswith("SA") else "older"}
        yield Recording(path.stem, match[2], path, streams, [segment], domain)


CARD = Card(
    key="sisfall",
    title="SisFall",
    population="young and older adults, simulated falls",
    citation="Sucerquia, Lopez, Vargas-Bonilla, Sensors 17(1), 2017",
    homepage="http://sistemic.udea.edu.co/en/research/projects/english-falls/",
    licence="free for research, cite the paper",
    rate_hz=(RATE_HZ, RATE_HZ),
    positions=("waist",),
    sensors="acc raw counts, gyro raw counts",
    labels=("daily_activity", "fall"),
    read=read,
    subjects=38,
    recordings=4505,
    positive="fall",
    steps="Open the page, download SisFall_dataset.zip, unpack it.",
    note="Falls are simulated; the instant of a fall is that of the largest acceleration of its trial.",
)
