"""What is done about a step whose loss is not finite, or leaps: its update is left out, or the run goes back.

    a bad step                the update is left out, the samples are passed over
    train.max_bad_steps       of them one after another: back to the last checkpoint, and from there on as before, but
                              without the steps that were bad
    as many again before      the run stops: it is not the samples
    any step was good

All is a function of the losses of the global batches: every rank, and every later start, decides alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import Enum

HISTORY = 100
"""Losses that a leap is measured by."""
LEAST_HISTORY = 20


class Verdict(Enum):
    """What is to be done with the gradient of a step."""

    STEP = "step"
    SKIP = "skip"
    GO_BACK = "go back"


@dataclass
class GuardState:
    """What a checkpoint holds of it."""

    bad: dict[str, str] = field(default_factory=dict)
    """Steps that were left out, with the reasons."""
    pass_over: dict[str, str] = field(default_factory=dict)
    """Steps that were bad before the run went back."""
    row: int = 0
    """Bad steps since the last good one."""
    reached: int = -1
    """Last bad step when the run went back the last time; -1 once a later step was good."""
    losses: list[float] = field(default_factory=list)
    """Of the last good steps; none are kept where leaps are not looked for."""


class Guard:
    """Judges the steps of a run.

    Args:
        max_bad_steps: one after another, before the run goes back.
        leap_deviations: a loss is one where it is that many standard deviations above the mean of the last good ones;
            0 = none is.
        state: of the checkpoint.
    """

    def __init__(self, max_bad_steps: int, leap_deviations: float, state: GuardState):
        self.state = state
        self._max_bad_steps, self._leap_deviations = max_bad_steps, leap_deviations

    def passes_over(self, step: int) -> bool:
        """Whether a step was bad before the run went back: it is left out without a look at it."""
        return str(step) in self.state.pass_over

    def judge(self, step: int, loss: float, gradient_is_finite: bool = True) -> Verdict:
        """Judge a step.

        Args:
            step: its number.
            loss: of the global batch; NaN where it is not finite on any rank.
            gradient_is_finite: False where the parameters were already updated by one that is not.
        """
        if self.passes_over(step):
            self.state.bad[str(step)] = self.state.pass_over[str(step)]
            return Verdict.SKIP
        reason = self._reason(loss) if gradient_is_finite else "gradient not finite"
        if reason is None:
            self.state.row = 0
            if step > self.state.reached:
                self.state.reached = -1
            if self._leap_deviations > 0:
                self.state.losses = [*self.state.losses, loss][-HISTORY:]
            return Verdict.STEP
        self.state.bad[str(step)] = reason
        self.state.row += 1
        spoilt = not gradient_is_finite or self.state.row >= self._max_bad_steps
        return Verdict.GO_BACK if spoilt else Verdict.SKIP

    def go_back(self, checkpoint_step: int | None, state: GuardState) -> None:
        """Take the state of the checkpoint that the run goes back to, and remember what to pass over from there on.

        Args:
            checkpoint_step: None where there is no checkpoint.
            state: that was saved in it.

        Raises:
            RuntimeError: there is none, or no step was good since the run went back the last time.
        """
        steps = sorted(map(int, self.state.bad))
        last = f"step {steps[-1]}: {self.state.bad[str(steps[-1])]}"
        if checkpoint_step is None:
            raise RuntimeError(
                f"{self.state.row} bad steps one after another, and no checkpoint to go back to ({last}): lower"
                " optimizer.lr, or look at the samples in skipped.jsonl"
            )
        if self.state.reached >= 0:
            raise RuntimeError(
                f"{self.state.row} bad steps one after another although the run went back and passed over those up to"
                f" step {self.state.reached} ({last}): lower optimizer.lr, or look at the samples in skipped.jsonl"
            )
        since = {step: reason for step, reason in self.state.bad.items() if int(step) >= checkpoint_step}
        self.state = replace(state, pass_over=state.pass_over | since, reached=steps[-1])

    def _reason(self, loss: float) -> str | None:
        if not math.isfinite(loss):
            return "loss not finite"
        losses = self.state.losses
        if self._leap_deviations > 0 and len(losses) >= LEAST_HISTORY:
            mean = sum(losses) / len(losses)
            deviation = math.sqrt(sum((each - mean) ** 2 for each in losses) / len(losses))
            if loss > mean + self._leap_deviations * deviation:
                return f"loss leaps to {loss:.3g} from {mean:.3g}"
        return None
