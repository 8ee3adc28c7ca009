"""Files for sources that look for them, and what the sources make of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shards.sources.base import Recording, RecordingError, Source


def touch(path: Path) -> Path:
    """Make an empty file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def names_of(source: Callable[[list[str]], Source], *paths: Path | str) -> list[str]:
    """Return the names of the recordings that a source of these paths lists."""
    return [ref.name for ref in source([str(path) for path in paths]).list()]


def refused(read: Callable[[Path], Recording], path: Path) -> RecordingError:
    """Return the error of a file that is refused: one line that names the file."""
    with pytest.raises(RecordingError) as caught:
        read(path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value
