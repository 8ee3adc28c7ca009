"""What every IMU tower does with a set of sensors of which some are absent."""

from __future__ import annotations

import torch
from torch import Tensor

from imuvid.imu.units import ACC_SCALE_M_S2, GYRO_SCALE_RAD_S


def normalise_si(imu: Tensor, valid: Tensor) -> Tensor:
    """Scale imu [..., 6] from SI to order one, with zeros where valid [..., 2] is false."""
    # Constants, not statistics of the window: standardising each window erases gravity (posture) and intensity.
    scale = imu.new_tensor([ACC_SCALE_M_S2] * 3 + [GYRO_SCALE_RAD_S] * 3)
    return imu / scale * valid.repeat_interleave(3, dim=-1)


def pool_sensors(features: Tensor, valid: Tensor) -> Tensor:
    """Average features [B, P, D] over the sensors that have any valid sample in valid [B, T, P, 2]; zeros if none."""
    weight = valid.flatten(3).any(-1).any(1).to(features.dtype)  # [B, P]
    total = torch.einsum("bpd,bp->bd", features, weight)
    return total / weight.sum(1, keepdim=True).clamp(min=1)
