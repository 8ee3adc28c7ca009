"""tDCS FOG and DeFOG (Kaggle: TLVMC Parkinson's freezing of gait prediction): an accelerometer at the lower back.

Salomon et al., "A machine learning contest enhances automated freezing of gait detection and reveals time-of-day
effects", Nature Communications 15, 2024. Layout, as on the competition's data page::

    tdcsfog_metadata.csv  defog_metadata.csv          Id, Subject, Visit, (Test,) Medication
    train/tdcsfog/ID.csv                              128 Hz, m/s^2
    train/defog/ID.csv                                100 Hz, g, with columns Valid and Task

Columns Time (number of the sample), AccV, AccML, AccAP, StartHesitation, Turn, Walking: the last three are 0 or 1 and
say which kind of freezing there is. Any of them counts as freeze. In defog, samples that are not Valid or not in the
Task are unlabelled, as the competition scores them. x, y, z are vertical, mediolateral and anteroposterior.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from imuvid.errors import UserError
from imuvid.ood.datasets.recording import Card, Recording, segments_of
from imuvid.ood.datasets.tables import Sensor, files, locate, read_csv, streams_of

RATES_HZ = {"tdcsfog": 128.0, "defog": 100.0}
UNITS = {"tdcsfog": "m/s2", "defog": "g"}
ACC = ("AccV", "AccML", "AccAP")
KINDS = ("StartHesitation", "Turn", "Walking")
LABELS = {-1: None, 0: "no_freeze", 1: "freeze"}


def read(folder: Path) -> Iterator[Recording]:
    """Yield one recording a file: tdcsfog, then defog."""
    base = locate(folder, "tdcsfog_metadata.csv", "tdcs_fog")
    for part, rate_hz in RATES_HZ.items():
        metadata = base / f"{part}_metadata.csv"
        table = read_csv(metadata, [], ["Id", "Subject", "Medication"])
        people = dict(zip(table.columns["Id"], table.columns["Subject"], strict=True))
        drugs = dict(zip(table.columns["Id"], table.columns["Medication"], strict=True))
        found = [(path, match[1]) for path, match in files(base / "train" / part, "*.csv", r"(\w+)\.csv")]
        gone = sorted(set(people) - {name for _, name in found})
        if gone and part == "tdcsfog":  # of defog, some lie in another folder without kinds of freezing
            raise UserError(
                f"{base / 'train' / part / gone[0]}.csv: {metadata.name} names it, but it is missing: fetch it"
            )
        for path, name in found:
            if name not in people:
                raise UserError(f"{path}: {metadata.name} does not name it: fetch {metadata.name} again")
            marks = ["Valid", "Task"] if part == "defog" else []
            table = read_csv(path, ["Time", *ACC, *KINDS], marks)
            times_s = np.arange(len(table)) / rate_hz
            if not (table.columns["Time"] == table.columns["Time"][0] + np.arange(len(table))).all():
                raise UserError(f"{path}: Time does not count the samples: lines are missing or columns exchanged")
            kinds = table.numbers(KINDS)
            if not np.isin(kinds, (0, 1)).all():
                raise UserError(f"{path}: {', '.join(KINDS)} must be 0 or 1: the columns are not the published ones")
            codes = kinds.any(axis=1).astype(int)
            for mark in marks:
                codes[np.char.lower(table.columns[mark].astype(str)) != "true"] = -1
            streams = streams_of(table, times_s, [Sensor("lower_back", ACC, acc_unit=UNITS[part])])
            domain = {"session": part, "medication": drugs[name] or ""}
            segments = segments_of(times_s, codes, LABELS, path)
            yield Recording(name, people[name] or name, path, streams, segments, domain)


CARD = Card(
    key="tdcs_fog",
    title="tDCS FOG and DeFOG (Kaggle)",
    population="Parkinson's disease, freezing of gait",
    citation="Salomon et al., Nature Communications 15, 2024",
    homepage="https://www.kaggle.com/competitions/tlvmc-parkinsons-freezing-gait-prediction/data",
    licence="competition rules, to be accepted on the page",
    rate_hz=(100.0, 128.0),
    positions=("lower_back",),
    sensors="acc m/s^2 (tdcsfog), g (defog)",
    labels=("no_freeze", "freeze"),
    read=read,
    subjects=None,
    recordings=924,
    positive="freeze",
    steps="Sign in, accept the rules, then: kaggle competitions download -c tlvmc-parkinsons-freezing-gait-prediction, "
    "and unpack it.",
)
