"""Ego4D: IMU on the video's clock, one reason for each unusable file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from imuvid.config import load
from imuvid.data.dataset_tables import RECORDINGS_NAME, read_index
from imuvid.errors import UserError
from imuvid.imu.resample import pieces
from shards.build import build
from shards.config import BuildConfig
from shards.sources.base import RecordingError
from shards.sources.ego4d import Ego4DConfig, Ego4DSource, ordered
from shards.verify import verify
from tests.shards.sources.ego4d_files import (
    RATE_HZ,
    UID,
    VideoSpec,
    annotations,
    imu_rows,
    read,
    split_files,
    uid,
    write_ego4d,
    write_imu,
)
from tests.soak import times

REPOSITORY = Path(__file__).parents[3]
TIME = 2


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of one video of 3 s; tests write the IMU file anew."""
    return write_ego4d(tmp_path_factory.mktemp("ego4d"), [VideoSpec(UID, 7)])


def refuse(root: Path, rows: np.ndarray | None = None, **config: object) -> str:
    with pytest.raises(RecordingError) as caught:
        read(root, rows, **config)
    assert UID in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value.reason


def test_a_recording_is_the_imu_of_the_camera_on_the_clock_of_the_video(one: Path):
    rows = imu_rows(3.0)
    recording = read(one, rows)
    (stream,) = recording.streams
    assert stream.acc is not None
    assert stream.gyro is not None
    assert stream.acc.times_s == pytest.approx(rows[:, TIME] / 1000)
    assert np.array_equal(stream.acc.values, rows[:, 6:9])
    assert np.array_equal(stream.gyro.values, rows[:, 3:6])
    assert recording.duration_s == pytest.approx(3.0)
    assert recording.video == one / "v2" / "video_540ss" / f"{UID}.mp4"
    assert (recording.subject, recording.split, recording.source) == ("7", None, "ego4d")
    assert (stream.position, recording.camera_position) == ("head", "head")
    chest = read(one, position="chest")
    assert (chest.streams[0].position, chest.camera_position) == ("chest", "chest")


def test_the_clock_is_the_canonical_one_not_that_of_the_component(one: Path):
    rows = imu_rows(3.0)
    rows[:, 1] += 600_000.0
    (stream,) = read(one, rows).streams
    assert stream.acc is not None
    assert stream.acc.times_s[0] == 0.0


@pytest.mark.parametrize("empty", ["", "NaN", "NULL"])
def test_empty_cells(one: Path, empty: str):
    rows = imu_rows(3.0)
    rows[:100, TIME] = np.nan  # trimmed from the canonical video
    rows[200:300, 6:9] = np.nan
    rows[400, 3] = np.nan
    (stream,) = read(one, rows, empty).streams
    assert stream.acc is not None
    assert stream.gyro is not None
    assert len(stream.acc.times_s) == len(rows) - 200
    assert len(pieces(stream.acc.times_s, stream.acc.values)) == 2, "what the sensor did not give is a gap"
    assert len(stream.gyro.times_s) == len(rows) - 100
    assert np.isnan(stream.gyro.values).sum() == 1


def test_sensors_on_rows_of_their_own(one: Path):
    acc, gyro = imu_rows(3.0), imu_rows(3.0)
    acc[:, 3:6], gyro[:, 6:9] = np.nan, np.nan
    gyro[:, TIME] += 2.0
    both = np.concatenate([acc, gyro])
    (stream,) = read(one, both[np.argsort(both[:, TIME], kind="stable")]).streams
    assert stream.acc is not None
    assert stream.gyro is not None
    assert np.array_equal(stream.acc.values, acc[:, 6:9])
    assert np.array_equal(stream.gyro.values, gyro[:, 3:6])
    assert stream.gyro.times_s == pytest.approx(stream.acc.times_s + 0.002)


