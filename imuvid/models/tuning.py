"""How much of a pretrained network is trained, and from when on: all, none, or low-rank updates of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from imuvid.errors import UserError

LORA_LAYERS = r".*\.(query|value|q_proj|v_proj)"
"""The layers that LoRA's authors adapt (Hu et al., ICLR 2022, section 4.2), by the names transformers gives them."""


@dataclass
class TuningConfig:
    """Of the pretrained part of a tower; what is added to it is always trained."""

    kind: str = "full"
    """full, frozen, or lora: low-rank updates of the queries and values of attention."""
    lora_rank: int = 8
    lora_alpha: int = 16
    """The updates are multiplied by lora_alpha / lora_rank."""
    frozen_steps: int = 0
    """Steps at the beginning of a run in which all of it stays frozen, so that what is new beside it learns first."""


class Frozen(nn.Module):
    """A module whose weights and buffers stay as they are: no gradient, and evaluation mode in training too."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Frozen:
        """Stay in evaluation mode: neither dropout nor statistics of batches."""
        del mode
        return super().train(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


class FrozenAtFirst(nn.Module):
    """A module that is frozen, as by :class:`Frozen`, in the first steps of a training and trained after them.

    Its gradients are zero meanwhile, not absent, so that ranks and ZeRO stages agree on them; a step takes as long as
    later ones. The optimiser must leave these parameters alone too: see ``parameter_groups``. Until :meth:`at_step` is
    called it is trained.
    """

    def __init__(self, module: nn.Module, steps: int):
        super().__init__()
        self.module, self.steps = module, steps
        self._frozen, self._training_mode = False, True
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.register_hook(self._passed_on)

    def at_step(self, step: int) -> None:
        """Say which step comes next; the first is 0."""
        self._frozen = step < self.steps
        self.train(self._training_mode)

    def train(self, mode: bool = True) -> FrozenAtFirst:
        """Stay in evaluation mode while it is frozen."""
        self._training_mode = mode
        return super().train(mode and not self._frozen)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def _passed_on(self, gradient: Tensor) -> Tensor:
        return torch.zeros_like(gradient) if self._frozen else gradient


def frozen_at_first(module: nn.Module, steps: int) -> nn.Module:
    """Return the module, to be frozen in the first ``steps`` steps; itself where there are none.

    Raises:
        ValueError: ``steps`` is negative.
    """
    if steps < 0:
        raise ValueError(f"frozen_steps {steps} must be 0 or more")
    return FrozenAtFirst(module, steps) if steps else module


def bare(backbone: Any) -> Any:
    """Return the network itself of what :func:`tuned` returned."""
    return backbone.module if isinstance(backbone, Frozen | FrozenAtFirst) else backbone


def tuned(backbone: nn.Module, config: TuningConfig) -> nn.Module:
    """Return the pretrained network as it is to be trained.

    Raises:
        ValueError: the kind is unknown, the rank is not positive, or ``frozen_steps`` is negative.
        UserError: LoRA is asked for and peft is not installed.
    """
    if config.kind == "full":
        return frozen_at_first(backbone, config.frozen_steps)
    if config.kind == "frozen":
        return Frozen(backbone)
    if config.kind != "lora":
        raise ValueError(f"tuning.kind is '{config.kind}', expected full, frozen or lora")
    if config.lora_rank < 1:
        raise ValueError(f"tuning.lora_rank {config.lora_rank} must be at least 1")
    try:
        import peft
    except ImportError as error:
        raise UserError("tuning.kind=lora needs peft: pip install 'imuvid[lora]', or choose full or frozen") from error
    adapter = peft.LoraConfig(r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules=LORA_LAYERS)
    return frozen_at_first(peft.inject_adapter_in_model(adapter, backbone), config.frozen_steps)
