"""What each stressor does to windows, against what physics says it must."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from imuvid.errors import UserError
from imuvid.ood.datasets.base import Windows
from imuvid.ood.stress import STRESSORS, StressConfig, chosen_stressors, stress, usable_severities

RATE_HZ, STEPS = 50.0, 200


def make_windows(num: int = 40, positions: int = 3, seed: int = 0) -> Windows:
    rng = np.random.default_rng(seed)
    recording = np.array([f"r{i % 4}" for i in range(num)])
    return Windows(
        name="set",
        imu=rng.standard_normal((num, STEPS, positions, 6)).astype(np.float32),
        valid=np.ones((num, STEPS, positions, 2), bool),
        label=np.arange(num) % 2,
        subject=recording,
        recording=recording,
        start_s=(np.arange(num) // 4) * 4.0,
        classes=["a", "b"],
        positions=[f"p{i}" for i in range(positions)],
        rate_hz=RATE_HZ,
    )


def wave(hz: float, num: int = 4) -> Windows:
    windows = make_windows(num, 1)
    signal = np.sin(2 * np.pi * hz * np.arange(STEPS) / RATE_HZ)
    return dataclasses.replace(windows, imu=np.broadcast_to(signal[:, None, None], (num, STEPS, 1, 6)).copy())


@pytest.mark.parametrize("name", STRESSORS)
def test_a_stressor_is_a_pure_function_of_its_own_windows_and_the_seed(name):
    windows = make_windows()
    windows.valid[3, 20:60, 1] = False
    windows.imu[3, 20:60, 1] = 0
    before = windows.imu.copy(), windows.valid.copy()
    severity = STRESSORS[name].severities[0]
    first, again, other = stress(windows, name, severity, 0), stress(windows, name, severity, 0), None
    np.testing.assert_array_equal(first.imu, again.imu)
    np.testing.assert_array_equal(windows.imu, before[0])
    np.testing.assert_array_equal(windows.valid, before[1])
    assert first.imu.dtype == np.float32
    assert first.imu.shape == windows.imu.shape
    # Nothing is made up: what was absent stays absent, and what is absent is 0.
    assert not (first.valid & ~windows.valid).any()
    assert (first.imu[~np.repeat(first.valid, 3, axis=-1)] == 0).all()
    assert (first.imu != windows.imu).any()
    if name not in ("lower_rate", "shorter"):
        other = stress(windows, name, severity, 1)
        assert (first.imu != other.imu).any() or (first.valid != other.valid).any()
    # The windows of a recording are stressed alike whichever others are there.
    rows = np.flatnonzero(windows.recording == "r3")
    alone = dataclasses.replace(
        windows, **{key: getattr(windows, key)[rows] for key in ("imu", "valid", "recording", "start_s")}
    )
    np.testing.assert_array_equal(stress(alone, name, severity, 0).imu, first.imu[rows])


def test_the_gyroscope_goes_missing_in_the_share_of_windows_and_the_rest_stays():
    windows = make_windows(400)
    lost = {}
    for share in (0.25, 0.5, 1.0):
        found = stress(windows, "missing_gyro", share, 0)
        gone = ~found.valid[..., 1].any(axis=(1, 2))
        assert (found.valid[..., 1].all(axis=(1, 2)) ^ gone).all()
        assert gone.mean() == pytest.approx(share, abs=0.07)
        np.testing.assert_array_equal(found.imu[..., :3], windows.imu[..., :3])
        assert found.valid[..., 0].all()
        lost[share] = set(np.flatnonzero(gone))
    assert lost[0.25] < lost[0.5] < lost[1.0]


def test_whole_sensors_go_missing_recording_by_recording():
    windows = make_windows()
    one, two = (stress(windows, "missing_sensor", number, 0).valid.any(axis=(1, 3)) for number in (1.0, 2.0))
    assert (one.sum(axis=1) == 2).all()
    assert (two.sum(axis=1) == 1).all()
    assert (one | ~two).all()
    for name in np.unique(windows.recording):
        assert len(np.unique(one[windows.recording == name], axis=0)) == 1
    assert len(np.unique(one, axis=0)) > 1
    assert usable_severities(windows, "missing_sensor", [1.0, 2.0, 3.0]) == ([1.0, 2.0], None)
    assert usable_severities(make_windows(positions=1), "missing_sensor", [1.0])[0] == []
    windows.valid[..., 1] = False
    assert "no gyroscope" in usable_severities(windows, "missing_gyro", [0.5])[1]


def test_a_turn_keeps_lengths_and_the_angle_between_the_sensors_and_turns_by_its_angle():
    windows = make_windows()
    windows.imu[:, :, :, :3] = windows.imu[:, :, :, 3:]
    for degrees in (15.0, 90.0):
        found = stress(windows, "rotation", degrees, 0).imu.reshape(*windows.imu.shape[:3], 2, 3)
        own = windows.imu.reshape(found.shape)
        np.testing.assert_allclose(np.linalg.norm(found, axis=-1), np.linalg.norm(own, axis=-1), rtol=1e-4)
        np.testing.assert_allclose(found[..., 0, :], found[..., 1, :], atol=1e-5)
        for name in np.unique(windows.recording):
            rows = windows.recording == name
            before, after = own[rows][:, :, 0, 0].reshape(-1, 3), found[rows][:, :, 0, 0].reshape(-1, 3)
            turn = np.linalg.lstsq(before, after, rcond=None)[0]
            assert np.degrees(np.arccos((np.trace(turn) - 1) / 2)) == pytest.approx(degrees, abs=0.1)
            assert np.linalg.det(turn) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("hz", "factor", "kept"), [(1.0, 4.0, 1.0), (1.0, 8.0, 1.0), (10.0, 4.0, 0.0), (20.0, 2.0, 0.0)]
)
def test_a_lower_rate_keeps_what_is_slow_and_does_not_alias_what_is_fast(hz, factor, kept):
    windows = wave(hz)
    found = stress(windows, "lower_rate", factor, 0).imu[:, 40:-40]
    np.testing.assert_allclose(found, kept * windows.imu[:, 40:-40], atol=0.15)


def test_a_lower_rate_leaves_gravity_and_gaps():
    windows = wave(1.0)
    windows.imu[:] = 9.81
    windows.valid[:, 50:80, :, 0] = False
    windows.imu[:, 50:80, :, :3] = 0
    found = stress(windows, "lower_rate", 4.0, 0)
    np.testing.assert_allclose(found.imu[:, :50], 9.81, rtol=1e-5)
    np.testing.assert_allclose(found.imu[:, 80:], 9.81, rtol=1e-5)
    np.testing.assert_array_equal(found.valid, windows.valid)


def test_noise_has_its_deviation():
    windows = make_windows()
    noise = stress(windows, "noise", 2.0, 0).imu - windows.imu
    assert noise[..., :3].std() == pytest.approx(2.0, rel=0.02)
    assert noise[..., 3:].std() == pytest.approx(0.4, rel=0.02)
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.1


def test_drift_grows_from_nothing_to_its_most_over_a_recording():
    windows = make_windows()
    bias = stress(windows, "drift", 2.0, 0).imu - windows.imu
    rows = np.flatnonzero(windows.recording == "r1")
    length = np.linalg.norm(bias[rows][..., :3], axis=-1).reshape(-1, 3)
    np.testing.assert_allclose(length, np.linspace(0, 2, len(length))[:, None] * np.ones(3), atol=0.01)
    turned = np.linalg.norm(bias[rows[-1], -1, :, 3:], axis=-1)
    np.testing.assert_allclose(turned, 0.2, atol=0.01)


def test_jitter_moves_samples_by_its_deviation_in_time():
    windows = wave(1.0, 64)
    slope = 2 * np.pi  # of a wave of 1 Hz where it passes 0
    error = stress(windows, "jitter", 10.0, 0).imu - windows.imu
    crossing = list(range(25, STEPS - 1, 25))
    # 10 ms is half an interval, so order is seldom changed by sorting.
    assert error[:, crossing].std() == pytest.approx(0.01 * slope, rel=0.2)
    windows.imu[:] = 3.0
    np.testing.assert_allclose(stress(windows, "jitter", 40.0, 0).imu, 3.0, rtol=1e-6)


def test_shorter_windows_keep_their_middle():
    windows = make_windows()
    found = stress(windows, "shorter", 0.5, 0)
    there = found.valid.all(axis=(0, 2, 3))
    assert there.tolist() == [False] * 50 + [True] * 100 + [False] * 50
    np.testing.assert_array_equal(found.imu[:, 50:150], windows.imu[:, 50:150])


def test_settings_that_cannot_be_give_one_line():
    assert list(chosen_stressors(StressConfig(["all"]))) == list(STRESSORS)
    assert chosen_stressors(StressConfig(["noise"], {"noise": [3.0, 1.0]})) == {"noise": [1.0, 3.0]}
    assert chosen_stressors(StressConfig()) == {}
    with pytest.raises(UserError, match="'nose' is no stressor: choose from missing_gyro"):
        chosen_stressors(StressConfig(["nose"]))
    with pytest.raises(UserError, match=r"stress.severities.noise: give numbers greater than 0"):
        chosen_stressors(StressConfig(["noise"], {"noise": [0.0]}))
    with pytest.raises(UserError, match="max_windows=0"):
        chosen_stressors(StressConfig(["noise"], {}, 0))
