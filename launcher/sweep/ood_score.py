"""The OOD validation score of a trial's checkpoints, by ``imuvid evaluate`` in a process of its own."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from imuvid.errors import UserError
from launcher.local import die_with
from launcher.sweep.config import OOD_METRIC, OodConfig
from launcher.sweep.records import read_lines

logger = logging.getLogger(__name__)

SUBJECTS = "validation"
LIMIT_S = 3600.0


def headline(report: dict[str, Any]) -> float:
    """Return the score of a report on validation people.

    Raises:
        UserError: it has been taken on others.
    """
    found = report.get("headline", {})
    if found.get("subjects") != SUBJECTS:
        raise UserError(f"the evaluation scored {found.get('subjects', 'test')} people: a sweep takes no test scores")
    return float(found["value"])


class OodScorer:
    """Scores the newest checkpoint of a run whenever there is a new one, one at a time, while the run goes on.

    Args:
        config: what is evaluated on.
        cwd: folder that relative paths of the configs begin at.
    """

    def __init__(self, config: OodConfig, cwd: str):
        self._config, self._cwd = config, cwd
        self._process: subprocess.Popen[bytes] | None = None
        self._result = Path(tempfile.gettempdir())
        self._step = 0
        self._tried = -1
        self._until = 0.0

    def look_at(self, run: Path) -> None:
        """Take down a score that is there, and begin with the next checkpoint; returns at once."""
        if self._process is not None:
            if self._process.poll() is None and time.monotonic() < self._until:
                return
            self._take(run)
        newest = _newest(run)
        done = max((line["step"] for line in read_lines(run / "ood.jsonl")), default=-1)
        if newest is not None and _step_of(newest) > max(done, self._tried):
            self._begin(newest)

    def finish(self, run: Path) -> None:
        """Score the last checkpoint, and wait for it."""
        for _ in range(2):  # the one under way, and the last
            self._wait()
            self.look_at(run)
        self._wait()
        if self._process is not None:
            self._take(run)

    def _wait(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self._process is not None:
                self._process.wait(timeout=max(0.0, self._until - time.monotonic()))

    def _begin(self, checkpoint: Path) -> None:
        folder = Path(tempfile.mkdtemp(prefix="imuvid-ood-"))
        self._step = self._tried = _step_of(checkpoint)
        self._result, self._until = folder / "report.json", time.monotonic() + LIMIT_S
        words = [*self._config.words, f"subjects={SUBJECTS}", f"out={json.dumps(str(folder))}"]
        assert self._config.config is not None
        command = ["evaluate", str(checkpoint), self._config.config, *words, "--json", str(self._result)]
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "launcher.cli", *command],
                cwd=self._cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with(os.getpid()),
            )

    def _take(self, run: Path) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.kill()
        code, self._process = self._process.wait(), None
        if code:
            last = (self._result.parent / "log").read_text(errors="replace").strip().splitlines() or [""]
            logger.warning("%s: step %d has no OOD validation score: %s", run, self._step, last[-1])
            return
        line = {"step": self._step, OOD_METRIC: headline(json.loads(self._result.read_text()))}
        with (run / "ood.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def _newest(run: Path) -> Path | None:
    try:
        path = run / "checkpoints" / (run / "checkpoints/latest").read_text().strip()
    except OSError:
        return None
    return path if path.is_dir() else None


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])
