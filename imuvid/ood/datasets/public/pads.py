"""PADS: 469 people (Parkinson's disease, other movement disorders, healthy), a watch on each wrist, 11 tasks.

Varghese et al., "Machine Learning in the Parkinson's disease smartwatch (PADS) dataset", npj Parkinson's Disease 10,
2024; data at PhysioNet, parkinsons-disease-smartwatch 1.0.0. Layout, as there: ``patients/patient_001.json`` (id,
condition, ...) and ``movement/timeseries/001_CrossArms_LeftWrist.txt``, no header, separated by commas: time (s),
acceleration (g), angular rate (rad/s), 100 Hz (the units stand in movement/observation_001.json). The watch vibrates
at the start of a task, so the first half second is unlabelled, as in the authors' own preprocessing.

The label is the person's condition: parkinsons or healthy; people with other disorders are unlabelled.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from imuvid.errors import UserError
from imuvid.ood.datasets.recording import Card, Recording, Segment, in_order
from imuvid.ood.datasets.tables import AGAIN, Sensor, files, locate, read_bytes, read_csv, streams_of

RATE_HZ = 100.0
VIBRATION_S = 0.5
WRISTS = {"LeftWrist": "left_wrist", "RightWrist": "right_wrist"}


def read(folder: Path) -> Iterator[Recording]:
    """Yield one recording for each person and task."""
    base = locate(folder, "movement/timeseries/*_*_LeftWrist.txt", "pads")
    for path, match in files(base, "movement/timeseries/*.txt", r"(\d+)_(\w+)_LeftWrist\.txt"):
        condition = _condition(base / "patients" / f"patient_{match[1]}.json")
        tables = {}
        for wrist, position in WRISTS.items():
            file = path.with_name(f"{match[1]}_{match[2]}_{wrist}.txt")
            tables[position] = read_csv(file, range(7), header=False)
        start = min(float(table.columns[0][0]) for table in tables.values())
        streams = []
        for position, table in tables.items():
            times_s, keep = in_order(table.columns[0], 1.0, table.source)
            times_s = times_s + float(table.columns[0][0]) - start
            sensor = Sensor(position, (1, 2, 3), (4, 5, 6), "g", "rad/s")
            streams += streams_of(table.rows(keep), times_s, [sensor])
        stop_s = max(float(np.max(stream.times_s)) for stream in streams)
        population = {"Parkinson's": "parkinsons", "Healthy": "healthy"}.get(condition, "other")
        segments = [Segment(VIBRATION_S, stop_s, population)] if population != "other" else []
        domain = {"task": match[2], "population": population}
        yield Recording(f"{match[1]}_{match[2]}", match[1], path, streams, segments, domain)


def _condition(source: Path) -> str:
    try:
        return str(json.loads(read_bytes(source))["condition"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{source}: holds no condition ({str(error)[:60]}): {AGAIN}") from error


CARD = Card(
    key="pads",
    title="PADS (Parkinson's disease smartwatch)",
    population="Parkinson's disease, other movement disorders, healthy",
    citation="Varghese et al., npj Parkinson's Disease 10, 2024",
    homepage="https://physionet.org/content/parkinsons-disease-smartwatch/1.0.0/",
    licence="as the PhysioNet page states",
    rate_hz=(RATE_HZ, RATE_HZ),
    positions=tuple(WRISTS.values()),
    sensors="acc g, gyro rad/s",
    labels=("healthy", "parkinsons"),
    read=read,
    subjects=469,
    positive="parkinsons",
    steps="wget -r -N -c -np https://physionet.org/files/parkinsons-disease-smartwatch/1.0.0/",
    note="The label is the person's, not the window's: score by person.",
)
