"""The sensors of a recording: what can be used of them, and the windows made of it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from imuvid.imu.defects import Defects, find_defects, find_unit_conflict, window_shares
from imuvid.imu.resample import MAX_GAP_S, pieces, resample, usual_interval
from shards.config import WindowConfig
from shards.sources.base import Recording, RecordingError, Signal
from shards.sync import SyncEstimate, correct
from shards.windows import Window, grid_times

MIN_IMU_S = 1.0
"""A recording whose longest signal is shorter than this, and than a window may be, cannot be used, seconds."""
MAX_INTERVAL_S = 1.0
"""No motion can be seen in samples further apart, seconds."""
MAX_LOST_SHARE, MAX_SPARSE_S = 0.99, 86400.0
"""A signal longer than the second, seconds, of which more than the first is gaps has a time stamp of another clock:
what is as long as it says would not fit into memory."""
SENSORS = ("acc", "gyro")


@dataclass
class ImuWindows:
    """The IMU of the windows of a recording."""

    values: np.ndarray
    """float32 [W, T, P, 6], m/s^2 and rad/s; 0 where not valid."""
    valid: np.ndarray
    """bool [W, T, P, 2]."""
    quality: list[dict[str, float]] = field(default_factory=list)
    """Of each window: imu_share, flat_share, saturated_share, and where there is such a sensor acc_std, gyro_rms."""


def signals(recording: Recording) -> Iterator[tuple[str, int, Signal, float | None]]:
    """Yield (position, 0 for acc or 1 for gyro, signal, full scale in its unit) of all sensors."""
    for stream in recording.streams:
        for sensor, name in enumerate(SENSORS):
            found = getattr(stream, name)
            if found is not None:
                yield stream.position, sensor, found, getattr(stream, f"{name}_range")


def check_signals(
    recording: Recording, positions: list[str], config: WindowConfig
) -> tuple[dict[str, str], dict[tuple[str, int], Defects]]:
    """Return what can be used in part only, by kind, one line each, and the defects by (position, sensor).

    Raises:
        RecordingError: the sensors cannot be used.
    """
    names = [stream.position for stream in recording.streams]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RecordingError("duplicate_position", f"two sensors are both at '{twice[0]}': name their positions apart")
    if not set(names) & set(positions):
        raise RecordingError("no_imu", f"no sensor at {', '.join(positions) or 'all'} (there is {names})")
    marked: dict[str, str] = {}
    found_defects: dict[tuple[str, int], Defects] = {}
    gaps, gap_s, missing, longest_s = 0, 0.0, 0, 0.0
    for position, sensor, found, full_scale in signals(recording):
        where = f"{SENSORS[sensor]} of {position}"
        _check_signal(where, found)
        times_s, values = found.times_s, found.values
        spans = pieces(times_s, values)
        lost_s = sum(float(times_s[b[0]] - times_s[a[1] - 1]) for a, b in itertools.pairwise(spans))
        _check_gaps(where, float(times_s[-1] - times_s[0]), lost_s)
        gaps += len(spans) - 1
        gap_s += lost_s
        missing += int((~np.isfinite(values).all(axis=1)).sum())
        longest_s = max(longest_s, float(times_s[-1] - times_s[0]) + usual_interval(times_s))
        defects = found_defects[position, sensor] = find_defects(times_s, values, SENSORS[sensor], full_scale)
        if defects.suspect_unit:
            marked[f"implausible_{SENSORS[sensor]}"] = f"{where}: looks like {defects.suspect_unit}: is the unit right?"
        for kind, flags in (
            ("stuck", defects.stuck.any(axis=1)),
            ("saturated", defects.saturated.any(axis=1)),
            ("repeated", defects.repeated),
        ):
            if flags.any():
                marked[kind] = f"{where}: {flags.mean():.1%} of its samples are {kind}"
    needed_s = min(MIN_IMU_S, config.min_share * config.length_s)
    for stream in recording.streams:
        if stream.acc is not None and stream.gyro is not None:
            conflict = find_unit_conflict(
                stream.acc.times_s, stream.acc.values, stream.gyro.times_s, stream.gyro.values
            )
            if conflict:
                marked.setdefault("implausible_gyro", f"gyro of {stream.position}: {conflict}")
    if longest_s < needed_s:
        raise RecordingError("imu_too_short", f"the IMU lasts {longest_s:.2f} s, less than {needed_s:g} s")
    if gaps:
        marked["gap"] = f"{gaps} gaps of over {MAX_GAP_S * 1000:g} ms, {gap_s:.2f} s in all, marked as missing"
    if missing:
        marked["not_a_number"] = f"{missing} samples hold NaN and count as missing"
    return marked, found_defects


def _check_signal(where: str, found: Signal) -> None:
    times_s, values = found.times_s, found.values
    if values.ndim != 2 or values.shape[1] != 3 or times_s.shape != values.shape[:1]:
        raise RecordingError("bad_shape", f"{where}: times {list(times_s.shape)}, values {list(values.shape)}")
    if not np.isfinite(times_s).all():
        raise RecordingError("bad_time", f"{where}: a time stamp is not a number")
    if not (np.diff(times_s) > 0).all():
        row = int(np.flatnonzero(np.diff(times_s) <= 0)[0]) + 1
        raise RecordingError("time_backwards", f"{where}: time does not increase at sample {row}")
    if usual_interval(times_s) > MAX_INTERVAL_S:
        raise RecordingError(
            "bad_time", f"{where}: has one sample every {usual_interval(times_s):.4g} s: check the unit of its time"
        )
    if not np.isfinite(values).all(axis=1).any():
        raise RecordingError("all_nan", f"{where}: holds no number: leave this sensor out, or mend the file")


def _check_gaps(where: str, length_s: float, lost_s: float) -> None:
    if length_s > MAX_SPARSE_S and lost_s > MAX_LOST_SHARE * length_s:
        raise RecordingError(
            "bad_time",
            f"{where}: its time stamps span {length_s:.4g} s, its samples {length_s - lost_s:.4g} s: mend the jump",
        )


def cover(recording: Recording) -> tuple[float, float]:
    """Return the start and end (s) of what the IMU and the recording both cover.

    Raises:
        RecordingError: ``no_overlap``.
    """
    spans = [(s.times_s[0], s.times_s[-1] + usual_interval(s.times_s)) for _, _, s, _ in signals(recording)]
    first_s, last_s = float(min(start for start, _ in spans)), float(max(end for _, end in spans))
    if min(last_s, recording.duration_s) <= max(first_s, 0.0):
        raise RecordingError(
            "no_overlap",
            f"the IMU covers {first_s:.2f} to {last_s:.2f} s, the video 0 to {recording.duration_s:.2f} s: "
            "set the offset between their clocks",
        )
    return max(first_s, 0.0), min(last_s, recording.duration_s)


def corrected(recording: Recording, estimate: SyncEstimate) -> Recording:
    """Return the recording with the time stamps of all its sensors moved onto the video's clock."""
    streams = []
    for stream in recording.streams:
        acc, gyro = (
            None if found is None else Signal(correct(found.times_s, estimate), found.values)
            for found in (stream.acc, stream.gyro)
        )
        streams.append(dataclasses.replace(stream, acc=acc, gyro=gyro))
    return dataclasses.replace(recording, streams=streams)


