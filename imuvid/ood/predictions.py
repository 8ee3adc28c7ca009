"""Probes trained and applied by protocol: one row a method, number of shots, draw and test window.

Everything that a report says of an encoder is computed from this table (see :mod:`imuvid.ood.summary`).
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from imuvid.errors import UserError
from imuvid.ood.datasets.base import Windows
from imuvid.ood.probes import ProbeConfig, choose_c, fit_scores
from imuvid.ood.protocols import Fold, draw_shots

logger = logging.getLogger(__name__)

PRETRAINED, RANDOM, HANDMADE, MAJORITY = "pretrained", "random", "handmade", "majority"
METADATA_KEY = b"imuvid"
_TEXT = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        ("dataset", _TEXT),
        ("protocol", _TEXT),
        ("method", _TEXT),
        ("shots", pa.int32()),  # training windows per class; null: all of them (the linear probe)
        ("draw", pa.int32()),  # of the shots; of the random encoder's seed
        ("fold", _TEXT),
        ("window", _TEXT),
        ("subject", _TEXT),
        ("label", _TEXT),
        ("scores", pa.list_(pa.float32())),  # one a class, in the order of the metadata's list of classes
    ]
)


class PredictionTable:
    """Collects the rows of one data set.

    Args:
        windows: the data set.
        protocol: its name.
    """

    def __init__(self, windows: Windows, protocol: str):
        self._windows, self._protocol = windows, protocol
        self._ids = windows.ids
        self._blocks: list[pa.Table] = []

    def add(self, method: str, shots: int | None, draw: int, fold: str, test: np.ndarray, scores: np.ndarray) -> None:
        """Add the scores float32 [M, K] of the test windows int [M]."""
        windows, num = self._windows, len(test)
        subjects, subject = np.unique(windows.subject[test], return_inverse=True)
        offsets = np.arange(num + 1, dtype=np.int32) * scores.shape[1]
        values = pa.array(scores.ravel().astype(np.float32))
        columns = [
            _constant(windows.name, num),
            _constant(self._protocol, num),
            _constant(method, num),
            pa.array(np.full(num, shots or 0, np.int32), mask=np.full(num, shots is None)),
            pa.array(np.full(num, draw, np.int32)),
            _constant(fold, num),
            pa.DictionaryArray.from_arrays(np.arange(num, dtype=np.int32), pa.array(self._ids[test])),
            pa.DictionaryArray.from_arrays(subject.astype(np.int32), pa.array(subjects)),
            pa.DictionaryArray.from_arrays(windows.label[test].astype(np.int32), pa.array(windows.classes)),
            pa.ListArray.from_arrays(pa.array(offsets), values),
        ]
        self._blocks.append(pa.Table.from_arrays(columns, schema=SCHEMA))

    def build(self) -> pa.Table:
        """Return the rows, with the classes of the data set in the metadata."""
        table = pa.concat_tables(self._blocks).unify_dictionaries().combine_chunks()
        facts = {self._windows.name: {"classes": self._windows.classes, "positive": self._windows.positive}}
        return table.replace_schema_metadata({METADATA_KEY: json.dumps(facts).encode()})


def _constant(value: str, num: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(np.zeros(num, np.int32), pa.array([value]))


def predict(
    windows: Windows,
    folds: list[Fold],
    protocol: str,
    representations: dict[str, list[np.ndarray]],
    shots: list[int],
    num_draws: int,
    probe: ProbeConfig,
    seed: int,
) -> tuple[pa.Table, dict[str, Any], list[str]]:
    """Train every probe of a protocol and score the test windows.

    Args:
        windows: the data set.
        folds: subject-disjoint training and test windows.
        protocol: its name, for the table.
        representations: by method, float32 [N, D] arrays; draw d uses the d-th, round and round.
        shots: numbers of training windows per class.
        num_draws: draws of shots for each number.
        probe: classifier and selection rule.
        seed: of the draws.

    Returns:
        the table, the drawn windows (fold -> draw -> class -> window names, in order: k shots are the first k), and
        notes for the report.

    Raises:
        UserError: the training windows of a fold are of one class only, or a number of shots is not positive.
    """
    if not shots or min(shots) < 1 or num_draws < 1:
        raise UserError("shots and num_draws must be at least 1")
    table, published, notes = PredictionTable(windows, protocol), {}, []
    counts = [np.bincount(windows.label[fold.train], minlength=len(windows.classes)) for fold in folds]
    for fold, count in zip(folds, counts, strict=True):
        if (count > 0).sum() < 2:
            raise UserError(f"{windows.name}: the training windows of fold {fold.name} are all of one class")
        absent = [name for name, number in zip(windows.classes, count, strict=True) if not number]
        notes += [f"Fold {fold.name} has no training window of class {name}." for name in absent]
    available = int(min(count[count > 0].min() for count in counts))
    kept = [k for k in sorted(set(shots)) if k <= available]
    for k in sorted(set(shots) - set(kept)):
        notes.append(f"{k} shots are left out: a class has only {available} training windows.")
    for index, fold in enumerate(folds):
        logger.info(
            "%s: fold %s: %d training, %d test windows", windows.name, fold.name, len(fold.train), len(fold.test)
        )
        label = windows.label[fold.train]
        majority = np.zeros((len(fold.test), len(windows.classes)), np.float32)
        majority[:, counts[index].argmax()] = 1.0
        table.add(MAJORITY, None, 0, fold.name, fold.test, majority)
        for method, arrays in representations.items():
            for draw, array in enumerate(arrays):
                c = choose_c(array[fold.train], label, windows.subject[fold.train], probe)
                scores = fit_scores(
                    array[fold.train], label, array[fold.test], len(windows.classes), c, unit_length=probe.unit_length
                )
                table.add(method, None, draw, fold.name, fold.test, scores)
        draws = draw_shots(windows.label, fold, index, max(kept, default=0), num_draws, seed)
        published[fold.name] = [
            {windows.classes[kind]: windows.ids[chosen].tolist() for kind, chosen in draw.items()} for draw in draws
        ]
        for k in kept:
            for draw, chosen in enumerate(draws):
                train = np.concatenate([members[:k] for members in chosen.values()])
                for method, arrays in representations.items():
                    array = arrays[draw % len(arrays)]
                    scores = fit_scores(
                        array[train],
                        windows.label[train],
                        array[fold.test],
                        len(windows.classes),
                        probe.c,
                        reference=array[fold.train] if probe.standardise_by == "unlabelled" else None,
                        unit_length=probe.unit_length,
                    )
                    table.add(method, k, draw, fold.name, fold.test, scores)
    return table.build(), published, notes


def merge(tables: list[pa.Table]) -> pa.Table:
    """Return the rows of several data sets as one table."""
    facts: dict[str, Any] = {}
    for table in tables:
        facts.update(json.loads(table.schema.metadata[METADATA_KEY]))
    merged = pa.concat_tables([table.replace_schema_metadata(None) for table in tables]).unify_dictionaries()
    return merged.combine_chunks().replace_schema_metadata({METADATA_KEY: json.dumps(facts).encode()})


def write_predictions(table: pa.Table, path: Path) -> None:
    """Write the table as Parquet."""
    pq.write_table(table, path, compression="zstd")


def read_predictions(path: Path) -> pa.Table:
    """Read a table that :func:`write_predictions` wrote.

    Raises:
        UserError: the file is missing or is not such a table.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"{path}: cannot be read ({str(error).splitlines()[0]}): run 'imuvid evaluate' again"
        ) from error
    if METADATA_KEY not in (table.schema.metadata or {}) or table.column_names != SCHEMA.names:
        raise UserError(f"{path}: is not a table of predictions written by 'imuvid evaluate'")
    return table
