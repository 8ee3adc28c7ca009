"""Seconds of recording built into shards per core-second, at 1080p and 480p, synchrony check and read-back included.

Beside it, in the same run on the same files: the physical limit, bare sequential decoding with resize (decord, one
thread), and the way of the paper's released code, which opens the video for every window, seeks, and decodes each
frame of it at native size. Core-seconds are user and system time of all threads of the process, so that other
work on the machine disturbs little; measurements are interleaved and medians of their ratios are what counts.

Of Project Aria recordings, where $IMUVID_REALDATA has one, the share of the synchrony check alone: in a build of three
of 30 s, 60 s and 2 minutes, which are the records of the real one, again and again.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import csv
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import av
import decord
import numpy as np
from PIL import Image

import shards.fragment
import shards.video_pyav
import shards.video_vrs
from benchmarks.aria_recording import write_aria
from imuvid.config import load
from shards.build import build
from shards.config import BuildConfig
from shards.motion import MotionTracker
from shards.video import Frame

FPS, WINDOW_S, SIDE, IMU_HZ = 30, 5.0, 224, 200.0
SIZES = {"1080p": (1920, 1080), "480p": (854, 480)}
SHORT_S = (30.0, 60.0)
ARIA_S = (60.0, 30.0, 120.0)
LIMIT_BAR, PAPER_BAR, SYNC_BAR = 0.75, 3.0, 0.15


def write_recording(folder: Path, size: tuple[int, int], duration_s: float) -> Path:
    """Write a video of a textured world seen by a turning camera, its gyroscope, and their manifest."""
    rng = np.random.default_rng(0)
    width, height = size
    times_s = np.arange(round(duration_s * FPS)) / FPS
    focal = 0.6 * width
    turns = [(0.35, 0.9, 0.0), (0.2, 1.7, 1.0)]  # amplitude rad, rate rad/s, phase

    def angle(t: np.ndarray) -> np.ndarray:
        return np.sum([a * np.sin(w * t + p) for a, w, p in turns], axis=0)

    shifts = np.round(focal * (angle(times_s) - angle(times_s).min())).astype(int)
    coarse = rng.integers(0, 256, (height // 8 + 1, (width + shifts.max()) // 8 + 1, 3)).astype(np.uint8)
    world = coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, : width + shifts.max()]
    world = np.clip(world.astype(np.int16) + rng.integers(-12, 12, world.shape), 0, 255).astype(np.uint8)
    with av.open(str(folder / "video.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "veryfast"}  # a key frame every 250 frames, as is the encoder's default
        for number, shift in enumerate(shifts):
            picture = np.ascontiguousarray(world[:, shift : shift + width])
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    imu_s = np.arange(round(duration_s * IMU_HZ)) / IMU_HZ
    turn = np.sum([a * w * np.cos(w * imu_s + p) for a, w, p in turns], axis=0)
    noise = rng.normal(0, 0.02, (len(imu_s), 6))
    columns = noise + np.stack([np.zeros_like(turn)] * 2 + [np.full_like(turn, 9.81), *[0 * turn, turn, 0 * turn]], 1)
    with (folder / "imu.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time", "acc_x", "acc_y", "acc_z", "gyro_x", "gyro_y", "gyro_z"])
        writer.writerows(np.column_stack([imu_s, columns]).tolist())
    (folder / "recordings.csv").write_text(
        "recording,video,imu,position,camera\nr,video.mp4,imu.csv,head,yes\n", encoding="utf-8"
    )
    return folder


def ours(folder: Path, out: Path) -> None:
    """Build the recording by the product's own path: sync check, gates, JPEG, shards, read-back."""
    words = [f"name={out.name}", f"out={out}", "build.workers=1", "subjects.salt=benchmark"]
    if (folder / "recordings.csv").exists():
        words += ["source.kind=paired", f"source.paired.manifest={folder / 'recordings.csv'}"]
        words += ["source.paired.time_column=time"]
    else:
        words += ["source.kind=aria", f"source.aria.paths=[{folder}]"]
    summary = build(load(BuildConfig, None, words), run_here)
    assert summary.counts["samples"], "the build made no sample"


def limit(folder: Path) -> None:
    """Decode every frame in order, scaled to the same size."""
    width, height = _native(folder)
    scale = SIDE / min(width, height)
    reader = decord.VideoReader(
        str(folder / "video.mp4"), width=round(width * scale), height=round(height * scale), num_threads=1
    )
    for _ in range(len(reader)):
        reader.next().asnumpy()


