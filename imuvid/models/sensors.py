"""What every IMU tower does with a set of sensors of which some are absent."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from imuvid.imu.units import ACC_SCALE_M_S2, GYRO_SCALE_RAD_S


def normalise_si(imu: Tensor, valid: Tensor) -> Tensor:
    """Scale imu [..., 6] from SI to order one, with zeros where valid [..., 2] is false."""
    # Constants, not statistics of the window: standardising each window erases gravity (posture) and intensity.
    scale = imu.new_tensor([ACC_SCALE_M_S2] * 3 + [GYRO_SCALE_RAD_S] * 3)
    return imu / scale * valid.repeat_interleave(3, dim=-1)


def fold_sensors(x: Tensor) -> Tensor:
    """Make each of the sensors a window of its own: [B, T, P, C] to [B P, T, C]."""
    return x.transpose(1, 2).flatten(0, 1)


def unfold_sensors(x: Tensor, num_sensors: int) -> Tensor:
    """Undo :func:`fold_sensors` on what was made of the windows: [B P, ...] to [B, P, ...]."""
    return x.unflatten(0, (-1, num_sensors))


def pool_sensors(features: Tensor, valid: Tensor) -> Tensor:
    """Average features [B, P, ...] over the sensors that have any valid sample in valid [B, T, P, K]; zeros if none."""
    weight = valid.any(-1).any(1).to(features.dtype)  # [B, P]
    total = torch.einsum("bp...,bp->b...", features, weight)
    return total / weight.sum(1).clamp(min=1).view(-1, *[1] * (total.ndim - 1))


def valid_parts(valid: Tensor, num_parts: int) -> Tensor:
    """Return bool [B, L]: which of L equal parts of a window have any valid sample in valid [B, T, ...]."""
    any_valid = valid.flatten(2).any(-1) if valid.ndim > 2 else valid
    return nn.functional.adaptive_max_pool1d(any_valid[:, None].float(), num_parts)[:, 0] > 0
