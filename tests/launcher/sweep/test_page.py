"""The page and the tables of a sweep, made of invented trials, in a real browser."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from imuvid import config as configs
from imuvid.training.config import PretrainConfig
from launcher.sweep.config import SweepConfig
from launcher.sweep.importance import importances
from launcher.sweep.records import Score, Trial
from launcher.sweep.results import write_results
from launcher.sweep.run import SweepResult
from launcher.sweep.space import draw_random, parse_space
from tests.browser import open_browser

REPOSITORY = Path(__file__).parents[3]
SPACE = {
    "optimizer.lr": {"loguniform": [1e-4, 1e-1]},
    "optimizer.weight_decay": {"uniform": [0.0, 0.2]},
    "model.objective.kind": {"choice": ["infonce", "sigmoid"]},
    "model.head.dim": {"choice": [64, 128], "when": {"model.objective.kind": "infonce"}},
}


def invented(number: int) -> Trial:
    """A trial whose score depends on the learning rate alone; every fourth is stopped early, trial 7 failed."""
    parameters = draw_random(parse_space(SPACE), 0, number)
    value = 0.9 - 0.5 * abs(parameters["optimizer.lr"] - 0.01) ** 0.5
    last = 40 if number % 4 == 3 else 100
    scores = [Score(step, float(step), value * step / 100) for step in range(20, last + 1, 20)]
    if number == 7:
        return Trial(7, parameters, "out_of_memory", "<b>CUDA</b> out of memory", [], 5.0, Path("r/trials/trial-0007"))
    state = "stopped" if last < 100 else "finished"
    return Trial(number, parameters, state, "", scores, 10.0, Path(f"r/trials/trial-{number:04d}"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = SweepConfig(
        name="lr", runs_dir=str(tmp_path), base=str(REPOSITORY / "configs/pretrain/demo.yaml"), space=SPACE
    )
    trials = [invented(number) for number in range(24)]
    (tmp_path / "lr").mkdir()
    write_results(config, SweepResult(str(tmp_path / "lr"), trials, True, "", 0), "configs/sweep/demo.yaml")
    return tmp_path / "lr"


def test_importance_finds_the_parameter_that_the_score_depends_on():
    trials = [t for t in map(invented, range(60)) if t.state == "finished"]
    found = importances(trials)
    assert not isinstance(found, str)
    assert next(iter(found.shares)) == "optimizer.lr"
    assert found.shares["optimizer.lr"] > 0.8
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.explained > 0.5
    assert "8 are needed" in str(importances(trials[:5]))


def test_tables_hold_every_trial(folder: Path):
    rows = pq.read_table(folder / "sweep.parquet").to_pylist()
    assert [row["trial"] for row in rows] == list(range(24))
    assert rows[7]["state"] == "out_of_memory"
    assert rows[7]["score"] is None
    for row in rows:
        trial = invented(row["trial"])
        assert row["optimizer.lr"] == trial.parameters["optimizer.lr"]
        assert row["model.head.dim"] == trial.parameters.get("model.head.dim")
        assert row["scores"] == [score.value for score in trial.scores]
    best = max((invented(n) for n in range(24) if invented(n).state == "finished"), key=lambda trial: trial.value or 0)
    chosen = configs.load(PretrainConfig, folder / "best.yaml")
    assert chosen.optimizer.lr == best.parameters["optimizer.lr"]
    assert chosen.data.batch_size == 64  # of the base


def test_tensorboard_has_the_hyper_parameters(folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    accumulator = EventAccumulator(str(folder / "tensorboard/trial-0002")).Reload()
    assert [event.value for event in accumulator.Scalars("mrr_imu_to_video")] == pytest.approx(
        [score.value for score in invented(2).scores]
    )
    content = accumulator.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    given = HParamsPluginData.FromString(content).session_start_info.hparams
    assert given["optimizer.lr"].number_value == pytest.approx(invented(2).parameters["optimizer.lr"])


@pytest.mark.slow
def test_the_page_in_a_browser(folder: Path, tmp_path: Path):
    page = folder / "sweep.html"
    with open_browser(tmp_path / "profile") as browser:
        for width in (1280, 390):
            browser.open(page, width, dark=width == 390)
            assert browser.run("document.documentElement.scrollWidth") <= width
            assert browser.errors == []
            assert browser.requests[-1:] == [page.as_uri()]
            browser.screenshot(folder / f"page-{width}.png")
        judged = [invented(n) for n in range(24) if n != 7]
        for figure in ("parallel", "curves"):
            assert browser.run(f"document.querySelectorAll('#{figure} polyline').length") == len(judged)
            assert browser.run(f"document.querySelectorAll('#{figure} g.best').length") == 1
        outside = """[...document.querySelectorAll('#parallel svg text, #parallel polyline')].filter(e => {
            const box = e.getBBox(), view = e.ownerSVGElement.viewBox.baseVal;
            return box.x < 0 || box.y < 0 || box.x + box.width > view.width || box.y + box.height > view.height;
        }).map(e => e.textContent)"""
        assert browser.run(outside) == []
        # The best line ends highest on the axis of the score among those that did all steps.
        ends = "[...document.querySelectorAll('#curves g.best polyline')].map(e => +e.points[e.points.length - 1].y)"
        others = "[...document.querySelectorAll('#curves polyline')].map(e => +e.points[e.points.length - 1].y)"
        assert browser.run(ends)[0] == pytest.approx(min(browser.run(others)))
        assert browser.run("document.querySelectorAll('#importance .bar').length") == len(SPACE)
        assert "out_of_memory" in browser.run("document.querySelector('#trials').textContent")
        assert browser.run("document.querySelectorAll('#trials b').length") == 0  # text from outside is no markup
        text = browser.run("document.querySelector('#best-yaml').textContent")
    (tmp_path / "from_page.yaml").write_text(text)
    assert configs.load(PretrainConfig, tmp_path / "from_page.yaml") == configs.load(
        PretrainConfig, folder / "best.yaml"
    )
