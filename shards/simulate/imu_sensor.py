"""What a real IMU makes of the true motion: bias, noise, drift, scale, mounting, range and clock."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from shards.simulate.trajectory import Trajectory

GRAVITY = 9.80665
"""Standard acceleration of gravity, m/s^2 (ISO 80000-3)."""


@dataclass(frozen=True)
class SensorParameters:
    """Errors of one IMU. Noise as in IEEE Std 952: N white-noise density, K random-walk density."""

    rate_hz: float
    acc_noise: float
    """N of the accelerometer, m/s^2/sqrt(Hz)."""
    gyro_noise: float
    """N of the gyroscope, rad/s/sqrt(Hz)."""
    acc_walk: float
    """K of the accelerometer's bias, m/s^2 * sqrt(Hz)."""
    gyro_walk: float
    """K of the gyroscope's bias, rad/s * sqrt(Hz)."""
    acc_bias: tuple[float, float, float]
    """At the start, m/s^2."""
    gyro_bias: tuple[float, float, float]
    """At the start, rad/s."""
    acc_scale: tuple[float, float, float]
    """Reading over truth, for each axis."""
    gyro_scale: tuple[float, float, float]
    """Reading over truth, for each axis."""
    mounting: tuple[float, float, float, float]
    """Unit quaternion w, x, y, z that takes the sensor's axes to those of the body part."""
    acc_range: float
    """Largest reading, m/s^2."""
    gyro_range: float
    """Largest reading, rad/s."""
    clock_offset_s: float
    """What the IMU's clock shows minus the video's."""
    jitter_s: float
    """SD of the time stamps about the true instants; never more than a third of a period."""


@dataclass
class Readings:
    """What one IMU recorded."""

    times_s: np.ndarray
    """float64 [N], stamps of the IMU's clock, seconds, strictly increasing."""
    acc: np.ndarray
    """float64 [N, 3], specific force in the sensor's axes, m/s^2."""
    gyro: np.ndarray
    """float64 [N, 3], angular velocity in the sensor's axes, rad/s."""


def draw_parameters(
    rng: np.random.Generator, rate_hz: float, base: Rotation, mounting_deg: float, clock_offset_s: float
) -> SensorParameters:
    """Return the errors of one consumer-grade MEMS unit, worn ``mounting_deg`` (SD, a component) off ``base``."""
    mounting = base * Rotation.from_rotvec(np.radians(mounting_deg) * rng.standard_normal(3))
    x, y, z, w = mounting.as_quat()

    def three(mean: float, sd: float) -> tuple[float, float, float]:
        a, b, c = mean + sd * rng.standard_normal(3)
        return float(a), float(b), float(c)

    return SensorParameters(
        rate_hz=rate_hz,
        acc_noise=1.5e-3 * rng.uniform(0.7, 1.5),
        gyro_noise=1.5e-4 * rng.uniform(0.7, 1.5),
        acc_walk=2e-4,
        gyro_walk=2e-5,
        acc_bias=three(0.0, 0.06),
        gyro_bias=three(0.0, 0.008),
        acc_scale=three(1.0, 0.004),
        gyro_scale=three(1.0, 0.004),
        mounting=(float(w), float(x), float(y), float(z)),
        acc_range=8.0 * GRAVITY,
        gyro_range=math.radians(1000.0),
        clock_offset_s=clock_offset_s,
        jitter_s=2e-4,
    )


def ideal_readings(trajectory: Trajectory, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Specific force and angular velocity in the body part's own axes, each [N, 3], m/s^2 and rad/s.

    f = R^T (a - g) with g = (0, 0, -GRAVITY) (Titterton & Weston 2004, sec. 3.5).
    """
    force = trajectory.acceleration(t) + np.array([0.0, 0.0, GRAVITY])
    return np.einsum("nji,nj->ni", trajectory.rotation(t), force), trajectory.angular_velocity(t)


def measure(trajectory: Trajectory, duration_s: float, sensor: SensorParameters, rng: np.random.Generator) -> Readings:
    """Return what a sensor on the trajectory records from 0 to ``duration_s``, stamped by its own clock."""
    t = np.arange(0.0, duration_s, 1.0 / sensor.rate_hz)
    force, rate = ideal_readings(trajectory, t)
    acc = disturb(force, sensor, "acc", rng)
    gyro = disturb(rate, sensor, "gyro", rng)
    jitter = np.clip(sensor.jitter_s * rng.standard_normal(len(t)), -0.33 / sensor.rate_hz, 0.33 / sensor.rate_hz)
    stamps = t + sensor.clock_offset_s + jitter
    return Readings(stamps, acc, gyro)


def disturb(truth: np.ndarray, sensor: SensorParameters, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Turn true values [N, 3] in the part's axes into readings in the sensor's axes.

    White noise of density N has the SD N * sqrt(rate) in samples; a random walk of density K grows by
    K / sqrt(rate) a sample (IEEE Std 952-1997, annex C).

    Args:
        kind: "acc" or "gyro": which of the sensor's errors apply.
    """
    noise, walk, bias, scale, limit = (
        getattr(sensor, f"{kind}_{name}") for name in ("noise", "walk", "bias", "scale", "range")
    )
    w, x, y, z = sensor.mounting
    values = Rotation.from_quat([x, y, z, w]).inv().apply(truth) * np.array(scale) + np.array(bias)
    values += np.cumsum(walk / math.sqrt(sensor.rate_hz) * rng.standard_normal(truth.shape), axis=0)
    values += noise * math.sqrt(sensor.rate_hz) * rng.standard_normal(truth.shape)
    return np.clip(values, -limit, limit)
