"""Population-based training beside the journal's searcher, on trials that only pretend to run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune import CheckpointConfig
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import SearchGenerator

from imuvid.errors import UserError
from launcher.sweep.config import SweepConfig, check_sweep
from launcher.sweep.schedulers import build_scheduler
from launcher.sweep.searchers import JournalSearcher, ListedSearch
from launcher.sweep.space import parse_space
from launcher.sweep.trial import AGAIN, PERCENT, SCORE

SPACE = {"optimizer.lr": {"loguniform": [1e-4, 1e-1]}}


class FakeTrial:
    """What the scheduler looks at, and what it does to it."""

    status = "RUNNING"

    def __init__(self, number: int, rate: float, replay: bool = False):
        self.trial_id = str(number)
        self.config: dict[str, Any] = {"number": number, "parameters": {"optimizer.lr": rate}, "replay": replay}
        self.evaluated_params: dict[str, Any] = {}
        self.experiment_tag = ""
        self.last_result: dict[str, Any] = {}
        keep = SimpleNamespace(checkpoint_config=CheckpointConfig(num_to_keep=4))
        self.run_metadata = SimpleNamespace(checkpoint_manager=keep)

    def is_finished(self) -> bool:
        return False

    def set_experiment_tag(self, tag: str) -> None:
        self.experiment_tag = tag

    def set_config(self, config: dict[str, Any]) -> None:
        self.config = config


class Paused(Exception):
    """The scheduler pauses a trial to give it another's state."""


def controller(trials: list[FakeTrial], folder: Path) -> Any:
    def pause(trial: FakeTrial, should_checkpoint: bool) -> None:
        raise Paused(trial.trial_id)

    search = SearchGenerator(JournalSearcher(ListedSearch([]), folder, None))
    return SimpleNamespace(
        search_alg=search,
        get_trials=lambda: trials,
        pause_trial=pause,
        _schedule_trial_save=lambda trial, result: "a checkpoint",
    )


def pbt(folder: Path, trials: list[FakeTrial]) -> tuple[Any, Any]:
    config = SweepConfig(name="s", base="b", space=SPACE)
    config.search.kind, config.schedule.kind = "random", "pbt"
    scheduler: Any = build_scheduler(config, parse_space(SPACE), folder)
    control = controller(trials, folder)
    for trial in trials:
        scheduler.on_trial_add(control, trial)
    return scheduler, control


def result(percent: float, score: float, again: bool = False) -> dict[str, Any]:
    return {PERCENT: percent, SCORE: score, AGAIN: again}


def test_the_worse_trial_takes_over_but_not_for_what_it_says_again(tmp_path: Path):
    good, bad = trials = [FakeTrial(0, 0.01), FakeTrial(1, 0.02)]
    scheduler, control = pbt(tmp_path, trials)
    assert scheduler.on_trial_result(control, good, result(30, 0.9, again=True)) == TrialScheduler.CONTINUE
    assert scheduler.on_trial_result(control, bad, result(30, 0.1, again=True)) == TrialScheduler.CONTINUE
    assert scheduler.on_trial_result(control, bad, result(40, 0.1)) == TrialScheduler.CONTINUE  # 10 % after that
    assert scheduler.on_trial_result(control, good, result(50, 0.9)) == TrialScheduler.CONTINUE
    with pytest.raises(Paused, match="1"):
        scheduler.on_trial_result(control, bad, result(50, 0.1))


def test_a_trial_that_takes_over_keeps_its_number(tmp_path: Path):
    good, bad = trials = [FakeTrial(0, 0.09), FakeTrial(1, 0.0002)]
    scheduler, _ = pbt(tmp_path, trials)
    for _ in range(20):
        config, _ = scheduler._get_new_config(bad, good)
        assert (config["number"], config["replay"]) == (1, False)
        assert config["parameters"] != bad.config["parameters"]
        assert 1e-4 <= config["parameters"]["optimizer.lr"] <= 1e-1
    assert good.config["parameters"] == {"optimizer.lr": 0.09}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "pbt", "search": "tpe"}, "search.kind=tpe: schedule.kind=pbt searches itself"),
        ({"gpu_hours": 3.0}, "limits.gpu_hours is set and trials hold no GPUs"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], message: str):
    config = SweepConfig(name="s", base="b", space=SPACE)
    config.schedule.kind = changes.get("schedule", "asha")
    config.search.kind = changes.get("search", "random")
    config.limits.gpu_hours = changes.get("gpu_hours")
    with pytest.raises(UserError, match=message):
        check_sweep(config)
