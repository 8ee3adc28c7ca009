"""Synchrony of IMU and video: how right the offsets are that are called known, and what it costs.

Simulated recordings, decoded from H.264, whose clocks are set off by up to 2 s and, where they are longer than two
minutes, drift by up to 200 ppm; pairs that do not belong together (another recording, another stretch of the same one,
and, where ``$IMUVID_REALDATA`` has HAPT, the gyroscopes of people who walk or climb stairs against another stretch in
which the same person does the same); the simulated ones once more, by the fewer pictures that a build looks at in Aria
recordings (figures ``alone_...``); real recordings where ``$IMUVID_REALDATA`` has them. What the check costs of a
build is in benchmarks/build_shards.py.

The simulated recordings are not those that the estimator's constants were chosen on; the control had a part in one.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from shards.motion import MotionTrack, MotionTracker
from shards.simulate.files import ensure_recording
from shards.simulate.population import POPULATIONS
from shards.simulate.record import SimulatedConfig
from shards.sources.base import Signal
from shards.sources.gopro import GoProConfig, GoProSource
from shards.sources.simulated import SimulatedSource
from shards.sync import SyncConfig, SyncEstimate, correct, estimate
from shards.video import GREY_SIDE, Watch, probe, read_frames
from shards.watching import ALONE_STEP_S, follow_camera, watched_stretches

CONFIG = SyncConfig()
SEED = 900
VIDEO_SIZE = 144
"""Pixels; they are followed in pictures as small as those of 480p and 1080p are."""
HAND_OFFSETS_S = (-2.0, -1.57, -1.1, -0.63, -0.2, 0.23, 0.71, 1.18, 1.6, 2.0)
BARS = {
    "median_error_ms": 20.0,
    "p95_error_ms": 60.0,
    "known_share": 0.8,
    "swapped_known": 0.0,
    "alone_median_error_ms": 20.0,
    "alone_p95_error_ms": 60.0,
    "alone_known_share": 0.8,
    "alone_swapped_known": 0.0,
    "swapped_pairs": 200.0,
    "control_ms": 15.0,
    "control_shifted_ms": 25.0,
    "stabilised_wrong": 0.0,
}
AT_LEAST = ("known_share", "alone_known_share", "swapped_pairs")


@dataclass
class Followed:
    """A recording after decoding."""

    track: MotionTrack
    gyro: Signal
    duration_s: float

    def stretch(self, start_s: float, length_s: float) -> Followed:
        """The stretch as a recording of its own, its clock at 0 where it starts."""
        pairs = (self.track.start_s >= start_s) & (self.track.end_s <= start_s + length_s)
        inside = (self.gyro.times_s >= start_s) & (self.gyro.times_s <= start_s + length_s)
        times = (self.track.start_s[pairs] - start_s, self.track.end_s[pairs] - start_s)
        track = MotionTrack(*times, self.track.rotation[pairs], self.track.weight[pairs])
        return Followed(track, Signal(self.gyro.times_s[inside] - start_s, self.gyro.values[inside]), length_s)

    def watched(self) -> Followed:
        """What a build decodes of it where each frame is decoded for this alone, as in Aria recordings."""
        spans = watched_stretches(0.0, self.duration_s, alone=True)
        pairs = np.any([(self.track.start_s >= a) & (self.track.end_s <= b) for a, b in spans], axis=0)
        times = self.track.start_s[pairs], self.track.end_s[pairs]
        track = MotionTrack(*times, self.track.rotation[pairs], self.track.weight[pairs])
        return Followed(track, self.gyro, self.duration_s)


def follow(video: Path) -> tuple[MotionTrack, MotionTrack]:
    """Follow the camera through all of a video, by all of its frames and by those of one that stand alone.

    Pieces of it are then recordings of their own.
    """
    times_s = probe(video).times_s
    trackers = MotionTracker(), MotionTracker()
    last_s = -np.inf

    def take(index: int, picture: np.ndarray) -> None:
        nonlocal last_s
        time_s = float(times_s[index])
        trackers[0].add(time_s, picture)
        if time_s - last_s > ALONE_STEP_S:
            trackers[1].add(time_s, picture)
            last_s = time_s

    for _ in read_frames(video, [], GREY_SIDE, "crop", watch=Watch(range(len(times_s)), take)):
        pass
    return trackers[0].track(), trackers[1].track()


def simulated(num_subjects: int, duration_s: float, folder: str) -> tuple[list[Followed], list[Followed]]:
    """Make and follow ``num_subjects`` recordings of each population, in both ways of :func:`follow`."""
    recordings, sparse = [], []
    for population in POPULATIONS:
        config = SimulatedConfig(
            seed=SEED,
            population=population,
            num_subjects=num_subjects,
            duration_s=duration_s,
            video_size=VIDEO_SIZE,
            work_dir=folder,
            positions=["head"],
        )
        source = SimulatedSource(config)
        for index, ref in enumerate(source.list()):
            ensure_recording(config, index)
            recording = source.open(ref)
            assert isinstance(recording.video, Path)
            gyro = recording.streams[0].gyro
            assert gyro is not None
            track, thin = follow(recording.video)
            recordings.append(Followed(track, gyro, duration_s))
            sparse.append(Followed(thin, gyro, duration_s))
    return recordings, sparse


def accuracy(
    recordings: list[Followed], lengths_s: list[float], rng: np.random.Generator, alone: bool = False
) -> dict[str, float]:
    """Set clocks off and estimate; the error is the largest, over the recording, of the corrected times.

    ``alone`` leaves of each what :meth:`Followed.watched` does.
    """
    errors, drift_errors, known, took_s = [], [], [], []
    for whole in recordings:
        for length_s in lengths_s:
            one = whole.stretch(float(rng.uniform(0.0, whole.duration_s - length_s)), length_s)
            one = one.watched() if alone else one
            offset_s, drift = rng.uniform(-2.0, 2.0), rng.uniform(-200e-6, 200e-6) if length_s > 120.0 else 0.0
            stamps = (one.gyro.times_s - offset_s) / (1.0 + drift)
            start = time.perf_counter()
            found = estimate(one.track, Signal(stamps, one.gyro.values), CONFIG)
            took_s.append((time.perf_counter() - start) / length_s)
            known.append(found.verdict == "known")
            if found.verdict == "known":
                errors.append(float(np.abs(correct(stamps, found) - one.gyro.times_s).max()))
            if found.drift_ppm is not None:
                drift_errors.append(abs(found.drift_ppm - 1e6 * drift))
    figures = {
        "recordings": float(len(known)),
        "known_share": float(np.mean(known)),
        "median_error_ms": 1e3 * float(np.median(errors)),
        "p95_error_ms": 1e3 * float(np.percentile(errors, 95)),
        "max_error_ms": 1e3 * float(np.max(errors)),
        "estimate_ms_a_second": 1e3 * float(np.median(took_s)),
    }
    if drift_errors:
        figures["p95_drift_error_ppm"] = float(np.percentile(drift_errors, 95))
        figures["drift_known_of"] = float(len(drift_errors))
    return figures


def swapped(recordings: list[Followed], num: int, rng: np.random.Generator) -> Iterator[tuple[Followed, Followed]]:
    """Yield pairs of another recording's camera and gyroscope, every ordered pair before any comes again."""
    order = [(a, b) for a in range(len(recordings)) for b in range(len(recordings)) if a != b]
    for index in range(num):
        if index % len(order) == 0:
            rng.shuffle(order)
        a, b = (recordings[i] for i in order[index % len(order)])
        length_s = float(rng.choice([12.0, 20.0, 36.0]))
        starts = rng.uniform(0.0, a.duration_s - length_s, 2)
        yield a.stretch(starts[0], length_s), b.stretch(starts[1], length_s)


