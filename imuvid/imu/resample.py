"""Resampling of time-stamped signals onto a uniform grid, with anti-aliasing; gaps stay gaps.

A piece without gaps whose samples are evenly spaced is filtered as it stands: one linear-phase filter (a delay of
exactly zero once centred) removes what the grid would alias and raises or lowers the rate to some three times the
grid's, where a quintic spline gives the value at any instant. Where the stamps jitter, evenly spaced samples are
first read off an interpolant of their own time stamps, so jitter does not shift them.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from scipy import ndimage, signal
from scipy.interpolate import CubicSpline, PchipInterpolator

MAX_GAP_S = 0.05
"""Longest stretch without a sample that is bridged, seconds."""
PASSBAND, STOPBAND = 0.4, 0.5
"""Edges of the anti-aliasing filter, in units of the grid's rate; what lies above half that rate would alias."""
IMAGES = 0.6
"""Edge of the stop band, in units of the source's rate, where nothing can alias and the source is only interpolated."""
STOPBAND_DB = 60.0
FASTER = 1.001
"""A source at most this many times as fast as the grid is only interpolated: it has the same rate by another clock,
and the band that can alias is narrower than 0.05 % of the rate."""
EVEN_S = 0.6e-3
"""Stamps that lie this near to evenly spaced ones, seconds, are taken for them: whole milliseconds are 0.5 ms off."""
DRIFT_S = 1.0
"""Even spacing is looked for over this many seconds, so that a drifting clock does not count as jitter."""
OVERSAMPLING = 3
"""Rate at which the filtered signal is kept, in units of the slower of source and grid (at least); a quintic spline
is then exact to 1e-4 up to the edge of the band (Unser, IEEE Signal Processing Magazine 16(6), 1999)."""
CORRECTIONS = 2
"""Iterations that correct what a spline through jittered samples dulls: the first leaves about a tenth of it."""
MARGIN = 8
"""Filtered samples beyond either end of a piece, so that the spline's own end conditions do not matter."""


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


