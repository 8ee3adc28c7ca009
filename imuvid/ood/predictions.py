"""The table of predictions: one row a method, draw and test window. Every number of a report is computed from it.

See :mod:`imuvid.ood.summary`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from imuvid.errors import UserError
from imuvid.ood.protocols.task import Block, Task

METADATA_KEY = b"imuvid"
_TEXT = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        ("dataset", _TEXT),
        ("protocol", _TEXT),
        ("representation", _TEXT),  # pretrained, random, handmade, raw; none: of the majority class
        ("probe", _TEXT),  # linear, knn, forest, finetune, majority, zero-shot kinds
        ("selection", _TEXT),  # fixed, source-validation, lodo-cv, oracle
        ("shots", pa.int32()),  # training windows per class; null: all of them
        ("draw", pa.int32()),  # of the shots; of the random encoder's seed
        ("fold", _TEXT),
        ("domain", _TEXT),  # that the training windows lack; empty where the protocol leaves out no domain
        ("stressor", _TEXT),  # what was done to the test window; empty: nothing
        ("severity", pa.float32()),  # how much of it, in the stressor's own unit; 0: nothing
        ("window", _TEXT),  # RECORDING@START in seconds on the recording's clock
        ("recording", _TEXT),
        ("subject", _TEXT),
        ("label", _TEXT),
        ("scores", pa.list_(pa.float32())),  # one a class, in the order of the metadata's list of classes
    ]
)


def to_table(task: Task, blocks: Iterable[Block]) -> pa.Table:
    """Return the rows of the blocks of a task, with what is known of the task in the metadata."""
    windows = task.windows
    columns = {
        "window": _encode(windows.ids),
        "recording": _encode(windows.recording),
        "subject": _encode(windows.subject),
        "domain": _encode(np.full(len(windows.label), "") if task.domain is None else task.domain),
        "label": (windows.label.astype(np.int32), pa.array(windows.classes)),
    }
    tables = []
    for block in blocks:
        num = len(block.test)
        constants = {
            "dataset": windows.name,
            "protocol": task.protocol,
            "representation": block.representation,
            "probe": block.probe,
            "selection": block.selection,
            "fold": block.fold,
            "stressor": block.stressor,
        }
        arrays = {name: _constant(value, num) for name, value in constants.items()}
        for name, (codes, names) in columns.items():
            arrays[name] = pa.DictionaryArray.from_arrays(pa.array(codes[block.test]), names)
        arrays["shots"] = pa.array(np.full(num, block.shots or 0, np.int32), mask=np.full(num, block.shots is None))
        arrays["draw"] = pa.array(np.full(num, block.draw, np.int32))
        arrays["severity"] = pa.array(np.full(num, block.severity, np.float32))
        offsets = np.arange(num + 1, dtype=np.int32) * block.scores.shape[1]
        scores = pa.array(block.scores.ravel().astype(np.float32))
        arrays["scores"] = pa.ListArray.from_arrays(pa.array(offsets), scores)
        tables.append(pa.Table.from_arrays([arrays[name] for name in SCHEMA.names], schema=SCHEMA))
    facts = {
        task.key: {
            "dataset": windows.name,
            "protocol": task.protocol,
            "strict": task.strict,
            "classes": windows.classes,
            "positive": windows.positive,
        }
    }
    table = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
    return table.replace_schema_metadata({METADATA_KEY: json.dumps(facts).encode()})


def task_facts(table: pa.Table) -> dict[str, dict[str, Any]]:
    """Return what the metadata says of each task: key to dataset, protocol, strict, classes, positive."""
    return json.loads(table.schema.metadata[METADATA_KEY])


def merge(tables: list[pa.Table]) -> pa.Table:
    """Return the rows of several tasks, or of several folds of one, as one table."""
    facts: dict[str, Any] = {}
    for table in tables:
        facts.update(task_facts(table))
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


def _encode(values: np.ndarray) -> tuple[np.ndarray, pa.Array]:
    names, codes = np.unique(values, return_inverse=True)
    return codes.astype(np.int32), pa.array(names.astype(str))


def _constant(value: str, num: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(np.zeros(num, np.int32), pa.array([value]))
