"""One machine's share of a trial: the ranks that the launcher starts there, as a process group of its own.

    Ray actor Host --(this module as a program)--> run_local --> ranks

Each is killed by the kernel when what started it dies (PR_SET_PDEATHSIG), so a driver, an actor or a Ray node that is
killed leaves no rank behind. A trial that was cut off and is gone on with elsewhere meanwhile finds another owner's
name in its file, and ends: never do two groups train one run.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from launcher.local import Place, die_with, free_port, run_local

OWNER_POLL_S = 1.0
OWNER_SILENT_S = 5.0
"""An owner whose file has not moved for so long is dead."""
KILL_AFTER_S = 10.0
"""After the grace that the ranks have to leave."""


@dataclass(frozen=True)
class Share:
    """What a host is to start."""

    argv: list[str]
    """Words after ``imuvid``."""
    nproc: int
    place: Place
    grace_s: float
    cpus_per_rank: float
    cwd: str
    log: str
    """File that the output is appended to."""
    owner: str
    """File that names who trains the run on this host."""
    token: str
    """Of this start."""


class Host:
    """A Ray actor on each machine of a trial; its bundle holds the CPUs and GPUs of the ranks."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._grace_s = 0.0

    def address(self) -> tuple[str, int]:
        """Return this machine's address in the cluster and a free port."""
        import ray

        return ray.util.get_node_ip_address(), free_port()

    def start(self, share: Share) -> None:
        """Start the ranks."""
        Path(share.log).parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, int(share.cpus_per_rank)))}
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
            environment.pop(name, None)
        self._grace_s = share.grace_s
        with open(share.log, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "launcher.sweep.host", json.dumps(asdict(share))],
                cwd=share.cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with(os.getpid()),
            )

    def poll(self) -> int | None:
        """Return the exit code of the ranks (128 + n for signal n), None while they run."""
        code = self._process.poll() if self._process else 0
        return 128 - code if code is not None and code < 0 else code

    def terminate(self) -> None:
        """Ask the ranks to save and leave; returns at once."""
        if self._process and self._process.poll() is None:
            self._process.terminate()

    def wait(self) -> None:
        """Wait until they have left after :meth:`terminate`; those that do not are killed."""
        if self._process is None:
            return
        try:
            self._process.wait(timeout=self._grace_s + KILL_AFTER_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End them at once."""
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def owned(path: Path) -> bool:
    """Whether another start still trains the run: waits until that is clear, a few seconds at most, where it is not."""
    before = _sign(path)
    if before is None:
        return False
    with contextlib.suppress(OSError, ValueError, KeyError):
        owner = json.loads(path.read_text())
        if owner["host"] == socket.gethostname() and not os.path.exists(f"/proc/{owner['pid']}"):
            return False
    deadline = time.monotonic() + OWNER_SILENT_S
    while time.monotonic() < deadline:
        time.sleep(OWNER_POLL_S / 2)
        now = _sign(path)
        if now != before:
            return now is not None
    return False


def _sign(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _claim(share: Share) -> None:
    """Write this start's name, and end everything once another's stands there."""
    path = Path(share.owner)
    temporary = path.with_suffix(f".{share.token}")
    temporary.write_text(json.dumps({"token": share.token, "host": socket.gethostname(), "pid": os.getpid()}))
    temporary.replace(path)

    def watch() -> None:
        while True:
            time.sleep(OWNER_POLL_S)
            if not _mine(share):
                print("imuvid: this trial is gone on with elsewhere: leaving it", file=sys.stderr, flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
            with contextlib.suppress(OSError):
                os.utime(path)

    threading.Thread(target=watch, daemon=True).start()


def _mine(share: Share) -> bool:
    try:
        return bool(json.loads(Path(share.owner).read_text())["token"] == share.token)
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError):
        return True  # storage that stutters is no other owner


def main() -> int:
    """Start the ranks of the share that the first word describes, and return their exit code."""
    fields = json.loads(sys.argv[1])
    share = Share(**{**fields, "place": Place(**fields["place"])})
    _claim(share)
    code = run_local(share.argv, share.nproc, share.grace_s, share.place)
    if _mine(share):
        Path(share.owner).unlink(missing_ok=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
