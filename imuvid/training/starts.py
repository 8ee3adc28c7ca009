"""Starts of a run that came to nothing: a run that crashes whenever it is started again must not be so for ever."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from imuvid.errors import UserError

STARTS_NAME = "starts.json"
MOST_STARTS = 3
"""One after another that made no new checkpoint; the next one is refused."""


class CrashLoop(UserError):
    """A run that was started too often to no end."""


def count_start(folder: Path, checkpoint: str | None) -> None:
    """Count a start that goes on from ``checkpoint`` (name; None for the beginning); for one rank.

    Raises:
        CrashLoop: too many before it went on from the same, and did not end in order.
    """
    path = folder / STARTS_NAME
    try:
        before = json.loads(path.read_text())
        starts = int(before["starts"]) if before["checkpoint"] == checkpoint else 0
    except (OSError, ValueError, KeyError, TypeError):
        starts = 0
    if starts >= MOST_STARTS:
        raise CrashLoop(
            f"{folder}: {starts} starts one after another made no new checkpoint after {checkpoint or 'the beginning'}:"
            f" see in their logs why, then remove {path} to try again"
        )
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"checkpoint": checkpoint, "starts": starts + 1}) + "\n")
    temporary.replace(path)


def forget_starts(folder: Path) -> None:
    """Call where a start ended in order."""
    with contextlib.suppress(OSError):  # a start that counts wrongly is no reason to fail
        (folder / STARTS_NAME).unlink(missing_ok=True)
