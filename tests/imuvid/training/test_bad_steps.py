"""Steps that are not finite leave no trace in the weights; a row of them is passed over from the last checkpoint on."""

from __future__ import annotations

import json

import pytest
import torch

from tests.imuvid.training.jobs import Job, train
from tests.imuvid.training.test_run import lines_of, weights_of

pytestmark = pytest.mark.slow
STEPS = 12
STAGES = (0, 2, 3)


def same(a: tuple[dict, dict], b: tuple[dict, dict]) -> bool:
    return all(x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x) for x, y in zip(a, b, strict=True))


@pytest.fixture(scope="module")
def trained(tiny_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    words = [f"data.path={tiny_dataset}", f"runs_dir={folder}", "data.num_workers=0", f"train.epochs={STEPS * 8 / 44}"]
    words += ["train.validate_every_epochs=100", "engine.timeout_s=60", "train.max_bad_steps=3"]
    often = [*words, "train.checkpoint_every_steps=1", "train.keep_checkpoints=99"]
    row = [*words, "train.checkpoint_every_steps=4"]
    jobs = {}
    for stage in STAGES:
        where = f"engine.zero_stage={stage}"
        jobs[f"stage {stage}"] = Job([*often, f"name=stage{stage}", where], nan_at=[4])
        jobs[f"wild {stage}"] = Job([*row, f"name=wild{stage}", where], wild_at=[6])
    jobs["row"] = Job([*row, "name=row"], nan_at=[5, 6, 7])
    jobs["row, stopped"] = Job([*row, "name=stopped"], nan_at=[5, 6, 7], stop_after=9)
    jobs["row, gone on"] = Job([*row, "name=stopped"], nan_at=[5, 6, 7])
    jobs["for ever"] = Job([*row, "name=ever"], nan_at=list(range(5, 99)))
    jobs["at once"] = Job([*row, "name=once"], nan_at=list(range(99)))
    outcomes = train(folder, 2, list(jobs.values()))
    return folder, dict(zip(jobs, outcomes, strict=True)), (folder / "output.txt").read_text()


@pytest.mark.parametrize("stage", STAGES)
def test_a_step_that_one_rank_finds_not_finite_changes_nothing(trained, stage):
    folder, outcomes, _ = trained
    assert outcomes[f"stage {stage}"].finished
    run = folder / f"stage{stage}"
    before, bad, after = (weights_of(run, step) for step in (4, 5, 6))
    assert same(before, bad)
    assert not same(bad, after)
    assert all(torch.isfinite(tensor).all() for tensor in after[1].values())
    lines = {line["step"]: line for line in lines_of(run)}
    assert lines[5]["loss"] is None
    assert [line["bad_steps"] for line in lines.values()] == [0] * 4 + [1] * 8


def test_a_row_is_passed_over_from_the_last_checkpoint_on(trained):
    folder, outcomes, output = trained
    row = outcomes["row"]
    assert row.finished
    # Steps 0 to 7 were computed, then 4 again, then 8 to 11.
    assert len(row.samples) == 8 + 1 + 4
    assert row.samples[8] == row.samples[4]
    assert "step 7  goes back to step 4, to pass over the bad steps after it" in output
    skipped = [json.loads(line) for line in (folder / "row/skipped.jsonl").read_text().splitlines()]
    assert [(line["step"], line["reason"]) for line in skipped] == [(s, "loss not finite") for s in (5, 6, 7)]
    assert all(len(line["samples"]) == 8 and ".tar: sample r0" in line["samples"][0] for line in skipped)
    assert [line["step"] for line in lines_of(folder / "row")] == list(range(1, STEPS + 1))


def test_a_run_that_is_stopped_after_it_ends_with_the_same_weights(trained):
    folder, outcomes, _ = trained
    assert not outcomes["row, stopped"].finished
    assert outcomes["row, gone on"].finished
    assert same(weights_of(folder / "row", STEPS), weights_of(folder / "stopped", STEPS))


def test_it_stops_where_passing_over_does_not_help(trained):
    _, outcomes, _ = trained
    error = outcomes["for ever"].error
    assert "although the run went back and passed over those up to step 7 (step 10: loss not finite)" in error
    assert "no checkpoint to go back to" in outcomes["at once"].error


@pytest.mark.parametrize("stage", STAGES)
def test_an_update_that_is_not_finite_is_undone(trained, stage):
    folder, outcomes, _ = trained
    run = folder / f"wild{stage}"
    assert outcomes[f"wild {stage}"].finished
    assert json.loads((run / "skipped.jsonl").read_text())["reason"] == "gradient not finite"
    _, state = weights_of(run, STEPS)
    assert all(torch.isfinite(tensor).all() for tensor in state.values())
    lines = lines_of(run)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert all(line["gradient_norm"] > 0 for line in lines)
