"""Texts that name a place on a disk: they may tell who was recorded, and have no place in a dataset."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# An absolute path, one from a home folder, one on a Windows drive, or one with a parent's name.
_PLACE = re.compile(r"(~?/|[A-Za-z]:\\)\S|(.*[/\\])?\.\.([/\\]|$)")


def names_of_places(value: Any, at: str = "") -> Iterator[str]:
    """Yield one line for each text within a value of JSON that names a place on a disk."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from names_of_places(item, f"{at}.{key}" if at else str(key))
    elif isinstance(value, list):
        for item in value:
            yield from names_of_places(item, at)
    elif isinstance(value, str) and (_PLACE.match(value) or _home_in(value)):
        yield f"{at} names a place on a disk, which may tell who was recorded"


def _home_in(text: str) -> bool:
    home = os.environ.get("HOME") or str(Path.home())
    return len(home) > 1 and home.rstrip("/") + "/" in text
