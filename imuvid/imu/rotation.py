"""Random rotations of a sensor's mounting."""

from __future__ import annotations

import numpy as np


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    """Return a rotation matrix float64 [3, 3], uniform over SO(3) (Shoemake, Graphics Gems III, 1992).

    A unit quaternion with normally distributed components is uniform on the sphere S^3.
    """
    q = rng.standard_normal(4)
    w, x, y, z = q / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def rotate(imu: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Rotate imu [..., 6] (acc xyz, gyro xyz) by a matrix [3, 3]; both sensors sit in one housing."""
    vectors = imu.reshape(*imu.shape[:-1], 2, 3) @ rotation.T.astype(imu.dtype)
    return vectors.reshape(imu.shape)
