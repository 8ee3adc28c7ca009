"""Units: standard sizes, and a clear refusal of what is not known."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.constants

from imuvid.imu.units import to_si


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("g", scipy.constants.g),
        ("mg", scipy.constants.g / 1000),
        ("m/s2", 1.0),
        ("m/s^2", 1.0),
        ("m/s²", 1.0),
        ("deg/s", np.deg2rad(1.0)),
        ("dps", np.deg2rad(1.0)),
        ("rad/s", 1.0),
    ],
)
def test_size_of_unit(unit, expected):
    values = np.array([[1.0, -2.0, 0.5]])
    assert to_si(values, unit) == pytest.approx(values * expected, rel=1e-12)
    assert to_si(np.array([3]), unit).dtype == np.float64


def test_unknown_unit_names_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown unit 'degrees', known are m/s2.*mg and rad/s, deg/s, dps"):
        to_si(np.zeros(3), "degrees")
