"""How often the tests that kill, corrupt and repeat do so: a few times in `make test`, many in `make soak`."""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")


def times(few: T, many: T) -> T:
    """Return ``many`` under `make soak` (IMUVID_SOAK set), else ``few``."""
    return many if os.environ.get("IMUVID_SOAK") else few
