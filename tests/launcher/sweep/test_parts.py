"""Parts of a sweep that need no Ray: records on disk, clones, the OOD score, the confirmation, the addresses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from imuvid import config as configs
from imuvid.errors import UserError
from imuvid.manifest import file_sums, write_manifest
from launcher.sweep import confirm, records
from launcher.sweep.allocation import private_address
from launcher.sweep.cloning import copy_newest_checkpoint
from launcher.sweep.config import OodConfig, SweepConfig, check_sweep, pretrain_config
from launcher.sweep.ood_score import OodScorer, headline
from launcher.sweep.records import FINISHED, STOPPED, Outcome, Score, Trial
from launcher.sweep.run import Limits, SweepResult
from launcher.sweep.searchers import JournalSearcher, ListedSearch
from launcher.sweep.space import draw_random, parse_space
from launcher.sweep.trial import Plan

REPOSITORY = Path(__file__).parents[3]


def write_run(run: Path, steps: dict[int, float], num_steps: int, epochs: float = 2.0) -> None:
    """Write a run's metrics: a training line each fifth step, validation at ``steps``."""
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text(f"train: {{epochs: {epochs}}}\n")
    lines = []
    for step in range(5, max(steps) + 1, 5):
        lines.append({"step": step, "split": "train", "epoch": epochs * step / num_steps, "loss": 1.0})
        if step in steps:
            lines.append({"step": step, "split": "val", "mrr_imu_to_video": steps[step]})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9')


def write_checkpoint(run: Path, step: int) -> Path:
    folder = run / f"checkpoints/step-{step:08d}"
    (folder / "engine").mkdir(parents=True)
    (folder / "engine/weights").write_bytes(bytes([step]) * 100)
    write_manifest(folder, file_sums(folder, [folder / "engine/weights"]))
    (run / "checkpoints/latest").write_text(folder.name + "\n")
    return folder


def test_scores_and_progress_are_read_from_the_run_over_its_generations(tmp_path: Path):
    write_run(tmp_path / "trials/trial-0003", {10: 0.1, 20: 0.2, 30: 0.3}, 40)
    write_run(tmp_path / "trials/trial-0003.1", {30: 0.5, 40: 0.6}, 40)  # took over another's weights at step 20
    records.append_journal(tmp_path, 3, {"optimizer.lr": 0.1})
    trial = records.read_trials(tmp_path, "mrr_imu_to_video")[0]
    assert [(s.step, s.percent, s.value) for s in trial.scores] == [
        (10, pytest.approx(25), 0.1),
        (20, pytest.approx(50), 0.2),
        (30, pytest.approx(75), 0.5),
        (40, pytest.approx(100), 0.6),
    ]
    assert trial.state == "unfinished"
    assert trial.folder.name == "trial-0003.1"


def test_the_first_outcome_of_a_trial_holds(tmp_path: Path):
    assert records.read_outcome(tmp_path, 1) is None
    records.write_outcome(tmp_path, 1, Outcome(FINISHED))
    records.write_outcome(tmp_path, 1, Outcome(STOPPED))
    assert records.read_outcome(tmp_path, 1) == Outcome(FINISHED)


def test_the_best_is_one_that_did_all_its_steps():
    def trial(number: int, state: str, value: float) -> Trial:
        return Trial(number, {}, state, "", [Score(1, 1.0, value)], 0.0, Path())

    trials = [
        trial(0, FINISHED, 0.4),
        trial(1, STOPPED, 0.9),
        trial(2, FINISHED, 0.6),
        trial(3, FINISHED, float("nan")),
    ]
    for maximise, best in ((True, 2), (False, 0)):
        found = records.best_trial(trials, maximise)
        assert found is not None
        assert found.number == best
    found = records.best_trial(trials[1:2], True)
    assert found is not None
    assert found.number == 1
    assert records.best_trial([], True) is None


def test_a_clone_goes_on_from_the_newest_sound_checkpoint(tmp_path: Path):
    donor, run = tmp_path / "donor", tmp_path / "run"
    assert copy_newest_checkpoint(donor, run) is None
    write_checkpoint(donor, 10)
    damaged = write_checkpoint(donor, 20)
    (damaged / "engine/weights").write_bytes(b"x")
    copied = copy_newest_checkpoint(donor, run)
    assert copied == run / "checkpoints/step-00000010"
    assert (copied / "engine/weights").read_bytes() == bytes([10]) * 100
    assert (run / "checkpoints/latest").read_text().strip() == "step-00000010"
    assert not (run / "config.yaml").exists()  # or its new parameters would be those of another run


def test_a_score_of_test_people_is_refused():
    assert headline({"headline": {"subjects": "validation", "value": 0.7}}) == 0.7
    for report in ({}, {"headline": {"subjects": "test", "value": 0.7}}):
        with pytest.raises(UserError, match="scored test people: a sweep takes no test scores"):
            headline(report)


