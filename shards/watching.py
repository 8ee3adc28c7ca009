"""Which frames of a video the camera's motion is measured on, while they are decoded for the windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shards.motion import MIN_STEP_S, MotionTrack, MotionTracker
from shards.sync import stretches
from shards.video import GREY_SIDE, Watch
from shards.video_chapters import Chapters, probe, read_frames


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
    watch = motion_watch(tracker, probe(video).times_s if times_s is None else times_s)
    for _ in read_frames(video, [], GREY_SIDE, "crop", num_threads, backend, watch):
        pass
    return tracker.track()


def motion_watch(tracker: MotionTracker, times_s: np.ndarray) -> Watch:
    """Return the watch that shows a tracker the frames that it needs of a video.

    Args:
        tracker: gets them.
        times_s: float64 [N], increasing: when each frame is shown, seconds.
    """

    def take(index: int, picture: np.ndarray) -> None:
        tracker.add(float(times_s[index]), picture)

    return Watch(frames_to_watch(times_s), take)


def frames_to_watch(times_s: np.ndarray) -> list[int]:
    """Return the frames, increasing, that lie in the stretches that are looked at, at most one each MIN_STEP_S."""
    indices: list[int] = []
    for start_s, end_s in stretches(float(times_s[0]), float(times_s[-1])):
        last_s = -np.inf
        for index in range(*np.searchsorted(times_s, [start_s, end_s], side="left").tolist()):
            if times_s[index] - last_s > MIN_STEP_S and (not indices or index > indices[-1]):
                indices.append(index)
                last_s = times_s[index]
    return indices
