"""Starts of a run that came to nothing: a run that crashes whenever it is started again must not be so for ever."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from imuvid.errors import UserError

STARTS_NAME = "starts.json"
MOST_STARTS = 3
"""One after another that made no new checkpoint; the next one is refused."""
START_VARIABLE = "IMUVID_START"
"""In which a job that starts ranks gives this start a name of its own."""


class CrashLoop(UserError):
    """A run that was started too often to no end."""


def count_start(folder: Path, checkpoint: str | None) -> int:
    """Count a start that goes on from ``checkpoint`` (name; None for the beginning); for one rank.

    What a job says in START_VARIABLE is counted once, by a rank, or by the job for ranks that did not get so far.

    Returns:
        How many there were one after another from this checkpoint on, with this one; 0 where this one was counted
        before, and has made a checkpoint since.

    Raises:
        CrashLoop: too many before it went on from the same, and did not end in order.
    """
    path, start = folder / STARTS_NAME, os.environ.get(START_VARIABLE)
    try:
        before = json.loads(path.read_text())
        starts = int(before["starts"]) if before["checkpoint"] == checkpoint else 0
        counted = start is not None and before.get("start") == start
    except (OSError, ValueError, KeyError, TypeError):
        starts, counted = 0, False
    if counted:
        return starts
    if starts >= MOST_STARTS:
        raise CrashLoop(
            f"{folder}: {starts} starts one after another made no new checkpoint after {checkpoint or 'the beginning'}:"
            f" see in their logs why, then remove {path} to try again"
        )
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"checkpoint": checkpoint, "starts": starts + 1, "start": start}) + "\n")
    temporary.replace(path)
    return starts + 1


def forget_starts(folder: Path) -> None:
    """Call where a start ended in order."""
    with contextlib.suppress(OSError):  # a start that counts wrongly is no reason to fail
        (folder / STARTS_NAME).unlink(missing_ok=True)
