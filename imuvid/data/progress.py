"""What each loader worker is reading, for the message that no batch comes."""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable

import numpy as np
from torch.utils.data import get_worker_info


class Progress:
    """The sample that each worker reads at this moment, in memory that it shares with the training process by fork.

    The memory has no name, so that none is left behind by a process that is killed.

    Args:
        num_workers: loader processes; 0 where the training process reads itself.
    """

    def __init__(self, num_workers: int):
        # For each worker the number of the sample, -1 for none, and since when, monotonic seconds.
        self._table = np.frombuffer(mmap.mmap(-1, 16 * max(1, num_workers)), dtype=np.float64).reshape(-1, 2)
        self._table[:, 0] = -1

    def reads(self, sample: int) -> None:
        """Call in a worker before it reads a sample."""
        worker = get_worker_info()
        self._table[worker.id if worker else 0] = sample, time.monotonic()

    def rests(self) -> None:
        """Call in a worker when it has read a sample."""
        self.reads(-1)

    def describe(self, worker: int, where: Callable[[int], str]) -> str:
        """Return what a worker is doing, given what names a sample."""
        sample, since = self._table[worker]
        if sample < 0:
            return f"worker {worker} reads no sample"
        return f"worker {worker} has been reading {where(int(sample))} for {time.monotonic() - since:.0f} s"
