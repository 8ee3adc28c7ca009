"""Project Aria recordings: calibrated IMUs that agree with each other and with the pictures, and clear refusals."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from scipy.ndimage import gaussian_filter1d

from imuvid import config
from imuvid.errors import UserError
from shards.sources.aria import AriaConfig, AriaSource
from shards.sources.base import Recording, RecordingError, Signal
from shards.video import Watch, probe, read_frames
from shards.windows import pick_frames
from shards.workers import run_jobs
from tests.shards.sources.found import names_of, refused, touch
from tests.soak import times

REPOSITORY = Path(__file__).parents[3]
NAMES = ("aea_recording", "gen2_unit_test")
both = pytest.mark.parametrize("name", NAMES)

data_provider = pytest.importorskip(
    "projectaria_tools.core.data_provider", reason="projectaria-tools (the extra 'aria') is not installed"
)


def read(path: Path, **options) -> Recording:
    source = AriaSource(AriaConfig(paths=[str(path)], **options))
    (ref,) = source.list()
    return source.open(ref)


def refuse(path: Path) -> RecordingError:
    return refused(read, path)


def names(*paths: Path | str) -> list[str]:
    return names_of(lambda paths: AriaSource(AriaConfig(paths=paths)), *paths)


# Which files, and who wore the glasses


def test_folders_files_and_globs_name_the_recordings(tmp_path: Path):
    first = touch(tmp_path / "takes" / "cmu_bike01_2" / "aria01.vrs")
    touch(tmp_path / "takes" / "cmu_bike01_2" / "aria01_noimagestreams.vrs")
    touch(tmp_path / "takes" / "fair_cooking" / "aria01_noimagestreams.vrs")
    touch(tmp_path / "takes" / "fair_cooking" / "._aria01.vrs")
    touch(tmp_path / "takes" / "fair_cooking" / "cam01.mp4")
    assert names(tmp_path) == ["takes-cmu_bike01_2-aria01", "takes-fair_cooking-aria01_noimagestreams"]
    assert names(first, first) == ["aria01"]
    assert names(tmp_path / "*" / "cmu*" / "*.vrs") == ["takes-cmu_bike01_2-aria01"]


def test_paths_without_recordings_or_with_two_of_a_name_are_the_user_s_mistake(tmp_path: Path):
    for path in (tmp_path / "nowhere", tmp_path, tmp_path / "*.vrs"):
        with pytest.raises(UserError, match=r"aria\.paths: there is no"):
            names(path)
    files = [touch(tmp_path / person / "a.vrs") for person in ("anna", "ben")]
    with pytest.raises(UserError, match="would both be recording 'a'"):
        names(*files)


def test_subject_is_the_folder_or_the_participant_of_the_take(tmp_path: Path):
    touch(tmp_path / "takes" / "cmu_bike01_2" / "aria01.vrs")
    path = tmp_path / "takes.json"
    path.write_text(json.dumps([{"root_dir": "takes/cmu_bike01_2", "participant_uid": 657, "take_name": "x"}]))

    def subject(**options):
        (ref,) = AriaSource(AriaConfig(paths=[str(tmp_path)], **options)).list()
        return ref.payload["subject"]

    assert subject() is None
    assert subject(subject_from_folder=True) == "cmu_bike01_2"
    assert subject(takes=str(path)) == "657"
    with pytest.raises(UserError, match="not both"):
        subject(takes=str(path), subject_from_folder=True)
    path.write_text(json.dumps([{"root_dir": "takes/other", "participant_uid": 657}]))
    with pytest.raises(UserError, match="no take of the folder that holds"):
        subject(takes=str(path))
    for content in ("{", '{"takes": 1}', '[{"root_dir": "takes/a"}]'):
        path.write_text(content)
        with pytest.raises(UserError, match=r"is not Ego-Exo4D's takes\.json"):
            subject(takes=str(path))


def test_example_config_names_what_the_source_reads():
    words = OmegaConf.load(REPOSITORY / "configs" / "shards" / "aria.yaml").source.aria
    assert set(words) == set(config.to_dict(AriaConfig(paths=["x"])))


def test_without_projectaria_tools_the_message_names_the_extra(tmp_path: Path, monkeypatch):
    touch(tmp_path / "a.vrs")
    for module in [name for name in sys.modules if name.startswith("projectaria_tools")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "projectaria_tools", None)
    with pytest.raises(UserError, match=r"imuvid\[aria\]"):
        names(tmp_path)


# Bad files


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"words\n" * 20, "not_a_video"), (b"VisionRe", "truncated"), (b"VisionRe" * 12, "truncated")],
)
def test_files_that_are_no_recording_are_refused_in_one_line(tmp_path: Path, content, reason):
    path = tmp_path / "bad.vrs"
    path.write_bytes(content)
    assert refuse(path).reason == reason
    with pytest.raises(RecordingError) as caught:
        probe(path)
    assert caught.value.reason == reason


def test_a_file_that_vanishes_is_refused(tmp_path: Path):
    source = AriaSource(AriaConfig(paths=[str(touch(tmp_path / "a.vrs"))]))
    (ref,) = source.list()
    (tmp_path / "a.vrs").unlink()
    with pytest.raises(RecordingError) as caught:
        source.open(ref)
    assert caught.value.reason == "missing"


@both
def test_a_recording_that_was_cut_off_is_refused(realdata: Path, tmp_path: Path, name: str):
    whole = (realdata / "aria_vrs" / f"{name}.vrs").read_bytes()
    path = tmp_path / "cut.vrs"
    lengths = np.random.default_rng(0).integers(1, len(whole), times(30, 500)).tolist()
    for length in [8, 9, 23, 24, 79, 81, 1000, 30000, *lengths, len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert refuse(path).reason == "truncated", length


def use(path: str) -> float | str:
    """What a worker of a build gets of one file."""
    try:
        recording = read(Path(path))
        if recording.video is not None:
            for _ in read_frames(recording.video, [0], 32, "crop", watch=Watch([1], lambda index, picture: None)):
                pass
        return recording.duration_s
    except RecordingError as error:
        return error.reason


@pytest.mark.slow
def test_bytes_overwritten_anywhere_cost_one_recording_at_most(realdata: Path, tmp_path: Path):
    whole = (realdata / "aria_vrs" / "aea_recording.vrs").read_bytes()
    generator = np.random.default_rng(0)
    jobs = []
    for i in range(times(25, 1000)):
        damaged = bytearray(whole)
        # Half of the hits go to the headers and the index at the front, which are small.
        high = 41000 if generator.random() < 0.5 else len(whole)
        for _ in range(8):
            damaged[generator.integers(8, high)] = generator.integers(256)
        path = tmp_path / f"bad{i}.vrs"
        path.write_bytes(damaged)
        jobs.append((str(path),))
    # In processes of their own, as in a build, whose time limit also ends what hangs; crashes of the library count
    # as what they are there, one lost recording.
    results = dict(run_jobs(use, jobs, workers=1, timeout_s=20.0))
    assert len(results) == len(jobs)
    assert sum(isinstance(result, float) for result in results.values()) > 0


# Real recordings


@both
def test_readings_are_those_of_the_makers_tools_in_the_axes_of_the_wearer(realdata: Path, name: str):
    path = realdata / "aria_vrs" / f"{name}.vrs"
    recording = read(path)
    provider = data_provider.create_vrs_data_provider(str(path))
    calibration = provider.get_device_calibration()
    cpf_from_device = np.linalg.inv(calibration.get_transform_device_cpf().to_matrix())
    zero_ns = min(provider.get_timestamps_ns(stream_of(provider, "camera-rgb"), device_time()))
    assert [stream.position for stream in recording.streams] == ["head_left", "head_right"]
    for stream, label in zip(recording.streams, ("imu-left", "imu-right"), strict=True):
        imu = calibration.get_imu_calib(label)
        turn = (cpf_from_device @ imu.get_transform_device_imu().to_matrix())[:3, :3]
        identifier = stream_of(provider, label)
        samples = [provider.get_imu_data_by_index(identifier, i) for i in range(provider.get_num_data(identifier))]
        acc = [turn @ imu.raw_to_rectified_accel(sample.accel_msec2) for sample in samples]
        gyro = [turn @ imu.raw_to_rectified_gyro(sample.gyro_radsec) for sample in samples]
        np.testing.assert_allclose(stream.acc.values, acc, atol=1e-9)
        np.testing.assert_allclose(stream.gyro.values, gyro, atol=1e-9)
        stamps_s = np.array([sample.capture_timestamp_ns - zero_ns for sample in samples]) * 1e-9
        for signal, offset_s in (
            (stream.acc, imu.get_time_offset_sec_device_accel()),
            (stream.gyro, imu.get_time_offset_sec_device_gyro()),
        ):
            late_s = stamps_s - signal.times_s
            assert late_s == pytest.approx(offset_s + 0.5 / (800 if label == "imu-left" else 1000), abs=2e-4)


def stream_of(provider, label: str):
    return provider.get_stream_id_from_label(label)


def device_time():
    from projectaria_tools.core.sensor_data import TimeDomain

    return TimeDomain.DEVICE_TIME


@pytest.mark.parametrize(("name", "rates"), [("aea_recording", (798, 1001)), ("gen2_unit_test", (799, 793))])
def test_rates_gravity_and_clock_of_real_recordings(realdata: Path, name: str, rates):
    recording = read(realdata / "aria_vrs" / f"{name}.vrs")
    assert recording.camera_position == "head_left"
    assert 0.29 < recording.duration_s < 0.41
    for stream, rate in zip(recording.streams, rates, strict=True):
        for signal in (stream.acc, stream.gyro):
            assert (np.diff(signal.times_s) > 0).all()
            assert (len(signal.times_s) - 1) / np.ptp(signal.times_s) == pytest.approx(rate, abs=1)
            assert -0.05 < signal.times_s[0] < 0 < recording.duration_s - 0.06 < signal.times_s[-1]
        mean = stream.acc.values.mean(axis=0)
        # A head that is held up: gravity is along y, its size as everywhere.
        assert mean[1] == pytest.approx(9.5, abs=0.2)
        assert np.linalg.norm(mean) == pytest.approx(9.81, abs=0.4)
    assert "1WM0" not in repr(recording)
    assert "1M0Y" not in repr(recording)


@both
def test_both_imus_feel_the_same_turn_and_accelerate_as_one_rigid_body(realdata: Path, name: str):
    """a_right - a_left = alpha x r + omega x (omega x r), r from the left to the right sensor (rigid-body motion)."""
    path = realdata / "aria_vrs" / f"{name}.vrs"
    left, right = read(path).streams
    signals = (left.acc, right.acc, left.gyro, right.gyro)
    first_s, last_s = max(s.times_s[0] for s in signals) + 0.03, min(s.times_s[-1] for s in signals) - 0.03
    grid_s = np.arange(first_s, last_s, 0.002)

    def at(signal: Signal, lag_s: float = 0.0) -> np.ndarray:
        smooth = gaussian_filter1d(signal.values, 0.008 / np.median(np.diff(signal.times_s)), axis=0)
        return np.stack([np.interp(grid_s + lag_s, signal.times_s, column) for column in smooth.T], axis=1)

    assert np.sqrt(np.mean((at(left.gyro) - at(right.gyro)) ** 2)) < 0.01
    lags_s = np.arange(-0.005, 0.005, 0.0001)
    errors = [np.std(at(left.gyro) - at(right.gyro, lag_s), axis=0).sum() for lag_s in lags_s]
    assert abs(lags_s[int(np.argmin(errors))]) < 0.001
    calibration = data_provider.create_vrs_data_provider(str(path)).get_device_calibration()
    cpf_from_device = np.linalg.inv(calibration.get_transform_device_cpf().to_matrix())
    places = [
        (cpf_from_device @ calibration.get_imu_calib(label).get_transform_device_imu().to_matrix())[:3, 3]
        for label in ("imu-left", "imu-right")
    ]
    arm = places[1] - places[0]
    omega = (at(left.gyro) + at(right.gyro)) / 2
    expected = np.cross(np.gradient(omega, 0.002, axis=0), arm) + np.cross(omega, np.cross(omega, arm))
    difference = at(right.acc) - at(left.acc)
    assert np.sqrt(np.mean(difference**2)) > 0.3
    assert np.sqrt(np.mean((difference - expected) ** 2)) < 0.08


@both
def test_pictures_are_upright_those_of_the_makers_tools_and_at_their_times(realdata: Path, name: str):
    path = realdata / "aria_vrs" / f"{name}.vrs"
    info = probe(path)
    assert (info.width, info.height) == {"aea_recording": (1408, 1408), "gen2_unit_test": (2016, 1512)}[name]
    provider = data_provider.create_vrs_data_provider(str(path))
    rgb = stream_of(provider, "camera-rgb")
    stamps_s = np.array(provider.get_timestamps_ns(rgb, device_time())) * 1e-9
    assert info.times_s == pytest.approx(stamps_s - stamps_s[0], abs=1e-9)
    assert info.start_s == pytest.approx(stamps_s[0])
    seen = []
    found = dict(
        read_frames(path, [0, 2], 96, "squash", watch=Watch(range(len(stamps_s)), lambda index, _: seen.append(index)))
    )
    assert seen == list(range(len(stamps_s)))
    for index, picture in found.items():
        raw = provider.get_image_data_by_index(rgb, index)[0].to_numpy_array()
        upright = np.rot90(raw, -1) if name == "aea_recording" else raw
        height, width = (side // 8 for side in upright.shape[:2])
        cells = upright[: 8 * height, : 8 * width].reshape(height, 8, width, 8, 3).mean(axis=(1, 3))
        rows, columns = (((np.arange(96) + 0.5) * side / 96).astype(int) for side in (height, width))
        expected = cells[rows][:, columns]
        assert np.abs(picture - expected).mean() < 6
        assert min(np.abs(picture - np.rot90(expected, quarters)).mean() for quarters in (1, 2, 3)) > 18


@both
def test_watched_pictures_are_the_same_small_ones_as_of_the_makers_tools(realdata: Path, name: str):
    path = realdata / "aria_vrs" / f"{name}.vrs"
    provider = data_provider.create_vrs_data_provider(str(path))
    rgb, seen = stream_of(provider, "camera-rgb"), {}
    for _ in read_frames(path, [], 96, "crop", watch=Watch([0, 1, 2], lambda i, grey: seen.update({i: grey.copy()}))):
        pass
    assert sorted(seen) == [0, 1, 2]
    for index, grey in seen.items():
        raw = provider.get_image_data_by_index(rgb, index)[0].to_numpy_array()
        upright = Image.fromarray(np.rot90(raw, -1) if name == "aea_recording" else raw).convert("L")
        expected = np.asarray(upright.resize(grey.shape[::-1], Image.Resampling.BOX), dtype=float)
        assert np.abs(grey - expected).mean() < 3
    if name == "aea_recording":
        assert grey.shape == (176, 176)


@both
def test_pictures_move_against_the_turn_that_the_imu_feels(realdata: Path, name: str):
    """Both wearers turn about the vertical: to the right in the first recording, to the left in the second."""
    path = realdata / "aria_vrs" / f"{name}.vrs"
    info, size = probe(path), 128
    first, second = (
        picture.astype(float).mean(axis=2) for _, picture in read_frames(path, [0, 1], size, "crop", backend="pyav")
    )
    gyro = read(path).streams[0].gyro
    during = (gyro.times_s > 0) & (gyro.times_s < info.times_s[1])
    turned_left = gyro.values[during, 1].mean() * info.times_s[1]
    middle = slice(size // 4, 3 * size // 4)
    moves = [(dy, dx) for dy in range(-16, 17) for dx in range(-30, 31)]
    errors = [
        np.mean((np.roll(first, move, axis=(0, 1))[middle, middle] - second[middle, middle]) ** 2) for move in moves
    ]
    down, right = moves[int(np.argmin(errors))]
    assert np.sign(right) == np.sign(turned_left)
    assert abs(right) > abs(down)
    # Some 50 to 75 pixels a radian in the middle of these lenses at this size.
    assert 30 < right / turned_left < 90


@both
def test_short_windows_of_real_recordings_have_frames_and_samples(realdata: Path, name: str):
    recording = read(realdata / "aria_vrs" / f"{name}.vrs")
    wanted_s = np.array([0.0625, 0.1875])
    picks, near = pick_frames(wanted_s, probe(recording.video).times_s, 0.0625)
    assert near.all()
    assert len(list(read_frames(recording.video, sorted(set(picks.tolist())), 64, "pad"))) == 2
    for stream in recording.streams:
        assert ((stream.gyro.times_s >= 0) & (stream.gyro.times_s < 0.25)).sum() > 190


def test_nothing_is_written_to_the_terminal_while_reading(realdata: Path, capfd):
    path = realdata / "aria_vrs" / "gen2_unit_test.vrs"
    recording = read(path)
    list(read_frames(recording.video, [0, 2], 64, "pad"))
    assert capfd.readouterr() == ("", "")


def test_a_recording_without_pictures_still_has_its_imus(realdata: Path, tmp_path: Path):
    """As Ego-Exo4D's files without image streams: usable for datasets without frames."""
    path = without_rgb(realdata / "aria_vrs" / "aea_recording.vrs", tmp_path / "aria01_noimagestreams.vrs")
    recording = read(path)
    assert recording.video is None
    assert recording.camera_position is None
    assert min(stream.acc.times_s[0] for stream in recording.streams) == pytest.approx(0, abs=0.003)
    assert recording.duration_s == pytest.approx(0.4, abs=0.01)
    with pytest.raises(RecordingError, match="take the VRS file with image streams") as caught:
        probe(path)
    assert caught.value.reason == "no_video"


def without_rgb(source: Path, target: Path) -> Path:
    """Copy all but the pictures of the RGB camera; the library makes a new index where there is none."""
    content = source.read_bytes()
    kept = bytearray(content[:80])
    position, before = 80, 0
    while position < len(content):
        length, _, stream, _, _, _, kind = struct.unpack_from("<IIiIdHB", content, position)
        if stream != 1 and (stream, kind) != (214, 3):  # index; data of the RGB camera
            record = bytearray(content[position : position + length])
            struct.pack_into("<I", record, 4, before)
            kept += record
            before = length
        position += length
    description_length = struct.unpack_from("<I", kept, 80)[0]
    struct.pack_into("<qqq", kept, 24, 0, 80, 80 + description_length)
    target.write_bytes(kept)
    return target
