"""Does the sensor model have the statistics that its parameters promise?"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.signal import welch
from scipy.spatial.transform import Rotation

from shards.simulate.imu_sensor import SensorParameters, disturb, measure
from shards.simulate.trajectory import Trajectory

PERFECT = SensorParameters(
    rate_hz=100.0,
    acc_noise=0.0,
    gyro_noise=0.0,
    acc_walk=0.0,
    gyro_walk=0.0,
    acc_bias=(0.0, 0.0, 0.0),
    gyro_bias=(0.0, 0.0, 0.0),
    acc_scale=(1.0, 1.0, 1.0),
    gyro_scale=(1.0, 1.0, 1.0),
    mounting=(1.0, 0.0, 0.0, 0.0),
    acc_range=80.0,
    gyro_range=20.0,
    clock_offset_s=0.0,
    jitter_s=0.0,
)


def allan_deviation(rate: np.ndarray, rate_hz: float, tau_s: float) -> float:
    """Overlapping Allan deviation, IEEE Std 952-1997, annex C (integrated signal, second differences)."""
    angle = np.concatenate([[0.0], np.cumsum(rate)]) / rate_hz
    m = round(tau_s * rate_hz)
    second = angle[2 * m :] - 2.0 * angle[m:-m] + angle[: -2 * m]
    return float(np.sqrt((second**2).mean() / (2.0 * tau_s**2)))


@pytest.mark.parametrize("kind", ["acc", "gyro"])
def test_white_noise_has_its_density(kind: str) -> None:
    sensor = dataclasses.replace(PERFECT, acc_noise=2e-3, gyro_noise=2e-3)
    noise = disturb(np.zeros((200_000, 3)), sensor, kind, np.random.default_rng(0))
    _, power = welch(noise[:, 0], 100.0, nperseg=1024)
    # A one-sided spectrum holds twice the two-sided density N^2.
    assert np.sqrt(0.5 * np.median(power[1:-1])) == pytest.approx(2e-3, rel=0.1)
    assert allan_deviation(noise[:, 1], 100.0, 1.0) == pytest.approx(2e-3, rel=0.1)
    assert allan_deviation(noise[:, 2], 100.0, 4.0) == pytest.approx(1e-3, rel=0.1)


def test_bias_walks_as_its_density_says() -> None:
    sensor = dataclasses.replace(PERFECT, gyro_walk=1e-3)
    rng = np.random.default_rng(1)
    ends = [disturb(np.zeros((1600, 3)), sensor, "gyro", rng)[-1] for _ in range(300)]
    # After 16 s a walk of density K has the SD K * sqrt(16).
    assert np.std(ends) == pytest.approx(4e-3, rel=0.1)


def test_bias_scale_and_mounting_are_applied() -> None:
    mounted = Rotation.from_euler("z", 90.0, degrees=True)
    x, y, z, w = mounted.as_quat()
    sensor = dataclasses.replace(
        PERFECT, acc_bias=(0.1, 0.2, 0.3), acc_scale=(1.1, 1.0, 1.0), mounting=(w, x, y, z), gyro_bias=(0.5, 0.0, 0.0)
    )
    rng = np.random.default_rng(0)
    # The sensor's x axis points along the body's y: what is along body y is read on x.
    np.testing.assert_allclose(disturb(np.array([[0.0, 5.0, 0.0]]), sensor, "acc", rng), [[5.6, 0.2, 0.3]], atol=1e-12)
    np.testing.assert_allclose(
        disturb(np.array([[2.0, 0.0, 0.0]]), sensor, "gyro", rng), [[0.5, -2.0, 0.0]], atol=1e-12
    )


def test_readings_saturate_at_the_range() -> None:
    values = disturb(np.array([[500.0, -500.0, 3.0]]), PERFECT, "acc", np.random.default_rng(0))
    np.testing.assert_allclose(values, [[80.0, -80.0, 3.0]])
    assert np.abs(disturb(np.full((3, 3), 99.0), PERFECT, "gyro", np.random.default_rng(0))).max() == 20.0


def test_stamps_have_rate_offset_and_jitter() -> None:
    t = np.linspace(-1.0, 61.0, 400)
    still = Trajectory(t, np.zeros((400, 3)), np.tile(np.eye(3), (400, 1, 1)))
    sensor = dataclasses.replace(PERFECT, rate_hz=128.0, clock_offset_s=0.75, jitter_s=5e-4)
    readings = measure(still, 60.0, sensor, np.random.default_rng(0))
    assert len(readings.times_s) == 60 * 128
    error = readings.times_s - 0.75 - np.arange(60 * 128) / 128.0
    assert error.std() == pytest.approx(5e-4, rel=0.05)
    assert abs(error.mean()) < 5e-5
    wild = measure(still, 60.0, dataclasses.replace(sensor, jitter_s=0.1), np.random.default_rng(0))
    assert (np.diff(wild.times_s) > 0.0).all()


def test_offset_clock_shifts_stamps_and_not_readings() -> None:
    t = np.linspace(-1.0, 11.0, 2401)
    turning = Trajectory(t, np.zeros((len(t), 3)), Rotation.from_euler("z", np.sin(t)[:, None]).as_matrix())
    late = measure(turning, 10.0, dataclasses.replace(PERFECT, clock_offset_s=0.4), np.random.default_rng(0))
    np.testing.assert_allclose(late.gyro[:, 2], np.cos(late.times_s - 0.4), atol=1e-5)
