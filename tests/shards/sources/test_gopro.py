"""GoPro files: values and times of the telemetry on the video's clock, and one reason for each unusable file."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from imuvid import config
from imuvid.errors import UserError
from shards.sources.base import Recording, RecordingError
from shards.sources.gopro import GoProConfig, GoProSource, _demux
from shards.sources.gpmf import parse_items
from shards.workers import Lost, run_jobs
from tests.shards.sources.found import names_of, refused, touch
from tests.shards.sources.gpmf_files import device, resting_payload, shutter, stamp, stream, write_mp4
from tests.soak import times

REPOSITORY = Path(__file__).parents[3]


def read(path: Path) -> Recording:
    source = GoProSource(GoProConfig(paths=[str(path)]))
    (ref,) = source.list()
    return source.open(ref)


def refuse(path: Path) -> RecordingError:
    return refused(read, path)


def names(*paths: Path | str) -> list[str]:
    return names_of(lambda paths: GoProSource(GoProConfig(paths=paths)), *paths)


# Which files


def test_folders_files_and_globs_name_the_recordings(tmp_path: Path):
    first = touch(tmp_path / "anna" / "GX01.MP4")
    touch(tmp_path / "ben" / "week 2" / "GX01.mp4")
    touch(tmp_path / "ben" / "._GX01.mp4")
    touch(tmp_path / "ben" / "GX01.LRV")
    assert names(tmp_path) == ["anna-GX01", "ben-week-2-GX01"]
    assert names(first) == ["GX01"]
    assert names(tmp_path / "*" / "*.MP4") == ["anna-GX01"]
    assert names(tmp_path / "**" / "*.[mM][pP]4") == ["anna-GX01", "ben-week-2-GX01"]
    assert names(tmp_path, first) == ["anna-GX01", "ben-week-2-GX01"], "a file found twice is one recording"


def test_mistaken_paths_are_named(tmp_path: Path):
    one, two = touch(tmp_path / "a" / "GX01.MP4"), touch(tmp_path / "b" / "GX01.MP4")
    (tmp_path / "c").mkdir()
    with pytest.raises(UserError, match="no file or folder"):
        names(tmp_path / "absent")
    with pytest.raises(UserError, match=r"no \.mp4 or \.360 file in"):
        names(tmp_path / "c")
    with pytest.raises(UserError, match=r"no \.mp4 or \.360 file in"):
        names(tmp_path / "c" / "*.MP4")
    with pytest.raises(UserError, match="names no MP4 file"):
        names()
    with pytest.raises(UserError, match="both be recording 'GX01'"):
        names(one, two)


def test_the_source_goes_to_worker_processes(tmp_path: Path):
    touch(tmp_path / "GX01.MP4")
    source = pickle.loads(pickle.dumps(GoProSource(GoProConfig(paths=[str(tmp_path)]))))
    assert pickle.loads(pickle.dumps(source.list())) == source.list()


def test_the_example_config_fits_the_dataclass():
    text = (REPOSITORY / "configs" / "shards" / "gopro.yaml").read_text()
    from omegaconf import OmegaConf

    words = OmegaConf.to_container(OmegaConf.create(text).source.gopro)
    assert set(words) == set(config.to_dict(GoProConfig(paths=["x"])))


# Times and values


def test_a_file_is_read_in_si_units_on_the_clock_of_the_video(tmp_path: Path):
    (tmp_path / "anna").mkdir()
    path = write_mp4(tmp_path / "anna" / "GX01.MP4", [resting_payload(200), resting_payload(198)])
    source = GoProSource(GoProConfig(paths=[str(path)], position="chest", subject_from_folder=True))
    recording = source.open(source.list()[0])
    (found,) = recording.streams
    assert (recording.name, recording.source, recording.subject) == ("GX01", "gopro", "anna")
    assert recording.video == path.resolve()
    assert recording.camera_position == "chest"
    assert found.acc_range == pytest.approx(32767 / 100)
    assert recording.duration_s == pytest.approx(2.0)
    assert found.position == "chest"
    np.testing.assert_allclose(found.acc.values, np.tile([0, 0, 9.81], (398, 1)))
    np.testing.assert_allclose(found.gyro.values, np.tile([0.02, 0.03, 0.01], (800, 1)))
    np.testing.assert_allclose(found.gyro.times_s, np.arange(800) / 400, atol=1e-9)
    np.testing.assert_allclose(found.acc.times_s[[0, 199, 200, 201]], [0, 199 / 200, 1.0, 1.005], atol=1e-9)


def test_a_short_last_payload_keeps_the_rate_of_the_others(tmp_path: Path):
    path = write_mp4(tmp_path / "a.mp4", [resting_payload()] * 3 + [resting_payload(20, 40)])
    acc = read(path).streams[0].acc
    assert len(acc.times_s) == 620
    np.testing.assert_allclose(acc.times_s, np.arange(620) / 200, atol=1e-9)


def test_a_drop_out_leaves_a_gap_and_stretches_nothing(tmp_path: Path):
    path = write_mp4(
        tmp_path / "a.mp4", [resting_payload(), resting_payload(120), resting_payload(), resting_payload()]
    )
    acc = read(path).streams[0].acc
    np.testing.assert_allclose(acc.times_s, np.r_[0:320, 400:800] / 200, atol=1e-9)


def test_the_telemetry_is_found_behind_other_data_tracks(tmp_path: Path):
    path = write_mp4(tmp_path / "a.mp4", [resting_payload()] * 3, other_ms=1500)
    assert len(read(path).streams[0].acc.times_s) == 600


def test_a_payload_without_the_sensor_leaves_a_gap(tmp_path: Path):
    path = write_mp4(tmp_path / "a.mp4", [resting_payload(), device(), resting_payload()])
    acc = read(path).streams[0].acc
    np.testing.assert_allclose(acc.times_s, np.r_[0:200, 400:600] / 200, atol=1e-9)


def test_stamps_move_the_imu_against_the_frames(tmp_path: Path):
    def payload(second: int, late_us: int) -> bytes:
        frames = 80_000 + 1_000_000 * second
        return resting_payload(stamp_us=frames + late_us) + device(shutter(frames))

    path = write_mp4(tmp_path / "a.mp4", [payload(0, -5000), payload(1, -3000), payload(2, -1000)])
    acc = read(path).streams[0].acc
    np.testing.assert_allclose(acc.times_s[[0, 200, 400]], [-0.005, 0.997, 1.999], atol=1e-6)
    np.testing.assert_allclose(np.diff(acc.times_s), 1.002 / 200, atol=1e-6)


def test_an_accelerometer_alone_is_enough(tmp_path: Path):
    path = write_mp4(tmp_path / "a.mp4", [device(stream("ACCL", [(981, 0, 0)] * 200, "m/s\u00b2"))])
    (found,) = read(path).streams
    assert found.acc is not None
    assert found.gyro is None


def test_each_imu_has_a_position_of_its_own(tmp_path: Path):
    def payload(second: int) -> bytes:
        camera = device(
            stream("ACCL", [(981, 0, 0)] * 200, "m/s\u00b2", a=stamp(10**6 * second + 7000)),
            stream("ACCL", [(500, 0, 0)] * 100, "m/s\u00b2"),
            shutter(10**6 * second),
        )
        other = device(stream("GYRO", [(1, 2, 3)] * 50, "deg/s", a=stamp(10**8)), number=77)
        return camera + other

    recording = read(write_mp4(tmp_path / "a.mp4", [payload(0), payload(1)]))
    assert [found.position for found in recording.streams] == ["head", "head_2", "head_3"]
    assert recording.camera_position == "head"
    camera, second, other = recording.streams
    assert camera.acc.times_s[0] == pytest.approx(0.007)
    np.testing.assert_allclose(second.acc.times_s, np.arange(200) / 100, atol=1e-9)
    np.testing.assert_allclose(second.acc.values[:, 2], 5.0)
    assert other.acc is None
    # Its stamps are of a clock of its own.
    np.testing.assert_allclose(other.gyro.times_s, np.arange(100) / 50, atol=1e-9)
    np.testing.assert_allclose(other.gyro.values, np.deg2rad(np.tile([0.02, 0.03, 0.01], (100, 1))))


def test_an_imu_beside_a_camera_without_one_is_not_the_camera_s(tmp_path: Path):
    other = device(stream("ACCL", [(1, 2, 3)] * 100, "g"), number=77)
    recording = read(write_mp4(tmp_path / "a.mp4", [device() + other] * 2))
    assert [found.position for found in recording.streams] == ["head_2"]
    assert recording.camera_position is None


# Unusable files


def test_time_lapse_and_impossible_stamps_are_refused(tmp_path: Path):
    lapse = [resting_payload(stamp_us=5_000_000 * i) + device(shutter(5_000_000 * i)) for i in range(3)]
    error = refuse(write_mp4(tmp_path / "lapse.mp4", lapse))
    assert error.reason == "bad_clock"
    assert "5.00 times" in str(error)
    apart = [resting_payload(stamp_us=9_000_000 + 10**6 * i) + device(shutter(10**6 * i)) for i in range(3)]
    assert refuse(write_mp4(tmp_path / "apart.mp4", apart)).reason == "bad_clock"


def test_damaged_telemetry_is_refused(tmp_path: Path):
    cut = write_mp4(tmp_path / "cut.mp4", [resting_payload(), resting_payload()[:-8]])
    assert refuse(cut).reason == "damaged_telemetry"
    unit = write_mp4(tmp_path / "unit.mp4", [device(stream("ACCL", [(1, 2, 3)], "lb"))])
    assert refuse(unit).reason == "bad_unit"
    bare = write_mp4(tmp_path / "bare.mp4", [device()])
    assert refuse(bare).reason == "no_telemetry"


def test_files_that_are_no_recording_are_refused(tmp_path: Path):
    good = write_mp4(tmp_path / "good.mp4", [resting_payload()] * 2)
    data = good.read_bytes()
    for name, content, reason in [
        ("empty.mp4", b"", "empty"),
        ("text.mp4", b"time,x,y,z\n0,1,2,3\n" * 9, "not_a_video"),
        ("half.mp4", data[: len(data) // 2], "truncated"),
        ("last_byte.mp4", data[:-1], "truncated"),
        ("head.mp4", data[:30], "truncated"),
        ("zeroed.mp4", data[: data.index(b"moov") + 4] + bytes(len(data) - data.index(b"moov") - 4), "not_a_video"),
    ]:
        (tmp_path / name).write_bytes(content)
        assert refuse(tmp_path / name).reason == reason, name
    plain = write_mp4(tmp_path / "plain.mp4", [], seconds=1)
    assert refuse(plain).reason == "no_telemetry"


def test_a_file_that_vanishes_is_refused(tmp_path: Path):
    source = GoProSource(GoProConfig(paths=[str(touch(tmp_path / "a.mp4"))]))
    (ref,) = source.list()
    (tmp_path / "a.mp4").unlink()
    with pytest.raises(RecordingError) as caught:
        source.open(ref)
    assert caught.value.reason == "missing"


def duration_or_reason(path: str) -> float | str:
    """What a worker of a build gets of one file."""
    try:
        return read(Path(path)).duration_s
    except RecordingError as error:
        return error.reason


def test_bytes_overwritten_anywhere_give_a_recording_or_a_clean_error(tmp_path: Path):
    data = write_mp4(tmp_path / "good.mp4", [resting_payload()] * 2).read_bytes()
    generator = np.random.default_rng(0)
    jobs = []
    for i in range(times(100, 2000)):
        path = tmp_path / f"bad{i}.mp4"
        damaged = bytearray(data)
        for _ in range(8):
            # Half of the hits go to the index at the end, which is small.
            low = 0 if generator.random() < 0.5 else data.index(b"moov") - 4
            damaged[generator.integers(low, len(data))] = generator.integers(256)
        path.write_bytes(damaged)
        jobs.append((str(path),))
    # In a process of its own, as in a build: the FFmpeg of older PyAV wheels crashes on some of these.
    results = dict(run_jobs(duration_or_reason, jobs, workers=1, timeout_s=20.0))
    assert len(results) == len(jobs)
    for result in results.values():
        if isinstance(result, Lost):
            assert result.reason == "crash"
        elif not isinstance(result, str):
            assert result > 0


# Real recordings


@pytest.mark.parametrize(
    ("name", "samples", "rates", "start_s"),
    [("karma", (2397, 4795), (198.4, 396.9), 0.0), ("max-heromode", (2082, 2082), (197.5, 197.5), -0.005)],
)
def test_real_recordings_have_the_known_rates_and_gravity(realdata: Path, name, samples, rates, start_s):
    recording = read(realdata / "gopro_gpmf" / f"{name}.mp4")
    (found,) = recording.streams
    for signal, count, rate in zip((found.acc, found.gyro), samples, rates, strict=True):
        assert len(signal.times_s) == len(signal.values) == count
        assert (count - 1) / (signal.times_s[-1] - signal.times_s[0]) == pytest.approx(rate, abs=0.06)
        assert np.diff(signal.times_s).max() < 1.03 / rate
        assert signal.times_s[0] == pytest.approx(start_s, abs=1e-3)
        assert signal.times_s[-1] == pytest.approx(recording.duration_s, abs=0.03)
    # Both cameras are upright, and a gimbal or a walker comes back to the same height: the mean is gravity, along Z.
    assert np.linalg.norm(found.acc.values, axis=1).mean() == pytest.approx(9.81, abs=0.05)
    assert found.acc.values.mean(axis=0)[2] == pytest.approx(9.7, abs=0.1)
    assert np.linalg.norm(found.gyro.values, axis=1).mean() < 0.3


@pytest.mark.parametrize("name", ["karma", "max-heromode"])
def test_real_values_equal_those_of_the_maker_s_parser(realdata: Path, name: str):
    py_gpmf_parser = pytest.importorskip("py_gpmf_parser")
    path = realdata / "gopro_gpmf" / f"{name}.mp4"
    (found,) = read(path).streams
    extractor = py_gpmf_parser.GoProTelemetryExtractor(str(path))
    extractor.open_source()
    try:
        for key, signal in (("ACCL", found.acc), ("GYRO", found.gyro)):
            zxy, times_s = extractor.extract_data(key)
            np.testing.assert_allclose(signal.values, zxy[:, [1, 2, 0]], rtol=1e-6, atol=1e-9)
            if name == "max-heromode":  # its times are right only where the camera stamps its sensors
                np.testing.assert_allclose(signal.times_s, times_s, atol=0.006)
    finally:
        extractor.close_source()


def test_the_camera_s_own_gravity_vector_agrees(realdata: Path):
    """MAX records where gravity pulls, in a frame with x to the right, y down, z forward: (X, Z, Y) of ours."""
    path = realdata / "gopro_gpmf" / "max-heromode.mp4"
    down = []
    for _, _, data in _demux(path):
        for item in (item for part in parse_items(data) for item in parse_items(part.data) if item.key == "STRM"):
            found = {part.key: part.data for part in parse_items(item.data)}
            if "GRAV" in found:
                down.append(np.frombuffer(found["GRAV"], ">i2").reshape(-1, 3) / 32767)
    gravity = np.concatenate(down).mean(axis=0)
    mean = read(path).streams[0].acc.values.mean(axis=0)
    np.testing.assert_allclose(mean / np.linalg.norm(mean), gravity[[0, 2, 1]] / np.linalg.norm(gravity), atol=0.02)


def test_a_real_recording_that_was_cut_off_is_refused(realdata: Path, tmp_path: Path):
    whole = realdata / "gopro_gpmf" / "max-heromode.mp4"
    for share in (0.1, 0.5, 0.995):
        path = tmp_path / f"cut_{share}.mp4"
        path.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
        assert refuse(path).reason == "truncated"


def test_real_videos_of_other_cameras_are_refused(realdata: Path, tmp_path: Path):
    for video in sorted((realdata / "videos").iterdir()):
        copy = tmp_path / f"{video.stem}.mp4"
        shutil.copy(video, copy)
        expected = "no_telemetry" if video.suffix == ".mp4" else "not_a_video"
        assert refuse(copy).reason == expected, video.name