def test_a_sensor_of_nothing_is_absent_and_two_are_an_error(one: Path):
    rows = imu_rows(3.0)
    rows[:, 6:9] = np.nan
    assert read(one, rows).streams[0].acc is None
    rows[:, 6:9] = 0.0
    (stream,) = read(one, rows).streams
    assert stream.acc is None
    assert stream.gyro is not None
    rows[:, 3:6] = 0.0
    assert refuse(one, rows) == "all_zero"
    rows[:, 3:9] = np.nan
    assert refuse(one, rows) == "all_nan"


def test_stamps_that_are_far_too_large_or_small_are_no_part_of_the_video(one: Path):
    rows = imu_rows(3.0)
    rows[50, TIME], rows[60, TIME] = 1e15, -4e9
    (stream,) = read(one, rows).streams
    assert stream.acc is not None
    assert stream.acc.times_s == pytest.approx(np.delete(rows[:, TIME], [50, 60]) / 1000)
    rows[:, TIME] += 1e7
    assert refuse(one, rows) == "no_overlap"
    rows[:, TIME] = np.nan
    assert refuse(one, rows) == "bad_time"


def test_two_components_that_overlap_a_little_leave_a_gap_and_more_is_an_error(one: Path):
    rows = imu_rows(3.0)
    second = rows[:, TIME] >= 1500.0
    rows[second, 0] = 1
    rows[second, TIME] -= 300.0
    (stream,) = read(one, rows).streams
    assert stream.acc is not None
    times_s = stream.acc.times_s
    assert (np.diff(times_s) > 0).all()
    ((_, stop), (start, _)) = pieces(times_s, stream.acc.values)
    assert 1.1 < times_s[stop - 1] < 1.2
    assert 1.5 < times_s[start] < 1.6
    assert np.array_equal(stream.acc.values[start:], rows[-len(times_s[start:]) :, 6:9])
    rows[second, TIME] -= 1000.0
    assert refuse(one, rows) == "time_backwards"


def samples(duration_s: float = 30.0) -> tuple[np.ndarray, np.ndarray]:
    times_s = np.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    return times_s, np.random.default_rng(0).normal(size=(times_s.size, 3))


def test_shuffled_packets_and_components_are_sorted_without_loss():
    times_s, values = samples()
    rng = np.random.default_rng(1)
    packets = np.arange(times_s.size)
    packets[1000], packets[1001] = packets[1001], packets[1000]
    for order in (packets, np.roll(packets, 2000), np.concatenate([packets[k : k + 500] for k in (2500, 500, 4000)])):
        result_s, result = ordered(times_s[order], values[order])
        kept = np.sort(order)
        assert np.array_equal(result_s, times_s[kept])
        assert np.array_equal(result, values[kept])
    jittered_s = times_s + rng.uniform(-0.009, 0.009, times_s.size)
    assert np.array_equal(ordered(jittered_s, values)[0], np.sort(jittered_s))


def test_copies_are_dropped_and_two_samples_of_one_instant_give_one():
    times_s, values = samples()
    values[30, 1] = np.nan
    for copies in (np.r_[10:3000], np.arange(6000)):
        result_s, result = ordered(np.r_[times_s, times_s[copies]], np.r_[values, values[copies]])
        assert np.array_equal(result_s, times_s)
        assert np.array_equal(result, values, equal_nan=True)
    stuttering_s = times_s.copy()
    stuttering_s[100] = stuttering_s[99]
    result_s, result = ordered(stuttering_s, values)
    assert np.array_equal(result_s, np.delete(stuttering_s, 100))
    assert np.array_equal(result, np.delete(values, 100, axis=0), equal_nan=True)


@pytest.mark.parametrize("stray_s", [2.0, 20.003])
def test_one_stray_stamp_costs_its_surroundings_alone(stray_s: float):
    times_s, values = samples()
    stray = times_s.copy()
    stray[2000] = stray_s
    result_s, result = ordered(stray, values)
    lost = ~np.isin(times_s, result_s)
    lost[2000] = False
    assert np.abs(times_s[lost] - stray_s).max() < 0.03
    assert len(pieces(result_s, result)) == 2


