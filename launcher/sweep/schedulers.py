"""Which trials go on: Ray Tune's schedulers, told only of scores; a stop is written down before it is carried out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    PopulationBasedTraining,
    TrialScheduler,
)

from imuvid.errors import UserError
from launcher.sweep import records
from launcher.sweep.config import SweepConfig
from launcher.sweep.records import STOPPED, Outcome
from launcher.sweep.searchers import tune_space
from launcher.sweep.space import Space
from launcher.sweep.trial import AGAIN, PERCENT, SCORE

# What a checkpoint cannot be gone on with, or the trials cannot be compared by.
_FIXED_IN_PBT = ("model.", "data.batch_size", "data.max_per_recording", "data.block_shards", "train.epochs", "seed")


class OnScores:
    """Beside a scheduler of Tune's: passes over results without a score, and leaves ending to the trial.

    A trial that is stopped sees that in its folder, has its run save, and says that it is done; so a sweep that is
    killed in between knows it, too.
    """

    folder: Path

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """See :class:`ray.tune.schedulers.TrialScheduler`."""
        if SCORE not in result:
            return TrialScheduler.CONTINUE
        decision: str = super().on_trial_result(tune_controller, trial, result)  # type: ignore[misc]
        if decision != TrialScheduler.STOP:
            return decision
        records.write_outcome(self.folder, trial.config["number"], Outcome(STOPPED, f"at {result[PERCENT]:.0f} %"))
        return TrialScheduler.CONTINUE


class _Fifo(OnScores, FIFOScheduler):
    pass


class _Asha(OnScores, AsyncHyperBandScheduler):
    pass


class _HyperBand(OnScores, HyperBandScheduler):
    pass


class _Pbt(OnScores, PopulationBasedTraining):
    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        # Tune refuses any searcher beside PBT; ours only draws the first generation (check_sweep).
        none: Any = SimpleNamespace(search_alg=None)
        super().on_trial_add(none, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        if result.get(AGAIN):  # what it led to has been done in an earlier start
            state = self._trial_state[trial]
            self._save_trial_state(state, result[PERCENT], result, trial)
            state.last_perturbation_time = result[PERCENT]
            return str(TrialScheduler.CONTINUE)
        return super().on_trial_result(tune_controller, trial, result)

    def _get_new_config(self, trial: Trial, trial_to_clone: Trial) -> tuple[dict[str, Any], dict[str, Any]]:
        config, operations = super()._get_new_config(trial, trial_to_clone)
        return {**trial.config, "parameters": config["parameters"]}, operations


class NoteStops(Callback):
    """Writes down the stop of a trial that is paused: HyperBand stops those while they do not run."""

    def __init__(self, folder: Path):
        self._folder = folder

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """See :class:`ray.tune.Callback`."""
        if trial.status == Trial.PAUSED:
            records.write_outcome(self._folder, trial.config["number"], Outcome(STOPPED, "behind others"))


def build_scheduler(config: SweepConfig, space: Space, folder: Path) -> TrialScheduler:
    """Return the scheduler that a config asks for; its time is the percentage of a run's steps.

    Raises:
        UserError: the space does not fit it.
    """
    schedule = config.schedule
    words: dict[str, Any] = {"metric": SCORE, "mode": "max" if config.maximise else "min", "time_attr": PERCENT}
    scheduler: Any
    if schedule.kind == "asha":
        words |= {"grace_period": schedule.first_rung_percent}  # a share of a step is one too
        scheduler = _Asha(max_t=100, reduction_factor=schedule.reduction, **words)
    elif schedule.kind == "hyperband":
        scheduler = _HyperBand(max_t=100, reduction_factor=schedule.reduction, **words)
    elif schedule.kind == "pbt":
        scheduler = _Pbt(
            perturbation_interval=schedule.perturb_percent,
            hyperparam_mutations={"parameters": _mutations(space)},
            custom_explore_fn=_Within(space),
            log_config=False,
            **words,
        )
    else:
        scheduler = _Fifo()
    scheduler.folder = folder
    return scheduler


def _mutations(space: Space) -> dict[str, Any]:
    for parameter in space:
        if parameter.key.startswith(_FIXED_IN_PBT):
            raise UserError(
                f"schedule.kind=pbt cannot change {parameter.key} of a run that has begun: take it out of the space"
            )
        if parameter.when:
            raise UserError(f"schedule.kind=pbt knows no conditions: {parameter.key} has one")
    return tune_space(space)


class _Within:
    """Keeps what PBT makes of a parameter, by factors of 1.2 and 0.8, within its range."""

    def __init__(self, space: Space):
        self._space = space

    def __call__(self, config: dict[str, Any]) -> dict[str, Any]:
        for parameter in self._space:
            if not parameter.values:
                value = min(max(config["parameters"][parameter.key], parameter.low), parameter.high)
                config["parameters"][parameter.key] = round(value) if parameter.kind == "int" else value
        return config
