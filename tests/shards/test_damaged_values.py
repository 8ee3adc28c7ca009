"""Values that no recording has but damaged files do: each is told in one line or marked, and costs no memory."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from imuvid.data.dataset_json import read_dataset_info
from imuvid.errors import UserError
from shards.build import build
from shards.config import WindowConfig
from shards.signals import check_signals
from shards.sources.base import Recording, RecordingError, Signal, Stream
from shards.sources.imu_files import read_columns
from shards.verify import verify
from shards.video import probe
from tests.shards.datasets import write_dataset
from tests.shards.recordings import build_config, imu_columns, write_csv, write_manifest, write_video


def recording(times_s, values=None) -> Recording:
    values = np.random.default_rng(0).normal(0, 5, (len(times_s), 3)) if values is None else values
    streams = [Stream(position, Signal(times_s, values), Signal(times_s, values)) for position in ("head",)]
    return Recording("a", "paired", streams, float(times_s[-1]))


@pytest.mark.parametrize(
    ("times_s", "message"),
    [
        (np.append(np.arange(300) * 0.01, 1.7e9), r"span 1.7e\+09 s, its samples 2.99 s: mend the jump"),
        (np.append(np.arange(300) * 0.01, 1e300), r"span 1e\+300 s"),
        (np.arange(300) * 1e4, "one sample every 1e[+]04 s: check the unit of its time"),
    ],
)
def test_time_stamps_of_another_clock_are_refused_before_anything_is_made_for_all_that_time(times_s, message):
    with pytest.raises(RecordingError, match=message) as caught:
        check_signals(recording(times_s), ["head"], WindowConfig())
    assert caught.value.reason == "bad_time"


def test_a_long_pause_is_a_gap():
    times_s = np.append(np.arange(2000) * 0.01, 80_000 + np.arange(2000) * 0.01)
    marked, _ = check_signals(recording(times_s), ["head"], WindowConfig())
    assert "gaps of over 50 ms, 1599" in marked["gap"]


def test_readings_that_float32_does_not_hold_count_as_missing(tmp_path):
    columns = imu_columns(2.0)
    columns["acc_y"][60], columns["gyro_z"][120] = 1e308, -1e39
    write_csv(tmp_path / "a.csv", columns)
    manifest = write_manifest(tmp_path / "m.csv", [{"recording": "a", "imu": "a.csv", "position": "head"}])
    summary = build(build_config(manifest, tmp_path / "out", "frames.num=0"))
    assert summary.skipped == []
    assert summary.marked == {"not_a_number": 1}
    assert verify(tmp_path / "out").problems == []


def test_pixels_that_no_camera_has_are_refused(tmp_path):
    path = write_video(tmp_path / "a.mp4", 10)
    content = bytearray(path.read_bytes())
    # The width at which the track is shown, here one pixel (ISO/IEC 14496-12, 8.3.2).
    struct.pack_into(">I", content, content.index(b"tkhd") + 80, 1 << 16)
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=r"has pixels 0.00625 times as wide as high") as caught:
        probe(path)
    assert caught.value.reason == "not_a_video"


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_whatever_the_readers_of_arrays_raise_is_told_in_one_line(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    if suffix == "npy":
        path.write_bytes(b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr': '<f8', 'fortran_order': (".ljust(118))
    else:
        np.savez_compressed(path, imu=np.random.default_rng(0).normal(size=(200, 6)))
        content = bytearray(path.read_bytes())
        content[200:240] = b"\xff" * 40
        path.write_bytes(content)
    with pytest.raises(RecordingError, match="cannot be read") as caught:
        read_columns(path)
    assert caught.value.reason == "unreadable"


@pytest.mark.parametrize(
    "cells",
    [{"text": "/home/ann/1.mp4"}, {"label": "../ann"}, {"position": "C:\\ann"}, {"segments": "s.csv"}],
)
def test_texts_that_verify_would_reject_are_refused_by_the_build(tmp_path, cells):
    (tmp_path / "s.csv").write_text("start_s,end_s,label\n0,1,~/ann\n")
    write_csv(tmp_path / "a.csv", imu_columns(2.0))
    row = {"imu": "a.csv", "position": "head"}
    rows = [row | {"recording": "good"}, row | {"recording": "bad"} | cells]
    config = build_config(
        write_manifest(tmp_path / "m.csv", rows), tmp_path / "out", "frames.num=0", "positions=[head]"
    )
    (skipped,) = build(config).skipped
    assert skipped[:2] == ("bad", "bad_segments" if "segments" in cells else "bad_manifest")
    assert "names a place on a disk" in skipped[2]
    assert verify(tmp_path / "out").problems == []


def test_a_long_text_is_no_file(tmp_path):
    write_csv(tmp_path / "a.csv", imu_columns(2.0))
    row = {"recording": "a", "imu": "a.csv", "position": "head", "text": "C stirs the pot. " * 40}
    config = build_config(write_manifest(tmp_path / "m.csv", [row]), tmp_path / "out", "frames.num=0")
    assert build(config).skipped == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("name", 5), ("counts", {}), ("counts", None), ("hours", "x"), ("hours", float("nan")), ("window_s", 0)),
        *(("imu_rate_hz", 10**400), ("positions", {"head": 1}), ("num_frames", -1), ("frame_size", [16])),
        *(("labels", None), ("sha256", {"00000.tar": None}), ("config", []), ("config", {"gates": {"max_flat": "x"}})),
        *(("config", {"operations": 5}), ("video_embedding", {"dim": 0}), ("name", "\ud800"), ("hours", True)),
    ],
)
def test_entries_of_dataset_json_that_no_reader_expects(tmp_path, key, value):
    folder = write_dataset(tmp_path / "dataset")
    info = json.loads((folder / "dataset.json").read_text())
    read_dataset_info(folder)
    (folder / "dataset.json").write_text(json.dumps(info | {key: value}))
    with pytest.raises(UserError, match=r"dataset\.json: damaged"):
        read_dataset_info(folder)


def test_brackets_without_end_are_a_damaged_dataset_json(tmp_path):
    (tmp_path / "dataset.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"dataset\.json: damaged"):
        read_dataset_info(tmp_path)
