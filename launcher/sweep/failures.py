"""What ended a trial, from its exit codes and its last words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launcher.local import REQUEUE_CODE
from launcher.sweep.records import FINISHED, UNFINISHED, Outcome

KILLED, HUNG = "killed", "hung"
TAIL_BYTES = 64_000
_TOLD = (REQUEUE_CODE, 143, 130)  # codes of a run that saved because of SIGUSR1, SIGTERM, SIGINT

# What the libraries and the run itself say; the first that is found holds.
_SIGNS = (
    ("out_of_memory", ("out of memory", "OutOfMemoryError", "can't allocate memory", "MemoryError")),
    ("diverged", ("bad steps one after another",)),
    (HUNG, ("nothing moved for", "Timed out waiting", "did not answer in time")),
)


def judge(codes: Sequence[int], logs: Sequence[tuple[Path, int]]) -> Outcome:
    """Return how the ranks ended.

    Args:
        codes: of each host, as :meth:`launcher.sweep.host.Host.poll` gives them.
        logs: what each host printed: file, and how long it was before.
    """
    if not any(codes):
        return Outcome(FINISHED)
    text = "\n".join(_tail(log, begin) for log, begin in logs)
    lines = [line for line in text.splitlines() if line.strip()]
    kills = [code for code in codes if code > 128 and code not in _TOLD]
    for state, signs in _SIGNS:
        said = next((line for line in lines if any(sign in line for sign in signs)), None)
        # Ranks that lost one complain of waiting in vain: that is not what went wrong.
        if said and not (kills and state == HUNG):
            return Outcome(state, _shorten(said))
    if kills:
        return Outcome(KILLED, f"a rank was ended by signal {max(kills) - 128}")
    if any(code in _TOLD for code in codes):
        return Outcome(UNFINISHED, "told to end from outside of the sweep")
    said = next((line for line in reversed(lines) if line.startswith(("imuvid:", "[rank"))), lines[-1] if lines else "")
    blamed = [line for line in lines if "imuvid: rank" in line and "ended with code" not in line]
    message = _shorten(blamed[0] if blamed else said)
    return Outcome("refused" if 2 in codes else "failed", message)


def _tail(path: Path, begin: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(begin, file.seek(0, 2) - TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _shorten(line: str) -> str:
    return line.strip()[:300]
