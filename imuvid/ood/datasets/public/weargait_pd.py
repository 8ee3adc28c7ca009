"""WearGait-PD: 100 people with Parkinson's disease and 85 controls walk, turn and rise, 13 inertial units.

Kontson et al., WearGait-PD, Synapse syn52540892. Layout, as several readers of the files report alike: CSV files such
as ``PD PARTICIPANTS/CSV files/NLS001_SelfPace.csv`` and ``CONTROL PARTICIPANTS/CSV files/HC100_TUG.csv``; NLS and WPD
are patients, HC and WHC controls, s1 or s2 after the number is a session. Columns Time ("0.01 sec"), GeneralEvent and,
for each unit (Xsens MTw), PLACE_{Acc,Gyr}_{X,Y,Z} at 100 Hz: m/s^2; whether the angular rate is in rad/s or deg/s
nothing that was found says, so gravity tells it (:func:`scale_gyro`). Some releases have a line above the header.

The label is GeneralEvent; events that are not in LABELS, such as the stances of the balance task, are unlabelled.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from imuvid.errors import UserError
from imuvid.imu.defects import find_unit_conflict
from imuvid.imu.units import GYRO_UNITS
from imuvid.ood.datasets.recording import Card, Recording, Stream, in_order, segments_of
from imuvid.ood.datasets.tables import AGAIN, Sensor, files, locate, read_content, read_csv, streams_of

RATE_HZ = 100.0
PLACES = {
    "LowerBack": "lower_back",
    "Xiphoid": "chest",
    "Forehead": "head",
    "R_Wrist": "right_wrist",
    "L_Wrist": "left_wrist",
    "R_MidLatThigh": "right_thigh",
    "L_MidLatThigh": "left_thigh",
    "R_LatShank": "right_shank",
    "L_LatShank": "left_shank",
    "R_Ankle": "right_ankle",
    "L_Ankle": "left_ankle",
    "R_DorsalFoot": "right_foot",
    "L_DorsalFoot": "left_foot",
}
LABELS = {
    "walk": "walking",
    "turn": "turning",
    "sittostand": "sit_to_stand",
    "turntosit": "stand_to_sit",
    "standing": "standing",
    "sitting": "sitting",
    "tandemwalk": "tandem_walking",
}
NAME = r"(?i)((NLS|WPD|WHC|HC)\d+)(s\d)?_([A-Za-z_]+)\.csv"


def read(folder: Path) -> Iterator[Recording]:
    """Yield one recording a file."""
    locate(folder, "*_[Ss]elf[Pp]ace*.csv", "weargait_pd")
    for path, match in files(folder, "**/*.csv", NAME):
        content = read_content(path)
        lines = content.split(b"\n", 2)
        skip = next((i for i, line in enumerate(lines[:2]) if re.match(rb'\W*"?Time\b', line)), None)
        if skip is None:
            raise UserError(f"{path}: no header that begins with Time: it is not the published file")
        header = lines[skip].decode(errors="replace")
        worn = [
            Sensor(position, [f"{place}_Acc_{a}" for a in "XYZ"], [f"{place}_Gyr_{a}" for a in "XYZ"])
            for place, position in PLACES.items()
            if f"{place}_Acc_X" in header
        ]
        if not worn:
            raise UserError(f"{path}: there is no column like LowerBack_Acc_X: it is not the published file")
        columns = [column for sensor in worn for column in sensor.columns]
        table = read_csv(path, columns, ["Time", "GeneralEvent"], content=content, skip_rows=skip)
        times_s, keep = in_order(_seconds(table.columns["Time"], path), 1.0, path)
        table = table.rows(keep)
        events = [re.sub(r"[^a-z]", "", (event or "").lower()) for event in table.columns["GeneralEvent"]]
        names: dict[str, str | None] = {event: LABELS.get(event) for event in events}
        streams = streams_of(table, times_s, worn, allow_nan=True)
        scale_gyro(streams)
        population = "control" if match[2].upper() in ("HC", "WHC") else "parkinsons"
        domain = {"session": match[3] or "", "task": match[4], "population": population}
        segments = segments_of(times_s, np.array(events), names, path)
        yield Recording(path.stem, match[1].upper(), path, streams, segments, domain)


def scale_gyro(streams: list[Stream]) -> None:
    """Convert the angular rates to rad/s, in place, where gravity shows at one place that they are in deg/s."""
    acc = {stream.position: stream for stream in streams if stream.kind == "acc"}
    gyros = [stream for stream in streams if stream.kind == "gyro"]
    for gyro in gyros:
        felt = acc[gyro.position]
        if find_unit_conflict(felt.times_s, felt.values, gyro.times_s, gyro.values) == "deg/s":
            for other in gyros:
                other.values *= GYRO_UNITS["deg/s"]
            return


def _seconds(texts: np.ndarray, source: Path) -> np.ndarray:
    try:
        return np.array([str(text).removesuffix("sec").strip() for text in texts]).astype(np.float64)
    except ValueError as error:
        raise UserError(f"{source}: a Time is not like '0.01 sec' ({str(error)[:60]}): {AGAIN}") from error


CARD = Card(
    key="weargait_pd",
    title="WearGait-PD",
    population="Parkinson's disease and controls",
    citation="Kontson et al., WearGait-PD, Synapse syn52540892",
    homepage="https://www.synapse.org/Synapse:syn52540892",
    licence="as the Synapse page states, with an account",
    rate_hz=(RATE_HZ, RATE_HZ),
    positions=tuple(PLACES.values()),
    sensors="acc m/s^2, gyro rad/s or deg/s (told by gravity)",
    labels=tuple(LABELS.values()),
    read=read,
    subjects=185,
    steps="Make a Synapse account, accept the terms, then: synapse get -r syn52540892",
)
