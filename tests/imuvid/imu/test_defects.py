"""Defects put in by hand are found, and real recordings of people give no false alarms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.io
from scipy.spatial.transform import Rotation

from imuvid.imu.defects import find_defects, find_unit_conflict, window_shares
from imuvid.imu.units import to_si

RATE_HZ = 100.0


def quantised(values, step):
    return np.round(values / step) * step


def person(seconds=60.0, seed=0, acc_step=0.005, gyro_step=0.001, gravity=9.80665):
    """Times, acc and gyro of a sensor that turns slowly, with stretches of movement and of rest."""
    rng = np.random.default_rng(seed)
    times_s = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    active = (np.sin(2 * np.pi * times_s / 20) > 0)[:, None]
    gyro = active * (np.sin(2 * np.pi * times_s[:, None] * [0.3, 0.21, 0.17] + [0, 1, 2]) * 0.6)
    turns = Rotation.from_rotvec(gyro / RATE_HZ)
    pose = Rotation.identity()
    down = np.empty((len(times_s), 3))
    for i, turn in enumerate(turns):
        down[i] = pose.apply([0, 0, gravity], inverse=True)
        pose = pose * turn
    acc = down + active * 0.8 * np.sin(2 * np.pi * 1.9 * times_s)[:, None] + rng.normal(0, 0.02, down.shape)
    return times_s, quantised(acc, acc_step), quantised(gyro + rng.normal(0, 0.005, gyro.shape), gyro_step)


def check(times_s, values, kind="acc", full_scale=None):
    return find_defects(times_s, values, kind, full_scale)


def test_sound_sensor_has_no_defect():
    times_s, acc, gyro = person()
    for kind, values in (("acc", acc), ("gyro", gyro)):
        found = check(times_s, values, kind)
        assert not found.stuck.any()
        assert not found.saturated.any()
        assert not found.repeated.any()
        assert found.num_lost == 0
        assert found.jitter_s < 1e-9
        assert found.suspect_unit is None
    assert find_unit_conflict(times_s, acc, times_s, gyro) is None


@pytest.mark.parametrize("kind", ["acc", "gyro"])
def test_stuck_axis_is_found_where_it_is_stuck(kind):
    times_s, acc, gyro = person()
    values = acc if kind == "acc" else gyro
    values[1000:1200, 1] = values[1000, 1]
    stuck = check(times_s, values, kind).stuck
    assert stuck[1000:1200, 1].all()
    assert stuck.sum() <= 203


def test_axis_that_never_changes_is_dead():
    times_s, acc, _ = person()
    acc[:, 2] = 0.0
    assert check(times_s, acc).stuck.sum(axis=0).tolist() == [0, 0, len(acc)]


def test_gyroscope_that_never_changes_is_dead():
    values = np.full((2000, 3), 0.25)
    assert check(np.arange(2000) / RATE_HZ, values, "gyro").stuck.all()
    assert not check(np.arange(500) / RATE_HZ, values[:500], "gyro").stuck.any()


def test_sensor_that_reads_zero_on_all_axes_is_stuck_however_coarse():
    times_s, acc, _ = person(acc_step=0.1)
    acc[2000:3000] = 0.0
    stuck = check(times_s, acc).stuck
    assert stuck[2000:3000].all()
    assert not stuck[:2000].any()


def test_coarse_sensor_at_rest_is_not_stuck_and_fine_one_is():
    times_s, acc, _ = person(acc_step=0.1)
    acc[1000:1300] = acc[1000]
    assert not check(times_s, acc).stuck.any()
    times_s, acc, _ = person(acc_step=0.002)
    acc[1000:1300] = acc[1000]
    assert check(times_s, acc).stuck[1000:1300].all()


def test_resting_12_bit_sensor_is_not_stuck():
    """A sensor of 2 g with 12 bits, whose noise is half a step, on a table for ten minutes."""
    rng = np.random.default_rng(1)
    values = quantised(rng.normal([0.1, -0.2, 9.8], 0.005, (60_000, 3)), 4 * 9.80665 / 4096)
    assert not check(np.arange(60_000) / RATE_HZ, values).stuck.any()


def test_saturation_at_a_known_range():
    times_s, acc, _ = person()
    acc[:, 0] += 30 * np.sin(2 * np.pi * times_s)
    clipped = np.clip(acc, -19.6, 19.6)
    saturated = check(times_s, clipped, full_scale=19.6133).saturated
    assert saturated[np.abs(clipped) == 19.6].all()
    assert not saturated[np.abs(clipped) < 19.4].any()
    assert saturated[:, 0].mean() > 0.2


@pytest.mark.parametrize("limit", [19.6, 30.0, 78.45])
def test_saturation_at_an_unknown_range(limit):
    times_s, acc, _ = person()
    acc[:, 0] += 2 * limit * np.sin(2 * np.pi * times_s)
    assert not check(times_s, acc).saturated.any()
    clipped = np.clip(acc, -limit, limit)
    assert (check(times_s, clipped).saturated == (np.abs(clipped) == limit)).all()


def test_smooth_peak_of_a_coarse_fast_sensor_is_not_saturated():
    times_s = np.arange(10_000) / 1000
    values = quantised(np.sin(2 * np.pi * times_s[:, None] * [1.0, 1.3, 0.7]) * 30, 0.09)
    assert not check(times_s, values).saturated.any()


@pytest.mark.parametrize("stamp_s", [0.0, 0.001])
def test_lost_packets_are_counted(stamp_s):
    times_s, acc, _ = person()
    kept = np.ones(len(times_s), dtype=bool)
    kept[1000:1010] = kept[3000:3020] = False
    stamps_s = times_s if stamp_s == 0 else np.round(times_s / stamp_s) * stamp_s
    assert check(stamps_s[kept], acc[kept]).num_lost == 30


def test_jitter_is_measured():
    times_s, acc, _ = person()
    shift_s = np.random.default_rng(2).normal(0, 0.001, len(times_s))
    assert check(times_s + shift_s, acc).jitter_s == pytest.approx(0.001, rel=0.1)


def test_repeated_packet_is_found():
    times_s, acc, _ = person()
    acc[510:520] = acc[500:510]
    assert np.flatnonzero(check(times_s, acc).repeated).tolist() == list(range(510, 520))
    acc[740:760] = acc[700:720]  # half of forty
    assert not check(times_s, acc).repeated[520:].any()


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (1 / 9.80665, "g"),
        (1000 / 9.80665, "mg or cm/s^2"),
        (9.80665, "g, converted twice"),
        (16384 / 9.80665, "acceleration in an unknown unit"),
    ],
)
def test_wrong_unit_of_acceleration_is_named(factor, expected):
    times_s, acc, _ = person()
    assert check(times_s, acc * factor).suspect_unit == expected


def test_acceleration_without_gravity_is_named():
    times_s, acc, _ = person(gravity=0.0)
    assert check(times_s, acc).suspect_unit == "acceleration without gravity"


def test_violent_motion_is_no_wrong_unit():
    times_s, acc, gyro = person()
    acc += 12 * np.sin(2 * np.pi * 2.1 * times_s)[:, None] * [1, 0.3, 0.5]
    assert check(times_s, acc).suspect_unit is None
    assert check(times_s, gyro * 6, "gyro").suspect_unit is None


def test_gyroscope_in_degrees_that_mostly_rests_is_named():
    times_s, _, gyro = person()
    turning = np.flatnonzero(np.linalg.norm(gyro, axis=1) > 0.3)
    gyro[turning[: int(0.8 * len(turning))]] = 0.001
    gyro += np.random.default_rng(4).normal(0, 0.005, gyro.shape)
    assert check(times_s, np.rad2deg(gyro), "gyro").suspect_unit == "deg/s"


def test_gyroscope_in_degrees_and_swapped_sensors_are_named():
    times_s, acc, gyro = person()
    assert check(times_s, np.rad2deg(gyro) * 2, "gyro").suspect_unit == "deg/s"
    assert check(times_s, acc, "gyro").suspect_unit == "acceleration"
    assert check(times_s, gyro, "acc").suspect_unit is not None


def test_gyroscope_that_contradicts_the_accelerometer():
    times_s, acc, gyro = person()
    assert find_unit_conflict(times_s, acc, times_s, np.rad2deg(gyro)) == "deg/s"
    assert find_unit_conflict(times_s, acc, times_s, np.deg2rad(gyro)) == "rad/s, converted from degrees twice"
    assert find_unit_conflict(times_s, acc / 9.8, times_s, np.rad2deg(gyro)) == "deg/s"
    assert find_unit_conflict(times_s, acc, times_s, np.rad2deg(gyro[:, [1, 2, 0]])) is None
    assert find_unit_conflict(times_s[:50], acc[:50], times_s, gyro) is None


def test_signals_with_nothing_in_them():
    nothing = np.zeros((0, 3))
    for times_s, values in (
        (np.zeros(0), nothing),
        (np.zeros(1), np.ones((1, 3))),
        (np.arange(500) / RATE_HZ, np.full((500, 3), np.nan)),
        (np.arange(2) / RATE_HZ, np.ones((2, 3))),
    ):
        for kind, full_scale in itertools.product(("acc", "gyro"), (None, 10.0)):
            found = find_defects(times_s, values, kind, full_scale)
            assert found.stuck.shape == found.saturated.shape == values.shape
            assert found.repeated.shape == times_s.shape
            assert not found.stuck.any()
            assert found.suspect_unit is None
        assert find_unit_conflict(times_s, values, times_s, values) is None


def test_readings_that_are_no_numbers_are_no_other_defect():
    times_s, acc, _ = person()
    acc[1000:1500] = np.nan
    acc[2000] = np.inf
    found = check(times_s, acc)
    assert not found.stuck.any()
    assert not found.saturated.any()
    assert found.suspect_unit is None


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="kind is 'mag', expected acc or gyro"):
        find_defects(np.arange(3.0), np.zeros((3, 3)), "mag", None)
    with pytest.raises(ValueError, match=r"times are \[2\] and values \[3, 3\]"):
        find_defects(np.arange(2.0), np.zeros((3, 3)), "acc", None)


def test_window_shares():
    rng = np.random.default_rng(3)
    times_s, flags = np.cumsum(rng.uniform(0.005, 0.015, 1000)), rng.random(1000) > 0.7
    starts_s = np.array([-5.0, 0.0, 1.5, 3.0, 9.0, 50.0])
    shares = window_shares(flags, times_s, starts_s, 2.0)
    for start_s, share in zip(starts_s, shares, strict=True):
        inside = (times_s >= start_s) & (times_s < start_s + 2.0)
        assert share == pytest.approx(flags[inside].mean() if inside.any() else 0.0)


def hapt(root):
    for path in sorted((root / "hapt" / "RawData").glob("acc_exp*.txt"))[::6]:
        acc, gyro = (np.loadtxt(path.with_name(path.name.replace("acc", kind, 1))) for kind in ("acc", "gyro"))
        yield path.stem, 50.0, to_si(acc, "g"), gyro


def utd_mhad(root):
    for path in sorted((root / "utd_mhad" / "Inertial").rglob("*.mat"))[::4]:
        table = scipy.io.loadmat(path)["d_iner"]
        yield path.stem, 50.0, to_si(table[:, :3], "g"), to_si(table[:, 3:], "deg/s")


def stanford(root):
    for path in sorted((root / "pd_stanford_fog").glob("*.npz"))[::3]:
        with np.load(path) as archive:
            columns, table = [str(name) for name in archive["columns"]], archive["data"].astype(float)
        for place in ("lumbar", "ankle_l"):
            first = next(i for i, name in enumerate(columns) if name.startswith(f"imu_{place}_ax"))
            if np.isfinite(table[:, first]).any():
                yield f"{path.stem} {place}", 128.0, table[:, first : first + 3], table[:, first + 3 : first + 6]


@pytest.mark.slow
@pytest.mark.parametrize("read", [hapt, utd_mhad, stanford])
def test_real_people_raise_no_false_alarm(realdata, read):
    count = 0
    for name, rate_hz, acc, gyro in read(realdata):
        count += 1
        times_s = np.arange(len(acc)) / rate_hz
        for kind, values in (("acc", acc), ("gyro", gyro)):
            found = find_defects(times_s, values, kind, None)
            assert not found.stuck.any(), (name, kind)
            assert not found.repeated.any(), (name, kind)
            assert found.suspect_unit is None, (name, kind)
            assert found.num_lost == 0
            assert found.saturated.mean() < 0.02
        assert find_unit_conflict(times_s, acc, times_s, gyro) is None
        assert find_defects(times_s, acc / 9.80665, "acc", None).suspect_unit is not None
        assert find_defects(times_s, np.rad2deg(gyro), "gyro", None).suspect_unit is not None
    assert count > 5


def test_clipping_of_a_real_wrist_is_found(realdata):
    """Throws of UTD-MHAD reach 8 g, the end of its sensor's range."""
    table = scipy.io.loadmat(next((realdata / "utd_mhad" / "Inertial").rglob("a15_s3_t2_inertial.mat")))["d_iner"]
    acc = to_si(table[:, :3], "g")
    saturated = find_defects(np.arange(len(acc)) / 50, acc, "acc", None).saturated
    assert saturated.sum(axis=0).tolist() == [6, 0, 0]
    assert np.abs(acc[saturated]) == pytest.approx(8 * 9.80665, rel=1e-3)


@pytest.mark.parametrize("name", ["S03R03.txt", "S02R02.txt"])
def test_dead_sensor_of_daphnet_is_found(realdata, name):
    path = realdata / "pd_daphnet" / name
    table = np.loadtxt(path if path.is_file() else path.with_name(name + ".gz"))
    times_s = np.arange(len(table)) / 64
    for position, first in (("ankle", 1), ("thigh", 4), ("trunk", 7)):
        acc = to_si(table[:, first : first + 3], "mg")
        stuck = find_defects(times_s, acc, "acc", None).stuck
        silent = (acc == 0).all(axis=1)
        assert (stuck.mean() > 0.4) == (name == "S03R03.txt" and position == "thigh")
        # A patient who sits still is not taken for a dead sensor: it reads 0 on all axes where it is.
        assert not stuck[~silent].any()
