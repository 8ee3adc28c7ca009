"""Activation checkpointing: the layers of a tower keep their input alone, and are computed again in the backward.

Chen et al. (2016): memory of one layer's activations instead of all, for one more forward of the layers. The random
state is put back before the second forward, so the result is the same, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from imuvid.errors import UserError
from imuvid.models.norm import GlobalBatchNorm
from imuvid.models.tower import Tower


def check_recomputable(model: nn.Module) -> None:
    """Refuse a model with nothing to compute again, or whose running statistics would count a batch twice.

    Raises:
        UserError: no tower is a stack of layers, or the layers have batch normalisation.
    """
    layers = _layers(model)
    if not layers:
        raise UserError(
            "engine.activation_checkpointing: neither tower is a stack of layers: set it to false, or choose"
            " patchtst or gravity, videomae, vjepa2 or framewise; engine.micro_batch_size saves memory in any tower"
            " without batch normalisation"
        )
    if any(isinstance(module, GlobalBatchNorm) for layer in layers for module in layer.modules()):
        raise UserError(
            "engine.activation_checkpointing: the layers of a tower have batch normalisation, whose running statistics"
            " would count every batch twice: set it to false, or choose norm=layernorm"
        )


def recompute_layers(model: nn.Module) -> None:
    """Let every layer of the towers compute its activations again in the backward."""
    for layer in _layers(model):
        layer.forward = _computed_again(layer, layer.forward)


def _layers(model: nn.Module) -> list[nn.Module]:
    return [layer for tower in model.modules() if isinstance(tower, Tower) for layer in tower.stack()]


def _computed_again(layer: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*arguments: Any, **named: Any) -> Any:
        if not (layer.training and torch.is_grad_enabled()):
            return forward(*arguments, **named)
        return checkpoint(forward, *arguments, use_reentrant=False, **named)

    return run
