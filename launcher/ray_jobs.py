"""Jobs of a build on a Ray cluster: the cluster places them, each runs in a process of its own with a time limit."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray

from launcher.ray_cluster import connect
from shards.workers import Lost, run_jobs

logger = logging.getLogger(__name__)

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
    connect(None, workers or len(os.sched_getaffinity(0)))
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
