"""Learning-rate schedule and parameter groups."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import nn

from imuvid.models.tuning import FrozenAtFirst


@dataclass
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter, ICLR 2019) with linear warm-up and cosine decay."""

    lr: float = 1e-3
    """Peak learning rate."""
    final_lr_share: float = 0.001
    """Learning rate at the end, as a share of the peak."""
    warmup_share: float = 0.05
    """Share of the steps over which the learning rate rises from zero."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])
    """Decay of the moments. 0.98, as CLIP's runs do at large batches, forgets gradient spikes sooner than 0.999."""
    weight_decay: float = 0.05
    """On weight matrices and kernels; never on biases, normalisation, temperature and embeddings of the absent."""
    grad_clip: float = 1.0
    """Largest norm of the gradient; 0 switches clipping off."""


def learning_rate(step: int, num_steps: int, config: OptimizerConfig) -> float:
    """Return the learning rate of ``step`` in [0, num_steps): of these alone, so that a resume cannot shift it."""
    warmup = round(num_steps * config.warmup_share)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, num_steps - warmup))
    floor = config.lr * config.final_lr_share
    return floor + (config.lr - floor) * (1 + math.cos(math.pi * progress)) / 2


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Split the trainable parameters into those that decay (two dimensions or more) and those that must not.

    Vectors (biases, normalisation, temperature) and learned tokens or position tables are not decayed. Those of a
    :class:`FrozenAtFirst` have groups of their own, whose ``frozen_steps`` is the number of steps with learning rate 0.
    """
    first = [module for module in model.modules() if isinstance(module, FrozenAtFirst)]
    frozen_steps = {id(parameter): module.steps for module in first for parameter in module.parameters()}
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {(0, True): [], (0, False): []}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_table = name.rsplit(".", 1)[-1] in ("absent", "cls_token", "position_enc", "position_embeddings")
        key = frozen_steps.get(id(parameter), 0), parameter.ndim >= 2 and not is_table
        groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay * decays, "frozen_steps": steps}
        for (steps, decays), parameters in groups.items()
    ]
