"""Simulated recordings as a build reads them."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from imuvid.errors import UserError
from shards.sources.base import RecordingError
from shards.sources.simulated import SimulatedConfig, SimulatedSource


def source(folder: Path, render: bool = False) -> SimulatedSource:
    return SimulatedSource(
        SimulatedConfig(
            num_subjects=3,
            recordings_per_subject=2,
            duration_s=2.0,
            fps=5,
            video_size=32,
            render=render,
            imu_rate_hz=100.0,
            positions=["waist", "ankle"],
            work_dir=str(folder),
        )
    )


def test_lists_every_recording_once_in_order(tmp_path: Path) -> None:
    refs = source(tmp_path).list()
    names = [ref.name for ref in refs]
    assert len(set(names)) == 6
    assert names == sorted(names)
    assert not list(tmp_path.iterdir()), "listing makes nothing"


def test_opens_a_recording_with_video_streams_and_labels(tmp_path: Path) -> None:
    src = pickle.loads(pickle.dumps(source(tmp_path, render=True)))
    recording = src.open(src.list()[3])
    assert recording.video is not None
    assert recording.video.stat().st_size > 1000
    assert [stream.position for stream in recording.streams] == ["waist", "ankle"]
    for stream in recording.streams:
        for signal in (stream.acc, stream.gyro):
            assert signal is not None
            assert signal.values.shape == (200, 3)
            assert signal.values.dtype == np.float64
            assert (np.diff(signal.times_s) > 0).all()
    assert recording.segments[-1].end_s == recording.duration_s == 2.0
    assert recording.subject == src.open(src.list()[2]).subject != src.open(src.list()[4]).subject


def test_without_rendering_there_is_no_video(tmp_path: Path) -> None:
    src = source(tmp_path)
    assert src.open(src.list()[0]).video is None
    assert not list(tmp_path.rglob("*.mp4"))


def test_damaged_files_are_a_recording_error(tmp_path: Path) -> None:
    src = source(tmp_path)
    ref = src.list()[0]
    src.open(ref)
    readings = next(tmp_path.rglob("imu.npz"))
    readings.write_bytes(readings.read_bytes()[:100])
    with pytest.raises(RecordingError, match="damaged") as error:
        src.open(ref)
    assert error.value.reason == "damaged"


def test_unwritable_folder_is_a_recording_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    src = source(tmp_path / "file")
    with pytest.raises(RecordingError) as error:
        src.open(src.list()[0])
    assert error.value.reason == "not_writable"


def test_senseless_config_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="population"):
        SimulatedSource(SimulatedConfig(population="nobody", work_dir=str(tmp_path)))
