"""How much of a pretrained network is trained: all, none, or low-rank updates of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

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


def bare(backbone: Any) -> Any:
    """Return the network itself of what :func:`tuned` returned."""
    return backbone.module if isinstance(backbone, Frozen) else backbone


def tuned(backbone: nn.Module, config: TuningConfig) -> nn.Module:
    """Return the pretrained network as it is to be trained.

    Raises:
        ValueError: the kind is unknown, or the rank is not positive.
        UserError: LoRA is asked for and peft is not installed.
    """
    if config.kind == "full":
        return backbone
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
    return peft.inject_adapter_in_model(adapter, backbone)
