"""Capture-24: 151 people, about a day of free living each, a wrist accelerometer.

Chan et al., "CAPTURE-24: A large dataset of wrist-worn activity tracker data collected in the wild for human activity
recognition", Scientific Data 11, 2024. Layout, as in the archive's readme: ``capture24/P001.csv.gz`` with columns time,
x, y, z (g), annotation at 100 Hz, and ``annotation-label-dictionary.csv``, which maps an annotation to coarser labels;
column label:Willetts2018 of it is read. Stretches without annotation are unlabelled.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from imuvid.ood.datasets.recording import Card, Download, Recording, in_order, segments_of, xyz
from imuvid.ood.datasets.tables import Sensor, files, locate, read_csv, streams_of

RATE_HZ = 100.0
DICTIONARY, SCHEME = "annotation-label-dictionary.csv", "label:Willetts2018"
SENSOR = Sensor("wrist", xyz("{}"), acc_unit="g")
LABELS = ("sleep", "sit_stand", "vehicle", "walking", "mixed", "bicycling")


def read(folder: Path) -> Iterator[Recording]:
    """Yield one recording a person."""
    base = locate(folder, DICTIONARY, "capture24")
    table = read_csv(base / DICTIONARY, [], ["annotation", SCHEME])
    pairs = zip(table.columns["annotation"], table.columns[SCHEME], strict=True)
    names: dict[str, str | None] = {"": None}
    names |= {text: _own(label) for text, label in pairs if text}
    for path, match in files(base, "P*.csv*", r"(P\d+)\.csv(\.gz)?"):
        signals = read_csv(path, SENSOR.columns, ["annotation"], dates=["time"])
        times_s, keep = in_order(signals.columns["time"], 1e-6, path)
        signals = signals.rows(keep)
        segments = segments_of(times_s, signals.columns["annotation"], names, path, f"annotation of {DICTIONARY}")
        streams = streams_of(signals, times_s, [SENSOR], allow_nan=True)
        yield Recording(match[1], match[1], path, streams, segments)


def _own(label: str | None) -> str | None:
    return re.sub(r"\W+", "_", label.strip().lower()) if label else None


CARD = Card(
    key="capture24",
    title="Capture-24",
    population="adults, free living",
    citation="Chan et al., Scientific Data 11, 2024",
    homepage="https://ora.ox.ac.uk/objects/uuid:99d7c092-d865-4a19-b096-cc16440cd001",
    licence="CC BY 4.0",
    rate_hz=(RATE_HZ, RATE_HZ),
    positions=("wrist",),
    sensors="acc g",
    labels=LABELS,
    read=read,
    subjects=151,
    recordings=151,
    hours=3883.0,
    max_windows=200,
    downloads=(
        Download(
            "https://ora.ox.ac.uk/objects/uuid:99d7c092-d865-4a19-b096-cc16440cd001/files/rpr76f381b", "capture24.zip"
        ),
    ),
    note="At most 200 windows of a person and class are kept unless capture24.max_windows says otherwise.",
)
