"""Whether IMU and video belong together, and by how much their clocks differ.

The rotation of the camera (:mod:`shards.motion`) is compared with a gyroscope that is fixed to it
(:mod:`shards.agreement`): first for every shift on a coarse grid (and, on recordings of two minutes and more, for every
drift), then, around the best one, by Gauss-Newton steps on

    y_i = M x_i(offset, drift) + e_i

with y_i the camera's mean angular velocity between two frames, x_i the gyroscope's between the same instants by its own
clock, integrated exactly, and M any 3 x 3 matrix (axes, focal length, scale). Errors are weighted down iteratively
where they are large (Cauchy's weights), and the standard errors are those of clustered data (Liang & Zeger 1986,
clusters of two seconds), as neighbouring errors are alike.

A wrong correction is worse than none. An offset is called known only where its evidence is beyond what the same two
signals give without belonging together: the maxima of that evidence over seconds of impossible shifts are fitted by
Gumbel's distribution, and the confidence is one less the probability that as long a search would find as much.

Where the exposure of a picture is long or its rows are read one by one, the instant that its time stamp means is
uncertain by that much, and so is the offset.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from imuvid.errors import UserError
from shards.agreement import GRID_S, SLOW_S, Rotations, Sums, combine, evidence, limited, noise, sums, without_slow
from shards.motion import MotionTrack
from shards.sources.base import Signal

POLICIES = ("ignore", "report", "correct", "reject")
VERDICTS = {
    "known": "the offset is known",
    "no_video": "too little can be seen in the video: black, blank, frozen, or hardly any frames",
    "no_gyro": "there is no gyroscope, or nearly all of its readings are missing",
    "bad_clock": "the gyroscope's times do not increase",
    "slow_gyro": "the gyroscope has fewer than 20 readings a second",
    "too_short": "video and gyroscope have too little time in common",
    "no_motion": "the camera, or the gyroscope, hardly turns",
    "no_agreement": "no offset explains the video: from another recording, stabilised, or beyond the search range",
    "ambiguous": "other offsets explain the video nearly as well, as in a steady rhythm",
    "stabilised": "what agrees is no turn of the camera: stabilised, or from a recording of the same kind",
    "imprecise": "the offset is uncertain by more than 25 ms",
}
"""Verdicts of :func:`estimate`; all but the first abstain."""

MIN_S = 4.0
"""Least time, seconds, that a camera's motion must be known for."""
DRIFT_FROM_S = 120.0
"""A drift is looked for in recordings that are longer than this, seconds."""
MAX_DRIFT = 300e-6
MAX_ERROR_S = 0.025
MAX_DRIFT_ERROR = 50e-6
_WHOLE_S = 60.0
_STRETCH_S = 30.0
_MAX_S = 300.0
_MAX_DRIFTS = 60
"""Drifts tried to either side: enough for recordings of 3.7 hours; of longer ones, only smaller drifts are tried."""
_FAR_S = 12.0
_LOBE_S = 0.5
_MIN_OVERLAP = 0.4
_MIN_TURN = 0.004
"""Least root mean square of the camera's and the gyroscope's rotation without its slow part, rad/s."""
_MAX_READING = 1e4
"""Readings beyond this, rad/s, are none."""
_CLUSTER_S = 2.0
_MAX_MOVE_S = 0.2
_AMBIGUOUS = 0.8
"""Evidence of another shift, over the best, from which on neither is believed."""
_TRUST = 1.0 / 3.0
"""Of the decimal places of a probability that a fitted tail gives, this share is believed: it lies beyond the data."""
_MIN_RATIO = 0.25
"""Smallest over largest singular value of M; 1 / 2.6 for the longest lens of ``shards.agreement.FOCALS``."""
_STEP_S = 0.005
"""Of the difference that stands for the gyroscope's slope."""
_MAX_STEP_S = 0.05
_CAUCHY = 12.0
"""Squared error, in variances, from which on a pair of frames counts less."""
_ROLL = (0.6, 1.6)
"""Roll seen over roll measured."""


@dataclass
class SyncConfig:
    """Whether and how IMU and video are checked for synchrony."""

    policy: str = "report"
    """ignore, report (estimate and write it down), correct (also shift the IMU where the offset is known) or reject
    (also leave out recordings whose offset is known and not small)."""
    max_offset_s: float = 3.0
    """Offsets are looked for within +- this, seconds."""
    min_confidence: float = 0.999
    """An offset of less confidence is not called known, 0 to 1."""


