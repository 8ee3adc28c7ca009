"""Units: standard sizes, and a clear refusal of what is not known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.constants

from imuvid.imu.units import signed_permutation, to_si


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


@pytest.mark.parametrize("signs", itertools.product(["", "-"], repeat=3))
@pytest.mark.parametrize("order", itertools.permutations("xyz"))
def test_axes_are_the_matrix_that_they_describe(order, signs):
    text = " ".join(sign + axis for sign, axis in zip(signs, order, strict=True))
    matrix = np.stack(
        [(-1.0 if sign else 1.0) * np.eye(3)["xyz".index(axis)] for sign, axis in zip(signs, order, strict=True)]
    )
    columns, factors, right_handed = signed_permutation(text)
    values = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(values[:, columns] * factors, values @ matrix.T)
    assert right_handed == (np.linalg.det(matrix) > 0)


@pytest.mark.parametrize("text", ["", "x y", "x y z z", "x x z", "x y w", "--x y z", "1 2 3", "xyz"])
def test_axes_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match="are not x, y and z"):
        signed_permutation(text)
