from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import cumulative_trapezoid
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation

from imuvid.errors import UserError
from shards.agreement import GRID_S, Rotations, largest_trace, sums
from shards.motion import MotionTrack
from shards.simulate.record import SimulatedConfig
from shards.sources.base import Signal
from shards.sources.gopro import GoProConfig, GoProSource
from shards.sources.simulated import SimulatedSource
from shards.sync import VERDICTS, SyncConfig, SyncEstimate, check_sync, correct, estimate
from shards.watching import follow_camera
from tests.soak import times

CONFIG = SyncConfig()
EMPTY = MotionTrack(np.zeros(0), np.zeros(0), np.zeros((0, 3)), np.zeros(0))


def moving(duration_s: float, seed: int, rate_hz: float = 100.0) -> Signal:
    """A gyroscope on someone who looks about: noise up to 2 Hz, livelier at some times than at others."""
    rng = np.random.default_rng([seed, 7])
    clock = np.arange(-5.0, duration_s + 5.0, 1.0 / rate_hz)
    rates = gaussian_filter1d(rng.standard_normal((len(clock), 3)), 0.08 * rate_hz, axis=0)
    lively = np.exp(gaussian_filter1d(rng.standard_normal(len(clock)), 2.0 * rate_hz) * 15.0)
    return Signal(clock, 0.5 * rates / rates.std() * lively[:, None])


def walking(duration_s: float, seed: int, cadence_hz: float = 1.0) -> Signal:
    """A gyroscope on the head of someone who walks evenly: harmonics of the stride, a little noise."""
    rng = np.random.default_rng([seed, 8])
    clock = np.arange(-5.0, duration_s + 5.0, 0.01)
    phases = 2.0 * np.pi * (cadence_hz * clock[:, None] * np.arange(1, 5) + rng.uniform(size=4))
    rates = np.cos(phases) @ rng.normal(0.0, [[0.3], [0.5], [0.15], [0.1]], (4, 3))
    noise = gaussian_filter1d(rng.standard_normal((len(clock), 3)), 8.0, axis=0)
    return Signal(clock, rates + 0.1 * noise / noise.std())


def seen(
    gyro: Signal,
    duration_s: float,
    axes: Rotation | None = None,
    gains: tuple[float, float, float] = (1.3, 1.3, 1.0),
    error: float = 0.03,
    fps: float = 15.0,
) -> MotionTrack:
    """What a camera that is fixed to a gyroscope sees, with errors of ``error`` rad/s and a tenth."""
    rng = np.random.default_rng(5)
    frames = np.arange(0.0, duration_s + 1e-9, 1.0 / fps)
    angles = cumulative_trapezoid(gyro.values, gyro.times_s, axis=0, initial=0.0)
    steps = np.diff([np.interp(frames, gyro.times_s, angles[:, axis]) for axis in range(3)], axis=1).T
    steps = (axes or Rotation.from_rotvec([0.3, 2.0, -1.0])).apply(steps) * gains
    steps = steps * (1.0 + 0.1 * rng.standard_normal(steps.shape)) + error / fps * rng.standard_normal(steps.shape)
    return MotionTrack(frames[:-1], frames[1:], steps, np.ones(len(steps)))


def shifted(gyro: Signal, offset_s: float, drift: float = 0.0) -> Signal:
    """The gyroscope with a clock that lacks ``offset_s`` at 0 and ``drift`` a second more from then on."""
    return Signal((gyro.times_s - offset_s) / (1.0 + drift), gyro.values)


@pytest.mark.parametrize("offset_s", [-2.0, -0.777, 0.0, 0.013, 2.5])
def test_offset_is_found(offset_s: float) -> None:
    gyro = moving(20.0, 1)
    found = estimate(seen(gyro, 20.0), shifted(gyro, offset_s), CONFIG)
    assert found.verdict == "known"
    assert found.offset_s == pytest.approx(offset_s, abs=0.01)
    assert found.drift_ppm is None
    assert found.confidence > 0.999
    np.testing.assert_allclose(correct(shifted(gyro, offset_s).times_s, found), gyro.times_s, atol=0.01)


@pytest.mark.parametrize(
    ("duration_s", "drift"), [(130.0, -200e-6), (180.0, 200e-6), pytest.param(4000.0, 280e-6, marks=pytest.mark.slow)]
)
def test_drift_is_found(duration_s: float, drift: float) -> None:
    gyro = moving(duration_s, 2, rate_hz=50.0)
    stamps = shifted(gyro, -1.2, drift)
    found = estimate(seen(gyro, duration_s), stamps, CONFIG)
    assert found.verdict == "known"
    assert found.drift_ppm == pytest.approx(1e6 * drift, abs=25.0)
    assert found.offset_s == pytest.approx(-1.2, abs=0.01)
    np.testing.assert_allclose(correct(stamps.times_s, found), gyro.times_s, atol=0.02)


