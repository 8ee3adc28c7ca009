"""Where the windows of a recording lie, when their frames are due, and how they are labelled. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shards.config import WindowConfig
from shards.sources.base import Segment


@dataclass(frozen=True)
class Window:
    """A stretch of a recording."""

    number: int
    """Counted from 0 within the recording."""
    start_s: float
    covered_s: float
    """How much of it the recording covers, from its start on, seconds."""


def plan_windows(begin_s: float, end_s: float, config: WindowConfig) -> list[Window]:
    """Return the windows of what a recording covers, from ``begin_s`` to ``end_s`` on its clock.

    Windows start at ``begin_s`` and every hop later, as long as at least ``min_share`` of the window is covered.
    """
    hop_s = config.length_s if config.hop_s is None else config.hop_s
    # Half a sample of slack: a clip of exactly one window must not fail by the rounding of its duration.
    needed_s = config.min_share * config.length_s - min(0.5 / config.rate_hz, 0.5 * config.length_s)
    windows: list[Window] = []
    while True:
        start_s = round(begin_s + len(windows) * hop_s, 6)
        covered_s = min(config.length_s, end_s - start_s)
        if covered_s <= 0 or covered_s < needed_s:
            return windows
        windows.append(Window(len(windows), start_s, covered_s))


def grid_times(windows: Sequence[Window], config: WindowConfig) -> np.ndarray:
    """Return float64 [W, T]: the times of the IMU samples of each window, seconds on the recording's clock."""
    steps = np.arange(round(config.length_s * config.rate_hz)) / config.rate_hz
    return np.array([window.start_s for window in windows])[:, None] + steps


def frame_times(windows: Sequence[Window], length_s: float, num_frames: int) -> np.ndarray:
    """Return float64 [W, F]: the centres of F equal parts of each window, seconds on the recording's clock."""
    centres = (np.arange(num_frames) + 0.5) * (length_s / max(num_frames, 1))
    return np.array([window.start_s for window in windows])[:, None] + centres


def pick_frames(wanted_s: np.ndarray, shown_s: np.ndarray, tolerance_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each wanted time, the frame that is shown nearest to it, and whether that is near enough.

    Args:
        wanted_s: any shape, seconds.
        shown_s: [N] presentation times of the frames, increasing, N >= 1, seconds.
        tolerance_s: a frame farther away than this, or than the usual interval between frames, is not taken.

    Returns:
        (int64, bool), both of the shape of ``wanted_s``.
    """
    after = np.clip(np.searchsorted(shown_s, wanted_s), 1, max(len(shown_s) - 1, 1))
    before = after - 1
    after = np.minimum(after, len(shown_s) - 1)
    nearest = np.where(wanted_s - shown_s[before] <= shown_s[after] - wanted_s, before, after)
    if len(shown_s) > 1:
        tolerance_s = max(tolerance_s, float(np.median(np.diff(shown_s))))
    return nearest, np.abs(shown_s[nearest] - wanted_s) <= tolerance_s


def label_of(window: Window, segments: Sequence[Segment], label_share: float) -> str | None:
    """Return the label whose segments cover at least ``label_share`` of the covered part of the window, or None."""
    end_s = window.start_s + window.covered_s
    shares: dict[str, float] = {}
    for segment in segments:
        overlap_s = min(end_s, segment.end_s) - max(window.start_s, segment.start_s)
        shares[segment.label] = shares.get(segment.label, 0.0) + max(overlap_s, 0.0)
    # A microsecond of slack: the ends of segments and windows are rounded to it.
    fitting = [label for label, share_s in shares.items() if share_s >= label_share * window.covered_s - 1e-6]
    return max(fitting, key=lambda label: (shares[label], label), default=None)
