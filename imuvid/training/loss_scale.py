"""Dynamic loss scaling for fp16: DeepSpeed's rule, kept by this program, so that it knows no ZeRO stage.

A gradient below 6e-8 is zero in fp16, so the loss is multiplied by a scale before its backward. A step whose gradient
is not finite is left out. The first of them spends the patience (DeepSpeed's hysteresis), each one after it halves the
scale; ``WINDOW`` good steps double it and give the patience back.
"""

from __future__ import annotations

from dataclasses import dataclass

INITIAL = 2.0**16
LEAST = 1.0
WINDOW = 1000
HYSTERESIS = 2


@dataclass
class LossScale:
    """The scale and what the rule remembers; all of it goes into a checkpoint.

    The rule is that of ``deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler``.
    """

    value: float = INITIAL
    steps: int = 0
    last_overflow: int = -1
    patience: int = HYSTERESIS

    def update(self, overflow: bool) -> bool:
        """Take note of a step; return whether its gradient overflowed and a lower scale may help."""
        helps = overflow and self.value > LEAST
        if overflow:
            if self.patience == 1:
                self.value = max(self.value / 2, LEAST)
            else:
                self.patience -= 1
            self.last_overflow = self.steps
        else:
            good = self.steps - self.last_overflow - 1
            if good > 0 and good % WINDOW == 0:
                self.patience = HYSTERESIS
                self.value *= 2
        self.steps += 1
        return helps
