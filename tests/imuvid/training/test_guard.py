"""Bad steps: what is left out, when the run goes back, and when it gives up."""

from __future__ import annotations

import math
import random
from copy import deepcopy

import pytest

from imuvid.training.guard import Guard, GuardState, Verdict


def test_a_loss_that_is_not_finite_is_left_out_and_a_row_of_them_goes_back():
    guard = Guard(3, 0.0, GuardState())
    losses = [1.0, math.nan, 1.0, math.nan, math.nan, math.nan]
    verdicts = [guard.judge(step, loss) for step, loss in enumerate(losses, 10)]
    skip, step = Verdict.SKIP, Verdict.STEP
    assert verdicts == [step, skip, step, skip, skip, Verdict.GO_BACK]
    guard.go_back(10, GuardState())
    assert [number for number in range(10, 20) if guard.passes_over(number)] == [11, 13, 14, 15]
    assert [guard.judge(number, 0.0) for number in range(10, 17)] == [step, skip, step, skip, skip, skip, step]
    assert list(guard.state.bad) == ["11", "13", "14", "15"]


def test_it_gives_up_where_passing_over_does_not_help():
    guard = Guard(2, 0.0, GuardState())
    for number in (4, 5):
        guard.judge(number, math.nan)
    guard.go_back(3, GuardState())
    assert guard.judge(3, 1.0) is Verdict.STEP  # was good before
    for number in (6, 7):
        guard.judge(number, math.nan)
    with pytest.raises(RuntimeError, match=r"passed over those up to step 5 \(step 7: loss not finite") as caught:
        guard.go_back(6, GuardState())
    assert "\n" not in str(caught.value)
    with pytest.raises(RuntimeError, match="no checkpoint to go back to"):
        guard.go_back(None, GuardState())


def test_a_good_step_beyond_allows_to_go_back_again():
    guard = Guard(1, 0.0, GuardState())
    for number in (4, 9):
        assert guard.judge(number, math.inf) is Verdict.GO_BACK
        guard.go_back(number - 1, guard.state if number == 9 else GuardState())
        assert guard.judge(number + 1, 1.0) is Verdict.STEP
    assert guard.passes_over(4)
    assert guard.passes_over(9)


def test_an_update_that_was_not_finite_goes_back_at_once():
    guard = Guard(9, 0.0, GuardState())
    assert guard.judge(1, 1.0) is Verdict.STEP
    assert guard.judge(1, 1.0, gradient_is_finite=False) is Verdict.GO_BACK
    assert guard.state.bad == {"1": "gradient not finite"}


def test_a_leap_is_left_out_and_noise_is_not():
    rng = random.Random(3)
    noise = [5 + rng.gauss(0, 0.1) for _ in range(400)]
    guard = Guard(5, 6.0, GuardState())
    assert {guard.judge(step, loss) for step, loss in enumerate(noise)} == {Verdict.STEP}
    assert len(guard.state.losses) == 100
    assert guard.judge(400, 7.0) is Verdict.SKIP
    assert guard.state.bad["400"].startswith("loss leaps to 7 from ")
    assert guard.judge(401, 5.1) is Verdict.STEP
    assert Guard(5, 0.0, GuardState()).judge(0, 1e30) is Verdict.STEP


def test_another_start_decides_alike():
    rng = random.Random(4)
    losses = [rng.choice([1.0, 1.1, 0.9, math.nan, 30.0]) for _ in range(300)]

    def verdicts(stop: int | None) -> list[Verdict]:
        guard = Guard(999, 3.0, GuardState())
        found = []
        for step, loss in enumerate(losses):
            if step == stop:
                guard = Guard(999, 3.0, deepcopy(guard.state))
            found.append(guard.judge(step, loss))
        return found

    assert len(set(verdicts(None))) == 2
    assert all(verdicts(stop) == verdicts(None) for stop in (1, 50, 150, 299))