def other_stretch(
    recordings: list[Followed], num: int, rng: np.random.Generator
) -> Iterator[tuple[Followed, Followed]]:
    """Yield pairs of the camera of one half of a recording and the gyroscope of the other."""
    for index in range(num):
        one = recordings[index % len(recordings)]
        length_s = min(0.45 * one.duration_s, float(rng.choice([15.0, 20.0, 36.0])))
        first, second = rng.uniform(0.0, 0.5 * one.duration_s - length_s, 2)
        halves = one.stretch(first, length_s), one.stretch(0.5 * one.duration_s + second, length_s)
        yield halves if rng.uniform() < 0.5 else halves[::-1]


def walkers(hapt: Path, num: int, rng: np.random.Generator) -> Iterator[tuple[Followed, Followed]]:
    """Yield pairs of two stretches in which the same person walks, or climbs the same stairs, in the same way.

    The camera is made of the gyroscope of the one: in other axes, at another focal length, with errors of 0.02 rad/s
    and 15 %, at 15 frames a second.
    """
    stretches: dict[tuple[int, int], list[np.ndarray]] = {}
    for experiment, user, activity, first, last in np.loadtxt(hapt / "RawData" / "labels.txt", dtype=int):
        if activity in (1, 2, 3) and last - first >= 600:
            readings = np.loadtxt(hapt / "RawData" / f"gyro_exp{experiment:02d}_user{user:02d}.txt")
            stretches.setdefault((user, activity), []).append(readings[first:last])
    several = [found for found in stretches.values() if len(found) > 1]
    for _ in range(num):
        found = several[rng.integers(len(several))]
        seen, other = (found[i] for i in rng.choice(len(found), 2, replace=False))
        times = np.arange(len(seen)) / 50.0
        frames = np.arange(0.0, times[-1], 1.0 / 15.0)
        steps = np.diff([np.interp(frames, times, np.cumsum(axis) / 50.0) for axis in seen.T], axis=1).T
        turned = Rotation.random(random_state=int(rng.integers(2**31))).apply(steps)
        turned *= np.array([1.0, 1.0, 0.0]) * rng.uniform(0.6, 1.6) + np.array([0.0, 0.0, 1.0])
        turned *= 1.0 + 0.15 * rng.standard_normal(turned.shape)
        turned += 0.02 / 15.0 * rng.standard_normal(turned.shape)
        track = MotionTrack(frames[:-1], frames[1:], turned, np.ones(len(turned)))
        yield (
            Followed(track, Signal(times, seen), 0.0),
            Followed(track, Signal(np.arange(len(other)) / 50.0, other), 0.0),
        )