def check_sync(config: SyncConfig) -> None:
    """Raise UserError where a value makes no sense; names the key."""
    if config.policy not in POLICIES:
        raise UserError(f"sync.policy={config.policy}: must be one of {', '.join(POLICIES)}")
    if not 0 < config.max_offset_s <= 60:
        raise UserError(f"sync.max_offset_s={config.max_offset_s}: must be above 0 and at most 60")
    if not 0 <= config.min_confidence <= 1:
        raise UserError(f"sync.min_confidence={config.min_confidence}: must be 0 to 1")


@dataclass(frozen=True)
class SyncEstimate:
    """What :func:`estimate` found."""

    verdict: str
    """One of ``VERDICTS``."""
    offset_s: float | None = None
    """To be added to the IMU's time stamps at the recording's start (0 s) to have them on the video's clock, seconds;
    None unless known."""
    drift_ppm: float | None = None
    """By how much this grows, microseconds a second; None where it is not known."""
    confidence: float = 0.0
    """One less the probability that signals that do not belong together agree as well, 0 to 1: of that probability's
    decimal places, a third is believed."""
    error_s: float | None = None
    """Standard error of the offset in the middle of the recording, seconds; it does not see what is wrong throughout,
    such as the camera's translation, so that true errors are up to four times as large."""


def correct(times_s: np.ndarray, estimate: SyncEstimate) -> np.ndarray:
    """Return times of the IMU's clock, float64 [N] seconds, on the video's; unchanged where the offset is not known."""
    if estimate.offset_s is None:
        return times_s
    return times_s + (estimate.offset_s + 1e-6 * (estimate.drift_ppm or 0.0) * times_s)


def estimate(track: MotionTrack, gyro: Signal | None, config: SyncConfig) -> SyncEstimate:
    """Estimate the offset between the IMU's clock and the video's, or say why it is not known; never raises.

    Args:
        track: rotation of the camera, from a :class:`shards.motion.MotionTracker`.
        gyro: of the IMU that is fixed to the camera, rad/s, in any axes; NaN where readings are missing.
        config: search range and confidence.
    """
    if gyro is None:
        return SyncEstimate("no_gyro")
    whole = np.isfinite(gyro.times_s) & (np.abs(gyro.values) < _MAX_READING).all(axis=1)
    times, rates = np.asarray(gyro.times_s, np.float64)[whole], np.asarray(gyro.values, np.float64)[whole]
    seen = track.weight > 0.0
    if float((track.end_s - track.start_s)[seen].sum()) < MIN_S:
        return SyncEstimate("too_short" if seen.any() and seen.mean() > 0.5 else "no_video")
    if len(times) < 20:
        return SyncEstimate("no_gyro")
    if (np.diff(times) <= 0.0).any():
        return SyncEstimate("bad_clock")
    if float(np.median(np.diff(times))) > 0.05:
        return SyncEstimate("slow_gyro")
    return _search(track, Rotations.of(times, rates), config)


def _search(track: MotionTrack, rotations: Rotations, config: SyncConfig) -> SyncEstimate:
    start_s, end_s = float(track.start_s[0]), float(track.end_s[-1])
    middle_s, duration_s = 0.5 * (start_s + end_s), end_s - start_s
    num_shifts = math.ceil((config.max_offset_s + _FAR_S) / GRID_S)
    spans = [(a, b) for a, b in stretches(start_s, end_s) if ((track.start_s >= a) & (track.end_s <= b)).sum() > 1]
    if not spans:
        return SyncEstimate("no_video")
    parts = [sums(track, rotations, *span, num_shifts) for span in spans]
    # From one drift to the next, the ends of the recording move by a grid step.
    step = 2.0 * GRID_S / duration_s
    steps = min(math.ceil(MAX_DRIFT / step), _MAX_DRIFTS) if duration_s > DRIFT_FROM_S else 0
    drifts = step * np.arange(-steps, steps + 1)
    gains = np.stack([_evidence(combine(parts, middle_s, drift)) for drift in drifts])
    shifts = GRID_S * np.arange(-num_shifts, num_shifts + 1)
    near = np.abs(shifts) <= config.max_offset_s
    direct = np.where(near & np.isfinite(gains[:, 0]), gains[:, 0], -1.0)
    which, at = np.unravel_index(direct.argmax(), direct.shape)
    best = float(direct[which, at])
    if best < 0.0:
        return SyncEstimate("too_short")
    # Of the direct shifts, those around the best are no null; backwards, all are.
    apart = (np.abs(shifts - shifts[at]) > _LOBE_S) | np.array([False, True, False, True])[:, None]
    null = np.where(apart, np.nan_to_num(gains, nan=-1.0).max(axis=0), -1.0)
    confidence = 1.0 - _chance(best, null, 2.0 * config.max_offset_s) ** _TRUST
    fit = _Fit(track, rotations, spans, middle_s)
    if not fit.turns:
        return SyncEstimate("no_motion")
    if confidence < config.min_confidence:
        return SyncEstimate("no_agreement", confidence=confidence)
    if null[0][near].max() > _AMBIGUOUS * best:
        return SyncEstimate("ambiguous", confidence=confidence)
    with_drift = duration_s > DRIFT_FROM_S
    clock = fit.refined(_Clock(float(shifts[at]), float(drifts[which])), with_drift)
    if not _turns_camera(clock.matrix):
        return SyncEstimate("stabilised", confidence=confidence)
    if not (clock.error_s <= MAX_ERROR_S and abs(clock.offset_s - shifts[at]) <= _MAX_MOVE_S):
        return SyncEstimate("imprecise", confidence=confidence, error_s=clock.error_s)
    drift = clock.drift if with_drift and clock.drift_error <= MAX_DRIFT_ERROR else None
    return SyncEstimate(
        "known",
        offset_s=(clock.offset_s - (drift or 0.0) * middle_s) / (1.0 - (drift or 0.0)),
        drift_ppm=None if drift is None else 1e6 * drift / (1.0 - drift),
        confidence=confidence,
        error_s=clock.error_s,
    )


