"""The table in the terminal: a line for every trial that begins, scores or ends, with the best so far."""

from __future__ import annotations

from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial

from launcher.sweep import records
from launcher.sweep.trial import PERCENT, SCORE, STEP, Plan


class Table(Callback):
    """Prints while the sweep runs.

    Args:
        plan: of the sweep; lines about trials that were through before it are left out.
    """

    def __init__(self, plan: Plan):
        self._plan = plan
        self._best: float | None = None
        self._head = True

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """See :class:`ray.tune.Callback`."""
        if not trial.config["replay"]:
            self._line(trial, "starts", None, describe(trial.config["parameters"]))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """See :class:`ray.tune.Callback`."""
        if SCORE in result:
            self._note(result)
            if not trial.config["replay"]:
                self._line(trial, "", result, "")

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """See :class:`ray.tune.Callback`."""
        if not trial.config["replay"]:
            outcome = records.read_outcome(self._plan.folder, trial.config["number"])
            self._line(trial, outcome.state if outcome else "leaves", None, outcome.message if outcome else "")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """See :class:`ray.tune.Callback`."""
        self._line(trial, "lost", None, "Ray lost its machine too often: --resume goes on with it")

    def _note(self, result: dict[str, Any]) -> None:
        value, maximise = result[SCORE], self._plan.config.maximise
        if result[PERCENT] >= 100 and (self._best is None or (value > self._best) == maximise):
            self._best = value

    def _line(self, trial: Trial, state: str, result: dict[str, Any] | None, more: str) -> None:
        if self._head:
            self._head = False
            print(f"{'trial':>5}  {'state':13}  {'step':>8}  {'done':>5}  {self._plan.config.metric:>20}  {'best':>8}")
        step = f"{result[STEP]:d}" if result else ""
        percent = f"{result[PERCENT]:.0f} %" if result else ""
        value = f"{result[SCORE]:.4f}" if result else ""
        best = "" if self._best is None else f"{self._best:.4f}"
        line = f"{trial.config['number']:>5}  {state:13}  {step:>8}  {percent:>5}  {value:>20}  {best:>8}  {more}"
        print(line.rstrip(), flush=True)


def describe(parameters: dict[str, Any]) -> str:
    """Return parameters in one line."""
    return "  ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in parameters.items()
    )
