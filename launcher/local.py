"""Several processes of one run on this machine: ``imuvid pretrain CONFIG --nproc N``."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

from imuvid.errors import UserError

REQUEUE_CODE = 85
"""Exit code of a rank that was asked to leave (SIGUSR1) and has written a checkpoint to go on from."""

_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_POLL_S = 0.1
_PR_SET_PDEATHSIG = 1  # prctl(2)


@dataclass(frozen=True)
class Place:
    """Where this machine's ranks are among those of a run on several machines."""

    first_rank: int
    world: int
    """Ranks on all machines."""
    address: str
    """Of the machine of rank 0."""
    port: int
    """That is free there."""


def run_local(argv: list[str], nproc: int, grace_s: float = 60.0, place: Place | None = None) -> int:
    """Run ``imuvid ARGV`` as ``nproc`` ranks of one run and return the exit code for all of them.

    Each rank finds RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT in its environment,
    and OMP_NUM_THREADS (its share of the cores) unless that is set. SIGTERM, SIGINT and SIGUSR1 are passed on.
    Rank 0 writes to this process's output, the others to its stderr with ``[rank k]`` before each line. A rank that
    fails takes the others with it, and no rank outlives this process. Call it in the main thread.

    Args:
        argv: words after ``imuvid``.
        nproc: number of ranks.
        grace_s: seconds between SIGTERM and SIGKILL, and seconds that the others have to leave by themselves after
            a rank has left with :data:`REQUEUE_CODE`.
        place: among several machines; None where all ranks are here.

    Returns:
        0 if all ranks ended with 0; else the code of the first rank that failed (128 + n for signal n); else
        :data:`REQUEUE_CODE`, if ranks left with it.

    Raises:
        UserError: ``nproc`` is less than 1.
    """
    if nproc < 1:
        raise UserError(f"--nproc {nproc}: needs at least 1 process")
    ranks: list[subprocess.Popen[bytes]] = []
    before = {}
    try:
        on_start = die_with(os.getpid())
        place = place or Place(0, nproc, "127.0.0.1", free_port())
        speaks = [place.first_rank + k == 0 for k in range(nproc)]  # without a prefix: rank 0 of the run
        for k in range(nproc):
            ranks.append(
                subprocess.Popen(
                    [sys.executable, "-m", "launcher.cli", *argv],
                    env=_environment(k, nproc, place),
                    stdout=None if speaks[k] else subprocess.PIPE,
                    stderr=None if speaks[k] else subprocess.STDOUT,
                    # Its own session: Ctrl-C reaches the ranks once, through us, and never their loader workers.
                    start_new_session=True,
                    preexec_fn=on_start,
                )
            )
        watch = _Watch(ranks, grace_s, place)
        before = {number: signal.signal(number, watch.forward) for number in _FORWARDED}
        # Only now: the code between fork and exec must not run beside other threads.
        readers = [
            threading.Thread(target=_relay, args=(place.first_rank + k, ranks[k]), daemon=True)
            for k in range(nproc)
            if not speaks[k]
        ]
        for reader in readers:
            reader.start()
        code = watch.wait()
        for reader in readers:
            reader.join(timeout=1)
        return code
    finally:
        for process in ranks:
            _kill(process)
        for number, handler in before.items():
            signal.signal(number, handler)


class _Watch:
    """Waits for the ranks, passes signals on, and ends all ranks when one has failed."""

    def __init__(self, ranks: list[subprocess.Popen[bytes]], grace_s: float, place: Place):
        self.ranks = ranks
        self.place = place
        self.grace_s = grace_s
        self.kill_at: float | None = None  # set once the ranks have been told to end

    def forward(self, number: int, _: FrameType | None = None) -> None:
        """Send a signal to all ranks; after SIGTERM and SIGINT they have ``grace_s`` seconds to end."""
        for process in self.ranks:
            if process.poll() is None:
                process.send_signal(number)
        if number != signal.SIGUSR1:
            self.kill_at = self.kill_at or time.monotonic() + self.grace_s

    def wait(self) -> int:
        """Return the exit code of the run, as :func:`run_local` does."""
        running = set(range(len(self.ranks)))
        codes: dict[int, int] = {}  # of the ranks that we did not end, in the order in which they ended
        leave_by: float | None = None
        ended_by_us = False
        while running:
            time.sleep(_POLL_S)
            for rank in sorted(running):
                if self.ranks[rank].poll() is not None:
                    running.remove(rank)
                    if not ended_by_us:
                        codes[rank] = _exit_code(self.ranks[rank].returncode)
            now = time.monotonic()
            failed = _first_failure(codes)
            if failed is not None and self.kill_at is None:
                ended_by_us = True
                _say(f"rank {self._named(failed)} {_describe(codes[failed])}")
            elif REQUEUE_CODE in codes.values() and self.kill_at is None:
                leave_by = leave_by or now + self.grace_s
                ended_by_us = now >= leave_by
            if ended_by_us and self.kill_at is None:
                self.forward(signal.SIGTERM)
            if self.kill_at is not None and now >= self.kill_at:
                for rank in running:
                    _say(f"rank {self._named(rank)} did not end within {self.grace_s:g} s; killing it")
                    _kill(self.ranks[rank])
        failed = _first_failure(codes)
        if failed is not None:
            return codes[failed]
        return REQUEUE_CODE if REQUEUE_CODE in codes.values() else 0

    def _named(self, rank: int) -> str:
        return f"{self.place.first_rank + rank} of {self.place.world}"


def _first_failure(codes: dict[int, int]) -> int | None:
    return next((rank for rank, code in codes.items() if code not in (0, REQUEUE_CODE)), None)


def _environment(local_rank: int, nproc: int, place: Place) -> dict[str, str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    environment = {"OMP_NUM_THREADS": str(max(1, cores // nproc))}
    environment.update(os.environ)
    environment.update(
        RANK=str(place.first_rank + local_rank),
        LOCAL_RANK=str(local_rank),
        WORLD_SIZE=str(place.world),
        LOCAL_WORLD_SIZE=str(nproc),
        MASTER_ADDR=place.address,
        MASTER_PORT=str(place.port),
    )
    return environment


def free_port() -> int:
    """Return a port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def die_with(parent: int) -> Callable[[], None] | None:
    """Return what a child runs before its program: ask the kernel to kill it when ``parent`` dies (Linux)."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died between the fork and the request
            os._exit(128 + signal.SIGKILL)

    return ask


def _relay(rank: int, process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        sys.stderr.buffer.write(b"[rank %d] " % rank + line)
        sys.stderr.buffer.flush()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a rank that still runs, with all that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _exit_code(returncode: int) -> int:
    return 128 - returncode if returncode < 0 else returncode


def _describe(code: int) -> str:
    if code > 128:
        try:
            return f"ended with code {code} ({signal.Signals(code - 128).name})"
        except ValueError:
            pass
    return f"ended with code {code}"


def _say(message: str) -> None:
    print(f"imuvid: {message}", file=sys.stderr, flush=True)
