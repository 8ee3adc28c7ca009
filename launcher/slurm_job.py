"""A Slurm job that pretrains: starts the ranks on its hosts, and goes into the queue again where that is of use.

``slurm/pretrain.sh`` is this and nothing else. What is decided here is what becomes of the job:

    0               finished
    85              asked to leave (SIGUSR1: time limit, preemption), checkpoint written: requeued
    2               a user's mistake, or a run that crashes at every start: the job fails
    128 + TERM, INT asked to end (scancel): the job ends
    anything else   a rank was lost: requeued, unless three starts one after another made no new checkpoint

A job that is requeued after ``scancel`` could not be cancelled, so none is that Slurm has begun to end.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from imuvid.errors import UserError
from imuvid.training.checkpoint import LATEST_NAME
from imuvid.training.preemption import REQUEUE_EXIT_CODE
from imuvid.training.starts import MOST_STARTS, START_VARIABLE, STARTS_NAME, CrashLoop, count_start

WAIT_S = 600
"""How long ranks may go on after the first has left, such as to write a checkpoint."""
_FINAL = (0, 2, 128 + signal.SIGTERM, 128 + signal.SIGINT)


def num_tasks(environ: Mapping[str, str]) -> int:
    """Return the number of tasks of the job that this process belongs to.

    Raises:
        UserError: it belongs to none.
    """
    if "SLURM_JOB_ID" not in environ:
        raise UserError("--srun starts the ranks of a Slurm job: use it in an sbatch script or below salloc")
    if "SLURM_NTASKS" in environ:
        return int(environ["SLURM_NTASKS"])
    return int(environ["SLURM_JOB_NUM_NODES"]) * int(environ.get("SLURM_NTASKS_PER_NODE", 1))


def listen() -> list[int]:
    """Survive the signals to the job from now on; return the list to which they are added.

    A batch process that dies of a signal takes the job with it; this one waits until the ranks have left.
    """
    heard: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, _: heard.append(number))
    return heard


def run_in_job(
    command: Sequence[str],
    folder: Path,
    heard: list[int],
    check: Callable[[], None],
    meanwhile: Callable[[], None],
    poll_s: float = 10.0,
) -> int:
    """Run a command as the ranks of this job, then requeue the job if that is of use; return the exit code.

    Args:
        command: of one rank; srun starts it once for each task.
        folder: of the run.
        heard: from :func:`listen`.
        check: called before the ranks are started; raises UserError where that would be in vain.
        meanwhile: called every ``poll_s`` seconds while they run; must not raise.
        poll_s: seconds.

    Raises:
        UserError: from ``check``.
    """
    os.environ[START_VARIABLE] = f"{os.environ['SLURM_JOB_ID']}.{os.environ.get('SLURM_RESTART_COUNT', 0)}"
    environ = dict(os.environ)
    if "SLURM_CPUS_PER_TASK" in environ:  # srun does not take it over from the job
        environ["SRUN_CPUS_PER_TASK"] = environ["SLURM_CPUS_PER_TASK"]
    code = _checked(check)
    if signal.SIGTERM in heard:
        return 128 + signal.SIGTERM
    code = code or _srun(command, environ, meanwhile, poll_s)
    if wants_requeue(code, folder):
        _requeue(code)
    return code


def _checked(check: Callable[[], None]) -> int:
    """Call ``check``; a failure that is no mistake of the user's, as of the storage, is one of this start."""
    try:
        check()
    except UserError:
        raise
    except Exception as error:
        _say(f"{type(error).__name__}: {error}")
        return 1
    return 0


def _srun(command: Sequence[str], environ: Mapping[str, str], meanwhile: Callable[[], None], poll_s: float) -> int:
    # The first rank to leave must not end those that still write; one that never leaves must not hold the job for ever.
    process = subprocess.Popen(["srun", "--kill-on-bad-exit=0", f"--wait={WAIT_S}", *command], env=environ)
    code: int | None = None
    while code is None:
        try:
            code = process.wait(timeout=poll_s)
        except subprocess.TimeoutExpired:
            meanwhile()
    return 128 - code if code < 0 else code


def wants_requeue(code: int, folder: Path) -> bool:
    """Return whether a start that ended with ``code`` should be followed by another; counts it where it crashed."""
    if code in _FINAL:
        return False
    if code == REQUEUE_EXIT_CODE:
        return True
    pointer = folder / "checkpoints" / LATEST_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        starts = count_start(folder, Path(pointer.read_text().strip()).name if pointer.is_file() else None)
    except CrashLoop:
        starts = MOST_STARTS
    except OSError as error:
        _say(f"{folder} cannot be written to, so the job is not requeued: {error}")
        return False
    if starts >= MOST_STARTS:
        _say(
            f"{folder}: the last {MOST_STARTS} starts made no new checkpoint, so the job is not requeued: see why,"
            f" then remove {folder / STARTS_NAME} to try again"
        )
    return starts < MOST_STARTS


def _requeue(code: int) -> None:
    # In an array, the last task's SLURM_JOB_ID stands for the whole array.
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
    shown = subprocess.run(["scontrol", "show", "job", "--oneliner", job], capture_output=True, text=True)
    state = re.search(r" JobState=(\w+)", shown.stdout)
    if state is None or state[1] != "RUNNING":
        _say(f"job {job} is {state[1] if state else 'not known'}: it is not requeued")
        return
    _say(f"the ranks ended with code {code}: job {job} is requeued")
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
    if done.returncode:
        _say(f"job {job} cannot be requeued: {done.stderr.strip()}")


def _say(message: str) -> None:
    print(f"imuvid: {message}", file=sys.stderr, flush=True)
