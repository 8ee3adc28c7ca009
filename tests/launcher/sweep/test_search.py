"""Searching a simulated problem whose best is known, with Ray Tune's own controller left out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from imuvid.errors import UserError
from launcher.sweep import records
from launcher.sweep.config import SearchConfig, SweepConfig, check_sweep
from launcher.sweep.records import FINISHED, STOPPED, Outcome
from launcher.sweep.schedulers import build_scheduler
from launcher.sweep.searchers import JournalSearcher, TpeSearch, build_search
from launcher.sweep.space import grid, parse_space
from launcher.sweep.trial import PERCENT, SCORE
from tests.soak import times

LR, TEMPERATURE = "optimizer.lr", "model.objective.nt_xent.temperature"
SPACE = {LR: {"loguniform": [1e-5, 1e-1]}, TEMPERATURE: {"loguniform": [0.01, 1.0]}}
STEPS = 27
"""Of a run; a score at every third."""
BEST_LR, BEST_TEMPERATURE = 2e-3, 0.07


def score(parameters: dict, step: int) -> float:
    """R@1 of a simulated training: highest at the best pair, rising with the steps, more slowly at a small rate."""
    lr, temperature = math.log10(parameters[LR] / BEST_LR), math.log10(parameters[TEMPERATURE] / BEST_TEMPERATURE)
    final = 0.9 * math.exp(-((lr / 1.2) ** 2) - (temperature / 0.8) ** 2 - 0.4 * lr * temperature)
    return final * (1 - math.exp(-4 * (step / STEPS) * min(1.5, 10 ** (0.3 * lr)))) / (1 - math.exp(-4))


class FakeTrial:
    """What a scheduler of Ray Tune looks at."""

    status = "RUNNING"

    def __init__(self, trial_id: str, config: dict):
        self.trial_id, self.config = trial_id, config


def run_all(folder: Path, config: SweepConfig) -> tuple[float, int]:
    """Run a sweep one trial after another on the simulated problem; return the best score and the steps done."""
    space = parse_space(config.space)
    searcher = JournalSearcher(build_search(config.search, space, True, 0), folder, config.limits.trials)
    scheduler: Any = build_scheduler(config, space, folder)
    steps, best = 0, 0.0
    while isinstance(given := searcher.suggest(f"t{steps}"), dict):
        trial = FakeTrial(f"t{steps}", given)
        scheduler.on_trial_add(None, trial)
        for step in range(3, STEPS + 1, 3):
            result = {PERCENT: 100 * step / STEPS, SCORE: score(given["parameters"], step)}
            searcher.on_trial_result(trial.trial_id, result)
            if step == STEPS:
                records.write_outcome(folder, given["number"], Outcome(FINISHED))
                best = max(best, result[SCORE])
            else:
                scheduler.on_trial_result(None, trial, result)
            if records.read_outcome(folder, given["number"]) is not None:
                break
        searcher.on_trial_complete(trial.trial_id, result)
        scheduler.on_trial_complete(None, trial, result)
        steps += step
    return best, steps


@pytest.mark.parametrize("seed", range(times(2, 20)))
def test_tpe_with_asha_comes_near_the_best_of_a_grid_with_a_third_of_its_steps(tmp_path: Path, seed: int):
    pytest.importorskip("optuna")
    points = {LR: [10 ** (-5 + i / 2) for i in range(9)], TEMPERATURE: [10 ** (-2 + i / 4) for i in range(9)]}
    everything = list(grid(parse_space({key: {"grid": values} for key, values in points.items()})))
    of_grid = max(score(parameters, STEPS) for parameters in everything)
    config = SweepConfig(name="s", base="b", space=SPACE, search=SearchConfig(seed=seed))
    config.limits.trials = 50
    best, steps = run_all(tmp_path, config)
    assert best >= 0.98 * of_grid
    assert steps <= len(everything) * STEPS / 3


def test_a_search_that_is_gone_on_with_gives_the_same_trials_and_learns_from_them(tmp_path: Path):
    space = parse_space({**SPACE, "data.batch_size": {"choice": [[8], [16]], "when": {}}})
    config = SearchConfig(startup_trials=2)

    def begin(max_trials: int) -> tuple[TpeSearch, JournalSearcher]:
        search = TpeSearch(space, config, True, len(records.read_journal(tmp_path)))
        return search, JournalSearcher(search, tmp_path, max_trials)

    _, first = begin(3)
    given = [first.suggest(str(i)) for i in range(4)]
    assert given[3] == JournalSearcher.FINISHED
    records.write_outcome(tmp_path, 0, Outcome(FINISHED))
    records.write_outcome(tmp_path, 1, Outcome(STOPPED))
    with (tmp_path / "trials.jsonl").open("a") as file:
        file.write('{"number": 3, "param')  # killed while writing

    search, second = begin(4)
    again = [second.suggest(f"again-{i}") for i in range(4)]
    assert [each["parameters"] for each in again[:3]] == [each["parameters"] for each in given[:3]]
    assert [each["replay"] for each in again] == [True, True, False, False]
    assert again[3]["parameters"] not in [each["parameters"] for each in given[:3]]
    second.on_trial_result("again-0", {SCORE: 0.5, PERCENT: 100.0})
    second.on_trial_complete("again-0", {SCORE: 0.5, PERCENT: 100.0})
    assert search._study.best_value == 0.5
    assert set(records.read_journal(tmp_path)) == {0, 1, 2, 3}


@pytest.mark.parametrize("kind", ["hebo", "ax"])
def test_a_search_that_is_not_installed_is_one_line(kind: str):
    pytest.importorskip("optuna")
    try:
        __import__(kind)
    except ImportError:
        with pytest.raises(UserError, match=f"search.kind={kind} needs .*pip install"):
            build_search(SearchConfig(kind=kind), parse_space(SPACE), True, 0)


@pytest.mark.parametrize("metric", ["test_accuracy", "ood_test", "hapt/TEST/balanced_accuracy"])
def test_test_scores_are_refused_by_name(metric: str):
    with pytest.raises(UserError, match=f"metric={metric}: a test score is no objective"):
        check_sweep(SweepConfig(name="s", base="b", space=SPACE, metric=metric))


def test_an_unknown_metric_names_the_known_ones():
    with pytest.raises(UserError, match="metric=acc is unknown: choose one of r_at_1_imu_to_video"):
        check_sweep(SweepConfig(name="s", base="b", space=SPACE, metric="acc"))
