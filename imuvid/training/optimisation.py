"""Learning-rate schedules and parameter groups."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from imuvid.models.tower import Tower
from imuvid.models.tuning import FrozenAtFirst


@dataclass
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter, ICLR 2019) with linear warm-up."""

    lr: float = 1e-3
    """Peak learning rate."""
    schedule: str = "cosine"
    """After the warm-up: cosine (down to the end), wsd (warm-up, stable, decay: at the peak until the last decay_share
    of the steps) or constant."""
    decay_share: float = 0.2
    """Of wsd: share of the steps, at the end, over which the learning rate falls."""
    final_lr_share: float = 0.001
    """Learning rate at the end, as a share of the peak; constant has none."""
    warmup_share: float = 0.05
    """Share of the steps over which the learning rate rises from zero."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])
    """Decay of the moments. 0.98, as CLIP's runs do at large batches, forgets gradient spikes sooner than 0.999."""
    weight_decay: float = 0.05
    """On weight matrices and kernels; never on biases, normalisation, temperature and embeddings of the absent."""
    layer_decay: float = 1.0
    """Learning rate of a layer of a transformer as a share of that of the next one; 1 is the same for all. A pretrained
    tower keeps more of its early layers with 0.65 to 0.9."""
    grad_clip: float = 1.0
    """Largest norm of the gradient; 0 switches clipping off."""


def _cosine(progress: float, _decay_share: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


def _warmup_stable_decay(progress: float, decay_share: float) -> float:
    # Of the shapes that Haegele et al. (NeurIPS 2024, section 4.1) compare, 1 - sqrt ends lowest.
    begin = 1 - decay_share
    return 1.0 if progress <= begin else 1 - math.sqrt((progress - begin) / decay_share)


def _constant(_progress: float, _decay_share: float) -> float:
    return 1.0


TABLES = ("absent", "cls_token", "mask_token", "position_enc", "position_embedding")
"""Beginnings of the names of learned tokens and position tables: of two dimensions or more, but no matrices."""

SCHEDULES: dict[str, Callable[[float, float], float]] = {
    "cosine": _cosine,
    "wsd": _warmup_stable_decay,
    "constant": _constant,
}
"""Height between final and peak learning rate, of the progress in [0, 1] after the warm-up and the decay's share."""


def learning_rate(step: int, num_steps: int, config: OptimizerConfig) -> float:
    """Return the learning rate of ``step`` in [0, num_steps): of these alone, so that a resume cannot shift it."""
    warmup = round(num_steps * config.warmup_share)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, num_steps - warmup))
    # The share is of all steps, the progress of those after the warm-up.
    decay_share = min(1.0, config.decay_share * num_steps / max(1, num_steps - warmup))
    floor = config.lr * config.final_lr_share
    return floor + (config.lr - floor) * SCHEDULES[config.schedule](progress, decay_share)


def parameter_groups(model: nn.Module, weight_decay: float, layer_decay: float = 1.0) -> list[dict]:
    """Split the trainable parameters by weight decay, and by learning rate where layers differ in it.

    Vectors (biases, normalisation, temperature) and learned tokens or position tables are not decayed. Of the n layers
    of a tower (:meth:`Tower.stack`) the i-th from the input, from 0 on, has layer_decay^(n - i) of the learning rate
    and what comes before them layer_decay^(n + 1), as in BEiT (Bao et al., ICLR 2022); all else has it in full.

    Returns:
        Groups with "params", "weight_decay", "lr_scale" and "frozen_steps": how many steps at the beginning have no
        learning rate, as for what is in a :class:`FrozenAtFirst`. The first group decays, the second does not, at full
        rate from the first step on.
    """
    shares = _rate_shares(model, layer_decay)
    late = [module for module in model.modules() if isinstance(module, FrozenAtFirst)]
    frozen_steps = {id(parameter): module.steps for module in late for parameter in module.parameters()}
    groups: dict[tuple[float, int, bool], list[nn.Parameter]] = {(1.0, 0, True): [], (1.0, 0, False): []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and not any(part.startswith(TABLES) for part in name.split("."))
            key = shares.get(name, 1.0), frozen_steps.get(id(parameter), 0), decays
            groups.setdefault(key, []).append(parameter)
    whole, others = list(groups.items())[:2], list(groups.items())[2:]
    ordered = whole + sorted(others, key=lambda item: (*item[0][:2], not item[0][2]))
    return [
        {"params": params, "weight_decay": weight_decay if decays else 0.0, "lr_scale": share, "frozen_steps": steps}
        for (share, steps, decays), params in ordered
    ]


def _rate_shares(model: nn.Module, layer_decay: float) -> dict[str, float]:
    """Return the shares of the learning rate that are not 1, by name of parameter."""
    if layer_decay == 1:
        return {}
    shares: dict[str, float] = {}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for tower in model.modules():
        layers = tower.stack() if isinstance(tower, Tower) else []
        if not layers:
            continue
        depths = {id(p): depth for depth, layer in enumerate(layers) for p in layer.parameters()}
        own = {id(parameter) for parameter in tower.parameters(recurse=False)}
        before = True  # in the order in which modules are registered, which is that of the forward
        for parameter in tower.parameters():
            if id(parameter) in depths:
                before = False
                shares[names[id(parameter)]] = layer_decay ** (len(layers) - depths[id(parameter)])
            elif before and id(parameter) not in own:
                shares[names[id(parameter)]] = layer_decay ** (len(layers) + 1)
    return shares
