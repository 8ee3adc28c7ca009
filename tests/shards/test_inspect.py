"""The page about a dataset: its numbers against plain counting, and what it draws and refuses."""

from __future__ import annotations

import dataclasses
import io
import json
import statistics
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imuvid.data.dataset_tables import INDEX_NAME, INDEX_SCHEMA, RECORDINGS_NAME, read_index
from imuvid.data.storage import Store
from imuvid.errors import UserError
from shards.inspect import inspect_dataset
from tests.shards.inspected import (
    NUM_FRAMES,
    SCRIPT,
    WINDOW_S,
    jpegs,
    make_sample,
    write_dataset,
    write_mixed,
)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return write_mixed(tmp_path_factory.mktemp("mixed") / "dataset")


def test_text_from_the_data_is_no_markup(mixed: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    inspect_dataset(mixed, page)
    text = page.read_text()
    assert SCRIPT not in text
    assert text.count("<script") == 1
    assert str(mixed) not in text


def test_numbers_are_those_of_plain_counting(mixed: Path, tmp_path: Path) -> None:
    report = inspect_dataset(mixed, tmp_path / "page.html")
    rows = pq.read_table(mixed / INDEX_NAME).to_pylist()
    recordings = {row["recording"]: row for row in pq.read_table(mixed / RECORDINGS_NAME).to_pylist()}
    assert report.hours == pytest.approx(sum(row["covered_share"] for row in rows) * WINDOW_S / 3600)
    failed: dict[str, int] = {}
    for row in rows:
        for gate in filter(None, row["verdict"].split(",")):
            failed[gate] = failed.get(gate, 0) + 1
    assert len(failed) >= 3
    assert report.failed == failed
    assert report.num_failed == sum(row["verdict"] != "" for row in rows)
    for by, of in {
        "split": lambda row: row["split"],
        "subject": lambda row: row["subject"],
        "label": lambda row: row["label"] or "no label",
        "source": lambda row: recordings[row["recording"]]["source"],
    }.items():
        hours: dict[str, dict[str, float]] = {}
        for row in rows:
            of_split = hours.setdefault(of(row), {})
            of_split[row["split"]] = of_split.get(row["split"], 0) + row["covered_share"] * WINDOW_S / 3600
        found = {group.name: {s: h for s, h in group.hours_by_split.items() if h} for group in report.hours_by[by]}
        assert found.keys() == hours.keys()
        for name, by_split in hours.items():
            assert found[name] == pytest.approx(by_split)
        assert sum(group.windows for group in report.hours_by[by]) == len(rows)
    for name in ("flat_share", "gyro_rms", "frame_change", "sync_offset_s"):
        values = [row[name] for row in rows if row[name] is not None]
        found = report.windows[name]
        assert (found.count, found.missing) == (len(values), len(rows) - len(values))
        assert (found.smallest, found.largest) == (min(values), max(values))
        assert found.median == pytest.approx(statistics.median(values))
        assert sum(found.counts) == len(values)
        inside = [sum(low <= v < high for v in values) for low, high in zip(found.edges, found.edges[1:], strict=False)]
        assert found.counts[1:-1] == inside[1:-1]
    assert report.windows["sync_offset_s"].limits == [-0.1, 0.1]
    assert report.windows["imu_share"].limits == [0.5]
    assert report.not_used == {"too_short": 3, "no_telemetry": 2}
    assert report.marked == {"gap": 15, "not_a_number": 8}
    assert report.sync_verdicts == {"in_sync": 8, "unknown": 7}
    assert report.recordings is not None
    assert (report.recordings["duration_s"].count, report.recordings["duration_s"].median) == (15, 20.0)
    parsed = json.loads(json.dumps(dataclasses.asdict(report), allow_nan=False))
    assert parsed["failed"] == failed
    assert any("too_short 3" in line for line in report.lines())


def test_the_worst_come_first(mixed: Path, tmp_path: Path) -> None:
    report = inspect_dataset(mixed, tmp_path / "page.html", num_samples=16)
    rows = {row["key"]: row for row in pq.read_table(mixed / INDEX_NAME).to_pylist()}
    worst = [rows[key] for key in report.shown[:8]]
    assert worst[0]["verdict"] == "video_black,sync_offset"
    failing = [len(row["verdict"].split(",")) if row["verdict"] else 0 for row in worst]
    assert failing == sorted(failing, reverse=True)
    # One recording has three black windows: it does not fill the page.
    assert [row["recording"] for row in worst].count("r002") == 2
    assert "r010-000031" in report.shown[:5]
    assert len(set(report.shown)) == 16
    text = (tmp_path / "page.html").read_text()
    assert "video_black, sync_offset · frames black 1" in text


def test_the_draw_follows_from_the_seed(mixed: Path, tmp_path: Path) -> None:
    first, again, other = (inspect_dataset(mixed, tmp_path / "page.html", 20, seed).shown for seed in (1, 1, 2))
    assert first == again
    assert first[:10] == other[:10]
    assert first[10:] != other[10:]


@pytest.mark.parametrize(
    ("meta", "reason"),
    [
        ({"frame_times_s": ["soon"] * NUM_FRAMES}, "in 00000.tar at byte 0"),
        ({"text": 5}, "in 00000.tar at byte 0"),
        ({"duration_s": 0.0}, "imu is float32"),
    ],
)
def test_a_sample_of_wrong_types_is_damaged(tmp_path: Path, meta: dict[str, Any], reason: str) -> None:
    sample = make_sample(0, jpegs(NUM_FRAMES))
    folder = write_dataset(tmp_path / "dataset", [sample], {})
    raw = (folder / "00000.tar").read_bytes()
    fields = json.dumps(dataclasses.asdict(sample.meta) | meta).encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as out:
        with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
            for member in tar:
                content = fields if member.name.endswith(".json") else tar.extractfile(member).read()
                member.size = len(content)
                out.addfile(member, io.BytesIO(content))
        size = out.offset
    (folder / "00000.tar").write_bytes(buffer.getvalue())
    row = read_index(folder).to_pylist()[0] | {"size": size, "crc32": None}
    pq.write_table(pa.Table.from_pylist([row], schema=INDEX_SCHEMA), folder / INDEX_NAME)
    report = inspect_dataset(folder, tmp_path / "page.html")
    assert len(report.damaged) == 1
    assert reason in report.damaged[0]


@pytest.mark.slow
def test_a_million_windows_take_seconds(mixed: Path, tmp_path: Path) -> None:
    folder, num = tmp_path / "many", 1_000_000
    folder.mkdir()
    for path in mixed.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    table = read_index(folder)
    table = table.take(pa.array(np.arange(num) % table.num_rows))
    pq.write_table(table, folder / INDEX_NAME)
    started = time.monotonic()
    report = inspect_dataset(folder, tmp_path / "page.html")
    assert time.monotonic() - started < 20
    assert report.windows["flat_share"].count == num
    assert report.page_bytes < 6e6


def test_a_dataset_at_a_url(mixed: Path, tmp_path: Path) -> None:
    store = Store("memory://bucket/mixed")
    for path in mixed.iterdir():
        store.write(path.name, path.read_bytes())
    remote = inspect_dataset("memory://bucket/mixed", tmp_path / "remote.html")
    local = inspect_dataset(mixed, tmp_path / "local.html")
    assert remote.damaged == []
    assert (tmp_path / "remote.html").read_bytes() == (tmp_path / "local.html").read_bytes()
    assert remote.shown == local.shown


def test_mistakes_are_one_line(mixed: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 to 200 windows"):
        inspect_dataset(mixed, tmp_path / "page.html", num_samples=0)
    with pytest.raises(UserError, match="no complete dataset"):
        inspect_dataset(tmp_path, tmp_path / "page.html")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        inspect_dataset(mixed, tmp_path / "folder")
    with pytest.raises(UserError, match="cannot be written"):
        inspect_dataset(mixed, mixed / INDEX_NAME / "page.html")
