"""Gradient caching: the loss of a large batch whose windows go through the towers a few at a time.

GradCache (Gao et al., RepL4NLP 2021, Section 3): the towers run once without gradients; the loss of the whole batch
gives its gradients with respect to what they made of it; then they run again, part by part, as that gradient's linear
function. The loss, and with it the temperature's gradient, is computed once; the random state of each part is put
back before its second run, so that dropout draws the same. Memory is that of a part, time that of one more forward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from imuvid.data.batch import Batch
from imuvid.errors import UserError
from imuvid.models.norm import GlobalBatchNorm
from imuvid.objectives.views import Views


class CachedForward:
    """One step's loss, and what its backward needs.

    Args:
        model: a TwoTower, wrapped or not; ``views`` makes its views.
        views: TwoTower.views.
        batch: of this rank.
        part_size: windows that go through the towers at a time.
    """

    def __init__(self, model: Callable[..., Any], views: Callable[[Batch], Views], batch: Batch, part_size: int):
        self._model = model
        self._parts = [batch.rows(start, start + part_size) for start in range(0, len(batch), part_size)]
        self._states, made = [], []
        with torch.no_grad():
            for part in self._parts:
                self._states.append(_random_state(part.imu.device))
                made.append(views(part))
        whole = Views.cat(made)
        self._leaves = {name: x.requires_grad_() for name, x in whole.differentiable().items()}
        self.loss, self.figures = model(whole)

    def backward(self, loss: Tensor, backward: Callable[[Tensor, bool], None], scale: float = 1.0) -> None:
        """Give ``backward`` each scalar to differentiate, and whether it is the last.

        Args:
            loss: ``self.loss``, or what was made of it.
            backward: adds the gradients of a scalar to those of the parameters.
            scale: that it multiplies every scalar by.
        """
        backward(loss, False)
        slopes = {name: x.grad / scale for name, x in self._leaves.items() if x.grad is not None}
        start = 0
        for part, state in zip(self._parts, self._states, strict=True):
            _set_random_state(state, part.imu.device)
            stop = start + len(part)
            value, _ = self._model(part, {name: x[start:stop] for name, x in slopes.items()})
            backward(value, stop == sum(map(len, self._parts)))
            start = stop


def check_cacheable(model: nn.Module) -> None:
    """Refuse a model whose loss would not be that of the whole batch.

    Raises:
        UserError: it has batch normalisation.
    """
    if any(isinstance(module, GlobalBatchNorm) for module in model.modules()):
        raise UserError(
            "engine.micro_batch_size: a tower has batch normalisation, whose statistics would be those of a part of the"
            " batch: set it to 0, or choose towers with layer normalisation; engine.accumulate takes such towers, but"
            " contrasts the windows of a part with each other alone"
        )


def _random_state(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state(device))
    return states


def _set_random_state(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1], device)