def twice_by_counting(times_s: np.ndarray) -> np.ndarray:
    """Which samples lie, give or take half of a gap, where two runs of a file do: one by one, the slow way."""
    runs, begin = [], 0
    for i in range(1, len(times_s) + 1):
        if i == len(times_s) or times_s[i] - times_s[i - 1] < -0.02 or times_s[i] - times_s[i - 1] > 0.05:
            runs.append((times_s[begin:i].min(), times_s[begin:i].max()))
            begin = i
    shared = [
        (max(a[0], b[0]), min(a[1], b[1]))
        for k, a in enumerate(runs)
        for b in runs[:k]
        if max(a[0], b[0]) <= min(a[1], b[1])
    ]
    return np.array([any(start - 0.026 <= t <= end + 0.026 for start, end in shared) for t in times_s])


def test_random_runs_agree_with_counting():
    rng = np.random.default_rng(2)
    overlapping = 0
    for _ in range(times(30, 2000)):
        starts_s = rng.uniform(0, 20, 6)
        runs = [start + np.arange(rng.integers(1, 150)) / 200 for start in starts_s]
        times_s = np.concatenate(runs)
        values = rng.normal(size=(times_s.size, 3))
        twice = twice_by_counting(times_s)
        try:
            result_s, result = ordered(times_s, values)
        except ValueError:
            assert twice.any()
            continue
        overlapping += bool(twice.any())
        expected = np.flatnonzero(~twice)[np.argsort(times_s[~twice])]
        assert np.array_equal(result_s, times_s[expected])
        assert np.array_equal(result, values[expected])
    assert overlapping > 5, "the comparison must have seen what it is about"


def test_damaged_imu_files(one: Path):
    path = one / "v2" / "imu" / f"{UID}.csv"
    content = write_imu(path, imu_rows(3.0)).read_bytes()
    for damaged, reasons in (
        (b"", {"empty"}),
        (content[: content.index(b"\n") + 1], {"bad_time"}),
        (content[:5000] + b"\n", {"unreadable"}),
        (content.replace(b"canonical_timestamp_ms", b"timestamp_ms"), {"no_column"}),
        (content.replace(b"\n0,", b"\n0,x", 1), {"ok"}),  # of a column that is not used
        (content[:3000] + b"oops" + content[3004:], {"not_a_number", "unreadable"}),
        (bytes(range(256)) * 20, {"unreadable", "no_column"}),
    ):
        path.write_bytes(damaged)
        assert ("ok" if reasons == {"ok"} and read(one) else refuse(one)) in reasons
    path.unlink()
    assert refuse(one) == "missing"


def test_fuzzed_imu_files_give_a_recording_or_a_reason(one: Path):
    path = one / "v2" / "imu" / f"{UID}.csv"
    content = write_imu(path, imu_rows(1.0)).read_bytes()
    rng = np.random.default_rng(3)
    source = Ego4DSource(Ego4DConfig(root=str(one)))
    (ref,) = source.list()
    read_well = 0
    for _ in range(times(60, 3000)):
        damaged = bytearray(content)
        for at in rng.integers(0, len(content), rng.integers(1, 12)).tolist():
            damaged[at] = b'0123456789,-.e\n\x00\xff"'[rng.integers(18)]
        path.write_bytes(damaged[: rng.integers(1, len(content))] if rng.random() < 0.3 else damaged)
        try:
            recording = source.open(ref)
        except RecordingError:
            continue
        read_well += 1
        for signal in (recording.streams[0].acc, recording.streams[0].gyro):
            assert signal is None or (np.diff(signal.times_s) > 0).all()
    assert read_well > 5


