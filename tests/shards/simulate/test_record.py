"""Is a recording a function of the config and a number, labelled from end to end, and kept complete?"""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import av
import numpy as np
import pytest

from imuvid.errors import UserError
from shards.simulate.files import ensure_recording, write_video
from shards.simulate.population import ACTIVITIES
from shards.simulate.record import SimulatedConfig, SimulatedRecording, simulate


def small(folder: Path, **changes: object) -> SimulatedConfig:
    base = SimulatedConfig(num_subjects=2, duration_s=2.0, fps=10, video_size=64, work_dir=str(folder))
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def test_same_config_gives_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    first = ensure_recording(small(tmp_path / "a"), 1)
    second = ensure_recording(small(tmp_path / "b"), 1)
    names = sorted(path.name for path in first.iterdir())
    assert names == ["imu.npz", "truth.json", "truth.npz", "video.mp4"]
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    other = ensure_recording(small(tmp_path / "a", seed=1), 1)
    assert other != first
    assert (other / "imu.npz").read_bytes() != (first / "imu.npz").read_bytes()


def test_more_subjects_leave_the_first_as_they_were() -> None:
    few = simulate(SimulatedConfig(num_subjects=2, duration_s=3.0), 1)
    many = simulate(SimulatedConfig(num_subjects=9, duration_s=3.0), 1)
    np.testing.assert_array_equal(few.streams["wrist"].acc, many.streams["wrist"].acc)


def test_recordings_of_a_subject_share_its_traits_and_nothing_else() -> None:
    config = SimulatedConfig(num_subjects=2, recordings_per_subject=2, duration_s=3.0)
    a, b, other = (simulate(config, index) for index in (0, 1, 2))
    assert a.subject == b.subject
    assert a.subject_name == b.subject_name
    assert other.subject_name != a.subject_name
    assert other.subject != a.subject
    assert not np.array_equal(a.streams["head"].acc, b.streams["head"].acc)


def test_labels_cover_the_recording(healthy: list[SimulatedRecording], patients: list[SimulatedRecording]) -> None:
    for recording in healthy + patients:
        segments = recording.segments
        assert segments[0].start_s == 0.0
        assert segments[-1].end_s == recording.duration_s
        for before, after in itertools.pairwise(segments):
            assert before.end_s == after.start_s
            assert before.end_s > before.start_s
    assert {s.label for r in healthy for s in r.segments} == set(ACTIVITIES)
    assert {s.label for r in patients for s in r.segments} == {*ACTIVITIES, "freeze"}


def test_long_recording_stays_in_its_room(healthy: list[SimulatedRecording]) -> None:
    for recording in healthy:
        half = np.array(recording.body.gait.half_axes_m) + 1.7
        heads = recording.camera.position(np.arange(0.0, recording.duration_s, 0.05))
        assert (np.abs(heads[:, :2]) < half - 0.05).all()
        assert heads[:, 2].min() > 0.0


def test_offset_is_drawn_within_its_bounds_and_kept(tmp_path: Path) -> None:
    config = small(tmp_path, clock_offset_s=0.5, render=False)
    folder = ensure_recording(config, 0)
    truth = json.loads((folder / "truth.json").read_text())
    assert 0.0 < abs(truth["clock_offset_s"]) <= 0.5
    with np.load(folder / "imu.npz") as arrays:
        assert arrays["head_times_s"][0] == pytest.approx(truth["clock_offset_s"], abs=2e-3)
    assert simulate(small(tmp_path), 0).clock_offset_s == 0.0


def test_true_poses_are_kept_at_the_frames(tmp_path: Path) -> None:
    config = small(tmp_path)
    recording = simulate(config, 0)
    with np.load(ensure_recording(config, 0) / "truth.npz") as truth:
        assert truth["frame_times_s"].shape == (20,)
        np.testing.assert_array_equal(truth["camera_position_m"], recording.camera.position(truth["frame_times_s"]))
        np.testing.assert_allclose(np.linalg.norm(truth["camera_quaternion_wxyz"], axis=1), 1.0)
        assert truth["ankle_position_m"].shape == (100, 3)


def test_finished_recording_is_found_again_and_unfinished_ones_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(tmp_path)
    folder = ensure_recording(config, 0)
    stamp = (folder / "video.mp4").stat().st_mtime_ns
    assert ensure_recording(config, 0) == folder
    assert (folder / "video.mp4").stat().st_mtime_ns == stamp

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("shards.simulate.files.write_video", fail)
    with pytest.raises(OSError, match="disk full"):
        ensure_recording(config, 1)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_video_has_every_frame_at_its_time(tmp_path: Path) -> None:
    pictures = [np.full((64, 64, 3), 10 * k, np.uint8) for k in range(25)]
    write_video(tmp_path / "v.mp4", pictures, 10, 64)
    with av.open(str(tmp_path / "v.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        decoded = list(container.decode(stream))
    assert [float(frame.pts * frame.time_base) for frame in decoded] == pytest.approx([k / 10 for k in range(25)])
    assert sum(bool(frame.key_frame) for frame in decoded) == 3
    for k, frame in enumerate(decoded):
        assert frame.to_ndarray(format="rgb24").mean() == pytest.approx(10 * k, abs=4.0)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"population": "martian"}, "healthy, parkinson"),
        ({"positions": ["head", "tail"]}, "'tail' is unknown"),
        ({"positions": []}, "at least one"),
        ({"positions": ["head", "head"]}, "once"),
        ({"camera": "knee"}, "head, chest"),
        ({"num_subjects": 0}, "num_subjects: 0"),
        ({"duration_s": -3.0}, "duration_s: -3.0"),
        ({"video_size": 65}, "even"),
        ({"imu_rate_hz": float("nan")}, "imu_rate_hz: nan"),
        ({"seed": -1}, "seed: -1"),
    ],
)
def test_senseless_values_are_one_clear_line(tmp_path: Path, changes: dict[str, object], part: str) -> None:
    with pytest.raises(UserError) as error:
        simulate(small(tmp_path, **changes), 0)
    assert part in str(error.value)
    assert "\n" not in str(error.value)
