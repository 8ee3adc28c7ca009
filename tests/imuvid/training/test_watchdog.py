"""A hang ends within its limit, with the stacks of every rank and the name of the one that is late."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from imuvid.training.watchdog import Sign, name_late

WAITS = Sign(7, 3, "agreeing", "/x/torch/distributed/distributed_c10d.py:1 (all_reduce)", True)
WORKS = Sign(6, 3, "forward", "/x/tower.py:12 (forward)", False)


@pytest.mark.parametrize(
    ("signs", "line"),
    [
        ({0: WAITS, 1: WORKS, 2: WAITS}, "rank 1 of 3 late: in forward of step 3, at /x/tower.py:12 (forward)"),
        ({0: WAITS, 1: None, 2: WORKS}, "rank 1 of 3 did not answer: ended, stopped, or cut off"),
        ({0: WAITS}, "ranks 1, 2 of 3 did not answer: ended, stopped, or cut off"),
        ({0: WAITS, 1: Sign(5, 2, "saving", "p", True), 2: WAITS}, "rank 1 of 3 late: in saving of step 2, at p"),
        ({0: WAITS, 1: WAITS, 2: WAITS}, "all 3 ranks stand at the same point: agreeing"),
    ],
)
def test_who_is_late(signs, line):
    assert name_late(signs, 3) == line


RANK = """
import datetime, os, sys, time, traceback
import torch, torch.distributed as dist
from imuvid.training.watchdog import Watchdog

rank, what = int(sys.argv[1]), sys.argv[2]
def store():
    return dist.TCPStore("127.0.0.1", int(sys.argv[3]), 2, rank == 0, datetime.timedelta(seconds=60))
first = store()
dist.init_process_group("gloo", store=first, rank=rank, world_size=2)
dog = Watchdog(dist.PrefixStore("dog", first.clone()), rank, 2, 60)
def lingers():
    while True:
        time.sleep(0.1)
try:
    for step in range(3):
        dog.enter("forward", step, 2)
        if step == 2 and rank == 1 and what == "lingers":
            lingers()
        if step == 2 and rank == 1 and what == "stopped":
            print("ready", flush=True)
            time.sleep(600)
        dist.all_reduce(torch.zeros(1))
        time.sleep(0.5)
    dog.close()
    time.sleep(4)
except RuntimeError:
    # The other rank ended first. A rank of the command line leaves in this way too: gloo's threads may abort a
    # process that is taken down.
    traceback.print_exc()
    sys.stderr.flush()
    os._exit(1)
os._exit(0)
"""


def run_two(what: str) -> tuple[list[int], list[str], float]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), what, port],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    try:
        if what == "stopped":
            assert ranks[1].stdout.readline() == "ready\n"
            ranks[1].send_signal(signal.SIGSTOP)
        began = time.monotonic()
        first = ranks[0].communicate(timeout=60)[0]
        took = time.monotonic() - began
        if what == "stopped":
            ranks[1].kill()
        return [ranks[0].wait(), ranks[1].wait(60)], [first, ranks[1].communicate()[0]], took
    finally:
        for rank in ranks:
            rank.kill()


@pytest.mark.slow
def test_a_rank_that_lingers_is_named_and_all_print_their_stacks():
    codes, outputs, _ = run_two("lingers")
    assert codes == [1, 1]
    both = "".join(outputs)
    assert "rank 1 of 2 late: in forward of step 2, at <string>:" in both
    assert "all_reduce" in outputs[0]
    assert "stacks of rank 0" in outputs[0]
    assert "stacks of rank 1" in outputs[1]
    assert "in lingers" in outputs[1]


@pytest.mark.slow
def test_a_rank_that_is_stopped_is_named_within_the_limit():
    codes, outputs, took = run_two("stopped")
    assert codes[0] == 1
    assert "rank 1 of 2 did not answer" in outputs[0]
    assert took < 2 + 5 + 10  # the limit, the time to answer, a loaded machine


@pytest.mark.slow
def test_what_moves_is_left_alone():
    codes, outputs, _ = run_two("nothing")
    assert codes == [0, 0], outputs
    assert "stacks" not in "".join(outputs)
