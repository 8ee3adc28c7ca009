"""What goes wrong with sensors in the field, done to windows on purpose: how fast does a score fall?

Each stressor is a pure function of windows in SI units, a severity in a unit of its own, and a seed. What is random
is drawn for each recording by its name (a sensor that is strapped on askew stays so) or for each window, and does not
depend on which other windows are there. What is absent stays absent, and what is taken away is marked, never made up.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.transform import Rotation

from imuvid.errors import UserError
from imuvid.ood.datasets.base import Windows

GYRO_NOISE = 0.2
"""Noise of the gyroscope, rad/s, for each m/s^2 of the accelerometer's."""
GYRO_DRIFT = 0.1
"""Drift of the gyroscope, rad/s, for each m/s^2 of the accelerometer's."""


@dataclass
class StressConfig:
    """Stress curves: probes trained on windows as they are, tested on windows that were tampered with."""

    stressors: list[str] = field(default_factory=list)
    """Any of STRESSORS, or all of them by [all]; none by default."""
    severities: dict[str, list[float]] = field(default_factory=dict)
    """Other severities than the stressor's own, by its name."""
    max_windows: int = 1000
    """Test windows of a data set that are tampered with, at most: drawn at random, the same for every stressor,
    severity and representation; the score at severity 0 is of the same windows."""


@dataclass(frozen=True)
class Stressor:
    """One way in which windows of the field differ from those of the laboratory."""

    title: str
    """What it is, for the report."""
    unit: str
    """Of the severity, for an axis."""
    severities: tuple[float, ...]
    """From little to much; 0, nothing, goes without saying."""
    apply: Callable[[Windows, float, int], tuple[np.ndarray, np.ndarray]]
    """(windows, severity, seed) to imu float32 [N, T, P, 6] and valid bool [N, T, P, 2]."""
    not_for: Callable[[Windows], str | None] = lambda windows: None
    """Why it says nothing about these windows; None where it does."""


def stress(windows: Windows, name: str, severity: float, seed: int) -> Windows:
    """Return windows as a stressor of that severity leaves them; those given stay as they are.

    Args:
        windows: N windows in SI units.
        name: of the stressor.
        severity: in its unit; 0 changes nothing.
        seed: of what is random about it.
    """
    imu, valid = STRESSORS[name].apply(windows, severity, seed)
    imu = np.where(np.repeat(valid, 3, axis=-1), imu, 0).astype(np.float32)
    return dataclasses.replace(windows, imu=imu, valid=valid)


def chosen_stressors(config: StressConfig) -> dict[str, list[float]]:
    """Return the severities of each stressor that a config asks for.

    Raises:
        UserError: an unknown stressor, or a severity that is not positive.
    """
    names = list(STRESSORS) if config.stressors == ["all"] else config.stressors
    for name in [*names, *config.severities]:
        if name not in STRESSORS:
            raise UserError(f"stress: '{name}' is no stressor: choose from {', '.join(STRESSORS)}, or [all]")
    if config.max_windows < 1:
        raise UserError(f"stress.max_windows={config.max_windows}: must be at least 1")
    chosen = {name: sorted(config.severities.get(name, STRESSORS[name].severities)) for name in names}
    for name, severities in chosen.items():
        if not severities or severities[0] <= 0:
            raise UserError(f"stress.severities.{name}: give numbers greater than 0")
    return chosen


def usable_severities(windows: Windows, name: str, severities: list[float]) -> tuple[list[float], str | None]:
    """Return the severities that a stressor can be given on a data set, and why some or all are left out.

    Args:
        windows: of the data set.
        name: of the stressor.
        severities: wanted.
    """
    reason = STRESSORS[name].not_for(windows)
    if reason:
        return [], f"Stress by {STRESSORS[name].title} is left out: {reason}."
    if name != "missing_sensor":
        return severities, None
    # Without any sensor there is nothing to judge.
    return [number for number in severities if number < len(windows.positions)], None


