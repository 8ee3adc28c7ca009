"""Labelled stretches of a recording: a CSV file with the columns start_s, end_s and label."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import numpy as np

from shards.places import names_of_places
from shards.sources.base import RecordingError, Segment


def read_segments(path: Path, duration_s: float) -> list[Segment]:
    """Return the labelled stretches in order; further columns of the file are ignored.

    Args:
        path: CSV file; times in seconds after the first video frame.
        duration_s: length of the recording, seconds.

    Raises:
        RecordingError: ``missing``, ``empty``, ``unreadable``, or ``bad_segments``: a line is no stretch, two overlap,
            or all begin after the end of the recording.
    """
    segments = []
    for number, line in _lines(path):
        try:
            start_s, end_s = float(line["start_s"]), float(line["end_s"])
        except ValueError as error:
            raise RecordingError("bad_segments", f"{path}: line {number}: {error}") from error
        label = line["label"].strip()
        if not (np.isfinite([start_s, end_s]).all() and start_s < end_s and label):
            raise RecordingError(
                "bad_segments", f"{path}: line {number}: from {start_s:g} to {end_s:g} s, label '{label}' is no segment"
            )
        for place in names_of_places({"label": label}):
            raise RecordingError("bad_segments", f"{path}: line {number}: {place}")
        segments.append(Segment(start_s, end_s, label))
    segments.sort(key=lambda segment: segment.start_s)
    for before, after in itertools.pairwise(segments):
        if after.start_s < before.end_s:
            raise RecordingError(
                "bad_segments",
                f"{path}: '{before.label}' and '{after.label}' overlap from {after.start_s:g} s: make them disjoint",
            )
    if segments[0].start_s >= duration_s:
        raise RecordingError(
            "bad_segments",
            f"{path}: begins at {segments[0].start_s:g} s, after the end of the recording at {duration_s:.1f} s: "
            "write seconds after the first video frame",
        )
    return segments


def _lines(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Return (line number, cells) of each line, at least one."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(enumerate(csv.DictReader(file, strict=True), start=2))
    except FileNotFoundError as error:
        raise RecordingError("missing", f"{path}: there is no such segments file") from error
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise RecordingError("unreadable", f"{path}: cannot be read as CSV: {error}") from error
    if not lines:
        raise RecordingError("empty", f"{path}: lists no segment")
    for number, line in lines:
        if any(line.get(name) is None for name in ("start_s", "end_s", "label")):
            raise RecordingError("bad_segments", f"{path}: line {number} has not all of start_s,end_s,label")
    return lines