@pytest.mark.parametrize("seed", range(6))
def test_axes_and_focal_length_do_not_matter(seed: int) -> None:
    gyro = moving(20.0, 3)
    rng = np.random.default_rng(seed)
    focal = float(np.exp(rng.uniform(np.log(0.5), np.log(2.0))))
    track = seen(gyro, 20.0, Rotation.random(random_state=seed), (focal, focal, 1.0))
    assert estimate(track, shifted(gyro, 0.4), CONFIG).offset_s == pytest.approx(0.4, abs=0.01)


def test_what_belongs_together_by_nothing_is_not_known() -> None:
    num = times(40, 1000)
    signals = [moving(20.0, 100 + seed) for seed in range(10)]
    tracks = [seen(gyro, 20.0) for gyro in signals]
    rng = np.random.default_rng(0)
    for _ in range(num):
        a, b = rng.choice(10, 2, replace=False)
        found = estimate(tracks[a], shifted(signals[b], float(rng.uniform(-20.0, 20.0))), CONFIG)
        assert found.verdict in ("no_agreement", "too_short"), found
        assert found.offset_s is None


def test_one_cadence_is_no_agreement() -> None:
    for seed in range(times(20, 500)):
        track = seen(walking(20.0, seed), 20.0)
        assert estimate(track, walking(20.0, seed + 1000), CONFIG).verdict != "known"


def test_an_even_walk_is_not_off_by_a_stride() -> None:
    for seed in range(10):
        gyro = walking(20.0, seed)
        found = estimate(seen(gyro, 20.0), shifted(gyro, 0.6), CONFIG)
        assert found.offset_s is None or found.offset_s == pytest.approx(0.6, abs=0.03)


def test_an_offset_beyond_the_search_range_is_not_known() -> None:
    gyro = moving(30.0, 4)
    track = seen(gyro, 30.0)
    assert estimate(track, shifted(gyro, 4.5), CONFIG).verdict != "known"
    wide = estimate(track, shifted(gyro, 4.5), SyncConfig(max_offset_s=6.0))
    assert wide.offset_s == pytest.approx(4.5, abs=0.01)


@pytest.mark.parametrize(
    ("gains", "what"),
    [((0.2, 0.2, 0.15), "stabilised"), ((1.3, 1.3, -1.0), "mirrored"), ((1.3, 0.1, 1.0), "one axis held by a gimbal")],
)
def test_what_is_no_turn_of_the_camera_is_not_known(gains: tuple[float, float, float], what: str) -> None:
    gyro = moving(30.0, 5)
    found = estimate(seen(gyro, 30.0, gains=gains, error=0.005), gyro, CONFIG)
    assert found.verdict in ("stabilised", "no_agreement"), what
    assert found.offset_s is None


def test_degrees_a_second_are_not_believed() -> None:
    gyro = moving(30.0, 5)
    assert estimate(seen(gyro, 30.0), Signal(gyro.times_s, np.degrees(gyro.values)), CONFIG).verdict != "known"


def test_missing_readings_and_gaps_cost_little() -> None:
    gyro = shifted(moving(30.0, 6), 0.5)
    rng = np.random.default_rng(0)
    gyro.values[rng.choice(len(gyro.values), 200, replace=False)] = np.nan
    gyro.values[1500:1800, 1] = np.nan
    keep = np.ones(len(gyro.times_s), bool)
    keep[2200:2450] = False
    found = estimate(seen(moving(30.0, 6), 30.0), Signal(gyro.times_s[keep], gyro.values[keep]), CONFIG)
    assert found.offset_s == pytest.approx(0.5, abs=0.015)


def test_bad_frames_cost_little() -> None:
    gyro = moving(30.0, 70)
    track = seen(gyro, 30.0)
    rng = np.random.default_rng(0)
    track.rotation[rng.choice(450, 40, replace=False)] = rng.normal(0.0, 0.3, (40, 3))
    track.weight[200:240] = 0.0
    track.rotation[200:240] = -0.7
    assert estimate(track, shifted(gyro, 0.5), CONFIG).offset_s == pytest.approx(0.5, abs=0.002)


