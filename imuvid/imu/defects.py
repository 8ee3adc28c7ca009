"""What is wrong with a sensor's readings, found on the raw signal: after any filter it could not be seen.

All findings are marks or warnings; nothing is changed. Thresholds are named, with the reason for each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from imuvid.imu.resample import resample, sample_numbers
from imuvid.imu.units import STANDARD_GRAVITY

KINDS = ("acc", "gyro")
STUCK_S, STUCK_SAMPLES = 0.5, 20
"""An axis that repeats one value for shorter than either is not stuck: a quiet sensor does so by chance."""
MOVING_STEPS = 40
"""A sensor moves if another of its axes varies by this many quantisation steps while one stands still. Coarse sensors
at rest on real people (a step of 9 mg) stay below 20."""
FINE_STEP = {"acc": 0.01, "gyro": 0.0015}
"""Quantisation steps below these are finer than the noise of body-worn sensors (1 mg; 0.09 deg/s), m/s^2 and rad/s: no
axis of such a sensor stands still. Coarser ones can, at rest."""
DEAD_S = 10.0
"""An axis that never changes in a recording of this length is dead, whatever the step, seconds."""
RAIL = 0.995
"""A reading above this share of the known range is at its end: calibration shifts the ends a little."""
MIN_RAIL = {"acc": 1.2 * STANDARD_GRAVITY, "gyro": 2.0}
"""No sensor's range ends below these, m/s^2 and rad/s (the smallest sold are 2 g and 125 deg/s), so a flat top below
them is rest."""
TOP_SAMPLES = 3
"""Consecutive samples at the largest value of a recording that make a flat top, where the range is not known."""
TOP_SIDES = 4
"""A flat top falls off by this many quantisation steps at once on both sides; the top of a smooth peak, which a coarse
step can flatten over three samples, by less than 3."""
MAX_PACKET, MIN_PACKET = 50, 4
"""Lengths of packets that are looked for twice in a row, samples."""
STILL_S = 1.0
"""Rest is looked for in blocks of this length, seconds."""
STILL_SHARE = 0.05
"""In rest, the readings vary by less than this share of their mean vector's length. That is so in any unit."""
MIN_BLOCKS = 2
"""Blocks, and blocks at rest, that a verdict on the unit needs."""
RESTING_GRAVITY = 0.75, 1.25
"""Range of |acc| at rest that calibration explains, in units of gravity (real sensors: 0.95 to 1.06)."""
MOVING_GRAVITY = 0.5, 2.5
"""Range of the median of |acc| in motion, in units of gravity (real recordings and clips of exercise: 0.94 to 1.45)."""
GRAVITY_IN = {"g": 1.0, "mg or cm/s^2": 1000.0, "g, converted twice": STANDARD_GRAVITY**2}
"""Size of gravity in what is wrongly held for m/s^2."""
WITH_GRAVITY, NO_GRAVITY = 0.5, 0.1
"""Where gravity is in the signal, the mean vector of a block is at least the first share of its root mean square in
most blocks of nearly all recordings, and at least the second even in violent motion (real clips: 0.22)."""
MAX_RATE = 35.0
"""Angular rates above this (2000 deg/s, the largest range of common gyroscopes) do not last, rad/s."""
FAST_SHARE = 0.02
"""Share of readings above MAX_RATE that no motion of a body explains."""
MAX_USUAL_RATE = 7.0
"""Largest plausible median of |gyro|, rad/s (400 deg/s; real recordings, clips of exercise too: up to 4.4)."""
MAX_BIAS = 0.7
"""Largest plausible |gyro| at rest, rad/s: uncalibrated gyroscopes are up to 0.35 rad/s (20 deg/s) off an axis."""
RESTING = 0.1
"""Share of a gyroscope's blocks that rest (as for accelerometers) from which on it is asked what it shows at rest."""
SLOW_HZ = 5.0
"""Rate that accelerometer and gyroscope are compared at, Hz: motion of the body up to 2 Hz."""
SLOW_SHARE = 0.05
"""Relative deviation of |acc| from its median within which it points along gravity."""
MIN_STEPS = 25
"""Instants of slow motion that the comparison needs (5 s)."""
AGREEMENT = 0.6
"""Cosine between the turning of gravity as the two sensors see it from which on they are taken to see the same: of 61
recordings of six minutes with a phone, 59 reach it."""
CONFLICT = 8.0
"""A ratio between the two beyond this is one of units: degrees make 57, real recordings lie within 0.4 to 2.3."""