def _turns_camera(matrix: np.ndarray) -> bool:
    """Whether M may be g diag(s, s, 1) R: a turn of the axes, one focal length, and the roll at its true size.

    By chance, M is nearly singular; where two recordings follow the same protocol, or the video is stabilised, M is too
    small.
    """
    sizes = np.linalg.svd(matrix, compute_uv=False)
    roll = float(np.linalg.norm(matrix[2]))
    right_hand = float(np.linalg.det(matrix)) > 0.0
    return right_hand and sizes[2] >= _MIN_RATIO * sizes[0] and _ROLL[0] <= roll <= _ROLL[1]


def _evidence(total: Sums) -> np.ndarray:
    least_s = max(0.5 * MIN_S, _MIN_OVERLAP * float(total.seconds.max()))
    return evidence(total, least_s)[0]


def _chance(best: float, null: np.ndarray, search_s: float) -> float:
    """Probability that ``search_s`` seconds of shifts without a relation hold evidence of ``best``.

    Args:
        null: float64 [4, M], evidence on the grid without a relation; negative where there is none.
    """
    a_second = round(1.0 / GRID_S)
    whole = null.shape[1] // a_second * a_second
    maxima = null[:, :whole].reshape(-1, a_second).max(axis=1)
    maxima = maxima[maxima > 0.0]
    if len(maxima) < 10:
        return 1.0
    # Gumbel's distribution by its moments.
    scale = max(float(maxima.std()) * math.sqrt(6.0) / math.pi, 1e-9)
    place = float(maxima.mean()) - 0.5772156649 * scale
    return float(-np.expm1(-search_s * math.exp(-max(best - place, -5.0 * scale) / scale)))


def stretches(start_s: float, end_s: float) -> list[tuple[float, float]]:
    """Return what is looked at of a recording: all of a minute, half of more, spread evenly, at most five minutes."""
    duration_s = end_s - start_s
    looked_at_s = min(duration_s, max(_WHOLE_S, min(0.5 * duration_s, _MAX_S)))
    num = max(1, round(looked_at_s / _STRETCH_S))
    length_s = looked_at_s / num
    starts = np.linspace(start_s, end_s - length_s, num)
    return [(float(first), float(first) + length_s + 1e-6) for first in starts]


@dataclass
class _Clock:
    """IMU time = video time - offset_s - drift (video time - middle of the recording)."""

    offset_s: float
    drift: float
    error_s: float = math.inf
    """Standard error of the offset."""
    drift_error: float = math.inf
    matrix: np.ndarray = field(default_factory=lambda: np.zeros((3, 3)))
    """M."""


