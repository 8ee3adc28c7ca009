"""UCI-HAR: 30 people, six daily activities, a phone at the waist (UCI data set 240).

Anguita et al., "A Public Domain Dataset for Human Activity Recognition Using Smartphones", ESANN 2013. Layout, as in
the README of the archive::

    UCI HAR Dataset/{train,test}/y_train.txt  subject_train.txt
    UCI HAR Dataset/{train,test}/Inertial Signals/{total_acc,body_gyro}_{x,y,z}_train.txt

A line is a window of 128 samples at 50 Hz, g and rad/s, and each overlaps the one before by half. Lines of one person
and activity that do overlap are joined to a recording again, so that windows of another length or rate can be cut.
HAPT has the same people's raw signals: do not pretrain or train on one and test on the other.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from imuvid.errors import UserError
from imuvid.imu.units import to_si
from imuvid.ood.datasets.recording import Card, Download, Recording, Segment, Stream
from imuvid.ood.datasets.tables import even_times, locate, read_blank

RATE_HZ = 50.0
LENGTH = 128
LABELS = ("walking", "walking_upstairs", "walking_downstairs", "sitting", "standing", "laying")
MIN_OVERLAPPING = 0.5
"""Least share of lines that overlap the one before (published files: all but the first of each activity)."""


def read(folder: Path) -> Iterator[Recording]:
    """Yield stretches of one activity: those of the training part first."""
    base = locate(folder, "train/y_train.txt", "uci_har")
    for part in ("train", "test"):
        yield from _read_part(base / part, part)


def _read_part(folder: Path, part: str) -> Iterator[Recording]:
    source = folder / f"y_{part}.txt"
    label = read_blank(source, 1, [0]).numbers([0])[:, 0].astype(int)
    subject = read_blank(folder / f"subject_{part}.txt", 1, [0]).numbers([0])[:, 0].astype(int)
    if not np.isin(label, range(1, len(LABELS) + 1)).all():
        raise UserError(f"{source}: a label is not 1 to {len(LABELS)}: it is not the published file")
    signals = {}
    for kind, unit in (("total_acc", "g"), ("body_gyro", "rad/s")):
        axes = []
        for axis in "xyz":
            file = folder / "Inertial Signals" / f"{kind}_{axis}_{part}.txt"
            axes.append(read_blank(file, LENGTH, range(LENGTH)).numbers(range(LENGTH)))
            if not len(label) == len(subject) == len(axes[-1]):
                raise UserError(f"{file}: {len(axes[-1])} lines, but {source.name} has {len(label)}: fetch them again")
        signals[kind] = to_si(np.stack(axes, axis=-1), unit)
    acc, gyro = signals["total_acc"], signals["body_gyro"]
    half = LENGTH // 2
    follows = (acc[1:, :half] == acc[:-1, half:]).all(axis=(1, 2))
    follows &= (subject[1:] == subject[:-1]) & (label[1:] == label[:-1])
    if len(label) > 1 and follows.mean() < MIN_OVERLAPPING:
        raise UserError(f"{folder}: lines do not overlap the ones before by half: the files are not the published ones")
    starts = [0, *(np.flatnonzero(~follows) + 1).tolist(), len(label)]
    for first, stop in itertools.pairwise(starts):
        joined = [np.concatenate([s[first], *s[first + 1 : stop, half:]]) for s in (acc, gyro)]
        times_s = even_times(len(joined[0]), RATE_HZ)
        streams = [Stream("waist", kind, times_s, s) for kind, s in zip(("acc", "gyro"), joined, strict=True)]
        segments = [Segment(0.0, len(times_s) / RATE_HZ, LABELS[label[first] - 1])]
        yield Recording(f"{part}{first}", str(subject[first]), source, streams, segments, {"session": part})


CARD = Card(
    key="uci_har",
    title="UCI-HAR",
    population="healthy adults",
    citation="Anguita et al., ESANN 2013",
    homepage="https://archive.ics.uci.edu/dataset/240",
    licence="CC BY 4.0 (UCI page); README: no commercial use",
    rate_hz=(RATE_HZ, RATE_HZ),
    positions=("waist",),
    sensors="acc g, gyro rad/s",
    labels=LABELS,
    read=read,
    subjects=30,
    downloads=(
        Download(
            "https://archive.ics.uci.edu/static/public/240/human+activity+recognition+using+smartphones.zip",
            "uci_har.zip",
        ),
    ),
    note="The signals were low-pass filtered at 20 Hz by their authors; the people are those of HAPT.",
)
