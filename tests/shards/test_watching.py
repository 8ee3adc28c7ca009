"""Which frames are looked at for the camera's motion: enough of them, evenly, and few where each costs a decoding."""

from __future__ import annotations

import numpy as np
import pytest

from shards.sync import stretches
from shards.video import VideoInfo
from shards.watching import frames_to_watch


def info(duration_s: float, fps: float, alone: bool) -> VideoInfo:
    return VideoInfo(64, 64, np.arange(round(duration_s * fps)) / fps, 0.0, duration_s, alone)


def test_of_a_minute_all_is_looked_at_and_of_60_frames_a_second_every_third() -> None:
    assert frames_to_watch(info(60.0, 20.0, alone=False)) == list(range(1200))
    assert frames_to_watch(info(50.0, 60.0, alone=False)) == list(range(0, 3000, 3))


@pytest.mark.parametrize(
    ("duration_s", "watched_s"), [(10, 10), (24, 24), (60, 24), (120, 36), (600, 180), (7200, 300)]
)
@pytest.mark.parametrize("fps", [10.0, 20.0, 30.0])
def test_frames_that_stand_alone_are_few(duration_s: float, watched_s: float, fps: float) -> None:
    video = info(duration_s, fps, alone=True)
    watched = frames_to_watch(video)
    assert len(watched) == pytest.approx(5 * watched_s, rel=0.04)
    times_s = video.times_s[watched]
    steps_s = np.diff(times_s)
    # Five a second within a stretch; what lies between two of them is not looked at.
    near = steps_s < 1.0
    assert steps_s[near] == pytest.approx(0.2)
    assert (~near).sum() < len(stretches(0.0, duration_s))
    # The estimate looks only there.
    inside = [(times_s >= first_s) & (times_s <= last_s) for first_s, last_s in stretches(0.0, video.times_s[-1])]
    assert np.any(inside, axis=0).all()
    assert all(part.any() for part in inside)
