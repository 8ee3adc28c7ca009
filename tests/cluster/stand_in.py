"""Stands in for ``imuvid`` under Slurm: keeps the contract between a rank and its launcher, and trains nothing.

``stand_in.py pretrain [--srun] FOLDER steps=N [reduce=1] [crash=STEP] [mistake=STEP] [kill=STEP] [upset=1]``: counts
to N, a step each 0.1 s, and keeps its count in FOLDER. On SIGUSR1 it saves and exits 85, on SIGTERM it saves and exits
143, or with 1 if upset; it goes on from what it has saved. At the steps given it exits with 1 or 2, or is killed, once.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path

from launcher.slurm import slurm_environment
from launcher.slurm_job import listen, run_in_job

asked = 0


def ask(number: int, _: object) -> None:
    global asked
    asked = number


def all_reduce() -> int:
    """Return the sum of rank + 1 over all ranks."""
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    total = torch.tensor([dist.get_rank() + 1])
    dist.all_reduce(total)
    dist.destroy_process_group()
    return int(total)


def main() -> int:
    if "--srun" in sys.argv:
        words = [word for word in sys.argv[1:] if word != "--srun"]
        return run_in_job([sys.executable, __file__, *words], Path(words[1]), listen(), lambda: None, lambda: None)
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, ask)
    environment = slurm_environment(os.environ) or {"RANK": "0", "WORLD_SIZE": "1"}
    os.environ.update(environment)
    rank = environment["RANK"]
    options = dict(word.split("=") for word in sys.argv[3:])

    def say(words: str) -> None:
        os.write(1, f"rank {rank} on {socket.gethostname()}: {words}\n".encode())

    saved = Path(sys.argv[2]) / f"{os.environ.get('SLURM_ARRAY_TASK_ID', '')}-rank-{rank}"
    step = int(saved.read_text()) if saved.exists() else 0
    say(f"starts at step {step} of {sys.argv[1]}")
    if "reduce" in options:
        say(f"sum {all_reduce()} with {environment['WORLD_SIZE']} ranks by {environment['MASTER_ADDR']}")
    while step < int(options["steps"]):
        if asked and "upset" in options:
            return 1
        if asked:
            saved.write_text(str(step))
            say(f"saved step {step} on signal {asked}")
            return 85 if asked == signal.SIGUSR1 else 143
        if options.get("crash") == str(step):
            return 1
        if options.get("mistake") == str(step):
            return 2
        if options.get("kill") == str(step) and rank == "1" and not (killed := saved.with_suffix(".killed")).exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        step += 1
        time.sleep(0.1)
        say(f"did step {step}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
