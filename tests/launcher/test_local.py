"""Ranks on one machine: what they are told, how they end together, and which exit code that gives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imuvid.errors import UserError
from launcher.local import run_local

REPOSITORY = Path(__file__).parents[2]
# Each test brings what the ranks run, in place of the command line: they find it in the current folder.
STAND_IN = """
import os, signal, subprocess, sys, time
rank = int(os.environ["RANK"])
def say(*words, file=sys.stdout): print(*words, file=file, flush=True)
def ready(): open(f"ready-{rank}", "w").write(str(os.getpid()))
def leave(number, code): signal.signal(number, lambda *_: sys.exit(code))
"""
DRIVER = f"""
import sys
sys.path.insert(0, {str(REPOSITORY)!r})
from launcher.local import run_local
sys.exit(run_local(["word"], int(sys.argv[1]), grace_s=float(sys.argv[2])))
"""


class Launched:
    """``run_local`` in a process of its own, whose ranks run ``program``."""

    def __init__(self, folder: Path, program: str, nproc: int = 2, grace_s: float = 20.0, **env: str):
        self.folder, self.nproc = folder, nproc
        (folder / "launcher").mkdir()
        (folder / "launcher" / "__init__.py").touch()
        (folder / "launcher" / "cli.py").write_text(STAND_IN + program)
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(nproc), str(grace_s)],
            cwd=folder,
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_until_ready(self) -> list[int]:
        """Wait until every rank has called ready(); return their process numbers."""
        deadline = time.monotonic() + 20
        files = [self.folder / f"ready-{rank}" for rank in range(self.nproc)]
        while not all(file.exists() and file.read_text() for file in files):
            assert time.monotonic() < deadline, "the ranks did not start"
            time.sleep(0.02)
        return [int(file.read_text()) for file in files]

    def end(self, timeout_s: float = 20.0) -> tuple[int, str, str]:
        """Return exit code, stdout and stderr."""
        try:
            output, errors = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            raise
        return self.process.returncode, output, errors


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_ranks_know_their_place(tmp_path: Path):
    names = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR"
    program = f"""
say(*[os.environ[name] for name in "{names}".split()], sys.argv[1:])
open(f"port-{{rank}}", "w").write(os.environ["MASTER_PORT"])
"""
    code, output, errors = Launched(tmp_path, program, nproc=3).end()
    assert code == 0
    assert output == "0 0 3 3 127.0.0.1 ['word']\n"
    assert sorted(errors.splitlines()) == [
        "[rank 1] 1 1 3 3 127.0.0.1 ['word']",
        "[rank 2] 2 2 3 3 127.0.0.1 ['word']",
    ]
    assert len({(tmp_path / f"port-{rank}").read_text() for rank in range(3)}) == 1


def test_ranks_share_the_cores_unless_told_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    program = 'say(os.environ["OMP_NUM_THREADS"]) if rank == 0 else None'
    for name, nproc, env, expected in [
        ("share", 1, {}, len(os.sched_getaffinity(0))),
        ("least", 9, {}, max(1, len(os.sched_getaffinity(0)) // 9)),
        ("told", 2, {"OMP_NUM_THREADS": "7"}, 7),
    ]:
        (tmp_path / name).mkdir()
        code, output, _ = Launched(tmp_path / name, program, nproc=nproc, **env).end()
        assert (code, output) == (0, f"{expected}\n"), name


def test_a_failing_rank_ends_the_others_and_is_named(tmp_path: Path):
    code, _, errors = Launched(tmp_path, "sys.exit(3) if rank == 1 else time.sleep(60)").end()
    assert code == 3
    assert "rank 1 of 2 ended with code 3" in errors


def test_a_rank_that_is_killed_is_named_with_its_signal(tmp_path: Path):
    program = "os.kill(os.getpid(), signal.SIGKILL) if rank == 1 else time.sleep(60)"
    code, _, errors = Launched(tmp_path, program).end()
    assert code == 137
    assert "rank 1 of 2 ended with code 137 (SIGKILL)" in errors


def test_a_rank_that_stays_is_killed_with_its_workers_after_the_grace(tmp_path: Path):
    program = """
if rank == 1:
    while not os.path.exists("worker"): time.sleep(0.01)
    sys.exit(3)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
worker = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
open("worker_", "w").write(str(worker.pid)); os.rename("worker_", "worker")
time.sleep(60)
"""
    code, _, errors = Launched(tmp_path, program, grace_s=0.3).end()
    assert code == 3
    assert "rank 0 of 2 did not end within 0.3 s" in errors
    assert not runs(int((tmp_path / "worker").read_text()))


def test_usr1_reaches_all_ranks_and_none_is_cut_short(tmp_path: Path):
    program = """
def save(*_):
    time.sleep(0.6 * rank); say("saved"); sys.exit(85)
signal.signal(signal.SIGUSR1, save); ready(); time.sleep(60)
"""
    launched = Launched(tmp_path, program)
    launched.wait_until_ready()
    launched.process.send_signal(signal.SIGUSR1)
    code, output, errors = launched.end()
    assert (code, output, errors) == (85, "saved\n", "[rank 1] saved\n")


def test_a_rank_that_stays_after_the_others_left_does_not_hold_the_run(tmp_path: Path):
    program = "sys.exit(85) if rank == 0 else (leave(signal.SIGTERM, 143), time.sleep(60))"
    assert Launched(tmp_path, program, grace_s=0.3).end()[0] == 85


def test_a_failure_counts_more_than_a_request_to_requeue(tmp_path: Path):
    code, _, errors = Launched(tmp_path, "sys.exit(85) if rank == 0 else (time.sleep(0.5), sys.exit(4))").end()
    assert code == 4
    assert "rank 1 of 2 ended with code 4" in errors


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_term_and_ctrl_c_reach_all_ranks(tmp_path: Path, number: signal.Signals, code: int):
    launched = Launched(tmp_path, f"leave({int(number)}, {code}); ready(); time.sleep(60)")
    pids = launched.wait_until_ready()
    launched.process.send_signal(number)
    found, _, errors = launched.end()
    assert found == code
    assert "rank 0" not in errors, "leaving when asked is no failure"
    assert not any(runs(pid) for pid in pids)


def test_ranks_that_ignore_term_are_killed_after_the_grace(tmp_path: Path):
    launched = Launched(tmp_path, "signal.signal(15, signal.SIG_IGN); ready(); time.sleep(60)", grace_s=0.3)
    launched.wait_until_ready()
    launched.process.terminate()
    code, _, errors = launched.end()
    assert code == 137
    assert "did not end within 0.3 s" in errors


def test_no_rank_outlives_a_killed_launcher(tmp_path: Path):
    launched = Launched(tmp_path, "signal.signal(15, signal.SIG_IGN); ready(); time.sleep(60)")
    pids = launched.wait_until_ready()
    launched.process.kill()
    launched.end()
    deadline = time.monotonic() + 5
    while any(runs(pid) for pid in pids):
        assert time.monotonic() < deadline, "a rank is left"
        time.sleep(0.02)


def test_no_process_at_all_is_a_mistake():
    with pytest.raises(UserError, match="--nproc 0"):
        run_local(["pretrain"], 0)
