"""Finished datasets that are damaged in all ways that a generator thinks of, and every command that reads them.

Whatever the damage: what a command cannot do is told in one line by the error that users get, nothing takes long, and
``verify`` passes no dataset in which a byte of a sample has changed. Each case runs in a process with a time limit.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import shards.subset
import shards.verify
from imuvid.data.dataset_tables import INDEX_SCHEMA, RECORDINGS_SCHEMA, read_index
from imuvid.data.shard_dataset import ShardDataset
from imuvid.data.tar import parse_tar
from imuvid.errors import UserError
from shards.combine import merge
from shards.inspect import inspect_dataset
from shards.subset import filter_windows, split
from shards.verify import verify
from shards.workers import Lost, run_jobs
from tests.shards.damage import damaged_bytes
from tests.shards.datasets import Person, samples_in, write_dataset
from tests.shards.inline import inline
from tests.soak import times

pytestmark = pytest.mark.slow
TIMEOUT_S = 60.0
TABLES = {"index.parquet": INDEX_SCHEMA, "recordings.parquet": RECORDINGS_SCHEMA}
ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        0,
        -1,
        1,
        3,
        2**31,
        2**63,
        10**400,
        0.5,
        1e308,
        -0.0,
        math.nan,
        math.inf,
        "",
        "x",
        "../x",
        "/etc/passwd",
    ),
    *(
        "\0",
        "\ud800",
        "a\nb",
        "x" * 100_000,
        "00000.tar",
        [],
        [1],
        ["x", None],
        [[]],
        {},
        {"x": 1},
        {"": {}},
        {"dim": 0},
    ),
)
ODD_NUMBERS = (None, 0, 1, -1, 511, 512, 4096, 2**31, 2**62, 2**63 - 1, -(2**63))
ODD_REALS = (None, 0.0, -1.0, 0.5, 2.0, 1e30, math.nan, math.inf, -math.inf)
ODD_TEXTS = (None, "", "x", "train", "val", "../00000.tar", "/etc/passwd", ".", "a\0b", "a\nb", "00001.tar", "x" * 5000)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def resign(folder: Path) -> None:
    """Make the checksums in ``dataset.json`` those of the files, as one would who damages a dataset on purpose."""
    info = json.loads((folder / "dataset.json").read_text())
    for name in info["sha256"]:
        if (folder / name).is_file():
            info["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "dataset.json").write_text(json.dumps(info))


def damage_file(folder: Path, rng: np.random.Generator) -> None:
    """Damage the bytes of a file, most often those of a shard."""
    names = ["00000.tar"] * 4 + ["00001.tar", "00002.tar", "index.parquet", "recordings.parquet", "dataset.json"]
    name = names[rng.integers(len(names))]
    other = sorted(folder.iterdir())[rng.integers(len(list(folder.iterdir())))]
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(damaged_bytes(content, other.read_bytes() or b"x", rng))


def damage_payload(folder: Path, rng: np.random.Generator) -> None:
    """Change one byte of the content of one member, which leaves a tar that any program reads."""
    rows = read_index(folder).to_pylist()
    row = rows[rng.integers(len(rows))]
    path = folder / row["shard"]
    content = bytearray(path.read_bytes())
    members = parse_tar(bytes(content[row["offset"] : row["offset"] + row["size"]]))
    member = list(members.values())[rng.integers(len(members))]
    content[content.find(member, row["offset"]) + rng.integers(len(member))] ^= 1 + int(rng.integers(255))
    path.write_bytes(content)


def damage_files(folder: Path, rng: np.random.Generator) -> None:
    """Remove, exchange, empty, add or rename files, or put a folder or a link in their place."""
    paths = sorted(folder.iterdir())
    first, second = (paths[i] for i in rng.choice(len(paths), 2, replace=False))
    what = rng.integers(7)
    if what == 0:
        first.unlink()
    elif what == 1:
        content = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(content)
    elif what == 2:
        first.write_bytes(b"")
    elif what == 3:
        shutil.copy(first, folder / "00009.tar")
    elif what == 4:
        first.rename(folder / ("00007.tar", ".hidden", "x.tmp")[rng.integers(3)])
    elif what == 5:
        first.unlink()
        first.mkdir()
    else:
        first.unlink()
        first.symlink_to((folder / "nowhere", first)[rng.integers(2)])


def damage_table(folder: Path, rng: np.random.Generator) -> None:
    """Change cells, rows or columns of a table."""
    name = list(TABLES)[rng.integers(2)]
    table = pq.read_table(folder / name)
    rows, what = table.to_pylist(), rng.integers(8)
    if what < 5:
        for _ in range(int(rng.choice([1, 1, 3, 30]))):
            row, column = rows[rng.integers(len(rows))], TABLES[name].field(int(rng.integers(len(TABLES[name]))))
            choices: Sequence[Any] = ODD_TEXTS if pa.types.is_string(column.type) else ODD_REALS
            choices = ODD_NUMBERS if pa.types.is_integer(column.type) else choices
            value = choices[rng.integers(len(choices))]
            if pa.types.is_list(column.type):
                odd = ["/etc", "x"] if pa.types.is_string(column.type.value_type) else [math.inf, -1.0]
                value = [None, [], [None], odd][rng.integers(4)]
            row[column.name] = value
        table = pa.Table.from_pylist(rows, schema=TABLES[name])
    elif what == 5:
        table = table.take(pa.array(rng.integers(0, len(rows), int(rng.choice([0, 1, len(rows), 3 * len(rows)])))))
    elif what == 6:
        table = table.drop_columns([table.column_names[rng.integers(table.num_columns)]])
    else:
        at = int(rng.integers(table.num_columns))
        other = pa.array([ODD_REALS[rng.integers(1, 5)] for _ in rows], (pa.float32(), pa.float64())[rng.integers(2)])
        table = table.set_column(at, table.column_names[at], other)
    pq.write_table(table, folder / name)


def damage_info(folder: Path, rng: np.random.Generator) -> None:
    """Set, remove or add entries of ``dataset.json``, at any depth."""
    info = json.loads((folder / "dataset.json").read_text())
    for _ in range(int(rng.choice([1, 1, 2, 5]))):
        place = info
        while True:
            key = list(place)[rng.integers(len(place))]
            if not isinstance(place[key], dict) or not place[key] or rng.random() < 0.3:
                break
            place = place[key]
        what = rng.random()
        if what < 0.15:
            del place[key]
        elif what < 0.3:
            place[("gates", "operations", "digest", "x", "00009.tar", "video_embedding")[rng.integers(6)]] = place[key]
        elif what < 0.35:
            place[key] = nested(int(rng.choice([300, 900, 5000])))
        else:
            place[key] = ODD[rng.integers(len(ODD))]
    (folder / "dataset.json").write_text(_dumped(info))


def _dumped(info: Any) -> str:
    try:
        return json.dumps(info)
    except RecursionError:
        return "[" * 5000 + "]" * 5000


def damage_sample(folder: Path, rng: np.random.Generator) -> None:
    """Change the JSON of a sample and keep its size, with checksums that fit."""
    rows = read_index(folder).to_pylist()
    row = rows[rng.integers(len(rows))]
    path = folder / row["shard"]
    content = path.read_bytes()
    start = row["offset"] + 512
    stop = content.index(b"\0", start)
    fields = json.loads(content[start:stop])
    key = list(fields)[rng.integers(len(fields))]
    fields[key] = [*ODD, nested(60)][rng.integers(len(ODD) + 1)]
    raw = json.dumps(fields, separators=(",", ":")).encode()
    if len(raw) > stop - start:
        raw = raw.replace(b'"simulated"', b'""')[: stop - start]
    path.write_bytes(content[:start] + raw.ljust(stop - start) + content[stop:])


DAMAGES = (
    *(damage_file, damage_file, damage_payload, damage_files, damage_table, damage_table, damage_info, damage_info),
    damage_sample,
)


def attempt(outcomes: Counter[str], name: str, command: Callable[[], Any], *errors: type[Exception]) -> Any:
    """Return what a command returns, or None where it gives one of the errors that it may, in one line."""
    try:
        result = command()
    except errors as error:
        message = str(error)
    else:
        outcomes[f"{name} done"] += 1
        return result
    assert message.strip(), f"{name}: says nothing"
    assert len(message.splitlines()) == 1, f"{name}: {message!r}"
    assert len(message) < 3000, f"{name}: {message[:300]!r} goes on for {len(message)} characters"
    outcomes[f"{name} refused"] += 1
    return None


def abuse(whole: str, other: str, scratch: str, seed: int) -> Counter[str]:
    """Damage a copy of a dataset and give it to every command; return how often each did and refused its work."""
    shards.verify.run_jobs = shards.subset.run_jobs = inline
    rng = np.random.default_rng([7, seed])
    folder = Path(scratch) / f"case{seed}"
    dataset = shutil.copytree(whole, folder / "dataset")
    damage = DAMAGES[rng.integers(len(DAMAGES))]
    damage(dataset, rng)
    if damage not in (damage_info, damage_files) and rng.random() < 0.6:
        # Not where damage is such that there is nothing to change.
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            resign(dataset)
    outcomes: Counter[str] = Counter()
    report = attempt(outcomes, "verify", lambda: verify(dataset), UserError)
    if report is not None:
        assert all(len(line.splitlines()) == 1 for line in report.problems), report.problems
        assert not report.ok or samples_in(dataset) == samples_in(Path(whole)), f"{damage.__name__}: not noticed"
        outcomes["verify passed"] += report.ok
    opened = attempt(outcomes, "open", lambda: ShardDataset(dataset, None), UserError)
    for sample in range(min(len(opened), 20) if opened is not None else 0):
        attempt(outcomes, "read", lambda sample=sample: opened.example(sample), ValueError)
    attempt(outcomes, "inspect", lambda: str(inspect_dataset(dataset, folder / "page.html", 3)), UserError)
    attempt(outcomes, "filter", lambda: str(filter_windows(dataset, folder / "f", ["gates.max_black=0.15"])), UserError)
    attempt(outcomes, "merge", lambda: str(merge([dataset, Path(other)], folder / "m")), UserError)
    attempt(outcomes, "split", lambda: str(split(dataset, val=0.5, test=0.2)), UserError)
    attempt(outcomes, "gates", lambda: str(filter_windows(dataset, None, ["gates.max_black=0.15"])), UserError)
    shutil.rmtree(folder)
    return outcomes


def test_damaged_datasets(tmp_path):
    whole = write_dataset(tmp_path / "whole")
    other = write_dataset(tmp_path / "other", (Person("rx1", "sx", "train", 2),))
    count = times(80, 1500)
    jobs = [(str(whole), str(other), str(tmp_path), seed) for seed in range(count)]
    total: Counter[str] = Counter()
    for job, result in run_jobs(abuse, jobs, 2, TIMEOUT_S):
        assert not isinstance(result, Lost), f"case {job}: {result}"
        total += result
    for name in ("verify", "open", "read", "inspect", "filter", "merge", "split"):
        assert total[f"{name} done"], total
        assert total[f"{name} refused"], total
    assert 0 < total["verify passed"] < 0.1 * count
