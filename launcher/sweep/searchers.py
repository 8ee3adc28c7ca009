"""What is tried next: random, grid, a list, TPE (Optuna), HEBO or Ax, behind one journal.

Every trial is written down before it starts. A sweep that is gone on with first gives Tune the trials of the journal
again, with their numbers and parameters, and a model-based search learns from them as they say again how they went.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from ray.tune.search import Searcher

from imuvid.errors import UserError
from launcher.sweep import records
from launcher.sweep.config import SearchConfig
from launcher.sweep.records import FINISHED, STOPPED
from launcher.sweep.space import Parameter, Space, draw, draw_random, grid
from launcher.sweep.trial import PERCENT, SCORE

logger = logging.getLogger(__name__)


class Search(Protocol):
    """Chooses parameters."""

    def ask(self, number: int, known: dict[str, Any] | None) -> dict[str, Any] | None:
        """Return the parameters of trial ``number``, None where there are no more.

        Args:
            number: of the trial.
            known: its parameters, where it has been asked for in an earlier start.
        """

    def tell(self, number: int, scores: list[tuple[float, float]], state: str) -> None:
        """Take in how a trial ended: (percent, score) at its validations, and its state."""


class RandomSearch:
    """Independent draws."""

    def __init__(self, space: Space, seed: int):
        self._space, self._seed = space, seed

    def ask(self, number: int, known: dict[str, Any] | None) -> dict[str, Any] | None:
        """See :class:`Search`."""
        return known or draw_random(self._space, self._seed, number)

    def tell(self, number: int, scores: list[tuple[float, float]], state: str) -> None:
        """See :class:`Search`."""


class ListedSearch:
    """Given parameters, one after another."""

    def __init__(self, listed: list[dict[str, Any]]):
        self._listed = listed

    def ask(self, number: int, known: dict[str, Any] | None) -> dict[str, Any] | None:
        """See :class:`Search`."""
        return known or (self._listed[number] if number < len(self._listed) else None)

    def tell(self, number: int, scores: list[tuple[float, float]], state: str) -> None:
        """See :class:`Search`."""


class TpeSearch:
    """Tree-structured Parzen estimators (Bergstra et al., NeurIPS 2011), multivariate, by Optuna.

    Args:
        space: what is searched.
        config: of the search.
        maximise: whether more is better.
        begun: trials of earlier starts; the draws go on elsewhere than they began.

    Raises:
        UserError: Optuna is not installed.
    """

    def __init__(self, space: Space, config: SearchConfig, maximise: bool, begun: int):
        try:
            import optuna
        except ImportError as error:
            raise UserError("search.kind=tpe needs Optuna: pip install optuna, or set search.kind=random") from error
        self._optuna, self._space = optuna, space
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # `group` may change its interface
        sampler = optuna.samplers.TPESampler(
            seed=config.seed + begun,
            n_startup_trials=config.startup_trials,
            multivariate=True,
            group=True,  # of parameters that appear together: conditions split them
            constant_liar=True,  # trials that run are taken for bad ones, so that others look elsewhere
        )
        direction: Any = "maximize" if maximise else "minimize"
        self._study = optuna.create_study(direction=direction, sampler=sampler)
        self._asked: dict[int, Any] = {}

    def ask(self, number: int, known: dict[str, Any] | None) -> dict[str, Any] | None:
        """See :class:`Search`."""
        if known is not None:
            values = {p.key: p.values.index(known[p.key]) if p.values else known[p.key] for p in self._chosen(known)}
            self._study.enqueue_trial(values)
        trial = self._asked[number] = self._study.ask()

        def pick(parameter: Parameter) -> Any:
            if parameter.values:
                return parameter.values[trial.suggest_categorical(parameter.key, range(len(parameter.values)))]
            if parameter.kind == "int":
                return trial.suggest_int(parameter.key, int(parameter.low), int(parameter.high))
            logarithmic = parameter.kind == "loguniform"
            return trial.suggest_float(parameter.key, parameter.low, parameter.high, log=logarithmic)

        return draw(self._space, pick)

    def tell(self, number: int, scores: list[tuple[float, float]], state: str) -> None:
        """See :class:`Search`."""
        trial = self._asked.pop(number)
        for percent, score in scores:
            trial.report(score, round(percent))
        states = self._optuna.trial.TrialState
        if state == FINISHED and scores:
            self._study.tell(trial, scores[-1][1])
        else:
            self._study.tell(trial, state=states.PRUNED if scores else states.FAIL)

    def _chosen(self, known: dict[str, Any]) -> Iterator[Parameter]:
        return (parameter for parameter in self._space if parameter.key in known)


class TuneSearch:
    """A searcher that Ray Tune knows, over all parameters; those without a part are left out of what it proposes."""

    def __init__(self, kind: str, space: Space, config: SearchConfig, maximise: bool):
        mode = "max" if maximise else "min"
        try:
            if kind == "hebo":
                from ray.tune.search.hebo import HEBOSearch

                self._searcher: Searcher = HEBOSearch(
                    space=tune_space(space), metric=SCORE, mode=mode, random_state_seed=config.seed
                )
            else:
                from ray.tune.search.ax import AxSearch

                self._searcher = AxSearch(space=tune_space(space), metric=SCORE, mode=mode)
        except (ImportError, AssertionError) as error:
            name = {"hebo": "HEBO", "ax": "ax-platform"}[kind]
            message = f"search.kind={kind} needs {name}, which is not installed: pip install {name}, or use tpe"
            raise UserError(message) from error
        self._space = space

    def ask(self, number: int, known: dict[str, Any] | None) -> dict[str, Any] | None:
        """See :class:`Search`."""
        if known is not None:
            return known
        proposed = self._searcher.suggest(str(number))
        if not isinstance(proposed, dict):
            return None
        return draw(self._space, lambda parameter: proposed[parameter.key])

    def tell(self, number: int, scores: list[tuple[float, float]], state: str) -> None:
        """See :class:`Search`."""
        result = {SCORE: scores[-1][1]} if scores else None
        self._searcher.on_trial_complete(str(number), result=result, error=result is None)


def tune_space(space: Space) -> dict[str, Any]:
    """Return a space as Ray Tune writes it, without the conditions."""
    from ray import tune

    domains: dict[str, Any] = {}
    for p in space:
        if p.values:
            domains[p.key] = tune.choice(list(p.values))
        elif p.kind == "int":
            domains[p.key] = tune.randint(int(p.low), int(p.high) + 1)
        else:
            domains[p.key] = (tune.loguniform if p.kind == "loguniform" else tune.uniform)(p.low, p.high)
    return domains


def build_search(config: SearchConfig, space: Space, maximise: bool, begun: int) -> Search:
    """Return the search that a config asks for.

    Raises:
        UserError: what it needs is not installed, or the space does not fit it.
    """
    if config.kind == "random":
        return RandomSearch(space, config.seed)
    if config.kind == "grid":
        return ListedSearch(list(grid(space)))
    if config.kind == "tpe":
        return TpeSearch(space, config, maximise, begun)
    return TuneSearch(config.kind, space, config, maximise)


class JournalSearcher(Searcher):
    """What Ray Tune asks.

    Args:
        search: what chooses.
        folder: of the sweep.
        max_trials: in all starts together; None for no limit.
    """

    def __init__(self, search: Search, folder: Path, max_trials: int | None):
        super().__init__(metric=SCORE, mode="max")
        self._search, self._folder, self._max_trials = search, folder, max_trials
        begun = records.read_journal(folder)
        self._next = max(begun, default=-1) + 1
        # Those that are through first: what they say is known before others go on.
        self._again = sorted(begun.items(), key=lambda item: (records.read_outcome(folder, item[0]) is None, item[0]))
        self._numbers: dict[str, int] = {}
        self._scores: dict[str, list[tuple[float, float]]] = {}
        self.closed = False
        """Set where no more trials are wanted."""

    def suggest(self, trial_id: str) -> Any:
        """See :class:`ray.tune.search.Searcher`."""
        if self.closed:
            return Searcher.FINISHED
        if self._again:
            number, known = self._again.pop(0)
            self._search.ask(number, known)
            return self._config(trial_id, number, known)
        number = self._next
        if self._max_trials is not None and number >= self._max_trials:
            return Searcher.FINISHED
        parameters = self._search.ask(number, None)
        if parameters is None:
            return Searcher.FINISHED
        records.append_journal(self._folder, number, parameters)
        self._next += 1
        return self._config(trial_id, number, parameters)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """See :class:`ray.tune.search.Searcher`."""
        if SCORE in result:
            self._scores.setdefault(trial_id, []).append((result[PERCENT], result[SCORE]))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """See :class:`ray.tune.search.Searcher`."""
        number = self._numbers.pop(trial_id, None)
        if number is None:
            return
        scores = self._scores.pop(trial_id, [])
        if result and SCORE in result and (result[PERCENT], result[SCORE]) not in scores:
            scores.append((result[PERCENT], result[SCORE]))
        outcome = records.read_outcome(self._folder, number)
        self._search.tell(number, scores, outcome.state if outcome else STOPPED)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is what a sweep goes on from."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as :meth:`save`."""

    def _config(self, trial_id: str, number: int, parameters: dict[str, Any]) -> dict[str, Any]:
        self._numbers[trial_id] = number
        replay = records.read_outcome(self._folder, number) is not None
        return {"number": number, "parameters": parameters, "replay": replay}
