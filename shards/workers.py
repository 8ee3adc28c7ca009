"""Processes that run jobs which may hang or crash in native code: each job has a time limit that always works."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, cast

Executor = Callable[[Callable[..., Any], Sequence[tuple], int, float], Iterator[tuple[int, Any]]]
"""Runs jobs somewhere: the signature and the promises of :func:`run_jobs`."""

_JOBS_PER_PROCESS = 200
"""Decoders leak a little; a fresh process costs less than that growing for days."""


@dataclass(frozen=True)
class Lost:
    """Stands for the result of a job whose process died."""

    reason: str
    """timeout or crash."""
    message: str


def num_workers(wanted: int) -> int:
    """Return the number of processes for a config's ``workers``: 0 means one for each core that may be used."""
    return wanted or len(os.sched_getaffinity(0))


def run_jobs(
    function: Callable[..., Any], jobs: Sequence[tuple], workers: int, timeout_s: float = 0.0
) -> Iterator[tuple[int, Any]]:
    """Run ``function(*job)`` for every job in separate processes; yield (position in ``jobs``, result) as they end.

    Args:
        function: importable by name, as are its arguments and results (they are pickled).
        jobs: arguments of each call.
        workers: number of processes.
        timeout_s: limit of one job, seconds; 0 = none.

    Yields:
        the function's result, or :class:`Lost` where the job took too long or its process crashed.

    Raises:
        Exception: what the function raised; the other jobs are given up.
    """
    context = multiprocessing.get_context("forkserver")
    # What the jobs import is imported once: processes start with it.
    needed = {part.__module__ for part in (function, *(jobs[0] if jobs else ())) if callable(part)}
    context.set_forkserver_preload(["__main__", "shards.fragment", *sorted(needed)])
    waiting = list(range(len(jobs)))[::-1]
    running: dict[Connection, tuple[Any, int, int]] = {}
    idle: list[tuple[Connection, Any, int]] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                pipe, process, served = idle.pop() if idle else (*_start(context), 0)
                job = waiting.pop()
                running[pipe] = (process, job, served + 1)
                pipe.send((function, jobs[job], timeout_s))
            for ready in wait(list(running)):
                pipe = cast(Connection, ready)
                process, job, served = running.pop(pipe)
                try:
                    done, result, trace = pipe.recv()
                except (EOFError, ConnectionResetError):
                    yield job, _post_mortem(process, timeout_s)
                    pipe.close()
                    continue
                if served < _JOBS_PER_PROCESS:
                    idle.append((pipe, process, served))
                else:
                    pipe.close()
                    process.join()
                if not done:
                    raise result from RuntimeError(f"in a worker process:\n{trace}")
                yield job, result
    finally:
        for pipe, process in [(p, entry[0]) for p, entry in running.items()] + [(p, q) for p, q, _ in idle]:
            process.kill()
            process.join()
            pipe.close()


def _start(context: Any) -> tuple[Connection, Any]:
    ours, theirs = context.Pipe()
    # The fork server has the environment of its own start: what was set since would not be seen.
    process = context.Process(target=_serve, args=(theirs, dict(os.environ)), daemon=True)
    process.start()
    theirs.close()
    return ours, process


def _serve(pipe: Connection, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The kernel's own answer to an alarm is to end the process: that works even in a native loop that holds the
    # interpreter's lock, and also when the parent has been killed.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    while True:
        try:
            function, arguments, timeout_s = pipe.recv()
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_REAL, timeout_s)
        try:
            outcome = (True, function(*arguments), "")
        except Exception as error:
            outcome = (False, error, traceback.format_exc())
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            pipe.send(outcome)
        except BrokenPipeError:
            return


def _post_mortem(process: Any, timeout_s: float) -> Lost:
    process.join()
    code = process.exitcode
    if code == -signal.SIGALRM:
        return Lost("timeout", f"took longer than {timeout_s:g} s: the video may be damaged; or raise the limit")
    end = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
    return Lost("crash", f"the process that read it died ({end}): the video may be damaged, or memory ran out")
