"""The page about a dataset in a real browser."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import simplejpeg

from imuvid import config as configs
from imuvid.data.dataset_tables import INDEX_NAME, INDEX_SCHEMA, RECORDINGS_NAME
from shards.build import build
from shards.config import BuildConfig
from shards.inspect import inspect_dataset
from tests.browser import Browser, open_browser, weak_texts
from tests.shards.inspected import (
    NUM_FRAMES,
    SCRIPT,
    SIZE,
    STEPS,
    damaged_copy,
    make_sample,
    write_dataset,
    write_mixed,
)

WIDTHS = (1280, 390)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return write_mixed(tmp_path_factory.mktemp("mixed") / "dataset")


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
    assert weak_texts(browser) == []
    unnamed = "document.querySelectorAll('main img:not([alt]), main img[alt=\"\"], [role=img]:not([aria-label])')"
    assert browser.run(f"{unnamed}.length") == 0
    assert browser.run("getComputedStyle(document.body).backgroundColor") == (
        "rgb(13, 17, 23)" if dark else "rgb(243, 244, 246)"
    )


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