def paper(folder: Path, duration_s: float) -> None:
    """Open, seek and decode each window's frames at native size, then scale ten, as the loader there does."""
    for number in range(int(duration_s / WINDOW_S)):
        reader = decord.VideoReader(str(folder / "video.mp4"), num_threads=1)
        first = round(number * WINDOW_S * FPS)
        pictures = reader.get_batch(range(first, first + round(WINDOW_S * FPS))).asnumpy()
        for picture in pictures[:: len(pictures) // 10]:
            Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def _native(folder: Path) -> tuple[int, int]:
    with av.open(str(folder / "video.mp4")) as container:
        stream = container.streams.video[0]
        return stream.width, stream.height


def run_here(function: Callable[..., Any], jobs: Sequence[tuple], workers: int, timeout_s: float = 0.0) -> Iterator:
    """Run the jobs of a build in this process, so that its core-seconds are all that they take."""
    for number, job in enumerate(jobs):
        yield number, function(*job)


def core_seconds(function: Callable[..., None], *arguments: object) -> float:
    """Return the user and system time that a call takes over all threads, seconds."""
    before = time.process_time()
    function(*arguments)
    return time.process_time() - before


def measure(duration_s: float, repeats: int) -> dict[str, float]:
    """Return seconds of recording per core-second of each way and size, and the ratios of ours to them."""
    figures: dict[str, float] = {}
    for name, size in SIZES.items():
        with tempfile.TemporaryDirectory() as temporary:
            folder = write_recording(Path(temporary), size, duration_s)
            limit(folder)  # into the page cache
            seconds: dict[str, list[float]] = {"ours": [], "limit": [], "paper": []}
            for repeat in range(repeats):
                seconds["limit"].append(core_seconds(limit, folder))
                seconds["ours"].append(core_seconds(ours, folder, folder / f"out{repeat}"))
                seconds["paper"].append(core_seconds(paper, folder, duration_s))
            share = sync_share(folder, repeats)
        for way, spent in seconds.items():
            figures[f"{way}_{name}"] = duration_s / float(np.median(spent))
        for way in ("limit", "paper"):
            ratios = np.array(seconds[way]) / np.array(seconds["ours"])
            figures[f"ours_over_{way}_{name}"] = float(np.median(ratios))
        figures[f"sync_share_{name}"] = share
    return figures


def sync_share(folder: Path, repeats: int) -> float:
    """Return the median share of the check of synchrony in the core-seconds of a build."""
    shares = []
    for repeat in range(repeats):
        with counted() as spent:
            whole = core_seconds(ours, folder, folder / f"counted{repeat}")
        shares.append(sum(spent) / whole)
    return float(np.median(shares))


@contextmanager
def counted() -> Iterator[list[float]]:
    """Collect the core-seconds of each call of the check: brightness, following the camera, estimate."""
    spent: list[float] = []

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            before = time.thread_time()
            result = function(*arguments)
            spent.append(time.thread_time() - before)
            return result

        return call

    def frame(rgb: Callable[[], np.ndarray], grey: Callable[[], np.ndarray]) -> Frame:
        return Frame(rgb, timed(grey))

    with (
        mock.patch.object(shards.video_pyav, "Frame", frame),
        mock.patch.object(shards.video_vrs, "Frame", frame),
        mock.patch.object(MotionTracker, "add", timed(MotionTracker.add)),
        mock.patch.object(MotionTracker, "track", timed(MotionTracker.track)),
        mock.patch.object(shards.fragment, "estimate", timed(shards.fragment.estimate)),
    ):
        yield spent


def short_shares(durations_s: Sequence[float], repeats: int) -> dict[str, float]:
    """Return the share of the check of synchrony in the builds of short recordings of each size."""
    figures: dict[str, float] = {}
    for name, size in SIZES.items():
        for duration_s in durations_s:
            with tempfile.TemporaryDirectory() as temporary:
                folder = write_recording(Path(temporary), size, duration_s)
                ours(folder, folder / "first")  # into the page cache, and once the modules
                figures[f"sync_share_{name}_{duration_s:.0f}s"] = sync_share(folder, repeats)
    return figures


def aria_shares(durations_s: Sequence[float], repeats: int) -> dict[str, float]:
    """Return the share of the check of synchrony in the builds of Aria recordings: of each length, and of all at once.

    Nothing, and a line that says so, where the recording that they are made of is not there.
    """
    source = Path(os.environ.get("IMUVID_REALDATA", "")) / "aria_vrs" / "aea_recording.vrs"
    if not source.is_file():
        print("no Aria recording: $IMUVID_REALDATA/aria_vrs/aea_recording.vrs is not there", file=sys.stderr)
        return {}
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        together = Path(temporary) / "together"
        together.mkdir()
        for duration_s in durations_s:
            folder = Path(temporary) / f"{duration_s:.0f}s"
            folder.mkdir()
            write_aria(source, folder / f"{duration_s:.0f}s.vrs", duration_s)
            (together / f"{duration_s:.0f}s.vrs").hardlink_to(folder / f"{duration_s:.0f}s.vrs")
            ours(folder, folder / "first")
            figures[f"share_aria_{duration_s:.0f}s"] = sync_share(folder, repeats)
        figures["sync_share_aria"] = sync_share(together, repeats)
    return figures


def main() -> int:
    """Measure, print one JSON line, return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a shorter recording, fewer repeats")
    quick = parser.parse_args().quick
    figures = measure(20.0, 1) if quick else measure(120.0, 3)
    if not quick:
        figures |= short_shares(SHORT_S, 5)
    figures |= aria_shares(ARIA_S[:1] if quick else ARIA_S, 1 if quick else 3)
    bars = {}
    for name in SIZES:
        for way, bar in (("limit", LIMIT_BAR), ("paper", PAPER_BAR)):
            value = figures[f"ours_over_{way}_{name}"]
            bars[f"ours_over_{way}_{name}"] = {"value": value, "bar": bar, "holds": value >= bar}
    for key, share in figures.items():
        if key.startswith("sync_share"):
            bars[key] = {"value": share, "bar": SYNC_BAR, "holds": share <= SYNC_BAR}
    print(json.dumps({"benchmark": "build_shards", "figures": figures, "bars": bars}))
    return 0 if all(bar["holds"] for bar in bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
