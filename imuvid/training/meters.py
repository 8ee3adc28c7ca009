"""What a run says about itself: metrics.jsonl, TensorBoard, a line in the terminal."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter

from imuvid.training.phases import Phases


class StepTimer:
    """Measures a stretch of steps: samples/s, how long each step waits for its data, and for its checkpoints.

    Args:
        phases: of the steps; begins a new stretch with it.
        clock: monotonic seconds; given by tests.
    """

    def __init__(self, phases: Phases, clock: Callable[[], float] = time.perf_counter):
        self._phases, self._clock = phases, clock
        self.reset()

    def reset(self) -> None:
        """Begin a new stretch."""
        self._start = self._mark = self._clock()
        self._waited = self._longest = self._saved = 0.0
        self._samples = 0
        self._phases.reset()

    def waiting(self) -> None:
        """Call before asking for a batch."""
        self._mark = self._clock()

    def got(self, num_samples: int) -> None:
        """Call when the batch is there; ``num_samples`` over all ranks."""
        waited = self._clock() - self._mark
        self._waited += waited
        self._longest = max(self._longest, waited)
        self._samples += num_samples

    def saving(self) -> None:
        """Call before anything is done for a checkpoint."""
        self._mark = self._clock()

    def saved(self) -> None:
        """Call when training goes on, whether or not the checkpoint is on the disk by then."""
        self._saved += self._clock() - self._mark

    def samples_per_s(self) -> float:
        """Return the samples a second since the last reset."""
        return self._samples / self._elapsed()

    def waits(self) -> list[float]:
        """Return, since the last reset, the share of the time spent waiting for data, a step's longest wait in seconds,
        and the share of the time that training stood still for checkpoints.
        """
        return [self._waited / self._elapsed(), self._longest, self._saved / self._elapsed()]

    def shares(self) -> dict[str, float]:
        """Return, since the last reset, the share of the time that each phase of the steps took, by phases.NAMES."""
        seconds = self._phases.seconds()
        return {f"{name}_share": spent / self._elapsed() for name, spent in seconds.items()}

    def _elapsed(self) -> float:
        return max(self._clock() - self._start, 1e-9)


def memory_gb(device: torch.device) -> float:
    """Return the most memory of a GPU since the last call; on a CPU what the process has now. 10^9 bytes."""
    if device.type == "cuda":
        most = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return most / 1e9
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e9


class MetricsLog:
    """Writes figures of a run; only rank 0 has one.

    Args:
        folder: the run folder.
        first_step: lines of later steps, left by a run that was stopped after its last checkpoint, are dropped.
    """

    def __init__(self, folder: Path, first_step: int):
        self._path = folder / "metrics.jsonl"
        self._is_live = False
        self._keep_before(first_step)
        self._file = self._path.open("a")
        self._board = SummaryWriter(str(folder), purge_step=first_step + 1)

    def write(self, step: int, split: str, figures: dict[str, float]) -> None:
        """Append one line: {"step", "split", name: value}; values that are not finite become null."""
        line = {"step": step, "split": split, **{k: v if math.isfinite(v) else None for k, v in figures.items()}}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for name, value in figures.items():
            self._board.add_scalar(f"{split}/{name}", value, step)
        self._board.flush()

    def say(self, text: str) -> None:
        """Print one line at once."""
        self._end_live()
        print(text, file=sys.stdout, flush=True)

    def live(self, text: str) -> None:
        """Show where the run is: in a terminal one line that the next takes the place of, elsewhere a line each."""
        if not sys.stdout.isatty():
            self.say(text)
            return
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\x1b[2K{text[:width]}", end="", file=sys.stdout, flush=True)
        self._is_live = True

    def _end_live(self) -> None:
        if self._is_live:
            print(file=sys.stdout)
            self._is_live = False

    def close(self) -> None:
        """Close the files."""
        self._end_live()
        self._file.close()
        self._board.close()

    def _keep_before(self, first_step: int) -> None:
        if not self._path.exists():
            return
        kept = []
        for line in self._path.read_text(errors="replace").splitlines():
            try:
                if json.loads(line)["step"] <= first_step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                continue  # the last line of a run that was killed while writing it
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text("".join(kept))
        temporary.replace(self._path)
