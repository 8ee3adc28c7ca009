"""Evaluates the checkpoints of a run as they appear, each once, whatever happens to this process or to the run."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from imuvid.errors import UserError
from imuvid.manifest import manifest_problem
from imuvid.ood.config import OODConfig
from imuvid.ood.job import evaluate
from imuvid.ood.parts import Execute
from imuvid.ood.results import REPORT_HTML, EvaluationResult
from imuvid.training.checkpoint import read_finished

logger = logging.getLogger(__name__)


def watch(
    run: Path,
    config: OODConfig,
    execute: Execute | None = None,
    poll_s: float = 30.0,
    limit_s: float = 0.0,
    sleep: Callable[[float], None] = time.sleep,
) -> list[EvaluationResult]:
    """Evaluate each checkpoint of a run once, oldest first, until the run has finished.

    What was evaluated is seen from the reports in the run folder: a watch that was killed goes on where it was. A
    checkpoint that cannot be evaluated is logged and left out, until the watch is started again. Checkpoints that the
    run deletes before their turn are missed.

    Args:
        run: its folder, which may not exist yet.
        config: of the evaluation; ``out`` must be None.
        execute: runs folds in other processes.
        poll_s: between looks, seconds.
        limit_s: longest wait for the next checkpoint, seconds; 0: none.
        sleep: given by tests.

    Raises:
        UserError: ``out`` is given, or the limit has passed before there was any checkpoint.
    """
    if config.out is not None:
        raise UserError("out is not for --watch: each checkpoint has a report of its own in the run folder")
    done: list[EvaluationResult] = []
    failed: set[str] = set()
    waited_s = 0.0
    while True:
        finished = read_finished(run)  # looked at first: a checkpoint that comes between the two looks is not missed
        there = sorted((run / "checkpoints").glob("step-*"))
        waiting = [path for path in there if path.name not in failed and not _is_done(run, path) and _is_whole(path)]
        for checkpoint in waiting:
            logger.info("evaluating %s", checkpoint)
            try:
                done.append(evaluate(checkpoint, config, execute))
            except UserError as error:
                logger.warning("%s is left out: %s", checkpoint.name, error)
                failed.add(checkpoint.name)
        if waiting:
            waited_s = 0.0
            continue
        if finished is not None and all(_step(path) <= finished for path in there):
            return done
        if limit_s and waited_s >= limit_s:
            if not there:
                raise UserError(f"{run}: no checkpoint came within {limit_s:g} s: is it the folder of the run?")
            return done
        sleep(poll_s)
        waited_s += poll_s


def _is_whole(checkpoint: Path) -> bool:
    return manifest_problem(checkpoint, "encoder/") is None


def _is_done(run: Path, checkpoint: Path) -> bool:
    return (run / "report" / checkpoint.name / REPORT_HTML).is_file()  # written last


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.partition("-")[2]
    return int(number) if number.isdecimal() else 0