def test_frames_at_a_variable_rate() -> None:
    gyro = moving(30.0, 8)
    track = seen(gyro, 30.0, fps=60.0)
    keep = np.sort(np.random.default_rng(1).choice(1801, 500, replace=False))
    angles = np.concatenate([np.zeros((1, 3)), np.cumsum(track.rotation, axis=0)])[keep]
    frames = np.append(track.start_s, track.end_s[-1])[keep]
    thin = MotionTrack(frames[:-1], frames[1:], np.diff(angles, axis=0), np.ones(499))
    assert estimate(thin, shifted(gyro, -0.9), CONFIG).offset_s == pytest.approx(-0.9, abs=0.015)


def bad_signals() -> dict[str, tuple[Signal | None, set[str]]]:
    good = moving(20.0, 9)
    t, v = good.times_s, good.values
    swapped = t.copy()
    swapped[[100, 101]] = swapped[[101, 100]]
    return {
        "none": (None, {"no_gyro"}),
        "empty": (Signal(np.zeros(0), np.zeros((0, 3))), {"no_gyro"}),
        "one": (Signal(t[:1], v[:1]), {"no_gyro"}),
        "all missing": (Signal(t, np.full_like(v, np.nan)), {"no_gyro"}),
        "infinite": (Signal(t, np.full_like(v, np.inf)), {"no_gyro"}),
        "huge": (Signal(t, 1e300 * v), {"no_gyro"}),
        "no times": (Signal(np.full_like(t, np.nan), v), {"no_gyro"}),
        "unordered": (Signal(swapped, v), {"bad_clock"}),
        "repeated": (Signal(np.repeat(t[::2], 2)[: len(v)], v), {"bad_clock"}),
        "slow": (Signal(t[::20], v[::20]), {"slow_gyro"}),
        "elsewhere": (Signal(t + 1e6, v), {"too_short"}),
        "short": (Signal(t[500:620], v[500:620]), {"too_short", "no_agreement"}),
        "still": (Signal(t, np.zeros_like(v)), {"no_motion"}),
        "stuck": (Signal(t, np.full_like(v, 0.3)), {"no_motion"}),
    }


@pytest.mark.parametrize("name", bad_signals())
def test_bad_gyroscopes_are_named(name: str) -> None:
    signal, verdicts = bad_signals()[name]
    found = estimate(seen(moving(20.0, 9), 20.0), signal, CONFIG)
    assert found.verdict in verdicts
    assert found.verdict in VERDICTS
    assert found.offset_s is None
    np.testing.assert_array_equal(correct(np.arange(3.0), found), np.arange(3.0))


def test_bad_tracks_are_named() -> None:
    gyro = moving(20.0, 9)
    track = seen(gyro, 20.0)
    blind = MotionTrack(track.start_s, track.end_s, track.rotation, np.zeros(len(track.weight)))
    still = MotionTrack(track.start_s, track.end_s, np.zeros_like(track.rotation), track.weight)
    short = MotionTrack(track.start_s[:30], track.end_s[:30], track.rotation[:30], track.weight[:30])
    assert estimate(EMPTY, gyro, CONFIG).verdict == "no_video"
    assert estimate(blind, gyro, CONFIG).verdict == "no_video"
    assert estimate(short, gyro, CONFIG).verdict == "too_short"
    assert estimate(still, gyro, CONFIG).verdict == "no_motion"


def test_a_gyroscope_of_part_of_the_video_is_enough() -> None:
    gyro = shifted(moving(60.0, 10), 0.3)
    part = Signal(gyro.times_s[2000:4500], gyro.values[2000:4500])
    assert estimate(seen(moving(60.0, 10), 60.0), part, CONFIG).offset_s == pytest.approx(0.3, abs=0.01)


def test_hours_of_frozen_video_are_no_trouble() -> None:
    gyro = moving(30.0, 12)
    track = seen(gyro, 30.0)
    late = MotionTrack(track.start_s.copy(), track.end_s.copy(), track.rotation, track.weight)
    late.start_s[200:] += 1e6
    late.end_s[200:] += 1e6
    late.end_s[199] = late.start_s[200]
    assert estimate(late, gyro, CONFIG).verdict in VERDICTS


@pytest.mark.parametrize(
    "config", [SyncConfig(policy="fix"), SyncConfig(max_offset_s=0.0), SyncConfig(min_confidence=float("nan"))]
)
def test_what_makes_no_sense_is_refused(config: SyncConfig) -> None:
    with pytest.raises(UserError, match=r"^sync\.\w+="):
        check_sync(config)


