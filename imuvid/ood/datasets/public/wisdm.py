"""WISDM, both releases: daily activities with a phone, and with a phone and a watch.

2011 (``WISDM_ar_v1.1_raw.txt``): Kwapisz, Weiss, Moore, "Activity recognition using cell phone accelerometers", ACM
SigKDD Explorations 12(2), 2010. Lines ``33,Jogging,49105962326000,-0.69,12.68,0.50;`` = user, activity, time stamp, x,
y, z (m/s^2); 36 people, phone in the front trouser pocket, accelerometer alone, 20 Hz, 1,098,207 samples (its readme).
Its time stamps repeat, stand still and are zero in places, so samples are taken for 1/20 s apart in their order, and a
stamp that leaps starts a new recording. Some lines are malformed (two in one, a field missing): they are left out.

2019 (``wisdm-dataset/raw/{phone,watch}/{accel,gyro}/data_1600_accel_phone.txt``): Weiss, Yoneda, Hayajneh, "Smartphone
and Smartwatch-Based Biometrics Using Activities of Daily Living", IEEE Access 7, 2019. Lines ``1600,A,252207666810782,
-0.36,8.79,1.06;`` = subject, activity code, time in ns, x, y, z (m/s^2 or rad/s), 20 Hz, 51 people (1600 to 1650), 18
activities of three minutes. Phone in the trouser pocket, watch on the dominant hand; the two clocks differ, so each
device is a recording of its own. Layouts as in the releases' readme and activity_key.txt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from imuvid.errors import UserError
from imuvid.ood.datasets.recording import Card, Download, Recording, Segment, Stream, in_order, runs
from imuvid.ood.datasets.tables import AGAIN, Table, even_times, files, grouped, locate, read_content, read_csv

RATE_HZ = 20.0
LEAP_S = 1.0
"""Step between time stamps that starts a new recording, seconds."""
_NUMBER = rb"(-?[\d.]+(?:[eE]-?\d+)?)"
LINE_2011 = re.compile(rb"(\d+),([A-Za-z]+),(\d+)," + b",".join([_NUMBER] * 3))
MAX_MALFORMED = 0.01
LABELS_2011 = {
    "Walking": "walking",
    "Jogging": "jogging",
    "Upstairs": "upstairs",
    "Downstairs": "downstairs",
    "Sitting": "sitting",
    "Standing": "standing",
}
LABELS_2019 = {
    "A": "walking",
    "B": "jogging",
    "C": "stairs",
    "D": "sitting",
    "E": "standing",
    "F": "typing",
    "G": "brushing_teeth",
    "H": "eating_soup",
    "I": "eating_chips",
    "J": "eating_pasta",
    "K": "drinking",
    "L": "eating_sandwich",
    "M": "kicking_ball",
    "O": "catching_ball",
    "P": "dribbling_ball",
    "Q": "writing",
    "R": "clapping",
    "S": "folding_clothes",
}
DEVICES = {"phone": "pocket", "watch": "wrist"}


def read_2011(folder: Path) -> Iterator[Recording]:
    """Yield stretches of one person and activity."""
    source = locate(folder, "WISDM_ar_v1.1_raw.txt", "wisdm_2011") / "WISDM_ar_v1.1_raw.txt"
    records = [
        record for line in read_content(source).splitlines() for record in line.split(b";") if record.strip(b", ")
    ]
    matches = [LINE_2011.fullmatch(record.strip().rstrip(b",")) for record in records]
    rows = [match.groups() for match in matches if match is not None]
    if not rows:
        raise UserError(f"{source}: no line is user,activity,time,x,y,z: {AGAIN}")
    if matches[-1] is None:
        raise UserError(f"{source}: cannot be read to its end: the last line is cut off: {AGAIN}")
    if len(rows) < (1 - MAX_MALFORMED) * len(records):
        number = next(i for i, match in enumerate(matches) if match is None)
        raise UserError(
            f"{source}: {len(records) - len(rows)} of {len(records)} lines are not user,activity,time,x,y,z, the first "
            f"is '{records[number].decode(errors='replace')[:60]}': {AGAIN}"
        )
    user, activity, stamp, *_ = (np.array(column) for column in zip(*rows, strict=True))
    values = np.array([row[3:] for row in rows], dtype=np.float64)
    unknown = set(activity.tolist()) - {name.encode() for name in LABELS_2011}
    if unknown:
        raise UserError(f"{source}: '{unknown.pop().decode()}' is no activity of this data set: {AGAIN}")
    leaps = np.abs(np.diff(stamp.astype(np.float64), prepend=float(stamp[0]))) * 1e-9 > LEAP_S
    groups = np.unique(np.stack([user, activity], axis=1), axis=0, return_inverse=True)[1].ravel()
    for number, (first, stop) in enumerate(runs(groups * 2**32 + np.cumsum(leaps))):
        if stop - first < RATE_HZ:
            continue  # less than a second between two leaps: no window fits
        times_s = even_times(stop - first, RATE_HZ)
        segment = Segment(0.0, (stop - first) / RATE_HZ, LABELS_2011[activity[first].decode()])
        stream = Stream("pocket", "acc", times_s, values[first:stop])
        yield Recording(f"{user[first].decode()}-{number}", user[first].decode(), source, [stream], [segment])


def read_2019(folder: Path) -> Iterator[Recording]:
    """Yield one recording for each person, device and activity."""
    base = locate(folder, "raw/phone/accel", "wisdm_2019")
    for device, position in DEVICES.items():
        raw = base / "raw" / device
        for path, match in files(raw / "accel", "*.txt", rf"data_(\d+)_accel_{device}\.txt"):
            gyro = dict(_activities(raw / "gyro" / f"data_{match[1]}_gyro_{device}.txt", match[1]))
            for code, acc in _activities(path, match[1]):
                tables = [("acc", acc)] + ([("gyro", gyro[code])] if code in gyro else [])
                start = min(int(table.columns[2][0]) for _, table in tables)
                streams = []
                for kind, table in tables:
                    times_s, keep = in_order(table.columns[2].astype(np.int64), 1e-9, table.source)
                    times_s = times_s + (int(table.columns[2][0]) - start) * 1e-9
                    streams.append(Stream(position, kind, times_s, table.numbers([3, 4, 5])[keep]))
                segment = Segment(0.0, max(stream.times_s[-1] for stream in streams), LABELS_2019[code])
                yield Recording(f"{match[1]}_{device}_{code}", match[1], path, streams, [segment], {"device": device})


def _activities(source: Path, subject: str) -> Iterator[tuple[str, Table]]:
    content = read_content(source).replace(b";", b"")
    table = read_csv(source, [0, 2, 3, 4, 5], [1], content=content, header=False)
    if not (table.columns[0] == float(subject)).all():
        raise UserError(f"{source}: the first column is not the subject {subject}: it is not the published file")
    for (code,), rows in grouped(table.columns[1]):
        if code not in LABELS_2019:
            raise UserError(f"{source}: row {rows[0] + 1}: '{code}' is no activity code: it is not the published file")
        yield code, table.rows(rows)


CARD_2011 = Card(
    key="wisdm_2011",
    title="WISDM activity prediction (2011)",
    population="healthy adults",
    citation="Kwapisz, Weiss, Moore, ACM SigKDD Explorations 12(2), 2010",
    homepage="https://www.cis.fordham.edu/wisdm/dataset.php",
    licence="none stated; cite the paper",
    rate_hz=(RATE_HZ, RATE_HZ),
    positions=("pocket",),
    sensors="acc m/s^2",
    labels=tuple(LABELS_2011.values()),
    read=read_2011,
    subjects=36,
    hours=15.25,
    steps="Open the page, download 'Activity Prediction', unpack WISDM_ar_latest.tar.gz.",
    note="Time stamps are damaged: samples are taken for 1/20 s apart.",
)
CARD_2019 = Card(
    key="wisdm_2019",
    title="WISDM smartphone and smartwatch (2019)",
    population="healthy adults",
    citation="Weiss, Yoneda, Hayajneh, IEEE Access 7, 2019",
    homepage="https://archive.ics.uci.edu/dataset/507",
    licence="CC BY 4.0",
    rate_hz=(RATE_HZ, RATE_HZ),
    positions=tuple(DEVICES.values()),
    sensors="acc m/s^2, gyro rad/s",
    labels=tuple(LABELS_2019.values()),
    read=read_2019,
    subjects=51,
    downloads=(
        Download(
            "https://archive.ics.uci.edu/static/public/507/"
            "wisdm+smartphone+and+smartwatch+activity+and+biometrics+dataset.zip",
            "wisdm_2019.zip",
        ),
    ),
)
