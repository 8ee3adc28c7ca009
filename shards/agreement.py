"""How well the camera's rotation agrees with a gyroscope, for every shift between their clocks and for none at all.

Both are angular velocities on one grid of instants, less their slow part (translation, the gyroscope's bias). For a
shift l, with weights u and v that make quiet and lively stretches count alike,

    C(l) = sum_t u(t) v(t - l) y(t) x(t - l)^T

The camera's axes are the gyroscope's turned by an unknown R, and its pictures have an unknown focal length: with D =
diag(s, s, 1), y = D R x. The agreement is the correlation under the best of both,

    rho(l) = max over R, s of trace(R^T D^-1 C(l)) / sqrt(energy of D^-1 y * energy of x)

whose maximum over the proper rotations is the largest root of a quartic (Horn 1987; Theobald 2005), and the evidence
is the gain in log-likelihood over n seconds of overlap, -n/2 log(1 - rho^2).

What no relation at all would give is taken from the same two signals: from shifts where they cannot belong together,
from the gyroscope played backwards, and from the gyroscope with all three axes negated, which is no rotation. All
three keep spectra, rhythm and bursts, so that two people who walk at one cadence do not look like one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from scipy.ndimage import gaussian_filter1d

from shards.motion import MotionTrack

GRID_S = 1.0 / 30.0
SLOW_S = 0.5
"""Standard deviation of the Gaussian whose mean is taken off."""
_CALM_S = 1.0
"""Standard deviation of the Gaussian over which a stretch is quiet or lively."""
_NOISE = 0.05
"""Error of the camera's rotation at rest, rad/s, and, by the next line, its share of the motion."""
_SHARE = 0.5
FOCALS = np.exp(np.linspace(np.log(0.35), np.log(2.6), 11))
"""Values of s that are tried: focal lengths over the assumed one."""
MAX_RATE = 8.0
"""Faster camera motion than this, rad/s, is cut to it: it is an error of the fit."""


@dataclass(frozen=True, eq=False)
class Rotations:
    """A gyroscope's readings, integrated."""

    times_s: np.ndarray
    """float64 [N], strictly increasing."""
    angles: np.ndarray
    """float64 [N, 3], radians since the first."""
    gap_s: float
    """Neighbouring readings further apart than this have a gap between them, seconds."""

    @classmethod
    def of(cls, times_s: np.ndarray, rates: np.ndarray) -> Rotations:
        """Integrate finite rates, rad/s, at strictly increasing times by the trapezoidal rule."""
        steps = 0.5 * (rates[1:] + rates[:-1]) * np.diff(times_s)[:, None]
        angles = np.concatenate([np.zeros((1, 3)), np.cumsum(steps, axis=0)])
        return cls(times_s, angles, max(0.1, 3.0 * float(np.median(np.diff(times_s)))))

    def at(self, times_s: np.ndarray) -> np.ndarray:
        """Angles [..., 3] at any instants."""
        return np.stack([np.interp(times_s, self.times_s, self.angles[:, axis]) for axis in range(3)], axis=-1)

    def known(self, times_s: np.ndarray) -> np.ndarray:
        """Whether there are readings on both sides of an instant, near enough."""
        after = np.searchsorted(self.times_s, times_s).clip(1, len(self.times_s) - 1)
        inside = (times_s >= self.times_s[0]) & (times_s <= self.times_s[-1])
        return inside & (self.times_s[after] - self.times_s[after - 1] <= self.gap_s)


@dataclass(frozen=True, eq=False)
class Sums:
    """The sums over one stretch, by shift from -L to L grid steps; those of the backward gyroscope come second."""

    middle_s: float
    """Middle of the stretch, on the video's clock."""
    cross: np.ndarray
    """float64 [2, 2 L + 1, 3, 3]: C."""
    camera: np.ndarray
    """float64 [2, 2 L + 1, 3]: energy of the camera's axes where both are known."""
    gyro: np.ndarray
    """float64 [2, 2 L + 1]: energy of the gyroscope there."""
    seconds: np.ndarray
    """float64 [2, 2 L + 1]: how long both are known."""


