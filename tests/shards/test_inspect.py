"""The page about a dataset: its numbers against plain counting, its looks in a real browser."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import statistics
import tarfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg

from imuvid import config as configs
from imuvid.data.format import (
    DATASET_NAME,
    INDEX_NAME,
    INDEX_SCHEMA,
    RECORDINGS_NAME,
    RECORDINGS_SCHEMA,
    DatasetInfo,
    Sample,
    SampleMeta,
    encode_members,
    read_index,
)
from imuvid.data.storage import Store
from imuvid.errors import UserError
from shards.build import build
from shards.config import BuildConfig
from shards.gates import GatesConfig, regate
from shards.inspect import inspect_dataset
from tests.browser import Browser, open_browser

RATE_HZ, WINDOW_S, NUM_FRAMES, SIZE = 50.0, 5.0, 10, 96
STEPS = round(RATE_HZ * WINDOW_S)
SCRIPT = "<script>document.title='broken in'</script>"
WIDTHS = (1280, 390)


def make_sample(number: int, frames: list[bytes], positions: tuple[str, ...] = ("head", "wrist")) -> Sample:
    """A window of movement; the accelerometer at the first position is missing from 1.0 to 2.0 s of it."""
    rng = np.random.default_rng(number)
    times_s = np.arange(STEPS) / RATE_HZ
    imu = rng.standard_normal((STEPS, len(positions), 6)).astype(np.float32)
    imu[..., :3] += 3 * np.sin(2 * np.pi * times_s)[:, None, None] + [0, 0, 9.8]
    valid = np.ones((STEPS, len(positions), 2), dtype=bool)
    valid[(times_s >= 1.0) & (times_s < 2.0), 0, 0] = False
    valid[:, 1:, 1] = False
    imu[~np.repeat(valid, 3, axis=2)] = 0
    recording = f"r{number // 3:03d}"
    return Sample(
        f"{recording}-{number:06d}",
        imu,
        valid,
        frames,
        SampleMeta(
            recording=recording,
            source="gopro",
            start_s=WINDOW_S * (number % 3),
            duration_s=WINDOW_S,
            imu_rate_hz=RATE_HZ,
            positions=list(positions),
            frame_times_s=[(i + 0.5) * WINDOW_S / max(len(frames), 1) for i in range(len(frames))],
            frame_valid=[i != 7 for i in range(len(frames))],
            subject=f"s{number // 9:03d}",
            label=(None, "walking", SCRIPT)[number % 3],
            text=f"someone walks & says {SCRIPT}",
        ),
    )


def jpegs(num: int, size: int = SIZE) -> list[bytes]:
    """Pictures whose brightness rises."""
    return [simplejpeg.encode_jpeg(np.full((size, size, 3), 250 * (i + 1) // num, dtype=np.uint8)) for i in range(num)]


def write_dataset(folder: Path, samples: list[Sample], quality: dict[str, list[Any]], **info: Any) -> Path:
    """Write samples as one shard with an index of these columns, and gates by default."""
    folder.mkdir(parents=True)
    rows = []
    with tarfile.open(folder / "00000.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for i, sample in enumerate(samples):
            offset = tar.offset
            for name, content in encode_members(sample):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            meta = sample.meta
            row = {"key": sample.key, "shard": "00000.tar", "offset": offset, "size": tar.offset - offset}
            row |= {name: getattr(meta, name) for name in ("recording", "subject", "label", "start_s")}
            row |= {"split": ("train", "train", "val", "test")[i // 9 % 4], "imu_share": 1.0, "covered_share": 1.0}
            row |= {name: values[i] for name, values in quality.items()}
            rows.append(row)
    content = (folder / "00000.tar").read_bytes()
    for row in rows:
        row["crc32"] = zlib.crc32(content[row["offset"] : row["offset"] + row["size"]])
    regate(rows, GatesConfig())
    pq.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), folder / INDEX_NAME)
    meta = samples[0].meta
    stated = DatasetInfo(
        name="mixed",
        counts={"samples": len(rows), "recordings": -(-len(rows) // 3), "subjects": -(-len(rows) // 9), "shards": 1},
        hours=len(rows) * WINDOW_S / 3600,
        window_s=WINDOW_S,
        imu_rate_hz=RATE_HZ,
        positions=meta.positions,
        num_frames=len(samples[0].frames),
        frame_size=[SIZE, SIZE] if samples[0].frames else [],
        labels=sorted({row["label"] for row in rows} - {None}),
        sha256={"00000.tar": "0" * 64},
        config={"gates": dataclasses.asdict(GatesConfig()), "source": {"kind": "paired"}},
    )
    (folder / DATASET_NAME).write_text(json.dumps(dataclasses.asdict(stated) | info))
    return folder


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 45 windows, some bad in several ways, with recordings that are not used; not to be changed."""
    num = 45
    rng = np.random.default_rng(7)
    quality: dict[str, list[Any]] = {
        "frame_share": [0.9] * num,
        "flat_share": rng.beta(0.4, 3, num).tolist(),
        "saturated_share": rng.beta(0.2, 6, num).tolist(),
        "acc_std": rng.gamma(2, 1, num).tolist(),
        "gyro_rms": [None if i % 5 == 0 else float(rng.gamma(2, 0.4)) for i in range(num)],
        "black_share": [0.0] * num,
        "frozen_share": rng.beta(0.3, 5, num).tolist(),
        "frame_change": [None if i % 3 == 0 else float(rng.gamma(2, 6)) for i in range(num)],
        "sync_offset_s": rng.normal(0, 0.04, num).tolist(),
        "sync_confidence": rng.beta(4, 1, num).tolist(),
        "covered_share": [0.6 if i % 3 == 2 else 1.0 for i in range(num)],
    }
    quality["imu_share"] = list(quality["covered_share"])
    quality["black_share"][20], quality["sync_offset_s"][20] = 1.0, 0.4
    quality["saturated_share"][20] = 0.0
    quality["black_share"][31] = 0.8
    quality["saturated_share"][40] = 0.5
    for i in (6, 7, 8):
        quality["black_share"][i] = 0.7 + i / 1000
    frames = jpegs(NUM_FRAMES)
    folder = write_dataset(
        tmp_path_factory.mktemp("mixed") / "dataset", [make_sample(i, frames) for i in range(num)], quality
    )
    rows = [
        {
            "recording": f"r{i:03d}",
            "source": "gopro" if i % 2 else "paired",
            "status": "used",
            "duration_s": 13.0 + i,
            "marked": ["gap"] if i % 2 else ["gap", "not_a_number"],
            "sync_verdict": ("in_sync", "unknown")[i % 2],
            "sync_offset_s": 0.01 * i,
            "sync_confidence": 0.9,
        }
        for i in range(15)
    ]
    rows += [{"recording": f"x{i}", "status": ("too_short", "no_telemetry")[i % 2], "marked": []} for i in range(5)]
    pq.write_table(pa.Table.from_pylist(rows, schema=RECORDINGS_SCHEMA), folder / RECORDINGS_NAME)
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


