"""Where the time of a step goes: forward, backward, optimiser, communication.

On a GPU each border between two phases is an event on its stream, read where a line is logged: no step waits for one.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist

COMMUNICATION = "communication"
NAMES = ("forward", "backward", "optimizer", COMMUNICATION)
COLLECTIVES = (
    "all_reduce",
    "all_gather",
    "all_gather_into_tensor",
    "reduce_scatter",
    "reduce_scatter_tensor",
    "broadcast",
    "all_to_all_single",
)
"""Functions of torch.distributed, by which objectives, norms and DeepSpeed talk to the other ranks."""


class Phases:
    """Sums up seconds by phase. A phase within another one takes its time from it.

    Args:
        device: of this rank; on a GPU its own time is measured, not that of the host.
        clock: monotonic seconds; given by tests.
    """

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter):
        self._device, self._clock = device, clock
        self._open: list[str] = []
        self._since: Any = None
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self._stretches: list[tuple[str, Any, Any]] = []

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time within this context as that of ``name``."""
        self._border()
        self._open.append(name)
        try:
            yield
        finally:
            self._border()
            self._open.pop()

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each of NAMES since the last reset; waits for the device."""
        totals = dict.fromkeys(NAMES, 0.0)
        if self._stretches and self._device.type == "cuda":
            self._stretches[-1][2].synchronize()
        for name, begin, end in self._stretches:
            totals[name] += begin.elapsed_time(end) / 1000 if self._device.type == "cuda" else end - begin
        return totals

    @contextlib.contextmanager
    def watch_collectives(self) -> Iterator[None]:
        """Within this context, count collectives as communication wherever they are called in a phase.

        What is counted is how long the computation waits for one, or for the ranks that are late to it. Not counted are
        those that run beside it (the parameters that ZeRO 3 fetches ahead).
        """
        originals = {name: getattr(dist, name) for name in COLLECTIVES}
        for name, function in originals.items():
            setattr(dist, name, self._counted(function))
        try:
            yield
        finally:
            for name, function in originals.items():
                setattr(dist, name, function)

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*arguments: Any, **named: Any) -> Any:
            if torch.compiler.is_compiling() or not self._open:
                return function(*arguments, **named)
            with self.phase(COMMUNICATION):
                return function(*arguments, **named)

        return run

    def _border(self) -> None:
        """End the stretch of the phase that is on, if any, and begin the next one."""
        if self._device.type == "cuda":
            now: Any = torch.cuda.Event(enable_timing=True)
            now.record()
        else:
            now = self._clock()
        if self._open:
            self._stretches.append((self._open[-1], self._since, now))
        self._since = now
