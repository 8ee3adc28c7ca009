"""Running a function as several gloo ranks, for tests of what crosses processes."""

from __future__ import annotations

import datetime
import os
import pickle
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
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
    # Files, not a queue: a pipe would fill up before it is read.
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_rank, (function, world, port, folder, args), nprocs=world, start_method="spawn")
        return [pickle.loads((Path(folder) / str(rank)).read_bytes()) for rank in range(world)]


def _rank(rank: int, function: Callable[..., Any], world: int, port: int, folder: str, args: tuple) -> None:
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
        (Path(folder) / str(rank)).write_bytes(pickle.dumps(function(rank, *args)))
    finally:
        dist.destroy_process_group()
    os._exit(0)  # as a rank of the command line leaves: gloo's threads may abort a process that is taken down
