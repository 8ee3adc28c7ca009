"""The pretraining run: set up, train, leave a checkpoint behind whatever happens.

Every rank runs :func:`pretrain`. Ranks agree once a step on what to do, so that a signal to one of them, or a loss that
is not finite on one of them, is one for all at the same step.
"""

from __future__ import annotations

from dataclasses import dataclass

from imuvid.errors import UserError
from imuvid.training import preemption
from imuvid.training.config import PretrainConfig
from imuvid.training.guard import Verdict
from imuvid.training.meters import StepTimer
from imuvid.training.run import Run
from imuvid.training.starts import CrashLoop


@dataclass
class RunResult:
    """How a start of a run ended."""

    folder: str
    step: int
    """Steps done in all."""
    finished: bool
    """False where a signal ended it before its last step."""
    exit_code: int
    checkpoint: str
    validation: dict[str, float]
    """Last retrieval scores, empty if none were taken in this start."""


def pretrain(config: PretrainConfig) -> RunResult:
    """Train on this rank (RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT in the environment) to the end.

    Raises:
        UserError: the config, the dataset or the run folder does not allow it.
        RuntimeError: a rank was lost or did not answer in time, or steps are bad although the run went back (Guard).
        ValueError: a shard cannot be read, or more samples are corrupt than data.max_corrupt.
    """
    run = Run(config)
    try:
        run.set_up()
        return _train(run)
    except CrashLoop:
        raise
    except UserError:
        run.forget_starts()
        raise
    finally:
        run.close()


def _train(run: Run) -> RunResult:
    config, timer = run.config, StepTimer(run.phases)
    stream = run.stream()
    started_at, signal_number, validation = run.step, 0, {}
    if run.validation_due:
        validation = run.validate() or {}
        signal_number = run.came()
        if run.step == run.num_steps:
            run.save(wait=True)
    while run.step < run.num_steps:
        timer.waiting()
        run.watch("reading data", config.data.timeout_s + config.engine.step_timeout_s)
        batch = next(stream)
        timer.got(config.data.batch_size)
        agreed, verdict = run.train_on(batch)
        signal_number = agreed.signal
        if verdict is Verdict.GO_BACK:
            stream = run.go_back()
            timer.reset()
            continue
        run.step += 1
        last = run.step == run.num_steps
        if run.step % config.train.log_every_steps == 0 or last:
            run.log_training(timer)
            timer.reset()
        if last or run.step % run.validate_every == 0:
            run.validation_due = True
            if not signal_number:
                validation = run.validate() or {}
                signal_number = run.came()
                timer.reset()
        timer.saving()
        if not agreed.writing:
            run.finish_saving()
        if last or signal_number or agreed.save_due or run.step % config.train.checkpoint_every_steps == 0:
            run.save(wait=last or bool(signal_number))
        timer.saved()
        if signal_number:
            break
    finished = run.step >= run.num_steps and not run.validation_due
    run.end(started_at, 0 if finished else signal_number)
    code = 0 if finished else preemption.exit_code(signal_number)
    return RunResult(str(run.folder), run.step, finished, code, str(run.checkpoint), validation)
