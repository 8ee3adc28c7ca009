"""Resampling of time-stamped signals onto a uniform grid, with anti-aliasing; gaps stay gaps.

The samples of a piece without gaps are read off an interpolant of their own time stamps, so jitter does not shift
them. Where the source is faster than the grid, the interpolant is first read at more than twice the source's rate,
low-passed with a linear-phase filter (a delay of exactly zero once centred), and read off again.
"""

from __future__ import annotations

import functools

import numpy as np
from scipy import signal
from scipy.interpolate import CubicSpline, PchipInterpolator

MAX_GAP_S = 0.05
"""Longest stretch without a sample that is bridged, seconds."""
PASSBAND, STOPBAND = 0.4, 0.5
"""Edges of the anti-aliasing filter, in units of the grid's rate; what lies above half that rate would alias."""
STOPBAND_DB = 60.0
FASTER = 1.05
"""A source at most this many times as fast as the grid is not filtered: the filter would cost more of the signal than
the narrow band (up to 2.5 % of the rate) that can alias."""


def resample(
    times_s: np.ndarray, values: np.ndarray, grid_s: np.ndarray, rate_hz: float, max_gap_s: float = MAX_GAP_S
) -> tuple[np.ndarray, np.ndarray]:
    """Return a signal at the given times, free of what its own rate would alias, and where it is present.

    Args:
        times_s: [N] strictly increasing, seconds.
        values: [N, C]; a row with a value that is not finite counts as not sampled.
        grid_s: times wanted, any shape, seconds; any number of stretches that are uniform at ``rate_hz``.
        rate_hz: rate of the grid, Hz.
        max_gap_s: a stretch without a sample is a gap if it is longer than this and than 1.5 usual intervals.

    Returns:
        (float64 [*grid_s.shape, C], bool [*grid_s.shape]): the values, 0 where the second is False: in gaps and
        more than half an interval before the first or after the last sample.

    Raises:
        ValueError: the shapes do not fit, or the times are not finite and strictly increasing.
    """
    times_s, values = np.asarray(times_s, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or times_s.shape != values.shape[:1]:
        raise ValueError(f"times are {list(times_s.shape)} and values {list(values.shape)}, expected [N] and [N, C]")
    if not np.isfinite(times_s).all() or not (np.diff(times_s) > 0).all():
        raise ValueError("the times are not finite and strictly increasing")
    flat_s = np.ravel(grid_s)
    order = np.argsort(flat_s, kind="stable")
    sorted_s = flat_s[order]
    result, present = np.zeros((flat_s.size, values.shape[1])), np.zeros(flat_s.size, dtype=bool)
    reach_s = 0.5 * usual_interval(times_s) + 1e-9
    for start, stop in pieces(times_s, values, max_gap_s):
        finite = np.isfinite(values[start:stop]).all(axis=1)
        piece_s, piece = times_s[start:stop][finite], values[start:stop][finite]
        if len(piece_s) < 2:
            continue
        low, high = np.searchsorted(sorted_s, [piece_s[0] - reach_s, piece_s[-1] + reach_s])
        wanted = order[low:high]
        if wanted.size:
            result[wanted] = _read(piece_s, piece, np.clip(flat_s[wanted], piece_s[0], piece_s[-1]), rate_hz)
            present[wanted] = True
    return result.reshape(*np.shape(grid_s), values.shape[1]), present.reshape(np.shape(grid_s))


def pieces(times_s: np.ndarray, values: np.ndarray, max_gap_s: float = MAX_GAP_S) -> list[tuple[int, int]]:
    """Return (start, stop) indices of the stretches of a signal that no gap interrupts, in order.

    The arguments are those of :func:`resample`. Rows that are not finite lie within a stretch where they are too few
    for a gap.
    """
    sampled = np.flatnonzero(np.isfinite(values).all(axis=1))
    if sampled.size == 0:
        return []
    limit_s = max(max_gap_s, 1.5 * usual_interval(times_s)) + 1e-9
    breaks = np.flatnonzero(np.diff(times_s[sampled]) > limit_s)
    starts = np.concatenate([sampled[:1], sampled[breaks + 1]])
    stops = np.concatenate([sampled[breaks], sampled[-1:]]) + 1
    return list(zip(starts.tolist(), stops.tolist(), strict=True))


def usual_interval(times_s: np.ndarray) -> float:
    """Return the median interval between samples, seconds; 0 for fewer than two."""
    return float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.0


def _read(times_s: np.ndarray, values: np.ndarray, wanted_s: np.ndarray, rate_hz: float) -> np.ndarray:
    source_hz = (len(times_s) - 1) / (times_s[-1] - times_s[0])
    interpolant = _interpolant(times_s, values)
    if source_hz <= FASTER * rate_hz:
        return interpolant(wanted_s)
    # Twice the source's rate: the images that interpolation leaves then fall into the stop band.
    fine_hz = rate_hz * float(np.ceil(2 * source_hz / rate_hz))
    fine_s = times_s[0] + np.arange(int((times_s[-1] - times_s[0]) * fine_hz) + 1) / fine_hz
    if len(fine_s) < 4:
        return interpolant(wanted_s)
    taps = _lowpass(fine_hz, rate_hz)
    half = len(taps) // 2
    # Mirrored ends: an extrapolated trend would run away where a piece is shorter than the filter.
    padded = np.pad(interpolant(fine_s), ((half, half), (0, 0)), mode="reflect")
    smooth = signal.oaconvolve(padded, taps[:, None], mode="valid", axes=0)
    return CubicSpline(fine_s, smooth)(np.clip(wanted_s, fine_s[0], fine_s[-1]))


def _interpolant(times_s: np.ndarray, values: np.ndarray) -> CubicSpline | PchipInterpolator:
    """A cubic spline where the intervals are alike; else a monotone one, which does not overshoot (Fritsch, 1980)."""
    intervals = np.diff(times_s)
    usual = np.median(intervals)
    if intervals.min() >= 0.5 * usual and intervals.max() <= 1.5 * usual:
        return CubicSpline(times_s, values)
    return PchipInterpolator(times_s, values)


@functools.lru_cache(maxsize=16)
def _lowpass(fine_hz: float, rate_hz: float) -> np.ndarray:
    """Kaiser-windowed sinc of odd length and unit gain at 0 Hz (Oppenheim & Schafer, 2010, section 7.5)."""
    num_taps, beta = signal.kaiserord(STOPBAND_DB, (STOPBAND - PASSBAND) * rate_hz / (fine_hz / 2))
    cutoff_hz = 0.5 * (PASSBAND + STOPBAND) * rate_hz
    return signal.firwin(num_taps | 1, cutoff_hz, window=("kaiser", beta), fs=fine_hz)
