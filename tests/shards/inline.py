"""Jobs in the process of the test, where starting others would take longer than the jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any


def inline(
    function: Callable[..., Any], jobs: Sequence[tuple], workers: int, timeout_s: float = 0.0
) -> Iterator[tuple[int, Any]]:
    """Stand in for :func:`shards.workers.run_jobs`: no time limit, and a crash is a crash."""
    for number, job in enumerate(jobs):
        yield number, function(*job)
