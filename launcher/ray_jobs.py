"""Jobs of a build on a Ray cluster: the cluster places them, each runs in a process of its own with a time limit."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray

from imuvid.errors import UserError
from shards.workers import Lost, run_jobs

logger = logging.getLogger(__name__)

CONNECT_LIMIT_S = 10.0
"""Longest wait for the host that RAY_ADDRESS names, seconds."""
START_TRIES = 3
QUEUED_PER_CPU = 2
"""Jobs that are handed to Ray at a time, for each of its CPUs: enough that none waits for work."""


def run_jobs_on_ray(
    function: Callable[..., Any], jobs: Sequence[tuple], workers: int, timeout_s: float = 0.0
) -> Iterator[tuple[int, Any]]:
    """Run jobs as :func:`shards.workers.run_jobs` does, on the cluster at RAY_ADDRESS or, without, on this machine.

    The machines of the cluster must have this package installed and see the same files.

    Args:
        function: importable by name; its arguments and results pickle.
        jobs: arguments of each call.
        workers: jobs at a time; 0 = one a CPU of the cluster.
        timeout_s: limit of one job, seconds; 0 = none.

    Raises:
        UserError: the cluster does not answer.
        Exception: what the function raised; the other jobs are given up.
    """
    _connect(workers)
    cpus = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
    logger.info("Ray: %d CPUs", cpus)
    run = ray.remote(num_cpus=1, max_retries=2)(_run_isolated)
    waiting = list(range(len(jobs)))[::-1]
    running: dict[Any, int] = {}
    try:
        while waiting or running:
            while waiting and len(running) < (workers or QUEUED_PER_CPU * cpus):
                job = waiting.pop()
                running[run.remote(function, jobs[job], timeout_s)] = job
            done, _ = ray.wait(list(running))
            for reference in done:
                yield running.pop(reference), _result(reference)
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
        ray.shutdown()


def _connect(workers: int) -> None:
    address = os.environ.get("RAY_ADDRESS")
    if address is not None:
        _check_reachable(address)
    cpus = None if address else workers or len(os.sched_getaffinity(0))
    for tries_left in range(START_TRIES - 1, -1, -1):
        try:
            ray.init(
                address=address or "local",
                num_cpus=cpus,
                include_dashboard=None if address else False,
                log_to_driver=False,
                configure_logging=False,
            )
            return
        # On a busy machine some of Ray's own processes start too late for the others; it says so by a bare Exception.
        except Exception as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            if not tries_left:
                raise UserError(f"Ray at {address or 'this machine'} does not start: {first}") from error
            logger.warning("Ray did not start (%s): trying again", first)


def _check_reachable(address: str) -> None:
    """Raise UserError where nothing listens at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_LIMIT_S).close()
    except OSError as error:
        raise UserError(f"RAY_ADDRESS={address}: no Ray cluster answers there: {error}") from error


def _run_isolated(function: Callable[..., Any], job: tuple, timeout_s: float) -> Any:
    return next(iter(run_jobs(function, [job], 1, timeout_s)))[1]


def _result(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.as_instanceof_cause() from error
    except ray.exceptions.RayError as error:
        # The node is lost, and was again in every try.
        return Lost("crash", f"Ray lost the process that read it: {(str(error).splitlines() or [''])[0]}")
