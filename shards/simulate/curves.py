"""Smooth curves of time from which the motion is made: steps, bumps, noise, impacts, rotations; C2 or better."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from scipy.interpolate import make_interp_spline


def smoothstep(x: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, and the minimum-jerk polynomial between (Flash & Hogan 1985, eq. 3); C2."""
    x = np.clip(x, 0.0, 1.0)
    return x**3 * (10.0 + x * (6.0 * x - 15.0))


def smoothstep_integral(x: np.ndarray) -> np.ndarray:
    """Integral of :func:`smoothstep` from 0 to x; C3."""
    inside = np.clip(x, 0.0, 1.0)
    return inside**4 * (2.5 + inside * (inside - 3.0)) + np.maximum(x - 1.0, 0.0)


def bump(x: np.ndarray) -> np.ndarray:
    """0 outside [0, 1], 1 in the middle; C2."""
    x = np.clip(x, 0.0, 1.0)
    return 64.0 * (x * (1.0 - x)) ** 3


def levels(t: np.ndarray, starts: Sequence[float], values: Sequence[float], width_s: float = 0.8) -> np.ndarray:
    """Piecewise constant curve with smooth steps: ``values[i]`` from ``starts[i]`` on.

    Args:
        t: instants [N], seconds.
        starts: where each value begins, seconds, increasing; the first value also holds before.
        values: as many as starts.
        width_s: duration of a step, centred on the start of its value, seconds.
    """
    result = np.full(len(t), float(values[0]))
    for start, before, after in zip(starts[1:], values[:-1], values[1:], strict=True):
        if after != before:
            result += (after - before) * smoothstep((t - start) / width_s + 0.5)
    return result


def smooth_noise(rng: np.random.Generator, t: np.ndarray, bandwidth_hz: float) -> np.ndarray:
    """Gaussian curve [N] of about unit SD whose power lies mostly below ``bandwidth_hz``; C4."""
    step = 0.5 / bandwidth_hz
    knots = np.arange(t[0] - 4.0 * step, t[-1] + 5.0 * step, step)
    return make_interp_spline(knots, rng.standard_normal(len(knots)), k=5)(t)


@functools.lru_cache(maxsize=32)
def _impact_scale(frequency_hz: float) -> float:
    tau = np.arange(0.0, 6.0 / frequency_hz, 1e-4)
    second = np.gradient(np.gradient(_ring(tau, frequency_hz), tau), tau)
    return float(1.0 / np.abs(second).max())


def _ring(tau: np.ndarray, frequency_hz: float) -> np.ndarray:
    x = tau * frequency_hz
    return smoothstep(2.0 * x) * np.sin(2.0 * np.pi * x) * np.exp(-1.2 * x)


def impacts(
    t: np.ndarray, times: Sequence[float] | np.ndarray, peaks: Sequence[float] | np.ndarray, frequency_hz: float
) -> np.ndarray:
    """Displacement [N] in metres that rings after each impact as a damped spring does.

    Args:
        t: uniform instants [N], seconds.
        times: when the impacts begin, seconds.
        peaks: largest acceleration that each adds, m/s^2.
        frequency_hz: of the ringing, well below half the rate of ``t``.
    """
    result = np.zeros(len(t))
    scale = _impact_scale(frequency_hz)
    for time, peak in zip(times, peaks, strict=True):
        first, last = np.searchsorted(t, [time, time + 6.0 / frequency_hz])
        result[first:last] += peak * scale * _ring(t[first:last] - time, frequency_hz)
    return result


def rot_x(angle: np.ndarray) -> np.ndarray:
    """Rotations [N, 3, 3] about x by ``angle`` [N] radians."""
    return _rotation(angle, 1, 2)


def rot_y(angle: np.ndarray) -> np.ndarray:
    """Rotations [N, 3, 3] about y by ``angle`` [N] radians: positive turns z towards x, so tips forward."""
    return _rotation(angle, 2, 0)


def rot_z(angle: np.ndarray) -> np.ndarray:
    """Rotations [N, 3, 3] about z by ``angle`` [N] radians."""
    return _rotation(angle, 0, 1)


def _rotation(angle: np.ndarray, i: int, j: int) -> np.ndarray:
    result = np.zeros((len(angle), 3, 3))
    result[:, 3 - i - j, 3 - i - j] = 1.0
    result[:, i, i] = result[:, j, j] = np.cos(angle)
    result[:, j, i] = np.sin(angle)
    result[:, i, j] = -result[:, j, i]
    return result