def sums(track: MotionTrack, rotations: Rotations, start_s: float, end_s: float, num_shifts: int) -> Sums:
    """Correlate the stretch from ``start_s`` to ``end_s`` with the gyroscope, shifted by up to ``num_shifts`` steps."""
    steps = max(1, round((end_s - start_s) / GRID_S))
    camera_times = start_s + GRID_S * (0.5 + np.arange(steps))
    gyro_times = start_s + GRID_S * (0.5 + np.arange(-num_shifts, steps + num_shifts))
    y, u = _camera(track, camera_times)
    span_s = float(np.median(track.end_s - track.start_s))
    x = (rotations.at(gyro_times + 0.5 * span_s) - rotations.at(gyro_times - 0.5 * span_s)) / span_s
    x, v = _conditioned(x, rotations.known(gyro_times).astype(np.float64))
    size = scipy.fft.next_fast_len(steps + 2 * num_shifts, real=True)
    yu, squares = y * u[:, None], u[:, None] * y * y
    left = np.concatenate([yu, squares, u[:, None], (u > 0.0)[:, None]], axis=1)
    left_f = scipy.fft.rfft(left, size, axis=0)

    def correlate(columns: slice | int, other: np.ndarray) -> np.ndarray:
        """Sum over t of left(t) other(t - l), for l from -L to L."""
        moved = left_f[:, columns].reshape(len(left_f), -1) * np.conj(scipy.fft.rfft(other, size))[:, None]
        result = scipy.fft.irfft(moved, size, axis=0)
        return np.concatenate([result[-2 * num_shifts :], result[:1]])[: 2 * num_shifts + 1]

    found = []
    for gyro, weight in ((x, v), (x[::-1], v[::-1])):
        cross = np.stack([correlate(slice(0, 3), gyro[:, axis] * weight) for axis in range(3)], axis=2)
        energy = correlate(6, weight * (gyro**2).sum(axis=1))[:, 0]
        both = correlate(7, (weight > 0.0).astype(np.float64))[:, 0] * GRID_S
        found.append((cross, correlate(slice(3, 6), weight), energy, both))
    return Sums(0.5 * (start_s + end_s), *(np.stack(parts) for parts in zip(*found, strict=True)))


