"""Search spaces: what may be drawn, what a grid holds, and which mistakes are named."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from imuvid.errors import UserError
from launcher.sweep.space import draw_random, grid, parse_space

SPACE = {
    "optimizer.lr": {"loguniform": [1e-4, 1e-1]},
    "optimizer": {"weight_decay": {"uniform": [0.0, 0.2]}},
    "train.epochs": {"int": [2, 5]},
    "model.objective.kind": {"choice": ["infonce", "sigmoid"]},
    "model.objective.infonce.label_smoothing": {"choice": [0.0, 0.1], "when": {"model.objective.kind": "infonce"}},
}


def test_draws_follow_the_distributions_and_the_conditions():
    space = parse_space(SPACE)
    drawn = [draw_random(space, 3, number) for number in range(800)]
    uniform = {
        "optimizer.lr": lambda v: (np.log10(v) + 4) / 3,
        "optimizer.weight_decay": lambda v: np.asarray(v) / 0.2,
    }
    for key, share in uniform.items():
        assert stats.kstest(share(np.array([each[key] for each in drawn])), "uniform").pvalue > 0.001
    counts = np.bincount([each["train.epochs"] for each in drawn])
    assert counts.sum() == counts[2:6].sum()
    assert stats.chisquare(counts[2:6]).pvalue > 0.001
    name = "model.objective.infonce.label_smoothing"
    assert all((name in each) == (each["model.objective.kind"] == "infonce") for each in drawn)
    assert 300 < sum(name in each for each in drawn) < 500


def test_a_trial_is_drawn_from_its_number_alone():
    space = parse_space(SPACE)
    assert draw_random(space, 3, 7) == draw_random(space, 3, 7)
    assert draw_random(space, 3, 7) != draw_random(space, 3, 8)
    assert draw_random(space, 3, 7) != draw_random(space, 4, 7)


def test_a_grid_has_every_combination_once_and_no_conditional_one_in_vain():
    found = list(
        grid(
            parse_space(
                {
                    "b": {"grid": [1, 2], "when": {"a": ["x", "y"]}},  # before what it depends on
                    "a": {"grid": ["x", "y", "z"]},
                    "c": {"int": [0, 1]},
                }
            )
        )
    )
    expected = [{"a": a, "b": b, "c": c} for a, b, c in itertools.product("xy", (1, 2), (0, 1))]
    expected += [{"a": "z", "c": c} for c in (0, 1)]
    assert {frozenset(each.items()) for each in found} == {frozenset(each.items()) for each in expected}
    assert len(found) == len(expected)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({}, "has no parameter"),
        ({"optimizer.lr": 3}, "optimizer.lr: expected one of choice"),
        ({"optimizer.lr": {"loguniform": [0.0, 1.0]}}, "needs low above 0"),
        ({"optimizer.lr": {"uniform": [2.0, 1.0]}}, "low below high"),
        ({"optimizer.lr": {"uniform": [1.0, 2.0], "choice": [1]}}, "optimizer.lr: has uniform, choice"),
        ({"train.epochs": {"int": [1, 2.5]}}, "whole numbers"),
        ({"a": {"choice": []}}, "needs a list"),
        ({"a": {"choice": [1], "when": {"b": 2}}}, "names b, which is no parameter"),
        ({"a": {"choice": [1], "when": {"b": 2}}, "b": {"choice": [2], "when": {"a": 1}}}, "round in a circle"),
        ({"data.val_split": {"choice": ["val", "test"]}}, "data.val_split cannot be swept"),
    ],
)
def test_mistakes_are_named(space, said):
    with pytest.raises(UserError, match=said):
        parse_space(space)


def test_a_grid_of_a_continuous_parameter_is_refused():
    with pytest.raises(UserError, match=r"optimizer\.lr is loguniform: a grid search needs"):
        list(grid(parse_space({"optimizer.lr": {"loguniform": [1e-3, 1e-1]}})))