def test_correction_adds_offset_and_drift() -> None:
    known = SyncEstimate("known", offset_s=0.5, drift_ppm=100.0, confidence=1.0)
    np.testing.assert_allclose(correct(np.array([0.0, 1000.0]), known), [0.5, 1000.6])


def test_largest_trace_is_that_of_the_best_rotation() -> None:
    rng = np.random.default_rng(0)
    matrices = rng.standard_normal((200, 3, 3)) * 10.0 ** rng.uniform(-4.0, 4.0, (200, 1, 1))
    matrices[:20, :, 2] = 0.0  # of rank 2
    for matrix, found in zip(matrices, largest_trace(matrices), strict=True):
        best, _ = Rotation.align_vectors(matrix, np.eye(3))
        values = np.linalg.svd(matrix, compute_uv=False)
        expected = values[0] + values[1] + np.sign(np.linalg.det(matrix)) * values[2]
        assert found == pytest.approx(expected, rel=1e-3)
        assert found >= np.trace(best.as_matrix() @ matrix) * (1.0 - 1e-9)


def test_sums_are_those_of_the_definition() -> None:
    gyro = moving(6.0, 11)
    track = seen(gyro, 6.0)
    found = sums(track, Rotations.of(gyro.times_s, gyro.values), 0.0, 6.0, 20)
    # Both are known at all of the 180 steps, whatever the shift; nothing is where the shifts are the other way round.
    np.testing.assert_allclose(found.seconds[0], 180 * GRID_S, rtol=1e-6)
    moved = sums(track, Rotations.of(gyro.times_s + 10 * GRID_S, gyro.values), 0.0, 6.0, 20)
    for name in ("cross", "camera", "gyro"):
        there, here = getattr(moved, name)[0], getattr(found, name)[0]
        np.testing.assert_allclose(there[:25], here[10:35], rtol=0.02, atol=0.02 * np.abs(here).max())


@pytest.mark.slow
def test_simulated_recordings(tmp_path: Path) -> None:
    signals, tracks = [], []
    for population in ("healthy", "parkinson"):
        config = SimulatedConfig(
            seed=5, population=population, num_subjects=1, duration_s=36.0, work_dir=str(tmp_path), positions=["head"]
        )
        source = SimulatedSource(config)
        for ref in source.list():
            recording = source.open(ref)
            tracks.append(follow_camera(recording.video))
            signals.append(recording.streams[0].gyro)
    for number, (track, gyro) in enumerate(zip(tracks, signals, strict=True)):
        offset_s = -1.9 + 1.23 * number
        found = estimate(track, shifted(gyro, offset_s), CONFIG)
        assert found.verdict == "known"
        assert found.offset_s == pytest.approx(offset_s, abs=0.04)
        for other in signals:
            assert other is gyro or estimate(track, other, CONFIG).verdict != "known"


def test_real_control(realdata: Path) -> None:
    folder = realdata / "micro_euroc"
    frames = np.loadtxt(folder / "cam0_timestamps.csv", delimiter=",", usecols=0, dtype=np.int64)
    stamps = np.loadtxt(folder / "imu0_first_part.csv", delimiter=",", usecols=0, dtype=np.int64)
    values = np.loadtxt(folder / "imu0_first_part.csv", delimiter=",", usecols=(1, 2, 3))
    track = follow_camera(folder / "cam0_20fps.mp4", times_s=1e-9 * (frames - frames[0]))
    gyro = Signal(1e-9 * (stamps - frames[0]), values)
    assert estimate(track, gyro, CONFIG).offset_s == pytest.approx(0.0, abs=0.015)
    for offset_s in (-2.0, -1.57, -1.1, -0.63, -0.2, 0.23, 0.71, 1.18, 1.6, 2.0):
        assert estimate(track, shifted(gyro, offset_s), CONFIG).offset_s == pytest.approx(offset_s, abs=0.025)
    backwards = Signal(gyro.times_s, values[::-1])
    assert estimate(track, backwards, CONFIG).verdict != "known"


@pytest.mark.parametrize("name", ["max-heromode.mp4", "karma.mp4"])
def test_real_stabilised(realdata: Path, name: str) -> None:
    source = GoProSource(GoProConfig(paths=[str(realdata / "gopro_gpmf" / name)]))
    recording = source.open(source.list()[0])
    found = estimate(follow_camera(recording.video), recording.streams[0].gyro, CONFIG)
    assert found.verdict in ("stabilised", "no_agreement")
