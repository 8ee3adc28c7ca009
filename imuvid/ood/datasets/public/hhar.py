"""HHAR: 9 people, six activities, 8 phones at the waist and 4 watches at the arms (UCI data set 344).

Stisen et al., "Smart Devices are Different: Assessing and Mitigating Mobile Sensing Heterogeneities for Activity
Recognition", SenSys 2015. Layout, as in the archive's readme: ``Activity recognition exp/Phones_accelerometer.csv``,
``Phones_gyroscope.csv``, ``Watch_accelerometer.csv``, ``Watch_gyroscope.csv`` with columns Index, Arrival_Time (ms),
Creation_Time (ns on the device's clock), x, y, z, User, Model, Device, gt; m/s^2 and rad/s, as fast as each device goes
(50 to 200 Hz). Each person and device is a recording. Readings are put in the order of Creation_Time; where that clock
runs at another pace than Arrival_Time (by more than a tenth), Arrival_Time is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from imuvid.ood.datasets.recording import Card, Download, Recording, Stream, segments_of
from imuvid.ood.datasets.tables import Table, grouped, locate, read_csv

POSITIONS = {"Phones": "waist", "Watch": "wrist"}
LABELS = {
    "null": None,
    "": None,
    "bike": "biking",
    "sit": "sitting",
    "stand": "standing",
    "walk": "walking",
    "stairsup": "stairs_up",
    "stairsdown": "stairs_down",
}
MAX_PACE = 0.1
"""Largest relative difference of pace at which the device's own clock is believed."""
NUMBERS = ["Arrival_Time", "Creation_Time", "x", "y", "z"]
TEXTS = ["User", "Device", "gt"]


def read(folder: Path) -> Iterator[Recording]:
    """Yield one recording for each person and device."""
    base = locate(folder, "Phones_accelerometer.csv", "hhar")
    for name, position in POSITIONS.items():
        gyro = dict(_devices(base / f"{name}_gyroscope.csv"))
        for key, acc in _devices(base / f"{name}_accelerometer.csv"):
            user, device = key
            clock = _clock(acc)
            tables = [("acc", acc)] + ([("gyro", gyro[key])] if key in gyro else [])
            stamps = [_sorted(table, clock) for _, table in tables]
            start = min(times[0] for times, _ in stamps)
            streams, segments = [], []
            for (kind, table), (times, rows) in zip(tables, stamps, strict=True):
                keep = np.diff(times, prepend=times[0] - 1.0) > 0
                times_s = times[keep] - start
                streams.append(Stream(position, kind, times_s, table.numbers(["x", "y", "z"])[rows][keep]))
                if kind == "acc":
                    codes = table.columns["gt"][rows][keep]
                    segments = segments_of(times_s, codes, LABELS, table.source, "activity (gt)")
            yield Recording(f"{user}_{device}", user, acc.source, streams, segments, {"device": device})


def _devices(source: Path) -> Iterator[tuple[tuple[str, ...], Table]]:
    table = read_csv(source, NUMBERS, TEXTS)
    for key, rows in grouped(table.columns["User"], table.columns["Device"]):
        if len(rows) > 1:
            yield key, table.rows(rows)


def _clock(table: Table) -> tuple[str, float]:
    """Return the column and the unit, seconds, of the clock that is believed."""
    arrival_s, creation_s = np.ptp(table.columns["Arrival_Time"]) * 1e-3, np.ptp(table.columns["Creation_Time"]) * 1e-9
    if arrival_s > 0 and abs(creation_s / arrival_s - 1) < MAX_PACE:
        return "Creation_Time", 1e-9
    return "Arrival_Time", 1e-3


def _sorted(table: Table, clock: tuple[str, float]) -> tuple[np.ndarray, np.ndarray]:
    column, unit_s = clock
    rows = np.argsort(table.columns[column], kind="stable")
    return table.columns[column][rows] * unit_s, rows


CARD = Card(
    key="hhar",
    title="HHAR",
    population="healthy adults",
    citation="Stisen et al., SenSys 2015",
    homepage="https://archive.ics.uci.edu/dataset/344",
    licence="CC BY 4.0",
    rate_hz=(50.0, 200.0),
    positions=tuple(POSITIONS.values()),
    sensors="acc m/s^2, gyro rad/s",
    labels=tuple(name for name in LABELS.values() if name is not None),
    read=read,
    subjects=9,
    downloads=(
        Download("https://archive.ics.uci.edu/static/public/344/heterogeneity+activity+recognition.zip", "hhar.zip"),
    ),
    note="Each person wore eight phones at once: windows of one person are not independent.",
)