def _generators(windows: Windows, seed: int) -> Iterator[np.random.Generator]:
    """Yield a generator a window, which depends on its recording, its start and the seed alone."""
    for name, start_s in zip(windows.recording, windows.start_s, strict=True):
        yield np.random.default_rng([seed, zlib.crc32(str(name).encode()), round(1e3 * float(start_s)) % 2**32])


def _recordings(windows: Windows, seed: int) -> Iterator[tuple[np.ndarray, np.random.Generator]]:
    """Yield the windows of each recording, int64, with a generator that depends on its name and the seed alone."""
    for name in np.unique(windows.recording):
        rows = np.flatnonzero(windows.recording == name)
        yield rows, np.random.default_rng([seed, zlib.crc32(str(name).encode())])


def _without_gyro(windows: Windows, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Take the gyroscope away from a share of the windows."""
    valid = windows.valid.copy()
    lost = np.array([rng.random() for rng in _generators(windows, seed)]) < share
    valid[lost, :, :, 1] = False
    return windows.imu, valid


def _without_sensors(windows: Windows, num: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Take away whole sensors; which ones is drawn for each recording, and more of them are the same and more."""
    valid = windows.valid.copy()
    for rows, rng in _recordings(windows, seed):
        lost = rng.permutation(len(windows.positions))[: round(num)]
        valid[np.ix_(rows, np.arange(valid.shape[1]), lost)] = False
    return windows.imu, valid


def _rotated(windows: Windows, degrees: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Turn each sensor by an angle about an axis that is drawn for each recording, uniformly on the sphere."""
    imu = windows.imu.astype(np.float64)
    for rows, rng in _recordings(windows, seed):
        for position in range(imu.shape[2]):
            axis = rng.standard_normal(3)
            turn = Rotation.from_rotvec(np.deg2rad(degrees) * axis / np.linalg.norm(axis)).as_matrix()
            vectors = imu[rows, :, position].reshape(len(rows), -1, 2, 3)
            imu[rows, :, position] = (vectors @ turn.T).reshape(len(rows), -1, 6)
    return imu, windows.valid


def _slower(windows: Windows, factor: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sample at a rate that is lower by a factor, behind an anti-aliasing filter, and interpolate to the old rate."""
    num_steps = windows.imu.shape[1]
    if factor <= 1:
        return windows.imu, windows.valid
    # Hann-windowed sinc with its cut-off at half the lower rate (Oppenheim & Schafer 2010, section 7.5).
    half = int(np.ceil(4 * factor))
    offsets = np.arange(-half, half + 1)
    taps = np.sinc(offsets / factor) * np.hanning(2 * half + 3)[1:-1]
    kept = np.arange(0.0, num_steps - 1 + 1e-9, factor)
    filtered = np.zeros((len(kept), num_steps))
    for row, centre in enumerate(np.rint(kept).astype(int)):
        inside = (centre + offsets >= 0) & (centre + offsets < num_steps)
        filtered[row, centre + offsets[inside]] = taps[inside]
    back = np.stack([np.interp(np.arange(num_steps), np.rint(kept), row) for row in np.eye(len(kept))], axis=1)
    # What is absent has no weight: the rest is divided by the weight of what is there.
    present = np.repeat(windows.valid, 3, axis=-1).astype(np.float64)
    weight = _along_time(filtered, present)
    known = weight > 0.05 * taps.sum()
    values = np.divide(_along_time(filtered, windows.imu * present), weight, out=np.zeros_like(weight), where=known)
    weight = _along_time(back, known.astype(np.float64))
    return np.divide(_along_time(back, values), weight, out=np.zeros_like(present), where=weight > 0), windows.valid


def _along_time(matrix: np.ndarray, signal: np.ndarray) -> np.ndarray:
    """Return matrix [M, T] applied to the time of a signal [N, T, P, C]: [N, M, P, C]."""
    num, steps = signal.shape[:2]
    return (matrix @ signal.reshape(num, steps, -1)).reshape(num, len(matrix), *signal.shape[2:])


def _noisy(windows: Windows, deviation: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Add white noise: of that deviation to accelerations, of GYRO_NOISE times it to rates of turn."""
    scale = deviation * np.repeat([1.0, GYRO_NOISE], 3)
    noise = np.stack([rng.standard_normal(windows.imu.shape[1:], np.float32) for rng in _generators(windows, seed)])
    return windows.imu + scale * noise, windows.valid


def _drifting(windows: Windows, most: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Add a bias that grows evenly from nothing at the start of a recording to its most at the end.

    Its direction is drawn for each recording and sensor.
    """
    imu = windows.imu.astype(np.float64)
    for rows, rng in _recordings(windows, seed):
        direction = rng.standard_normal((imu.shape[2], 2, 3))
        direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
        bias = (direction * np.array([1.0, GYRO_DRIFT])[:, None]).reshape(-1, 6)
        start_s = windows.start_s[rows]
        times_s = start_s[:, None] + np.arange(imu.shape[1]) / windows.rate_hz
        share = (times_s - start_s.min()) / (times_s.max() - start_s.min())
        imu[rows] += most * share[:, :, None, None] * bias
    return imu, windows.valid


def _jittered(windows: Windows, deviation_ms: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Read each sample at a wrong instant: its own plus normal noise, in order, as if the clock had been right."""
    imu = windows.imu.astype(np.float64)
    num_steps = imu.shape[1]
    for row, rng in enumerate(_generators(windows, seed)):
        late = rng.standard_normal(num_steps) * deviation_ms * 1e-3 * windows.rate_hz
        instants = np.clip(np.sort(np.arange(num_steps) + late), 0, num_steps - 1)
        before = np.minimum(instants.astype(int), num_steps - 2)
        share = (instants - before)[:, None, None]
        imu[row] = (1 - share) * imu[row, before] + share * imu[row, before + 1]
    # Next to a gap an instant between a sample and none has no value: the sample's own stays.
    there = windows.valid.all(axis=(1, 2, 3))
    imu[~there] = np.where(_whole(windows.valid[~there]), imu[~there], windows.imu[~there])
    return imu, windows.valid


def _whole(valid: np.ndarray) -> np.ndarray:
    """Return where all of a window's samples are present, by sensor: bool [N, 1, P, 6]."""
    return np.repeat(valid.all(axis=1, keepdims=True), 3, axis=-1)


def _shorter(windows: Windows, lost: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Leave the middle of each window and mark the rest absent."""
    num_steps = windows.imu.shape[1]
    kept = max(1, round(num_steps * (1 - lost)))
    first = (num_steps - kept) // 2
    valid = np.zeros_like(windows.valid)
    valid[:, first : first + kept] = windows.valid[:, first : first + kept]
    return windows.imu, valid


def _has_no_gyro(windows: Windows) -> str | None:
    return None if windows.valid[..., 1].any() else "its windows have no gyroscope to lose"


def _has_one_sensor(windows: Windows) -> str | None:
    return None if len(windows.positions) > 1 else "its windows are of one sensor"


STRESSORS: dict[str, Stressor] = {
    "missing_gyro": Stressor(
        "missing gyroscope", "share of windows", (0.25, 0.5, 0.75, 1.0), _without_gyro, _has_no_gyro
    ),
    "missing_sensor": Stressor("missing sensors", "sensors", (1.0, 2.0, 3.0), _without_sensors, _has_one_sensor),
    "rotation": Stressor("rotated mounting", "degrees", (15.0, 30.0, 60.0, 90.0, 180.0), _rotated),
    "lower_rate": Stressor("lower rate", "times lower", (2.0, 4.0, 8.0), _slower),
    "noise": Stressor("added noise", "SD, m/s² (and 0.2 rad/s each)", (0.5, 1.0, 2.0, 4.0), _noisy),
    "drift": Stressor("added drift", "m/s² at the end (and 0.1 rad/s each)", (0.5, 1.0, 2.0, 4.0), _drifting),
    "jitter": Stressor("clock jitter", "SD, ms", (5.0, 10.0, 20.0, 40.0), _jittered),
    "shorter": Stressor("shorter windows", "share lost", (0.25, 0.5, 0.75), _shorter),
}
"""In the order of the report."""
