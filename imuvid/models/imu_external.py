"""Any encoder of time series from another package (MOMENT, Mantis, a laboratory's own) as IMU tower."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from imuvid.errors import UserError
from imuvid.models.sensors import fold_sensors, normalise_si, pool_sensors, unfold_sensors, valid_parts
from imuvid.models.tower import Encoding, Tower
from imuvid.models.tuning import Frozen, frozen_at_first


@dataclass
class ImuExternalConfig:
    """Where the encoder comes from and how it is fed."""

    factory: str = ""
    """``package.module:name`` of a function (or class) that returns a torch module with its weights. The module maps
    float32 [N, C, T] to features [N, D] or, in the order of time, [N, L, D]. It runs code of that package."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """What the function is called with, by name."""
    feature_dim: int = 256
    """D."""
    channels: str = "apart"
    """apart: each of the six channels alone (C = 1), features side by side, as encoders of single series want it; or
    together (C = 6)."""
    num_samples: int | None = None
    """Length that windows are linearly interpolated to (512 for MOMENT and Mantis); None leaves it."""
    frozen: bool = True
    """Whether its weights and buffers stay as they are; else all are trained."""
    frozen_steps: int = 0
    """Where all are trained: steps at the beginning of a run in which they stay as they are."""


class ImuExternal(Tower):
    """An encoder that knows nothing of sensors: each goes through it alone, and those that are present are averaged.

    Windows are in typical amplitudes (about g and 3 rad/s). A channel that is absent is represented by a learned
    vector (apart), or by zeros (together). Tokens are there where the encoder gives [N, L, D].
    """

    def __init__(self, config: ImuExternalConfig):
        super().__init__()
        if config.channels not in ("apart", "together"):
            raise ValueError(f"channels is '{config.channels}', expected apart or together")
        encoder = call_factory(config.factory, config.arguments)
        self.encoder = Frozen(encoder) if config.frozen else frozen_at_first(encoder, config.frozen_steps)
        self.apart, self.num_samples, self.dim = config.channels == "apart", config.num_samples, config.feature_dim
        self.feature_dim = self.token_dim = (6 if self.apart else 1) * config.feature_dim
        if self.apart:
            self.absent = nn.Parameter(torch.zeros(2, config.feature_dim))

    def encode(self, imu: Tensor, valid: Tensor) -> Encoding:
        """Map imu [B, T, P, 6] (SI) and valid [B, T, P, 2] to features, and to tokens where the encoder gives any.

        Raises:
            ValueError: the encoder gives something else than [N, D] or [N, L, D].
        """
        sensors = imu.shape[2]
        x = fold_sensors(normalise_si(imu, valid)).transpose(1, 2)  # [B P, 6, T]
        if self.num_samples is not None:
            x = nn.functional.interpolate(x, self.num_samples, mode="linear", align_corners=False)
        groups = x.flatten(0, 1)[:, None] if self.apart else x  # [N, C, T]
        found = self.encoder(groups)
        if not isinstance(found, Tensor) or found.ndim not in (2, 3) or found.shape[-1] != self.dim:
            shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"the encoder gives {shape}, expected [N, {self.dim}] or [N, L, {self.dim}]")
        rows = found if found.ndim == 3 else found[:, None]  # [N, L, D]
        if self.apart:
            rows = rows.unflatten(0, (-1, 6))  # [B P, 6, L, D]
            present = fold_sensors(valid).any(1).repeat_interleave(3, dim=-1)[:, :, None, None]
            absent = self.absent.to(rows.dtype).repeat_interleave(3, dim=0)[:, None]
            rows = torch.where(present, rows, absent).transpose(1, 2).flatten(2)
        tokens = pool_sensors(unfold_sensors(rows, sensors), valid)  # [B, L, feature_dim]
        if found.ndim == 2:
            return Encoding(tokens[:, 0])
        return Encoding(tokens.mean(1), tokens, valid_parts(valid, tokens.shape[1]))


@torch.no_grad()
def forget_weights(encoder: nn.Module) -> None:
    """Initialise another package's encoder at random.

    Layers that torch knows how to initialise (``reset_parameters``) are; of what is left, matrices get a normal
    distribution of deviation 0.02, as transformers' do, vectors named ``weight`` ones and other vectors zeros.
    """
    known: set[int] = set()
    for module in encoder.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
            known |= {id(parameter) for parameter in module.parameters(recurse=False)}
    for name, parameter in encoder.named_parameters():
        if id(parameter) in known:
            continue
        if parameter.ndim > 1:
            parameter.normal_(std=0.02)
        else:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)


def call_factory(path: str, arguments: dict[str, Any]) -> nn.Module:
    """Import ``package.module:name`` and return what it makes.

    Raises:
        UserError: there is no such module or name, it fails, or does not make a torch module.
    """
    module_name, colon, name = path.partition(":")
    if not colon or not module_name or not name:
        raise UserError(f"imu_tower.external.factory is '{path}', expected package.module:name")
    try:
        factory = getattr(importlib.import_module(module_name), name)
    except ImportError as error:
        raise UserError(f"imu_tower.external.factory={path}: {error}: install the package of it here") from error
    except AttributeError as error:
        raise UserError(f"imu_tower.external.factory={path}: {module_name} has no '{name}'") from error
    try:
        with torch.device("cpu"):  # weights cannot be read onto the meta device, on which a config is checked
            encoder = factory(**arguments)
    except Exception as error:  # whatever another package raises
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"imu_tower.external.factory={path}: fails: {type(error).__name__}: {reason}") from error
    if not isinstance(encoder, nn.Module):
        raise UserError(f"imu_tower.external.factory={path}: gives a {type(encoder).__name__}, no torch module")
    return encoder
