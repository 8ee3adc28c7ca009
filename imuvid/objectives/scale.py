"""The learned inverse temperature of the contrastive objectives."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_LOG_SCALE = math.log(100.0)
"""CLIP's bound on the inverse temperature (Radford et al., ICML 2021, Section 2.5)."""


def bounded_scale(log_scale: Tensor) -> Tensor:
    """Return exp(log_scale), at most 100.

    At the bound only gradients pass that would lower it. A clamp alone would stop them all, so that a temperature that
    has once reached the bound would stay there; and what is written to the parameter itself, ZeRO overwrites.
    """
    return _Bounded.apply(log_scale).exp()


class _Bounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, log_scale: Tensor) -> Tensor:
        ctx.save_for_backward(log_scale >= MAX_LOG_SCALE)
        return log_scale.clamp(max=MAX_LOG_SCALE)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (at_bound,) = ctx.saved_tensors
        return torch.where(at_bound, grad.clamp(min=0), grad)
