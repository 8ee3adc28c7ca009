"""A rigid body's motion as splines: pose, velocity, acceleration and angular velocity at any instant."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import BSpline, make_interp_spline
from scipy.spatial.transform import Rotation


class Trajectory:
    """Position and orientation through given poses; both are C4 in time.

    The orientation is a quintic spline through the quaternions' components, normalised: its derivative is exact,
    so what a gyroscope reads and what a camera at the same pose sees come from one curve.

    Args:
        times_s: float64 [N], increasing, seconds; N >= 6.
        positions: float64 [N, 3], metres, in the world (z up).
        rotations: float64 [N, 3, 3], body to world.
    """

    def __init__(self, times_s: np.ndarray, positions: np.ndarray, rotations: np.ndarray):
        quaternions = Rotation.from_matrix(rotations).as_quat()  # x, y, z, w
        turned_over = np.einsum("ni,ni->n", quaternions[1:], quaternions[:-1]) < 0.0
        quaternions[1:][np.cumsum(turned_over) % 2 == 1] *= -1.0
        self._position: BSpline = make_interp_spline(times_s, np.hstack([positions, quaternions]), k=5)
        self._first = self._position.derivative(1)
        self._second = self._position.derivative(2)

    def position(self, t: np.ndarray) -> np.ndarray:
        """Position [N, 3] in the world, metres."""
        return self._position(t)[:, :3]

    def velocity(self, t: np.ndarray) -> np.ndarray:
        """Velocity [N, 3] in the world, m/s."""
        return self._first(t)[:, :3]

    def acceleration(self, t: np.ndarray) -> np.ndarray:
        """Acceleration [N, 3] in the world, without gravity, m/s^2."""
        return self._second(t)[:, :3]

    def rotation(self, t: np.ndarray) -> np.ndarray:
        """Orientation [N, 3, 3], body to world."""
        return Rotation.from_quat(self._position(t)[:, 3:]).as_matrix()

    def quaternion(self, t: np.ndarray) -> np.ndarray:
        """Orientation [N, 4] as unit quaternion w, x, y, z, body to world."""
        raw = self._position(t)[:, [6, 3, 4, 5]]
        return raw / np.linalg.norm(raw, axis=1, keepdims=True)

    def angular_velocity(self, t: np.ndarray) -> np.ndarray:
        """Angular velocity [N, 3] in the body's own axes, rad/s.

        2 * vector part of conj(q) * dq/dt (Solà 2017, "Quaternion kinematics for the error-state Kalman filter",
        eq. 200); for an unnormalised spline s the part of ds/dt along s is scalar and drops out, and 1/|s|^2 scales.
        """
        raw, rate = self._position(t)[:, 3:], self._first(t)[:, 3:]
        v, w = raw[:, :3], raw[:, 3:]
        dv, dw = rate[:, :3], rate[:, 3:]
        return 2.0 * (w * dv - dw * v - np.cross(v, dv)) / np.einsum("ni,ni->n", raw, raw)[:, None]