class _Fit:
    """The pairs of frames of some stretches, and the gyroscope between the same instants."""

    def __init__(self, track: MotionTrack, rotations: Rotations, spans: list[tuple[float, float]], middle_s: float):
        self.rotations, self.middle_s = rotations, middle_s
        ranges = [np.flatnonzero((track.start_s >= a) & (track.end_s <= b)) for a, b in spans]
        pairs = np.concatenate(ranges)
        self.bounds = np.cumsum([len(pairs) for pairs in ranges])[:-1]
        self.start_s, self.end_s = track.start_s[pairs], track.end_s[pairs]
        self.length_s = self.end_s - self.start_s
        self.steps = SLOW_S / float(np.median(self.length_s))
        self.seen = track.weight[pairs] ** 2
        rate = limited(track.rotation[pairs] / self.length_s[:, None])
        self.rate = self._fast(rate, self.seen)
        parts = zip(self._split(self.rate), self._split(self.seen), strict=True)
        self.weight = self.seen / np.concatenate([noise(rate, seen, 2.0 * self.steps) for rate, seen in parts])
        gyro = self._fast(self._gyro(0.0, 0.0), self._known(0.0, 0.0))
        self.turns = min(_rms(self.rate, self.seen), _rms(gyro, self._known(0.0, 0.0))) > _MIN_TURN

    def refined(self, clock: _Clock, with_drift: bool) -> _Clock:
        """Return the clock after at most 12 Gauss-Newton steps from a first guess."""
        late = self.start_s + 0.5 * self.length_s - self.middle_s
        moves = np.stack([np.ones(len(late)), late], axis=1)[:, : 2 if with_drift else 1]
        offset_s, drift = clock.offset_s, clock.drift
        robust = np.ones(len(late))
        for _ in range(12):
            weight = self.weight * self._known(offset_s, drift) * robust
            x = self._fast(self._gyro(offset_s, drift), self.seen)
            ahead, behind = (self._gyro(offset_s + side, drift) for side in (_STEP_S, -_STEP_S))
            slope = self._fast((ahead - behind) / (2.0 * _STEP_S), self.seen)
            root = np.sqrt(weight)[:, None]
            matrix = np.linalg.lstsq(x * root, self.rate * root, rcond=None)[0].T
            error = self.rate - x @ matrix.T
            variance = np.maximum(weight @ error**2 / max(float(weight.sum()), 1e-9), 1e-12)
            # Columns: the moves of the clock, then the nine of M, whose freedom makes the moves less certain.
            columns = [(slope @ matrix.T)[:, :, None] * moves[:, None, :], np.kron(np.eye(3), x[:, None, :])]
            design = np.concatenate([columns[0], columns[1].reshape(len(x), 3, 9)], axis=2)
            scale = np.sqrt(np.maximum(np.einsum("nak,nak->k", design, design), 1e-30))
            design /= scale
            weighted = design * (weight[:, None] / variance)[:, :, None]
            inverse = np.linalg.pinv(np.einsum("nak,nal->kl", weighted, design), hermitian=True)
            step = inverse @ np.einsum("nak,na->k", weighted, error) / scale
            scores = np.einsum("nak,na->nk", weighted, error)
            cluster = np.unique(np.floor(self.start_s / _CLUSTER_S), return_inverse=True)[1]
            totals = np.zeros((cluster.max() + 1, len(step)))
            np.add.at(totals, cluster, scores)
            errors = np.sqrt(np.maximum(np.diag(inverse @ (totals.T @ totals) @ inverse), 0.0)) / scale
            offset_s += float(np.clip(step[0], -_MAX_STEP_S, _MAX_STEP_S))
            if with_drift:
                drift = float(np.clip(drift + step[1], -2.0 * MAX_DRIFT, 2.0 * MAX_DRIFT))
            squared = (error**2 / variance).sum(axis=1) * self.weight / max(float(np.median(self.weight)), 1e-12)
            robust = 1.0 / (1.0 + squared / _CAUCHY)
            if abs(step[0]) < 1e-5:
                break
        return _Clock(offset_s, drift, float(errors[0]), float(errors[1]) if with_drift else 0.0, matrix)

    def _clock(self, times_s: np.ndarray, offset_s: float, drift: float) -> np.ndarray:
        """Instants of the video on the IMU's clock."""
        return times_s - offset_s - drift * (times_s - self.middle_s)

    def _gyro(self, offset_s: float, drift: float) -> np.ndarray:
        ends, starts = (self.rotations.at(self._clock(times, offset_s, drift)) for times in (self.end_s, self.start_s))
        return (ends - starts) / self.length_s[:, None]

    def _known(self, offset_s: float, drift: float) -> np.ndarray:
        known = [self.rotations.known(self._clock(times, offset_s, drift)) for times in (self.start_s, self.end_s)]
        return (known[0] & known[1]).astype(np.float64)

    def _split(self, values: np.ndarray) -> list[np.ndarray]:
        return np.split(values, self.bounds)

    def _fast(self, values: np.ndarray, weight: np.ndarray) -> np.ndarray:
        parts = zip(self._split(values), self._split(weight), strict=True)
        return np.concatenate([without_slow(part, seen, self.steps) for part, seen in parts])


def _rms(rate: np.ndarray, weight: np.ndarray) -> float:
    """Weighted root mean square of rates [N, 3]."""
    return math.sqrt(float((weight * (rate**2).sum(axis=1)).sum()) / max(float(weight.sum()), 1e-9))
