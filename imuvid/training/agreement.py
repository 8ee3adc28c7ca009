"""What the ranks tell each other once a step, in one collective, so that all of them do the same."""

from __future__ import annotations

import math
import signal
from dataclasses import dataclass

import torch
import torch.distributed as dist

# Once asked to end, a requeue is not wanted any more.
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


@dataclass
class Agreed:
    """What is so on any rank."""

    signal: int
    """Number of the signal that came, 0 if none did."""
    loss: float
    """Mean over the ranks; NaN where that of any is not finite."""
    writing: bool
    """Is a rank not through with its part of a checkpoint?"""
    save_due: bool
    """Is the time between two checkpoints over?"""
    corrupt: bool
    """Did a rank meet corrupt samples?"""


def agree(
    group: dist.ProcessGroup | None,
    signal_number: int,
    loss: float = 0.0,
    writing: bool = False,
    save_due: bool = False,
    corrupt: bool = False,
) -> Agreed:
    """Tell the other ranks what is so on this one, and learn what is so on any; every rank must call it."""
    finite = math.isfinite(loss)
    mine = [float(signal_number == number) for number in _SIGNALS]
    mine += [loss if finite else 0.0, float(not finite), float(writing), float(save_due), float(corrupt)]
    said = torch.tensor(mine, dtype=torch.float64)
    dist.all_reduce(said, group=group)
    *signals, total, not_finite, writers, due, met = said.tolist()
    came = (int(number) for number, count in zip(_SIGNALS, signals, strict=True) if count)
    mean = math.nan if not_finite else total / dist.get_world_size(group)
    return Agreed(next(came, 0), mean, writers > 0, due > 0, met > 0)
