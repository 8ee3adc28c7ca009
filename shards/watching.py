"""Which frames of a video the camera's motion is measured on, while they are decoded for the windows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from shards.motion import MIN_STEP_S, MotionTrack, MotionTracker
from shards.sync import stretches
from shards.video import GREY_SIDE, VideoInfo, Watch
from shards.video_chapters import Chapters, probe, read_frames

ALONE_STEP_S = 0.19
"""As MIN_STEP_S, where a frame that is watched is decoded for that alone: of 20 a second, every fourth."""
ALONE_S, ALONE_SHARE = 24.0, 0.3
"""How much of a video is then decoded: this many seconds, or this share of it where that is more."""


def follow_camera(
    video: Path | Chapters, backend: str = "pyav", num_threads: int = 1, times_s: np.ndarray | None = None
) -> MotionTrack:
    """Decode a video for the motion of its camera alone.

    Args:
        video: one file, or the chapters of a recording.
        backend: decoder, pyav or decord.
        num_threads: of the decoder.
        times_s: float64 [N], when each frame was taken, seconds; None = when it is shown.

    Raises:
        RecordingError: the video cannot be decoded.
    """
    tracker = MotionTracker()
    info = probe(video)
    watch = motion_watch(tracker, info if times_s is None else dataclasses.replace(info, times_s=times_s))
    for _ in read_frames(video, [], GREY_SIDE, "crop", num_threads, backend, watch):
        pass
    return tracker.track()


def motion_watch(tracker: MotionTracker, info: VideoInfo) -> Watch:
    """Return the watch that shows a tracker the frames that it needs of a video."""

    def take(index: int, picture: np.ndarray) -> None:
        tracker.add(float(info.times_s[index]), picture)

    return Watch(frames_to_watch(info), take)


def frames_to_watch(info: VideoInfo) -> list[int]:
    """Return the frames, increasing, that lie in the stretches that are looked at, at most one each MIN_STEP_S.

    Where each frame stands alone, at most one each ALONE_STEP_S.
    """
    times_s, step_s = info.times_s, ALONE_STEP_S if info.alone else MIN_STEP_S
    indices: list[int] = []
    for start_s, end_s in watched_stretches(float(times_s[0]), float(times_s[-1]), info.alone):
        last_s = -np.inf
        for index in range(*np.searchsorted(times_s, [start_s, end_s], side="left").tolist()):
            if times_s[index] - last_s > step_s and (not indices or index > indices[-1]):
                indices.append(index)
                last_s = times_s[index]
    return indices


def watched_stretches(start_s: float, end_s: float, alone: bool) -> list[tuple[float, float]]:
    """Return the stretches of a video that are decoded for the camera's motion: of those of :func:`shards.sync.
    stretches` all, or where each frame stands alone, the middle of each, so that ALONE_SHARE of the video is decoded,
    and at least ALONE_S."""
    whole = stretches(start_s, end_s)
    if not alone:
        return whole
    part_s = max(ALONE_S, ALONE_SHARE * (end_s - start_s)) / len(whole)
    margins_s = [max(0.5 * (last_s - first_s - part_s), 0.0) for first_s, last_s in whole]
    return [(first_s + m, last_s - m) for (first_s, last_s), m in zip(whole, margins_s, strict=True)]
