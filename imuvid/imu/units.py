"""Units of accelerometers and gyroscopes, and their conversion to SI."""

from __future__ import annotations

import math

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