def _camera(track: MotionTrack, times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pair = np.searchsorted(track.start_s, times_s, side="right").clip(1) - 1
    inside = (times_s >= track.start_s[pair]) & (times_s < track.end_s[pair])
    rate = track.rotation[pair] / (track.end_s - track.start_s)[pair][:, None]
    return _conditioned(limited(rate), np.where(inside, track.weight[pair] ** 2, 0.0))


def limited(rate: np.ndarray) -> np.ndarray:
    """Cut rates [N, 3] to ``MAX_RATE``."""
    size = np.linalg.norm(rate, axis=1, keepdims=True)
    return rate * np.minimum(1.0, MAX_RATE / np.maximum(size, 1e-9))


def _conditioned(rate: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rates without their slow part and the square roots of their weights."""
    fast = without_slow(rate, weight, SLOW_S / GRID_S)
    return fast, np.sqrt(weight / noise(fast, weight, _CALM_S / GRID_S))


def without_slow(values: np.ndarray, weight: np.ndarray, steps: float) -> np.ndarray:
    """Take the weighted Gaussian mean (standard deviation in steps) off values [N, K]."""
    total = gaussian_filter1d(weight, steps, mode="constant") + 1e-9
    return values - gaussian_filter1d(values * weight[:, None], steps, axis=0, mode="constant") / total[:, None]


def noise(rate: np.ndarray, weight: np.ndarray, steps: float) -> np.ndarray:
    """Return the variance [N] of the errors of rates [N, 3], relative to that at rest."""
    total = gaussian_filter1d(weight, steps, mode="constant") + 1e-9
    around = gaussian_filter1d(weight * (rate**2).sum(axis=1), steps, mode="constant") / total
    return 1.0 + (_SHARE / _NOISE) ** 2 * around


def combine(stretches: list[Sums], middle_s: float, drift: float) -> Sums:
    """Add up stretches whose shifts differ by ``drift`` (seconds a second) from that at ``middle_s``."""
    total = None
    for stretch in stretches:
        late = drift * (stretch.middle_s - middle_s) / GRID_S
        parts = [_moved(part, late) for part in (stretch.cross, stretch.camera, stretch.gyro, stretch.seconds)]
        total = parts if total is None else [one + other for one, other in zip(total, parts, strict=True)]
    assert total is not None
    return Sums(middle_s, *total)


def _moved(values: np.ndarray, steps: float) -> np.ndarray:
    """Read values [2, M, ...] ``steps`` further along the second axis: linear between entries, repeated at the ends."""
    if steps == 0.0:
        return values
    last = values.shape[1] - 1
    at = np.clip(np.arange(last + 1) + steps, 0.0, last)
    low = np.minimum(at.astype(int), last - 1)
    share = (at - low).reshape(1, -1, *([1] * (values.ndim - 2)))
    return (1.0 - share) * values[:, low] + share * values[:, low + 1]


def evidence(total: Sums, min_seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the evidence [4, 2 L + 1] and the focal factors s [4, 2 L + 1] under which it is greatest.

    The rows are the gyroscope as it is, backwards, negated, and negated backwards. NaN where gyroscope and camera
    overlap for less than ``min_seconds``.
    """
    camera, gyro = np.concatenate([total.camera] * 2), np.concatenate([total.gyro] * 2)
    seconds = np.concatenate([total.seconds] * 2)
    gram, determinant = _invariants(total.cross)
    best, focal = np.zeros(seconds.shape), np.ones(seconds.shape)
    for s in FOCALS:
        scale = np.array([1.0 / s, 1.0 / s, 1.0])
        energy = np.sqrt(np.maximum(camera @ scale**2, 1e-12) * np.maximum(gyro, 1e-12))
        scaled = float(scale.prod()) * determinant
        # Negated, C has the same Gram matrix.
        traces = [_largest_root(gram * np.outer(scale, scale), way * scaled) for way in (1.0, -1.0)]
        rho = np.concatenate(traces) / energy
        better = rho > best
        best[better], focal[better] = rho[better], s
    gain = -0.5 * seconds * np.log1p(-(np.minimum(best, 0.9999) ** 2))
    return np.where(seconds >= min_seconds, gain, np.nan), focal


def largest_trace(matrix: np.ndarray) -> np.ndarray:
    """Maximum of trace(R^T M) over the proper rotations R, for matrices [..., 3, 3]."""
    return _largest_root(*_invariants(matrix))


def _invariants(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return M M^T [..., 3, 3] and det(M) [...]."""
    determinant = np.einsum("...i,...i->...", matrix[..., 0, :], np.cross(matrix[..., 1, :], matrix[..., 2, :]))
    return matrix @ np.swapaxes(matrix, -1, -2), determinant


def _largest_root(gram: np.ndarray, determinant: np.ndarray) -> np.ndarray:
    """Return the largest trace of a matrix from M M^T and det(M).

    It is the largest root of q^4 - 2 |M|^2 q^2 - 8 det(M) q + 2 |M M^T|^2 - |M|^4 (Frobenius norms; Theobald 2005),
    which Newton's method from above never misses.
    """
    square = np.maximum(np.trace(gram, axis1=-2, axis2=-1), 1e-30)
    eight = 8.0 * determinant / square**1.5
    constant = 2.0 * np.einsum("...ij,...ij->...", gram, gram) / square**2 - 1.0
    root = np.full(square.shape, np.sqrt(3.0))
    for _ in range(14):
        squared = root * root
        value = ((squared - 2.0) * root - eight) * root + constant
        slope = (4.0 * squared - 4.0) * root - eight
        root -= np.maximum(value, 0.0) / np.maximum(slope, 1e-6)
    return np.maximum(root, 0.0) * np.sqrt(square)