@dataclass
class Defects:
    """What is wrong with a signal of N samples of three axes."""

    stuck: np.ndarray
    """bool [N, 3]: the axis repeats a value where the sensor cannot have been that still."""
    saturated: np.ndarray
    """bool [N, 3]: the reading is at the end of the axis's range."""
    repeated: np.ndarray
    """bool [N]: the sample belongs to a packet that was received before, directly before it."""
    num_lost: int
    """Samples that are missing between the first and the last, estimated from the time stamps."""
    jitter_s: float
    """Root mean square deviation of the time stamps from even spacing (a drifting clock is no jitter), seconds."""
    suspect_unit: str | None
    """What the values look like where they cannot be in SI units: g, mg, deg/s, acceleration without gravity, ..."""


def find_defects(times_s: np.ndarray, values: np.ndarray, kind: str, full_scale: float | None) -> Defects:
    """Look for defects in the raw signal of one sensor.

    Args:
        times_s: float64 [N], strictly increasing, seconds.
        values: float [N, 3], m/s^2 or rad/s; NaN where the sensor gave nothing.
        kind: acc or gyro.
        full_scale: largest reading of an axis, in the unit of ``values``; None where it is not known.

    Raises:
        ValueError: the kind is not known, or the shapes do not fit.
    """
    times_s, values = np.asarray(times_s, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if kind not in KINDS:
        raise ValueError(f"kind is '{kind}', expected acc or gyro")
    if values.ndim != 2 or values.shape[1] != 3 or times_s.shape != values.shape[:1]:
        raise ValueError(f"times are {list(times_s.shape)} and values {list(values.shape)}, expected [N] and [N, 3]")
    if len(times_s) < 2:
        nothing = np.zeros(values.shape, dtype=bool)
        return Defects(nothing, nothing.copy(), np.zeros(len(values), dtype=bool), 0, 0.0, None)
    values = np.where(np.isfinite(values), values, np.nan)
    number, even_s = sample_numbers(times_s)
    step = quantisation_step(values)
    stuck = _stuck(times_s, values, kind, step)
    return Defects(
        stuck=stuck,
        saturated=_saturated(values, kind, full_scale, step),
        repeated=_repeated(values, step),
        num_lost=int(number[-1]) + 1 - len(number),
        jitter_s=float(np.sqrt(np.mean((times_s - even_s) ** 2))),
        suspect_unit=_suspect_unit(times_s, np.where(stuck.any(axis=1, keepdims=True), np.nan, values), kind),
    )


def quantisation_step(values: np.ndarray) -> float:
    """Return the smallest usual change from sample to sample of a signal [N, 3], in its unit; 0 if nothing changes."""
    changes = np.abs(np.diff(values, axis=0))
    # What is smaller is rounding by a change of units or of precision.
    changes = changes[changes > 1e-6 * np.nanmax(np.abs(values), initial=0.0)]
    return float(np.quantile(changes, 0.01)) if changes.size else 0.0


def window_shares(flags: np.ndarray, times_s: np.ndarray, starts_s: np.ndarray, length_s: float) -> np.ndarray:
    """Return the share of the samples within each window that are flagged.

    Args:
        flags: bool [N].
        times_s: float64 [N], increasing, seconds.
        starts_s: float64 [W], seconds; a window holds the samples from its start to before its end.
        length_s: of the windows, seconds.

    Returns:
        float64 [W], 0 to 1; 0 where a window holds no sample.
    """
    before = np.concatenate([[0], np.cumsum(flags)])
    first, stop = np.searchsorted(times_s, starts_s), np.searchsorted(times_s, np.asarray(starts_s) + length_s)
    return (before[stop] - before[first]) / np.maximum(stop - first, 1)


def find_unit_conflict(
    acc_times_s: np.ndarray, acc: np.ndarray, gyro_times_s: np.ndarray, gyro: np.ndarray
) -> str | None:
    """Say what the gyroscope's unit looks like where it contradicts the accelerometer at the same place.

    In slow motion the accelerometer points against gravity, whose direction u turns in the sensor's frame as
    du/dt = -omega x u (Titterton & Weston, Strapdown Inertial Navigation Technology, 2004, section 3.6). The unit of
    the accelerometer does not matter.

    Args:
        acc_times_s: float64 [N], strictly increasing, seconds.
        acc: float [N, 3]; NaN where the sensor gave nothing.
        gyro_times_s: float64 [M], strictly increasing, seconds.
        gyro: float [M, 3], held for rad/s; NaN where the sensor gave nothing.

    Returns:
        None where the two agree, or where there is too little slow turning to tell.
    """
    if min(len(acc_times_s), len(gyro_times_s)) < 2:
        return None
    start_s, end_s = max(acc_times_s[0], gyro_times_s[0]), min(acc_times_s[-1], gyro_times_s[-1])
    grid_s = np.arange(start_s, end_s, 1 / SLOW_HZ)
    (acc, acc_valid), (gyro, gyro_valid) = (
        resample(times_s, values, grid_s, SLOW_HZ) for times_s, values in ((acc_times_s, acc), (gyro_times_s, gyro))
    )
    length = np.linalg.norm(acc, axis=1)
    valid = acc_valid & gyro_valid & (length > 0)
    if valid.sum() < MIN_STEPS:
        return None
    down = acc / np.where(valid, length, 1.0)[:, None]
    slow = valid & (np.abs(length / np.median(length[valid]) - 1) < SLOW_SHARE)
    steps = slow[2:] & slow[1:-1] & slow[:-2]
    if steps.sum() < MIN_STEPS:
        return None
    seen = (down[2:] - down[:-2])[steps] * (SLOW_HZ / 2)
    said = -np.cross(gyro[1:-1], down[1:-1])[steps]
    common = float((seen * said).sum())
    if common <= AGREEMENT * float(np.linalg.norm(seen) * np.linalg.norm(said)):
        return None
    ratio = common / float((said * said).sum())
    if ratio * CONFLICT < 1:
        return "deg/s"
    return "rad/s, converted from degrees twice" if ratio > CONFLICT else None


def _stuck(times_s: np.ndarray, values: np.ndarray, kind: str, step: float) -> np.ndarray:
    stuck = np.zeros(values.shape, dtype=bool)
    if kind == "acc":
        # Gravity acts on every accelerometer that is connected, so zero on all axes means that it gave nothing.
        for start, stop in _long_runs(times_s, (values[1:] == 0).all(axis=1) & (values[:-1] == 0).all(axis=1)):
            stuck[start:stop] = True
    coarse = step == 0 or step >= FINE_STEP[kind]
    dead_s = float(times_s[-1] - times_s[0])
    for axis in range(3):
        others = np.delete(values, axis, axis=1)
        for start, stop in _long_runs(times_s, values[1:, axis] == values[:-1, axis]):
            dead = stop - start == len(values) and dead_s >= DEAD_S
            if not coarse or dead or np.ptp(others[start:stop], axis=0).max() > MOVING_STEPS * step:
                stuck[start:stop, axis] = True
    return stuck


def _long_runs(times_s: np.ndarray, same: np.ndarray) -> list[tuple[int, int]]:
    """Return (first, stop) of stretches of samples that are each the same [N - 1] as the one before, if they last."""
    starts, stops = _runs(same)
    last = (stops - starts + 1 >= STUCK_SAMPLES) & (times_s[stops] - times_s[starts] >= STUCK_S)
    return list(zip(starts[last].tolist(), (stops[last] + 1).tolist(), strict=True))


def _runs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first index and the stop of each stretch of True in bool [N]."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return edges[::2], edges[1::2]


def _saturated(values: np.ndarray, kind: str, full_scale: float | None, step: float) -> np.ndarray:
    if full_scale is not None:
        return np.abs(values) >= RAIL * full_scale
    saturated = np.zeros(values.shape, dtype=bool)
    for axis in range(3):
        for side in (1.0, -1.0):
            reading = np.where(np.isfinite(values[:, axis]), side * values[:, axis], -np.inf)
            top = float(reading.max())
            if top < MIN_RAIL[kind]:
                continue
            starts, stops = _runs(reading >= top - 0.25 * step)
            padded = np.concatenate([[-np.inf], reading, [-np.inf]])
            sides = top - np.maximum(padded[starts], padded[stops + 1])
            if ((stops - starts >= TOP_SAMPLES) & (sides >= TOP_SIDES * step)).any():
                saturated[:, axis] |= reading >= top - step
    return saturated


def _repeated(values: np.ndarray, step: float) -> np.ndarray:
    repeated = np.zeros(len(values), dtype=bool)
    # Equal rows have equal sums, so those that follow each other in this order are each other's last occurrence.
    order = np.argsort(values @ np.array([1.0, math.pi, math.e]), kind="stable")
    same = (values[order[1:]] == values[order[:-1]]).all(axis=1)
    lag = np.zeros(len(values), dtype=np.int64)
    lag[order[1:][same]] = (order[1:] - order[:-1])[same]
    lag[(lag < MIN_PACKET) | (lag > MAX_PACKET)] = 0
    starts = np.flatnonzero(np.diff(lag, prepend=-1) != 0)
    stops = np.append(starts[1:], len(lag))
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        # A coarse sensor at rest repeats itself by chance.
        if 0 < lag[start] <= stop - start and np.ptp(values[start:stop], axis=0).max() > MOVING_STEPS * step:
            repeated[start:stop] = True
    return repeated


def _suspect_unit(times_s: np.ndarray, values: np.ndarray, kind: str) -> str | None:
    finite = np.isfinite(values).all(axis=1)
    times_s, values = times_s[finite], values[finite]
    if len(times_s) < 2:
        return None
    size = max(2, math.ceil(STILL_S / float(np.median(np.diff(times_s))) - 1e-6))
    blocks = values[: len(values) // size * size].reshape(-1, size, 3)
    if len(blocks) < MIN_BLOCKS:
        return None
    level = np.linalg.norm(blocks.mean(axis=1), axis=1)
    deviation = np.sqrt(blocks.var(axis=1).sum(axis=1))
    still = deviation < STILL_SHARE * level
    length = np.linalg.norm(values, axis=1)
    usual = float(np.median(length))
    at_rest = float(np.median(level[still])) if still.sum() >= MIN_BLOCKS else None
    # The share of the mean vector in the readings of a block: near 1 where gravity is in them.
    share = float(np.median(level / np.maximum(np.hypot(level, deviation), np.finfo(float).tiny)))
    if kind == "gyro":
        return _suspect_gyro(length, at_rest if still.mean() > RESTING else None, share)
    return _suspect_acc(usual, at_rest, share)


def _suspect_acc(usual: float, at_rest: float | None, share: float) -> str | None:
    level, (low, high) = (usual, MOVING_GRAVITY) if at_rest is None else (at_rest, RESTING_GRAVITY)
    if low <= level / STANDARD_GRAVITY <= high and share >= NO_GRAVITY:
        return None
    if share >= WITH_GRAVITY:
        for unit, gravity in GRAVITY_IN.items():
            if low <= level / gravity <= high:
                return unit
    if level < MOVING_GRAVITY[0] * STANDARD_GRAVITY:
        return "acceleration without gravity"
    return "acceleration in an unknown unit"


def _suspect_gyro(length: np.ndarray, at_rest: float | None, share: float) -> str | None:
    usual, (low, high) = float(np.median(length)), RESTING_GRAVITY
    gravities = (STANDARD_GRAVITY, *GRAVITY_IN.values())
    if at_rest is not None and any(low <= at_rest / gravity <= high for gravity in gravities):
        return "acceleration"
    if (length > MAX_RATE).mean() > FAST_SHARE:
        return "deg/s"
    if usual > MAX_USUAL_RATE or (at_rest or 0.0) > MAX_BIAS:
        return "acceleration" if share >= WITH_GRAVITY else "deg/s"
    return None
