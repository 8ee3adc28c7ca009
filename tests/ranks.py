"""Running a function as several gloo ranks, for tests of what crosses processes."""

from __future__ import annotations

import datetime
import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_ranks(function: Callable[..., Any], world: int, *args: Any) -> list[Any]:
    """Return [function(rank, *args) for each rank], each run in a process of its own within one gloo group.

    ``function`` must be importable (top level of a test module). The group's time limit is 60 s.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = mp.get_context("spawn")
    queue = context.SimpleQueue()
    mp.start_processes(_rank, (function, world, port, queue, args), nprocs=world, start_method="spawn")
    results = dict(queue.get() for _ in range(world))
    return [results[rank] for rank in range(world)]


def _rank(rank: int, function: Callable[..., Any], world: int, port: int, queue: Any, args: tuple) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
    try:
        queue.put((rank, function(rank, *args)))
    finally:
        dist.destroy_process_group()
