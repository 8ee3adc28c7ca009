"""Nothing waits for ever: a rank on which nothing moves says where it stands, which rank is late, and ends.

A thread of each rank watches its main thread, and tells the others by a store that it lives. Where one finds that a
phase takes longer than it may, all ranks print their stacks, and the first says which rank the others wait for.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import NoReturn, TextIO

import torch.distributed as dist

from imuvid.data.object_store import within

EXIT_CODE = 1
POLL_S = 1.0
ANSWER_S = 5.0
"""How long ranks have to print their stacks, once one of them has found a hang."""
_COLLECTIVES = ("torch/distributed/", "deepspeed/comm/", "imuvid/distributed.py")


@dataclass
class Sign:
    """What a rank says of itself."""

    moves: int
    """Phases that it has entered."""
    step: int
    phase: str
    place: str = ""
    """Where its main thread stands; only said once there is a hang."""
    waits: bool = False
    """Whether that is in a collective."""


def name_late(signs: Mapping[int, Sign | None], world: int) -> str:
    """Return in one line which ranks keep the others waiting.

    Args:
        signs: last sign of each rank that gave one; None, or missing, where it does not answer.
        world: number of ranks.
    """
    silent = [rank for rank in range(world) if signs.get(rank) is None]
    if silent:
        return f"{_ranks(silent)} of {world} did not answer: ended, stopped, or cut off"
    there = {rank: sign for rank, sign in signs.items() if sign is not None}
    working = {rank: sign for rank, sign in there.items() if not sign.waits}
    if not working or len(working) == world:
        fewest = min(sign.moves for sign in there.values())
        working = {rank: sign for rank, sign in there.items() if sign.moves == fewest}
    if len(working) == world > 1:
        return f"all {world} ranks stand at the same point: {next(iter(there.values())).phase}"
    first = working[min(working)]
    return f"{_ranks(sorted(working))} of {world} late: in {first.phase} of step {first.step}, at {first.place}"


class Watchdog:
    """Watches this rank; made in its main thread.

    Args:
        store: of all ranks, for this alone; a connection of its own.
        rank: of this process.
        world: number of ranks.
        limit_s: how long the phase that begins now may take.
        out: where stacks and the verdict go.
        end: called last; ends the process.
    """

    def __init__(
        self,
        store: dist.Store,
        rank: int,
        world: int,
        limit_s: float,
        out: TextIO = sys.stderr,
        end: Callable[[int], NoReturn] = os._exit,
    ):
        self._store, self._rank, self._world, self._out, self._end = store, rank, world, out, end
        self._main = threading.get_ident()
        self._sign = Sign(0, 0, "start-up")
        self._late_s, self._limit_s = 0.0, limit_s
        self._closed = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def enter(self, phase: str, step: int, limit_s: float) -> None:
        """Say what the rank does from now on, and how long that may take."""
        self._limit_s, self._late_s = limit_s, 0.0
        self._sign = Sign(self._sign.moves + 1, step, phase)

    def close(self) -> None:
        """Watch no longer."""
        self._closed.set()
        faulthandler.cancel_dump_traceback_later()

    def _run(self) -> None:
        last = time.monotonic()
        while not self._closed.wait(POLL_S):
            limit_s, now = self._limit_s, time.monotonic()
            # A process that was stopped, as by Slurm's suspension, was not late meanwhile.
            self._late_s += min(now - last, 2 * POLL_S)
            last = now
            # Where native code keeps the interpreter for itself, this thread stands still too.
            faulthandler.dump_traceback_later(limit_s + 30, exit=True, file=self._out)
            late_s, called = self._late_s, self._called()
            if late_s > limit_s or called:
                if not self._closed.is_set():
                    self._stop(late_s, called)
                return

    def _called(self) -> bool:
        """Whether another rank has found a hang."""
        try:
            return bool(self._store.check(["hang"]))
        except Exception:
            return False  # without a store there is this rank's own limit

    def _stop(self, late_s: float, called: bool) -> None:
        sign = self._with_place()
        self._say(f"stacks of rank {self._rank}, in {sign.phase} of step {sign.step}:")
        faulthandler.dump_traceback(file=self._out, all_threads=True)
        try:
            within(2 * ANSWER_S, lambda: self._exchange(sign, late_s, called))
        except Exception as error:
            self._say(f"the other ranks cannot be asked: {error}")
        self._out.flush()
        self._end(EXIT_CODE)

    def _exchange(self, sign: Sign, late_s: float, called: bool) -> None:
        self._store.set("hang", str(self._rank))
        self._store.set(str(self._rank), json.dumps(asdict(sign)))
        deadline = time.monotonic() + ANSWER_S
        missing = list(range(self._world))
        while missing and time.monotonic() < deadline:
            missing = [rank for rank in missing if not self._store.check([str(rank)])]
            time.sleep(0.05)
        if called:
            time.sleep(0.5)  # the store may be a part of this process: the first rank has yet to read it
            return
        signs = {
            rank: None if rank in missing else Sign(**json.loads(self._store.get(str(rank))))
            for rank in range(self._world)
        }
        self._say(
            f"nothing moved for {late_s:.0f} s in {sign.phase} of step {sign.step}: {name_late(signs, self._world)}"
        )

    def _with_place(self) -> Sign:
        frame = sys._current_frames().get(self._main)
        if frame is None:
            return self._sign
        place = f"{frame.f_code.co_filename}:{frame.f_lineno} ({frame.f_code.co_name})"
        waits = any(part in frame.f_code.co_filename for part in _COLLECTIVES)
        return Sign(self._sign.moves, self._sign.step, self._sign.phase, place, waits)

    def _say(self, text: str) -> None:
        print(f"imuvid: rank {self._rank}: {text}", file=self._out, flush=True)


def _ranks(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
    return f"rank{'s' * (len(numbers) > 1)} {shown}"
