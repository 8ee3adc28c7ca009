"""Windows, frame times and labels, as pure functions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.config import WindowConfig
from shards.sources.base import Segment
from shards.windows import Window, frame_times, grid_times, label_of, pick_frames, plan_windows


def starts(begin_s, end_s, **fields):
    return [window.start_s for window in plan_windows(begin_s, end_s, WindowConfig(**fields))]


def test_windows_follow_each_other_and_the_tail_is_kept_if_enough_of_it_is_covered():
    assert starts(0, 17.6) == [0, 5, 10, 15]
    assert starts(0, 17.4) == [0, 5, 10]
    assert plan_windows(0, 17.6, WindowConfig())[-1].covered_s == pytest.approx(2.6)


def test_overlap_and_start():
    assert starts(0.25, 3.3, length_s=2, hop_s=0.5, min_share=1.0) == [0.25, 0.75, 1.25]


def test_clip_of_exactly_one_window_survives_rounding():
    assert starts(0, 2 - 1e-5, length_s=2, min_share=1.0) == [0]
    assert starts(0, 1.98, length_s=2, min_share=1.0) == []


@given(
    begin_s=st.floats(0, 100),
    seconds=st.floats(0, 60),
    length_s=st.floats(0.5, 10),
    hop_share=st.floats(0.1, 2),
    min_share=st.floats(0.05, 1),
)
def test_every_window_is_covered_as_much_as_asked(begin_s, seconds, length_s, hop_share, min_share):
    config = WindowConfig(length_s=length_s, hop_s=hop_share * length_s, min_share=min_share)
    windows = plan_windows(begin_s, begin_s + seconds, config)
    for number, window in enumerate(windows):
        assert window.number == number
        assert window.start_s == pytest.approx(begin_s + number * hop_share * length_s, abs=1e-6)
        assert window.covered_s <= length_s
        assert window.covered_s >= min_share * length_s - 0.5 / config.rate_hz - 1e-9
    if seconds >= length_s:
        assert windows


def test_grids_are_those_of_the_format():
    windows = [Window(0, 1.0, 5.0), Window(1, 6.0, 5.0)]
    grid_s = grid_times(windows, WindowConfig())
    assert grid_s.shape == (2, 250)
    assert grid_s[1, :3] == pytest.approx([6.0, 6.02, 6.04])
    assert frame_times(windows, 5.0, 10)[0, [0, 9]] == pytest.approx([1.25, 5.75])


def test_nearest_shown_frame_is_taken_by_time_not_by_index():
    shown_s = np.array([0.0, 0.1, 0.2, 1.0, 1.1, 1.2])  # frames were dropped in between
    indices, near = pick_frames(np.array([[0.04, 0.16, 0.6], [0.97, 1.16, 1.5]]), shown_s, 0.15)
    assert indices[near].tolist() == [0, 2, 3, 5]
    assert near.tolist() == [[True, True, False], [True, True, False]]


def test_slow_video_gives_each_frame_as_long_as_it_is_shown():
    indices, near = pick_frames(np.array([0.2, 0.9, 1.4, 3.8]), np.array([0.0, 1.0, 2.0]), 0.1)
    assert indices.tolist() == [0, 1, 1, 2]
    assert near.tolist() == [True, True, True, False]


def test_single_frame_video():
    indices, near = pick_frames(np.array([0.05, 4.0]), np.array([0.0]), 0.1)
    assert indices.tolist() == [0, 0]
    assert near.tolist() == [True, False]


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        ([(0, 10, "walk")], "walk"),
        ([(0, 4.4, "walk"), (4.4, 9, "sit")], None),
        ([(0, 4.6, "walk"), (4.6, 9, "sit")], "walk"),
        ([(0, 2, "walk"), (2, 3, "walk"), (3, 9, "walk")], "walk"),
        ([(6, 9, "walk")], None),
        ([], None),
    ],
)
def test_label_of_a_window_of_5_s(segments, expected):
    assert label_of(Window(0, 0.0, 5.0), [Segment(*segment) for segment in segments], 0.9) == expected


def test_label_counts_only_the_covered_part():
    assert label_of(Window(0, 0.0, 2.0), [Segment(0, 1.9, "fall")], 0.9) == "fall"