def imu_windows(
    recording: Recording,
    positions: list[str],
    windows: list[Window],
    config: WindowConfig,
    defects: dict[tuple[str, int], Defects],
) -> ImuWindows:
    """Return the resampled IMU of the windows and what it is worth; sensors elsewhere are left out.

    A sensor of which no axis changes is dead for as long: these readings count as missing.
    """
    grid_s = grid_times(windows, config)
    starts_s = grid_s[:, 0]
    result = ImuWindows(
        np.zeros((*grid_s.shape, len(positions), 6), dtype=np.float32),
        np.zeros((*grid_s.shape, len(positions), 2), dtype=bool),
    )
    # Half a sample of slack, as for the samples at the ends of a signal.
    inside = grid_s < recording.duration_s + 0.5 / config.rate_hz
    flat: list[np.ndarray] = []
    saturated: list[np.ndarray] = []
    movement: dict[str, list[np.ndarray]] = {"acc_std": [], "gyro_rms": []}
    for position, sensor, found, _ in signals(recording):
        if position not in positions:
            continue
        at, axes = positions.index(position), slice(3 * sensor, 3 * sensor + 3)
        stuck = defects[position, sensor].stuck
        alive = np.where(np.all(stuck, axis=1)[:, None], np.nan, found.values)
        values, present = resample(found.times_s, alive, grid_s, config.rate_hz)
        present &= inside
        values = np.where(present[..., None], values, 0.0)
        result.values[:, :, at, axes], result.valid[:, :, at, sensor] = values, present
        flat.append(window_shares(np.any(stuck, axis=1), found.times_s, starts_s, config.length_s))
        clipped = np.any(defects[position, sensor].saturated, axis=1)
        saturated.append(window_shares(clipped, found.times_s, starts_s, config.length_s))
        norm = np.ma.masked_array(np.linalg.norm(values, axis=-1), ~present)
        spread = norm.std(axis=1) if sensor == 0 else np.ma.sqrt((norm**2).mean(axis=1))
        movement["acc_std" if sensor == 0 else "gyro_rms"].append(np.ma.filled(spread.astype(float), np.nan))
    imu_share = result.valid.any(axis=(2, 3)).mean(axis=1)
    for window in range(len(windows)):
        quality = {
            "imu_share": float(imu_share[window]),
            "flat_share": float(np.mean([shares[window] for shares in flat])),
            "saturated_share": float(np.mean([shares[window] for shares in saturated])),
        }
        for name, spreads in movement.items():
            found_here = [float(spread[window]) for spread in spreads if np.isfinite(spread[window])]
            if found_here:
                quality[name] = max(found_here)
        result.quality.append(quality)
    return result