def test_stereo_and_missing_and_damaged_videos(tmp_path: Path):
    root = write_ego4d(tmp_path, [VideoSpec(UID, stereo=True)])
    assert refuse(root) == "stereo"
    root = write_ego4d(tmp_path, [VideoSpec(UID)])
    video = root / "v2" / "video_540ss" / f"{UID}.mp4"
    content = video.read_bytes()
    video.write_bytes(content[: len(content) // 2])
    assert refuse(root) in ("truncated", "not_a_video")
    video.unlink()
    (tmp_path / "uids.txt").write_text(f"{UID}\n")
    assert refuse(root, uids=str(tmp_path / "uids.txt")) == "missing"
    with pytest.raises(UserError, match="no video with IMU that is downloaded"):
        read(root)
    video.parent.joinpath("manifest.csv").unlink()
    video.parent.rmdir()
    recording = read(root)
    assert recording.video is None
    assert recording.duration_s == 3.0, "of ego4d.json where no videos are downloaded"


@pytest.mark.slow
def test_build_marks_what_is_wrong_by_rule_and_verifies(tmp_path: Path):
    names = ("good", "held", "in-g", "holes", "stereo", "absent")
    uids = {name: uid(number) for number, name in enumerate(names)}
    specs = [
        VideoSpec(uids[name], 40 + number % 3, duration_s=5.0, stereo=name == "stereo", imu=name != "absent")
        for number, name in enumerate(names)
    ]
    root = write_ego4d(tmp_path / "ego4d", specs)
    in_g = imu_rows(5.0)
    in_g[:, 6:9] /= 9.80665
    write_imu(root / "v2" / "imu" / f"{uids['in-g']}.csv", in_g)
    holes = imu_rows(5.0)
    times_s = holes[:, TIME] / 1000
    holes[(times_s > 0.99) & (times_s < 2.01), 3:9] = 0.0
    holes[(times_s > 2.98) & (times_s < 4.02), TIME] = np.nan
    write_imu(root / "v2" / "imu" / f"{uids['holes']}.csv", holes)
    files = split_files(tmp_path, train=[uids[name] for name in names], val=annotations(uids["held"]))
    config = load(
        BuildConfig,
        REPOSITORY / "configs" / "shards" / "ego4d.yaml",
        [
            f"out={tmp_path / 'out'}",
            f"source.ego4d.root={root}",
            *(f"source.ego4d.split_files.{name}={path}" for name, path in files.items()),
            "window.length_s=1.0",
            "frames.num=4",
            "frames.size=48",
            "frames.fit=squash",
            "subjects.salt=test",
            "build.workers=1",
        ],
    )
    summary = build(config)
    identity = {summary.identifiers[name]: short for short, name in uids.items() if name in summary.identifiers}
    assert verify(tmp_path / "out").ok
    index = read_index(tmp_path / "out").to_pylist()
    by_name: dict[str, list[dict]] = {}
    for row in index:
        by_name.setdefault(identity[row["recording"]], []).append(row)
    assert {name: len(rows) for name, rows in by_name.items()} == {"good": 5, "held": 5, "in-g": 5, "holes": 3}
    assert {name: {row["split"] for row in rows} for name, rows in by_name.items()} == {
        "good": {"train"},
        "held": {"val"},
        "in-g": {"train"},
        "holes": {"train"},
    }
    assert [row["verdict"] for row in by_name["good"]] == [""] * 5
    assert [(row["start_s"], row["verdict"]) for row in by_name["holes"]] == [
        (0.0, ""),
        (2.0, ""),
        (4.0, ""),
    ]
    rows = {row["recording"]: row for row in pq.read_table(tmp_path / "out" / RECORDINGS_NAME).to_pylist()}
    found = {identity[name]: (row["status"], row["marked"]) for name, row in rows.items() if name in identity}
    assert found["good"] == ("used", [])
    assert found["in-g"] == ("used", ["implausible_acc"])
    assert set(found["holes"][1]) >= {"gap", "no_imu", "stuck"}
    assert sorted(row["status"] for row in rows.values()) == ["missing", "stereo", "used", "used", "used", "used"]
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    assert not any(secret.encode() in written for secret in (*uids.values(), str(tmp_path)))
