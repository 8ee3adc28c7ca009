"""RealWorld (HAR): 15 people, eight activities, seven phones and watches on the body.

Sztyler, Stuckenschmidt, "On-body Localization of Wearable Devices: An Investigation of Position-Aware Activity
Recognition", PerCom 2016. Layout, as public readers of the data set agree on it::

    realworld2016_dataset/proband1/data/acc_walking_csv.zip   ->  acc_walking_chest.csv, acc_walking_forearm.csv, ...
    realworld2016_dataset/proband1/data/gyr_walking_csv.zip   ->  Gyroscope_walking_chest.csv, ...

CSV files with columns id, attr_time (ms since 1970), attr_x, attr_y, attr_z: m/s^2 and rad/s at 50 Hz. Activities that
were done in several goes have ``_2``, ``_3`` after the activity, and probands 4, 7 and 14 have archives within the
archive for the stairs. A few sensors are missing. All devices of a proband are on the clock that their stamps give.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from imuvid.errors import UserError
from imuvid.ood.datasets.recording import Card, Recording, Segment, Stream, in_order
from imuvid.ood.datasets.tables import files, locate, read_csv, read_zip

RATE_HZ = 50.0
LABELS = {
    "climbingdown": "climbing_down",
    "climbingup": "climbing_up",
    "jumping": "jumping",
    "lying": "lying",
    "running": "running",
    "sitting": "sitting",
    "standing": "standing",
    "walking": "walking",
}
POSITIONS = {
    "chest": "chest",
    "forearm": "forearm",
    "head": "head",
    "shin": "shank",
    "thigh": "thigh",
    "upperarm": "upper_arm",
    "waist": "waist",
}
KINDS = {"acc": "acc", "gyr": "gyro"}
MEMBER = re.compile(r"(?:.*/)?(?:acc|Gyroscope)_([a-z]+)_(?:(\d)_)?([a-z]+)\.csv")
COLUMNS = ["attr_time", "attr_x", "attr_y", "attr_z"]


def read(folder: Path) -> Iterator[Recording]:
    """Yield one recording for each person, activity and go."""
    base = locate(folder, "proband*/data/acc_*_csv.zip", "realworld")
    for path, match in files(base, "proband*/data/acc_*_csv.zip", r"acc_([a-z]+)_csv\.zip"):
        if match[1] not in LABELS:
            continue
        goes: dict[str, list[tuple[str, str, np.ndarray, np.ndarray]]] = {}
        for short, kind in KINDS.items():
            archive = path.with_name(f"{short}_{match[1]}_csv.zip")
            for go, position, content in _members(archive, match[1]):
                table = read_csv(archive, COLUMNS, content=content)
                goes.setdefault(go, []).append((position, kind, table.columns["attr_time"], table.numbers(COLUMNS[1:])))
        subject = path.parent.parent.name
        for go, parts in sorted(goes.items()):
            start = min(float(stamps[0]) for _, _, stamps, _ in parts)
            streams = []
            for position, kind, stamps, values in parts:
                times_s, keep = in_order(stamps, 1e-3, path)
                streams.append(Stream(position, kind, times_s + (float(stamps[0]) - start) * 1e-3, values[keep]))
            segment = Segment(0.0, max(stream.times_s[-1] for stream in streams), LABELS[match[1]])
            yield Recording(f"{subject}_{match[1]}_{go}", subject.removeprefix("proband"), path, streams, [segment])


def _members(archive: Path, activity: str) -> Iterator[tuple[str, str, bytes]]:
    """Yield (go, position, content) of each CSV of an archive, and of archives within it."""
    found = False
    pending: list[tuple[str | None, dict[str, bytes]]] = [(None, read_zip(archive))]
    while pending:
        outer, members = pending.pop(0)
        for name, content in sorted(members.items()):
            if name.endswith(".zip"):
                inner = re.search(r"_(\d)_csv\.zip$", name)
                pending.append((inner[1] if inner else None, read_zip(archive, content)))
                continue
            match = MEMBER.fullmatch(name)
            if match is not None and match[1] == activity and match[3] in POSITIONS:
                found = True
                yield match[2] or outer or "1", POSITIONS[match[3]], content
    if not found:
        raise UserError(f"{archive}: there is no file like acc_{activity}_chest.csv in it: fetch it again")


CARD = Card(
    key="realworld",
    title="RealWorld (HAR)",
    population="healthy adults",
    citation="Sztyler, Stuckenschmidt, PerCom 2016",
    homepage="https://www.uni-mannheim.de/dws/research/projects/activity-recognition/dataset/dataset-realworld/",
    licence="for research, cite the paper; ask the authors for anything else",
    rate_hz=(RATE_HZ, RATE_HZ),
    positions=tuple(POSITIONS.values()),
    default_positions=("waist",),
    sensors="acc m/s^2, gyro rad/s",
    labels=tuple(LABELS.values()),
    read=read,
    subjects=15,
    steps="Open the page, download realworld2016_dataset.zip (3.5 GB), unpack it; leave the archives within packed.",
)
