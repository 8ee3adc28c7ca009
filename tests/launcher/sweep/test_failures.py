"""How a trial's end is named, and that no two starts train one run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from launcher.sweep.failures import judge
from launcher.sweep.host import owned


@pytest.mark.parametrize(
    ("codes", "text", "state", "message"),
    [
        ([0, 0], "finished: 44 steps", "finished", ""),
        ([1], "imuvid: OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "out_of_memory", "Tried to"),
        ([1], "imuvid: RuntimeError: 5 bad steps one after another, and no checkpoint", "diverged", "5 bad steps"),
        (
            [1, 1],
            "imuvid: rank 0: nothing moved for 90 s in forward of step 3: rank 1 of 2 late",
            "hung",
            "rank 1 of 2",
        ),
        ([137, 1], "imuvid: rank 0: nothing moved for 90 s in forward of step 3", "killed", "signal 9"),
        ([2], "imuvid: rank 0: data.batch_size=9 is no multiple", "refused", "data.batch_size=9"),
        ([1], "imuvid: rank 1: ValueError: x\nimuvid: rank 1 of 2 ended with code 1", "failed", "ValueError: x"),
        ([143], "stopped by SIGTERM at step 3", "unfinished", "from outside"),
        ([85, 85], "stopped by SIGUSR1 at step 3", "unfinished", "from outside"),
    ],
)
def test_the_end_of_a_trial_is_named(tmp_path: Path, codes: list[int], text: str, state: str, message: str):
    log = tmp_path / "log"
    earlier = "imuvid: OutOfMemoryError: of an earlier start\n"
    log.write_text(earlier + text + "\n")
    outcome = judge(codes, [(log, len(earlier))])
    assert outcome.state == state
    assert message in outcome.message


def test_a_run_is_owned_while_its_owner_lives(tmp_path: Path):
    path = tmp_path / "trial-0000.owner-0"
    assert not owned(path)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    path.write_text(json.dumps({"token": "a", "host": socket.gethostname(), "pid": gone.pid}))
    assert not owned(path)
    path.write_text(json.dumps({"token": "a", "host": "another", "pid": 1}))
    ended = threading.Event()

    def live() -> None:
        while not ended.wait(0.2):
            os.utime(path)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        assert owned(path)
    finally:
        ended.set()
        thread.join()
    began = time.monotonic()
    assert not owned(path)  # cut off, on a machine that cannot be asked
    assert time.monotonic() - began < 10
