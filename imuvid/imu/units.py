"""Units and axes of accelerometers and gyroscopes, and their conversion to SI and to other axes."""

from __future__ import annotations

import math
import re

import numpy as np

STANDARD_GRAVITY = 9.80665
"""m/s^2; CGPM 1901, resolution 2."""

ACC_UNITS = {
    "m/s2": 1.0,
    "m/s^2": 1.0,
    "m/s²": 1.0,
    "g": STANDARD_GRAVITY,
    "mg": STANDARD_GRAVITY / 1000,
}
"""Name of an acceleration unit to its size in m/s^2."""

GYRO_UNITS = {
    "rad/s": 1.0,
    "deg/s": math.pi / 180,
    "dps": math.pi / 180,
}
"""Name of an angular velocity unit to its size in rad/s."""

ACC_SCALE_M_S2 = STANDARD_GRAVITY
GYRO_SCALE_RAD_S = 3.0
"""Typical amplitudes of human motion: what IMU towers divide by, so that both kinds of sensor enter near one."""


def to_si(values: np.ndarray, unit: str) -> np.ndarray:
    """Return the values in SI units: m/s^2 for an acceleration unit, rad/s for an angular velocity unit.

    Args:
        values: any shape, any real dtype.
        unit: a name of ACC_UNITS or GYRO_UNITS.

    Returns:
        float64 array of the same shape.

    Raises:
        ValueError: the unit is not known; names the known ones.
    """
    sizes = ACC_UNITS | GYRO_UNITS
    if unit not in sizes:
        raise ValueError(f"unknown unit '{unit}', known are {', '.join(ACC_UNITS)} and {', '.join(GYRO_UNITS)}")
    return np.asarray(values, dtype=np.float64) * sizes[unit]


def signed_permutation(axes: str) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return what ``-y x z`` says: x is the sensor's y with its sign changed, y is its x, z is its z.

    Args:
        axes: three of x, y and z, each once, with or without a sign, separated by spaces.

    Returns:
        int64 [3] and float64 [3] such that ``values[..., order] * signs`` are x, y and z; and whether this is a
        rotation (determinant +1) and no reflection.

    Raises:
        ValueError: the text is no such list.
    """
    match = re.fullmatch(r"\s*([-+]?[xyz])\s+([-+]?[xyz])\s+([-+]?[xyz])\s*", axes.lower())
    words = match.groups() if match else ()
    order = np.array(["xyz".index(word[-1]) for word in words], dtype=np.int64)
    if sorted(order.tolist()) != [0, 1, 2]:
        raise ValueError(f"axes '{axes}' are not x, y and z in some order with or without signs, such as '-y x z'")
    signs = np.array([-1.0 if word[0] == "-" else 1.0 for word in words])
    return order, signs, bool(np.linalg.det(np.eye(3)[order] * signs[:, None]) > 0)
