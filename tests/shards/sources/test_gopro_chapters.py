"""Chapters of a GoPro recording: which files belong together, and one clock over all of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from shards.sources.base import RecordingError
from shards.sources.gopro import GoProConfig, GoProSource
from shards.video_chapters import probe, read_frames
from tests.shards.sources.found import touch
from tests.shards.sources.gpmf_files import device, resting_payload, shutter, stamp, stream, write_mp4
from tests.shards.sources.test_gopro import read


def test_chapters_are_one_recording_by_folder_letters_and_number(tmp_path: Path):
    files = {
        "a": "GX010123.MP4 GX020123.MP4 GX030123.mp4 GX010124.MP4 GH020123.MP4",
        "b": "GX040123.MP4",
        "c": "GOPR0007.MP4 GP010007.MP4 GP020007.MP4 GOPR0008.MP4",
        "d": "GPFR0001.MP4 GF010001.MP4 GPBK0001.MP4",
        "e": "GS010135.360 GS020135.360",
        "f": "GHAA0001.MP4 GHAA0002.MP4",
        "g": "GX0123.MP4 GX010123.MP4",
        "h": "walk01.mp4 walk02.mp4",
    }
    for path in (tmp_path / folder / name for folder, names in files.items() for name in names.split()):
        touch(path)
    refs = GoProSource(GoProConfig(paths=[str(tmp_path)])).list()
    assert {ref.name: [Path(path).name for path in ref.payload["paths"]] for ref in refs} == {
        "a-GH020123": ["GH020123.MP4"],
        "a-GX010123": ["GX010123.MP4", "GX020123.MP4", "GX030123.mp4"],
        "a-GX010124": ["GX010124.MP4"],
        "b-GX040123": ["GX040123.MP4"],
        "c-GOPR0007": ["GOPR0007.MP4", "GP010007.MP4", "GP020007.MP4"],
        "c-GOPR0008": ["GOPR0008.MP4"],
        "d-GPBK0001": ["GPBK0001.MP4"],
        "d-GPFR0001": ["GPFR0001.MP4", "GF010001.MP4"],
        "e-GS010135": ["GS010135.360", "GS020135.360"],
        "f-GHAA0001": ["GHAA0001.MP4"],
        "f-GHAA0002": ["GHAA0002.MP4"],
        "g-GX010123": ["GX010123.MP4"],
        "g-GX0123": ["GX0123.MP4"],
        "h-walk01": ["walk01.mp4"],
        "h-walk02": ["walk02.mp4"],
    }


def turning(start: int, count: int, stamp_us: int | None = None, frames_us: int = 0) -> bytes:
    """One second whose n-th sample of the recording is n in Z."""
    extra = {} if stamp_us is None else {"a": stamp(stamp_us)}
    acc = stream("ACCL", [(start + i, 0, 0) for i in range(count)], "m/s\u00b2", scale=1, **extra)
    return device(acc, *([] if stamp_us is None else [shutter(frames_us)]))


def test_chapters_are_read_on_the_clock_of_the_first_frame(tmp_path: Path):
    write_mp4(tmp_path / "GX010009.MP4", [turning(0, 100), turning(100, 100)], seconds=2)
    write_mp4(tmp_path / "GX020009.MP4", [turning(200, 100)], grey=40)
    write_mp4(tmp_path / "GX030009.MP4", [turning(300, 100), turning(400, 50)], grey=80, seconds=2)
    recording = read(tmp_path)
    assert recording.name == "GX010009"
    assert recording.duration_s == pytest.approx(5.0)
    (found,) = recording.streams
    np.testing.assert_array_equal(found.acc.values[:, 2], np.arange(450))
    np.testing.assert_allclose(found.acc.times_s, np.arange(450) / 100, atol=1e-6)
    info = probe(recording.video)
    np.testing.assert_allclose(info.times_s, np.arange(50) / 10, atol=1e-9)
    assert info.duration_s == pytest.approx(5.0)
    means = [picture.mean() for _, picture in read_frames(recording.video, [0, 19, 20, 29, 30, 49], 32, "squash")]
    np.testing.assert_allclose(means, [0, 38, 40, 58, 80, 118], atol=3)


def test_samples_that_two_chapters_share_are_there_once(tmp_path: Path):
    """The IMU of a chapter begins before its first frame, where the chapter before has stopped or not quite."""
    write_mp4(tmp_path / "GX010009.MP4", [turning(0, 100, 0), turning(100, 100, 10**6, 10**6)])
    write_mp4(
        tmp_path / "GX020009.MP4", [turning(170, 100, 1_700_000, 2 * 10**6), turning(270, 100, 2_700_000, 3 * 10**6)]
    )
    (found,) = read(tmp_path).streams
    np.testing.assert_array_equal(found.acc.values[:, 2], np.arange(370))
    np.testing.assert_allclose(found.acc.times_s, np.arange(370) / 100, atol=1e-6)


def test_chapters_that_do_not_fit_are_refused(tmp_path: Path):
    good = write_mp4(tmp_path / "GX010009.MP4", [resting_payload()] * 2)
    shutil.copy(good, tmp_path / "GX030009.MP4")
    error = refuse_folder(tmp_path)
    assert error.reason == "missing_chapter"
    assert "is chapter 3" in str(error)
    (tmp_path / "GX030009.MP4").unlink()
    (tmp_path / "GX020009.MP4").write_bytes(good.read_bytes()[:-9])
    assert refuse_folder(tmp_path).reason == "truncated"
    assert "GX020009" in str(refuse_folder(tmp_path))
    write_mp4(tmp_path / "GX020009.MP4", [resting_payload()] * 2, side=48)
    error = refuse_folder(tmp_path)
    assert error.reason == "chapters_differ"
    assert "48x48 pixels at 10 frames/s" in str(error)
    write_mp4(tmp_path / "GX020009.MP4", [], seconds=2)
    assert refuse_folder(tmp_path).reason == "no_telemetry"


def refuse_folder(folder: Path) -> RecordingError:
    with pytest.raises(RecordingError) as caught:
        read(folder)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_real_recording_and_its_copy_join(realdata: Path, tmp_path: Path):
    for chapter in (1, 2):
        shutil.copy(realdata / "gopro_gpmf" / "max-heromode.mp4", tmp_path / f"GS0{chapter}0135.MP4")
    once, twice = read(tmp_path / "GS010135.MP4"), read(tmp_path)
    assert twice.duration_s == pytest.approx(2 * once.duration_s)
    for sensor in ("acc", "gyro"):
        one, two = getattr(once.streams[0], sensor), getattr(twice.streams[0], sensor)
        again = len(two.times_s) - len(one.times_s)
        np.testing.assert_array_equal(two.values[-again:], one.values[-again:])
        np.testing.assert_allclose(two.times_s[-again:] - once.duration_s, one.times_s[-again:], atol=1e-9)
        assert np.diff(two.times_s).max() < 0.05
        assert again > len(one.times_s) - 10
