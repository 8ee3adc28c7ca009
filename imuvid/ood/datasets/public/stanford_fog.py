"""Stanford FoG: 7 people with Parkinson's disease walk a course of turns and barriers, sensors at up to 11 places.

O'Day et al., "Assessing inertial measurement unit locations for freezing of gait detection and patient preference",
Journal of NeuroEngineering and Rehabilitation 19:20, 2022. Files of the authors' repository:
``imus6_subjects7/pt3_visit_12.1_tbc_walklr_0_trial_1.xlsx``, or the same tables as .npz (arrays ``data`` and
``columns``): subject_ID, time (s), imu_PLACE_{ax,ay,az} (m/s^2), imu_PLACE_{gx,gy,gz} (rad/s) at 128 Hz, freeze_label
(0 or 1). Columns of sensors that were not worn are empty. 60 trials in the repository.

In trials that were looked at, the left foot's columns repeat the left ankle's: take one of them.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from imuvid.errors import UserError
from imuvid.ood.datasets.recording import Card, Recording, in_order, segments_of
from imuvid.ood.datasets.tables import AGAIN, Sensor, Table, files, locate, read_content, streams_of
from imuvid.ood.datasets.xlsx import read_xlsx

RATE_HZ = 128.0
PLACES = {
    "lumbar": "lower_back",
    "chest": "chest",
    "ankle_l": "left_ankle",
    "ankle_r": "right_ankle",
    "foot_l": "left_foot",
    "foot_r": "right_foot",
    "head": "head",
    "thigh_l": "left_thigh",
    "thigh_r": "right_thigh",
    "wrist_l": "left_wrist",
    "wrist_r": "right_wrist",
}
SENSORS = [
    Sensor(position, [f"imu_{place}_a{axis}" for axis in "xyz"], [f"imu_{place}_g{axis}" for axis in "xyz"])
    for place, position in PLACES.items()
]
LABELS = {0: "no_freeze", 1: "freeze"}
NAME = r"(?:.*__)?(pt\d+_visit_[\d.]+_tbc_walklr_\d_trial_\d+)\.(xlsx|npz)"


def read(folder: Path) -> Iterator[Recording]:
    """Yield the trials."""
    base = locate(folder, "*pt*_visit_*_trial_*.*", "stanford_fog")
    for path, match in files(base, "*_trial_*.*", NAME):
        table = read_xlsx(path) if match[2] == "xlsx" else _read_npz(path)
        for name in ("subject_ID", "time", "freeze_label"):
            if name not in table.columns:
                raise UserError(f"{path}: there is no column '{name}': it is not the published file")
        times_s, keep = in_order(table.columns["time"], 1.0, path)
        table = table.rows(keep)
        subject = f"pt{table.columns['subject_ID'][0]:g}"
        if not match[1].startswith(subject + "_"):
            raise UserError(f"{path}: subject_ID is {subject}, the name says {match[1]}: the columns are exchanged")
        worn = [sensor for sensor in SENSORS if _is_worn(table, sensor)]
        segments = segments_of(times_s, table.columns["freeze_label"], LABELS, path, "freeze_label")
        visit = match[1].split("_")[2]
        streams = streams_of(table, times_s, worn, allow_nan=True)
        yield Recording(match[1], subject, path, streams, segments, {"session": visit})


def _is_worn(table: Table, sensor: Sensor) -> bool:
    columns = sensor.columns
    return all(column in table.columns for column in columns) and bool(np.isfinite(table.numbers(columns, True)).any())


def _read_npz(source: Path) -> Table:
    content = read_content(source)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            data, columns = arrays["data"].astype(np.float64), arrays["columns"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{source}: cannot be read ({str(error)[:80]}): {AGAIN}") from error
    if data.ndim != 2 or data.shape[1] != len(columns) or not len(data):
        raise UserError(f"{source}: data is {list(data.shape)} for {len(columns)} columns: {AGAIN}")
    return Table(source, {str(name): data[:, i] for i, name in enumerate(columns)})


CARD = Card(
    key="stanford_fog",
    title="Stanford FoG (turning and barriers course)",
    population="Parkinson's disease, freezing of gait",
    citation="O'Day et al., Journal of NeuroEngineering and Rehabilitation 19:20, 2022",
    homepage="https://github.com/stanfordnmbl/imu-fog-detection",
    licence="BSD 3-clause",
    rate_hz=(RATE_HZ, RATE_HZ),
    positions=tuple(PLACES.values()),
    sensors="acc m/s^2, gyro rad/s",
    labels=tuple(LABELS.values()),
    read=read,
    subjects=7,
    recordings=60,
    positive="freeze",
    steps="git clone the repository; the trials lie in data/raw/imus6_subjects7.",
    seen=True,
    note="Seven people: intervals over people are not to be trusted.",
)
