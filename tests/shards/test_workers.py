"""Jobs in processes: results, time limits that hold in native code, crashes, errors."""

from __future__ import annotations

import ctypes
import os
import signal
import time

import pytest

from imuvid.errors import UserError
from shards.workers import Lost, run_jobs


def square(number):
    return number * number


def misbehave(how):
    if how == "hang":
        ctypes.PyDLL(None).sleep(60)  # a PyDLL call keeps the interpreter's lock, as decoders do
    elif how == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif how == "exit":
        os._exit(3)
    elif how == "mistake":
        raise UserError("mend it")
    return how


def test_every_job_gives_its_result_whatever_the_number_of_processes():
    jobs = [(i,) for i in range(20)]
    for workers in (1, 3):
        assert dict(run_jobs(square, jobs, workers)) == {i: i * i for i in range(20)}


def test_jobs_that_hang_or_crash_are_lost_and_the_others_done():
    started = time.monotonic()
    jobs = [("hang",), ("fine",), ("crash",), ("good",), ("exit",), ("well",)]
    results = dict(run_jobs(misbehave, jobs, 2, timeout_s=1.0))
    assert time.monotonic() - started < 20
    assert [results[i] for i in (1, 3, 5)] == ["fine", "good", "well"]
    assert all(isinstance(results[i], Lost) for i in (0, 2, 4))
    assert [results[i].reason for i in (0, 2, 4)] == ["timeout", "crash", "crash"]
    assert "longer than 1 s" in results[0].message
    assert "signal 11" in results[2].message


def test_what_a_job_raises_arrives():
    with pytest.raises(UserError, match="mend it"):
        dict(run_jobs(misbehave, [("fine",), ("mistake",)], 1))
