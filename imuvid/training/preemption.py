"""Signals that ask a run to stop: remembered at once, acted on between steps.

SIGUSR1 is Slurm's warning before a time limit or a preemption: checkpoint, then ask to be requeued (exit
REQUEUE_EXIT_CODE). SIGTERM and SIGINT end the run: checkpoint, exit 128 + signal. This module imports nothing heavy,
so that the handlers stand before torch is loaded: a signal in those seconds must not kill the process.
"""

from __future__ import annotations

import signal
from types import FrameType

REQUEUE_EXIT_CODE = 85
SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)

_received = 0


def install() -> None:
    """Remember the signals from now on, in the main thread of a rank."""
    for number in SIGNALS:
        signal.signal(number, _remember)


def received() -> int:
    """Return the number of the signal that came last, 0 if none."""
    return _received


def exit_code(number: int) -> int:
    """Return the exit code of a run that saved a checkpoint because of signal ``number``."""
    return REQUEUE_EXIT_CODE if number == signal.SIGUSR1 else 128 + number


def _remember(number: int, _frame: FrameType | None) -> None:
    global _received
    # A warning may be followed by the final TERM: once asked to end, a requeue is not wanted any more.
    if _received not in (signal.SIGTERM, signal.SIGINT):
        _received = number