def look(browser: Browser, page: Path, width: int, dark: bool = False) -> None:
    """Open a page and demand what holds for every page: quiet, alone, undamaged, no wider than its window."""
    browser.errors.clear()
    browser.requests.clear()
    browser.open(page, width, dark=dark)
    pictures = browser.run(
        "Promise.all([...document.querySelectorAll('main img')].map(i => i.decode().then(() => i.naturalWidth > 0)))"
    )
    assert all(pictures)
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.errors == []
    assert browser.requests == [page.as_uri()]


def shown(browser: Browser, selector: str) -> list[str]:
    """Return the text of the elements that are to be seen."""
    script = f"[...document.querySelectorAll({json.dumps(selector)})].filter(e => e.offsetParent).map(e => e.innerText)"
    return browser.run(script)


def test_the_page_in_a_browser(mixed: Path, browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    report = inspect_dataset(mixed, page, num_samples=12)
    assert report.page_bytes == page.stat().st_size
    for width in WIDTHS:
        look(browser, page, width)
        assert len(shown(browser, ".card")) == 12
        assert browser.run("document.querySelectorAll('.card img').length") == 12 * (NUM_FRAMES - 1)
    assert [text.split()[0] for text in shown(browser, ".card h3")] == report.shown
    assert browser.run("document.title") == "mixed: dataset of shards"
    assert any(SCRIPT in text for text in shown(browser, ".card dd"))
    assert SCRIPT in shown(browser, "#hours th")


def test_text_from_the_data_is_no_markup(mixed: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    inspect_dataset(mixed, page)
    text = page.read_text()
    assert SCRIPT not in text
    assert text.count("<script") == 1
    assert str(mixed) not in text


def test_no_script_but_its_own_runs_on_the_page(mixed: Path, browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    inspect_dataset(mixed, page, num_samples=1)
    page.write_text(page.read_text().replace("</main>", f"{SCRIPT}</main>"))
    browser.open(page, 1280)
    assert browser.run("document.title") == "mixed: dataset of shards"


def test_traces_lie_where_the_times_say(mixed: Path, browser: Browser, tmp_path: Path) -> None:
    """The gap of 1.0 to 2.0 s is shaded and no line runs in it; frames stand over the marks of their times."""
    page = tmp_path / "page.html"
    inspect_dataset(mixed, page, num_samples=2)
    look(browser, page, 1280)
    measured = browser.run(
        """(() => {
          const card = document.querySelector('.card'), box = card.querySelector('.box').getBoundingClientRect();
          const share = x => (x - box.left) / box.width;
          const bounds = path => { const r = path.getBoundingClientRect(); return [share(r.left), share(r.right)]; };
          const line = card.querySelector('path.axis-z'), length = line.getTotalLength(), seen = [];
          for (let i = 0; i <= 3000; i++) seen.push(line.getPointAtLength(length * i / 3000).x / 2000);
          return {
            gap: bounds(card.querySelector('path.gap')),
            line: bounds(line),
            seen: seen,
            marks: [...card.querySelector('.box').querySelectorAll('path.mark')].map(p => bounds(p)[0]),
            numbers: [...card.querySelectorAll('.marks span')].map(s => { const r = s.getBoundingClientRect();
              return share((r.left + r.right) / 2); }),
            frames: [...card.querySelectorAll('.frames > *')].map(s => { const r = s.getBoundingClientRect();
              return share((r.left + r.right) / 2); }),
            plots: [...card.querySelectorAll('.plot')].map(p => p.getAttribute('aria-label')),
            headings: [...card.querySelectorAll('.heading')].map(p => p.innerText),
          };
        })()"""
    )
    assert measured["gap"] == pytest.approx([0.2, 0.4], abs=0.005)
    assert measured["line"] == pytest.approx([0.0, 1 - 1 / STEPS], abs=0.005)
    assert not [x for x in measured["seen"] if 0.205 < x < 0.395]
    expected = [(i + 0.5) / NUM_FRAMES for i in range(NUM_FRAMES)]
    for what in ("marks", "numbers", "frames"):
        assert measured[what] == pytest.approx(expected, abs=0.01), what
    assert measured["headings"] == [
        "head · accelerometer, m/s²",
        "head · gyroscope, rad/s",
        "wrist · accelerometer, m/s²",
    ]
    assert "missing in 20 % of the window" in measured["plots"][0]
    assert "no gyroscope" in " ".join(shown(browser, ".card dd"))


def test_frames_are_enlarged_and_cards_filtered(mixed: Path, browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    report = inspect_dataset(mixed, page, num_samples=10)
    look(browser, page, 1280)
    browser.run("document.querySelector('button.frame').click()")
    assert browser.run("document.querySelector('#zoom').open")
    first = shown(browser, "#zoom p")
    assert first == [f"Frame 1 of 10 of window {report.shown[0]}, 0.25 s after its start"]
    assert browser.run("document.querySelector('#zoom img').naturalWidth") == SIZE
    browser.run("document.querySelector('#zoom .next').click()")
    assert shown(browser, "#zoom p") != first
    browser.run("document.querySelector('#zoom .close').click()")
    assert not browser.run("document.querySelector('#zoom').open")
    browser.run("document.querySelector('input[value=random]').click()")
    kept = [text.split()[0] for text in shown(browser, ".card h3")]
    assert kept == report.shown[5:]
    assert browser.errors == []


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read(mixed: Path, browser: Browser, tmp_path: Path, dark: bool) -> None:
    """Contrast of at least 4.5 (WCAG 2.2, 1.4.3), and every picture and plot has words for those who do not see it."""
    page = tmp_path / "page.html"
    broken = damaged_copy(mixed, tmp_path / "damaged")
    inspect_dataset(broken, page, num_samples=20)
    look(browser, page, 1280, dark=dark)
    weak = browser.run(
        """(() => {
          const rgb = c => c.match(/[\\d.]+/g).map(Number);
          const luminance = c => rgb(c).slice(0, 3).map(v => v / 255)
            .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
            .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
          const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
            const a = rgb(c)[3]; if (a === undefined || a === 1) return c; } return 'rgb(255, 255, 255)'; };
          const weak = [];
          for (const e of document.querySelectorAll('body *')) {
            if (!e.offsetParent || ![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
            const [a, b] = [luminance(getComputedStyle(e).color), luminance(ground(e))].sort((p, q) => q - p);
            if ((a + 0.05) / (b + 0.05) < 4.5) weak.push([e.className, e.textContent.slice(0, 40)]);
          }
          return weak;
        })()"""
    )
    assert weak == []
    unnamed = "document.querySelectorAll('main img:not([alt]), main img[alt=\"\"], [role=img]:not([aria-label])')"
    assert browser.run(f"{unnamed}.length") == 0
    assert browser.run("getComputedStyle(document.body).backgroundColor") == (
        "rgb(13, 17, 23)" if dark else "rgb(243, 244, 246)"
    )


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


def damaged_copy(source: Path, folder: Path) -> Path:
    """Return a copy of a dataset in which every second sample is damaged, each in another way."""
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    content = bytearray((folder / "00000.tar").read_bytes())
    table = read_index(folder)
    rows = table.to_pylist()
    for i, row in enumerate(rows):
        if i % 4 == 1:
            content[row["offset"] + row["size"] // 2] ^= 0xFF
        elif i % 8 == 3:
            row["size"], row["crc32"] = 2**60, None
        elif i % 8 == 7:
            row["shard"] = "00009.tar"
    (folder / "00000.tar").write_bytes(content)
    pq.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), folder / INDEX_NAME)
    return folder


def test_damaged_samples_are_listed_and_do_not_stop_the_page(mixed: Path, browser: Browser, tmp_path: Path) -> None:
    folder = damaged_copy(mixed, tmp_path / "damaged")
    page = tmp_path / "page.html"
    report = inspect_dataset(folder, page, num_samples=45)
    reasons = {line.split(":")[0].split(" ")[0]: line for line in report.damaged}
    bad = [key for key in report.shown if int(key[-6:]) % 2 == 1]
    assert sorted(reasons) == sorted(bad)
    for key, line in reasons.items():
        number = int(key[-6:])
        if number % 4 == 1:
            assert "checksum" in line
        elif number % 8 == 7:
            assert "00009.tar is missing" in line
    assert str(folder) not in page.read_text()
    look(browser, page, 390)
    assert len(shown(browser, ".card .damaged")) == len(report.damaged)
    assert len(shown(browser, ".card")) == 45


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


def test_datasets_with_less_in_them(tiny_dataset: Path, browser: Browser, tmp_path: Path) -> None:
    """Without frames, gyroscope, gates, recordings or new columns; of one window; of none."""
    page = tmp_path / "page.html"
    sample = make_sample(0, [], ("head",))
    sample.valid[..., 1], sample.imu[..., 3:] = False, 0
    look_at = write_dataset(tmp_path / "acc", [sample], {}, config={})
    report = inspect_dataset(look_at, page)
    assert (report.shown, report.damaged, report.gates) == ([sample.key], [], {})
    look(browser, page, 390)
    assert shown(browser, ".heading") == ["head · accelerometer, m/s²"]

    silent = make_sample(0, [], ("head",))
    silent.valid[:], silent.imu[:] = False, 0
    inspect_dataset(write_dataset(tmp_path / "silent", [silent], {"imu_share": [0.0]}), page)
    look(browser, page, 1280)
    assert "No sensor gave anything in this window." in shown(browser, ".look p")

    older = tmp_path / "older"
    older.mkdir()
    for path in tiny_dataset.iterdir():
        (older / path.name).write_bytes(path.read_bytes())
    known = ["key", "shard", "offset", "size", "recording", "subject", "split", "label", "start_s"]
    pq.write_table(pq.read_table(older / INDEX_NAME).select([*known, "imu_share", "frame_share"]), older / INDEX_NAME)
    (older / RECORDINGS_NAME).unlink(missing_ok=True)
    report = inspect_dataset(older, page, num_samples=4)
    assert (report.failed, report.recordings, report.damaged) == (None, None, [])
    assert len(report.notes) == 2
    assert report.hours == pytest.approx(report.counts["samples"] / 3600)
    look(browser, page, 1280)
    assert "Synchrony was not looked at." in shown(browser, "#synchrony p")

    pq.write_table(INDEX_SCHEMA.empty_table(), older / INDEX_NAME)
    assert inspect_dataset(older, page).shown == []
    look(browser, page, 390)


@pytest.mark.slow
def test_the_page_stays_small(browser: Browser, tmp_path: Path) -> None:
    """Of windows with 64 MB of pictures and six positions at 800 Hz that come and go, too: all of them, coarser."""
    rng = np.random.default_rng(0)
    size, rate_hz = 400, 800.0
    frames = [simplejpeg.encode_jpeg(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)) for _ in range(16)]
    positions = tuple(f"place{i}" for i in range(6))
    samples = []
    for number in range(24):
        sample = make_sample(number, frames, positions)
        sample.imu, sample.valid = np.repeat(sample.imu, 16, axis=0), np.repeat(sample.valid, 16, axis=0)
        sample.valid[::2, 1:, 0] = False
        sample.imu[::2, 1:, :3] = 0
        sample.meta.imu_rate_hz = rate_hz
        samples.append(sample)
    folder = write_dataset(tmp_path / "large", samples, {}, frame_size=[size, size], imu_rate_hz=rate_hz)
    started = time.monotonic()
    report = inspect_dataset(folder, tmp_path / "page.html")
    assert time.monotonic() - started < 30
    assert (len(report.shown), report.damaged) == (24, [])
    assert report.page_bytes < 6e6
    look(browser, tmp_path / "page.html", 1280)
    assert browser.run("document.querySelectorAll('.card img').length") >= 24 * 5
    # A gap stays a gap however coarse the line.
    path = browser.run("document.querySelector('.card path.axis-x').getAttribute('d')")
    assert len(re.findall("M", path)) == 2


def test_peaks_stay_when_a_trace_is_thinned(browser: Browser, tmp_path: Path) -> None:
    sample = make_sample(0, [], ("head",))
    sample.imu[77, 0, 3] = 40.0
    folder = write_dataset(tmp_path / "dataset", [dataclasses.replace(sample, key=f"k{i}") for i in range(200)], {})
    report = inspect_dataset(folder, tmp_path / "page.html", num_samples=200)
    assert len(report.shown) == 200
    assert report.page_bytes < 6e6
    look(browser, tmp_path / "page.html", 1280)
    tops = browser.run(
        """[...document.querySelectorAll('.card:first-of-type .plot')].map(p => {
          const box = p.querySelector('svg').getBoundingClientRect(), path = p.querySelector('path.axis-x');
          return (path.getBoundingClientRect().top - box.top) / box.height; })"""
    )
    assert tops[1] < 0.1


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


@pytest.mark.slow
def test_real_gopro_files(realdata: Path, browser: Browser, tmp_path: Path) -> None:
    config = configs.load(
        BuildConfig,
        Path(__file__).parents[2] / "configs/shards/gopro.yaml",
        [
            f"out={tmp_path / 'gopro'}",
            f"source.gopro.paths=[{realdata / 'gopro_gpmf'}]",
            "subjects.salt=pepper",
            "window.length_s=2.5",
        ],
    )
    built = build(config)
    report = inspect_dataset(tmp_path / "gopro", tmp_path / "page.html")
    assert report.damaged == []
    assert report.hours == pytest.approx(built.hours)
    assert len(report.shown) == built.counts["samples"] >= 6
    assert report.windows["acc_std"].missing == report.windows["frame_share"].missing == 0
    assert report.recordings is not None
    assert report.recordings["duration_s"].count == 2
    for width in WIDTHS:
        look(browser, tmp_path / "page.html", width)
    assert browser.run("document.querySelectorAll('.card img').length") >= 9 * len(report.shown)
    assert "karma" not in (tmp_path / "page.html").read_text()
