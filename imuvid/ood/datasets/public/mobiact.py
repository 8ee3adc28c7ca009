"""MobiAct 2: falls and daily activities of 67 people, a phone in a trouser pocket.

Vavoulas et al., "The MobiAct Dataset: Recognition of Activities of Daily Living using Smartphones", ICT4AWE 2016;
second release. Layout, as in its readme: ``Annotated Data/WAL/WAL_1_1_annotated.csv`` (activity, person, trial),
columns timestamp (ns), rel_time (s), acc_{x,y,z} (m/s^2), gyro_{x,y,z} (rad/s), azimuth, pitch, roll, label; as fast as
the phone goes, 87 to 200 Hz. Labels: four kinds of fall (FOL, FKL, BSC, SDL), lying after it (LYI), and activities. A
fall lasts a second or two, so one window is cut around its middle.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from imuvid.ood.datasets.recording import Card, Recording, in_order, segments_of, xyz
from imuvid.ood.datasets.tables import Sensor, files, locate, read_csv, streams_of

SENSOR = Sensor("pocket", xyz("acc_{}"), xyz("gyro_{}"))
FALLS = ("FOL", "FKL", "BSC", "SDL")
LABELS = {
    "STD": "standing",
    "WAL": "walking",
    "JOG": "jogging",
    "JUM": "jumping",
    "STU": "stairs_up",
    "STN": "stairs_down",
    "SIT": "sitting",
    "SCH": "stand_to_sit",
    "CHU": "sit_to_stand",
    "CSI": "car_step_in",
    "CSO": "car_step_out",
    "LYI": "lying",
    **dict.fromkeys(FALLS, "fall"),
}


def read(folder: Path) -> Iterator[Recording]:
    """Yield the trials."""
    base = locate(folder, "*/*_annotated.csv", "mobiact")
    for path, match in files(base, "*/*.csv", r"([A-Z]{3})_(\d+)_(\d+)_annotated\.csv"):
        table = read_csv(path, ["rel_time", *SENSOR.columns], ["label"])
        times_s, keep = in_order(table.columns["rel_time"], 1.0, path)
        table = table.rows(keep)
        codes = np.array([str(code).strip() for code in table.columns["label"]])
        segments = [
            replace(segment, event_s=0.5 * (segment.start_s + segment.stop_s)) if segment.label == "fall" else segment
            for segment in segments_of(times_s, codes, LABELS, path)
        ]
        domain = {"session": match[3], "scenario": match[1]}
        yield Recording(path.stem, match[2], path, streams_of(table, times_s, [SENSOR]), segments, domain)


CARD = Card(
    key="mobiact",
    title="MobiAct 2",
    population="healthy adults, simulated falls",
    citation="Vavoulas et al., ICT4AWE 2016",
    homepage="https://bmi.hmu.gr/the-mobifall-and-mobiact-datasets-2/",
    licence="for research, on request",
    rate_hz=(80.0, 210.0),
    positions=("pocket",),
    sensors="acc m/s^2, gyro rad/s",
    labels=tuple(dict.fromkeys(LABELS.values())),
    read=read,
    subjects=67,
    steps="Open the page, fill in the form, unpack MobiAct_Dataset_v2.0.",
    note="Falls are simulated.",
)