def sample_numbers(times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the samples of a signal, counting those that are lost, and free their stamps of jitter.

    Args:
        times_s: float64 [N], strictly increasing, N >= 2, seconds.

    Returns:
        (int64 [N], float64 [N]): the number of each sample, from 0, and evenly spaced stamps that follow the clock's
        slow drift, seconds.
    """
    intervals = np.diff(times_s)
    # Over some 10 ms: the median of single intervals is no use where stamps are rounded to milliseconds.
    lag = min(math.ceil(0.01 / float(np.median(intervals))), len(intervals))
    interval_s = float(np.median(times_s[lag:] - times_s[:-lag])) / lag
    steps = np.maximum(np.rint(intervals / interval_s), 1).astype(np.int64)
    number = np.concatenate([[0], np.cumsum(steps)])
    intercept, slope = np.polynomial.polynomial.polyfit(number, times_s - times_s[0], 1)
    line = times_s[0] + intercept + slope * number
    size = 2 * min(round(0.5 * DRIFT_S / interval_s), (len(times_s) - 1) // 2) + 1
    return number, line + ndimage.uniform_filter1d(times_s - line, size, mode="mirror")


def _read(times_s: np.ndarray, values: np.ndarray, wanted_s: np.ndarray, rate_hz: float) -> np.ndarray:
    """Return [M, C]: a piece (times [N], values [N, C], N >= 2) at times within it."""
    return _read_even(*(_even(times_s, values) or _evened(times_s, values, rate_hz)), wanted_s, rate_hz)


def _even(times_s: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return evenly spaced stamps, and values with lost samples filled in; None where the stamps jitter."""
    number, even_s = sample_numbers(times_s)
    if np.abs(times_s - even_s).max() > EVEN_S:
        return None
    if number[-1] + 1 == len(number):
        return even_s, values
    numbers = np.arange(number[-1] + 1)
    filled = np.empty((len(numbers), values.shape[1]))
    lost = np.ones(len(numbers), dtype=bool)
    lost[number] = False
    filled[~lost], filled[lost] = values, _interpolant(number, values)(numbers[lost])
    return np.interp(numbers, number, even_s), filled


def _evened(times_s: np.ndarray, values: np.ndarray, rate_hz: float) -> tuple[np.ndarray, np.ndarray]:
    """Return evenly spaced stamps and values for jittered ones."""
    source_hz = (len(times_s) - 1) / (times_s[-1] - times_s[0])
    interpolant = _interpolant(times_s, values)
    if source_hz > OVERSAMPLING * rate_hz:
        # Twice the source's rate: the images that interpolation leaves then fall into the stop band.
        even_s = np.linspace(times_s[0], times_s[-1], 2 * len(times_s) - 1)
        return even_s, interpolant(even_s)
    # A spline dulls what is near half the source's rate: what is missing at the samples themselves is added to it
    # (the frame algorithm: Feichtinger & Groechenig, Theory and practice of irregular sampling, 1994, section 3).
    even_s = np.linspace(times_s[0], times_s[-1], len(times_s))
    even = interpolant(even_s)
    for _ in range(CORRECTIONS):
        missing = values - _read_even(even_s, even, times_s, source_hz)
        even += _interpolant(times_s, missing)(even_s)
    return even_s, even


def _read_even(times_s: np.ndarray, values: np.ndarray, wanted_s: np.ndarray, rate_hz: float) -> np.ndarray:
    source_hz = (len(times_s) - 1) / (times_s[-1] - times_s[0])
    slower_hz = min(source_hz, rate_hz)
    up = math.ceil(OVERSAMPLING * slower_hz / source_hz)
    down = max(1, math.floor(source_hz / (OVERSAMPLING * slower_hz)))
    taps = _lowpass(up, round(rate_hz / source_hz, 4))
    fine = _filter(values.T, taps, up, down)
    position = MARGIN + np.interp(wanted_s, times_s, np.arange(len(times_s))) * (up / down)
    return np.stack([ndimage.map_coordinates(axis, [position], order=5, mode="mirror") for axis in fine], axis=1)


def _filter(values: np.ndarray, taps: np.ndarray, up: int, down: int) -> np.ndarray:
    """Raise the rate of values [C, N] by ``up``, filter, lower it by ``down``; MARGIN samples more at either end."""
    half = len(taps) // 2
    pad = math.ceil((half + MARGIN * down) / up)
    # Mirrored ends: an extrapolated trend would run away where a piece is shorter than the filter.
    padded = np.pad(values, ((0, 0), (pad, pad)), mode="reflect")
    spread = np.zeros((padded.shape[0], padded.shape[1] * up))
    spread[:, ::up] = padded
    # By FFT: several times faster than a polyphase filter bank (scipy.signal.upfirdn) at these lengths.
    smooth = signal.oaconvolve(spread, taps[None], mode="valid", axes=1)
    return smooth[:, pad * up - half - MARGIN * down :: down]


def _interpolant(times_s: np.ndarray, values: np.ndarray) -> CubicSpline | PchipInterpolator:
    """A cubic spline where at most single samples are lost; else a monotone one (Fritsch & Carlson, 1980), which does
    not overshoot."""
    intervals = np.diff(times_s)
    usual = np.median(intervals)
    if intervals.min() >= 0.5 * usual and intervals.max() <= 2.5 * usual:
        return CubicSpline(times_s, values)
    return PchipInterpolator(times_s, values)


@functools.lru_cache(maxsize=64)
def _lowpass(up: int, grid: float) -> np.ndarray:
    """Kaiser-windowed sinc of odd length (Oppenheim & Schafer, 2010, section 7.5) for a source raised ``up`` times.

    The grid's rate is in units of the source's. Each of the ``up`` phases has unit gain at 0 Hz, so a constant stays
    one at every instant; where nothing can alias, the filter leaves the source's own samples as they are.
    """
    low, high = (PASSBAND * grid, STOPBAND * grid) if grid * FASTER < 1 else (1 - IMAGES, IMAGES)
    num_taps, beta = signal.kaiserord(STOPBAND_DB, (high - low) / (up / 2))
    taps = signal.firwin(num_taps | 1, 0.5 * (low + high), window=("kaiser", beta), fs=up)
    for phase in range(up):
        taps[phase::up] /= taps[phase::up].sum()
    return taps