def test_each_checkpoint_is_scored_once_and_the_last_one_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # A stand-in for `imuvid evaluate`, found before the real one: the score is the step in its checkpoint's name.
    package = tmp_path / "stand_in/launcher"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "cli.py").write_text(
        "import json, sys\n"
        "words = sys.argv[1:]\n"
        "assert words[0] == 'evaluate' and 'subjects=validation' in words and 'hapt.root=/data' in words, words\n"
        "step = int(words[1].rsplit('-', 1)[1])\n"
        "report = {'headline': {'subjects': 'validation', 'value': step / 100}}\n"
        "open(words[words.index('--json') + 1], 'w').write(json.dumps(report))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    run = tmp_path / "run"
    write_checkpoint(run, 10)
    scorer = OodScorer(OodConfig("hapt.yaml", ["hapt.root=/data"]), str(package.parent))
    scorer.look_at(run)
    write_checkpoint(run, 20)
    write_checkpoint(run, 30)
    scorer.finish(run)
    scorer.finish(run)
    scores = list(records.read_lines(run / "ood.jsonl"))
    assert scores == [{"step": 10, "ood_validation": 0.1}, {"step": 30, "ood_validation": 0.3}]


def test_a_confirmation_pairs_best_and_default_by_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    luck = rng.normal(0, 0.05, 6)
    asked = []

    def pretend(config: SweepConfig, resume: bool, listed: list[dict]) -> SweepResult:
        asked.extend(listed)
        trials = []
        for number, given in enumerate(listed):
            value = 0.6 + luck[number // 2] + 0.02 * ("optimizer.lr" in given) + 0.001 * (number % 3)
            trials.append(Trial(number, given, FINISHED, "", [Score(9, 100.0, value)], 1.0, Path()))
        return SweepResult("x", trials, True, "", 0)

    monkeypatch.setattr(confirm, "sweep", pretend)
    best = Trial(4, {"optimizer.lr": 0.1, "seed": 3}, FINISHED, "", [Score(9, 100.0, 0.9)], 1.0, Path())
    found = confirm.confirm_best(SweepConfig(name="s", base="b", runs_dir=str(tmp_path)), best, 6)
    seeds = [given["seed"] for given in asked]
    assert len(set(seeds)) == 6
    assert 3 not in seeds  # no seed that the best was chosen with
    assert seeds[::2] == seeds[1::2]
    values = np.array([row["values"] for row in found["rows"]])
    test = stats.ttest_rel(values[0], values[1]).confidence_interval(0.95)
    assert (found["difference"]["low"], found["difference"]["high"]) == pytest.approx((test.low, test.high))
    assert found["difference"]["low"] > 0
    assert "better than the default" in found["lines"][-1]
    assert found["rows"][0]["low"] < values[0].mean() < found["rows"][0]["high"]


def test_gpu_hours_are_those_of_all_starts_and_end_the_sweep_without_a_kill(tmp_path: Path):
    config = SweepConfig(name="s", base="b")
    config.limits.gpu_hours, config.trial.gpus_per_rank, config.trial.ranks_per_node = 1.0, 1.0, 4
    records.append_journal(tmp_path, 0, {})
    records.write_seconds(tmp_path, 0, 600)  # in an earlier start
    searcher = JournalSearcher(ListedSearch([{}, {}]), tmp_path, None)
    limits = Limits(Plan(config, tmp_path, "this", "."), searcher)
    limits("t", {"number": 1, "seconds": 290.0})
    assert not limits.stop_all()
    assert limits.gpu_hours() == pytest.approx(4 * 890 / 3600)
    assert isinstance(searcher.suggest("a"), dict)
    limits("t", {"number": 1, "seconds": 310.0})
    assert not limits.stop_all()  # the trials leave by themselves
    assert json.loads((tmp_path / "leave.json").read_text()) == {"start": "this"}
    assert searcher.suggest("b") == JournalSearcher.FINISHED
    assert limits.why == "limits.gpu_hours=1 are used up"
    assert limits.exit_code(True) == 0


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs/sweep").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_sweeps_that_come_with_it_start_runs_that_exist(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(REPOSITORY)
    config = configs.load(SweepConfig, path)
    check_sweep(config)
    space = parse_space(config.space)
    for number in range(5):
        parameters = draw_random(space, 0, number)
        settings = pretrain_config(config, parameters, records.run_name(1), Path("runs/x"))
        assert settings.name == "trial-0001"
        assert settings.optimizer.lr == parameters["optimizer.lr"]


def test_ray_gets_no_public_address(monkeypatch: pytest.MonkeyPatch):
    from launcher.sweep import allocation

    monkeypatch.setattr(allocation.socket, "gethostbyname", {"a": "10.3.0.4", "b": "8.8.8.8", "c": "127.0.1.1"}.get)
    assert private_address("a", alone=False) == "10.3.0.4"
    assert private_address("b", alone=True) == "127.0.0.1"
    for host, what in (("b", "a public address"), ("c", "loopback")):
        with pytest.raises(UserError, match=what):
            private_address(host, alone=False)