def answers(pairs: Iterator[tuple[Followed, Followed]]) -> list[SyncEstimate]:
    """Estimate for the camera of the first and the gyroscope of the second of each pair."""
    return [estimate(camera.track, other.gyro, CONFIG) for camera, other in pairs]


def real(root: Path) -> dict[str, float]:
    """The unstabilised control, shifted by hand, and the stabilised recordings.

    The control's 4.7 s are used whole for each of the offsets: only the time stamps of the IMU are changed.
    """
    folder = root / "micro_euroc"
    stamps = np.loadtxt(folder / "cam0_timestamps.csv", delimiter=",", usecols=0, dtype=np.int64)
    times = np.loadtxt(folder / "imu0_first_part.csv", delimiter=",", usecols=0, dtype=np.int64)
    values = np.loadtxt(folder / "imu0_first_part.csv", delimiter=",", usecols=(1, 2, 3))
    track = follow_camera(folder / "cam0_20fps.mp4", times_s=1e-9 * (stamps - stamps[0]))
    errors = []
    for shift_s in (0.0, *HAND_OFFSETS_S):
        found = estimate(track, Signal(1e-9 * (times - stamps[0]) - shift_s, values), CONFIG)
        errors.append(float("inf") if found.offset_s is None else 1e3 * abs(found.offset_s - shift_s))
    wrong = 0
    for name in ("max-heromode.mp4", "karma.mp4"):
        source = GoProSource(GoProConfig(paths=[str(root / "gopro_gpmf" / name)]))
        recording = source.open(source.list()[0])
        assert isinstance(recording.video, Path)
        found = estimate(follow_camera(recording.video), recording.streams[0].gyro, CONFIG)
        wrong += found.offset_s is not None and abs(found.offset_s) > 0.025
    return {"control_ms": errors[0], "control_shifted_ms": max(errors[1:]), "stabilised_wrong": float(wrong)}


def measure(quick: bool) -> dict[str, float]:
    """Return every figure."""
    rng = np.random.default_rng(SEED)
    root = Path(os.environ["IMUVID_REALDATA"]) if os.environ.get("IMUVID_REALDATA") else None
    with tempfile.TemporaryDirectory() as folder:
        recordings, sparse = simulated(4, 40.0, folder) if quick else simulated(12, 180.0, folder)
    figures = accuracy(recordings, [20.0, 36.0] if quick else [20.0, 30.0, 60.0, 110.0, 150.0, 180.0], rng)
    found_alone = accuracy(sparse, [36.0] if quick else [30.0, 60.0, 110.0, 150.0, 180.0], rng, alone=True)
    figures |= {f"alone_{name}": value for name, value in found_alone.items()}
    pairs_alone = swapped(sparse, 210 if quick else 1000, rng)
    nulls = {
        "swapped": swapped(recordings, 210 if quick else 4000, rng),
        "alone_swapped": ((camera.watched(), other) for camera, other in pairs_alone),
        "other_stretch": other_stretch(recordings, 32 if quick else 600, rng),
    }
    if root is not None:
        nulls["same_walk"] = walkers(root / "hapt", 40 if quick else 1500, rng)
    for name, pairs in nulls.items():
        found = answers(pairs)
        figures[f"{name}_pairs"] = float(len(found))
        figures[f"{name}_known"] = float(sum(one.verdict == "known" for one in found))
        figures[f"{name}_highest_confidence"] = max(one.confidence for one in found)
    if root is not None:
        figures.update(real(root))
    return figures


def main() -> int:
    """Measure, print one JSON line, return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter recordings, fewer pairs")
    figures = measure(parser.parse_args().quick)
    bars = {}
    for name, bar in BARS.items():
        if name in figures:
            value = figures[name]
            bars[name] = {"value": value, "bar": bar, "holds": value >= bar if name in AT_LEAST else value <= bar}
    print(json.dumps({"benchmark": "sync", "figures": figures, "bars": bars}))
    return 0 if all(bar["holds"] for bar in bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
