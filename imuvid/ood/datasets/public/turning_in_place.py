"""Turning in place: 35 people with Parkinson's disease, a sensor on the shank of the more affected side.

Ribeiro De Souza et al., "A Public Data Set of Videos, Inertial Measurement Unit, and Clinical Scales of Freezing of
Gait in Individuals With Parkinson's Disease During a Turning-In-Place Task", Frontiers in Neuroscience 2022, doi
10.3389/fnins.2022.832463; data at figshare, doi 10.6084/m9.figshare.14984667. Layout, as several readers of the files
report alike: ``IMU/SUB01_1.txt`` separated by tabs, columns Frame #, Time [s], ACC ML/AP/SI [g], GYR ML/AP/SI [deg/s],
Freezing event [flag] at 128 Hz; the .csv beside it is an Excel file in disguise, SUB01_standing.txt is no trial.
x, y, z are mediolateral, anteroposterior and superior-inferior. The same files with their videos are read by
``imuvid shards manifest turning_in_place``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from imuvid.ood.datasets.recording import Card, Recording, in_order, segments_of
from imuvid.ood.datasets.tables import Sensor, files, locate, read_csv, streams_of

RATE_HZ = 128.0
AXES = ("ML", "AP", "SI")
SENSOR = Sensor("shank", [f"ACC {a} [g]" for a in AXES], [f"GYR {a} [deg/s]" for a in AXES], "g", "deg/s")
TIME, FLAG = "Time [s]", "Freezing event [flag]"
LABELS = {0: "no_freeze", 1: "freeze"}


def read(folder: Path) -> Iterator[Recording]:
    """Yield the trials."""
    base = locate(folder, "SUB*_*.txt", "turning_in_place")
    for path, match in files(base, "SUB*_*.txt", r"SUB(\d+)_(\d+)\.txt"):
        table = read_csv(path, [TIME, *SENSOR.columns, FLAG], delimiter="\t")
        times_s, keep = in_order(table.columns[TIME], 1.0, path)
        table = table.rows(keep)
        segments = segments_of(times_s, table.columns[FLAG], LABELS, path, "freezing flag")
        streams = streams_of(table, times_s, [SENSOR])
        yield Recording(f"PDFE{match[1]}_{match[2]}", f"PDFE{match[1]}", path, streams, segments, {"session": match[2]})


CARD = Card(
    key="turning_in_place",
    title="Turning in place",
    population="Parkinson's disease, freezing of gait",
    citation="Ribeiro De Souza et al., Frontiers in Neuroscience, 2022",
    homepage="https://doi.org/10.6084/m9.figshare.14984667",
    licence="CC BY 4.0",
    rate_hz=(RATE_HZ, RATE_HZ),
    positions=("shank",),
    sensors="acc g, gyro deg/s",
    labels=tuple(LABELS.values()),
    read=read,
    subjects=35,
    positive="freeze",
    steps="Open the page, download IMU.zip (and Videos.zip for pretraining), unpack them in one folder.",
)
