"""What objectives do to IMU windows on the device: a second view, and hiding patches.

The draws come from torch's generator, which training seeds by the step, so that a resumed run draws the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CLIP_RANGE = 0.4
"""Largest change of the contrast of a second view of a clip, and of its brightness as a share of 255."""


@dataclass
class SecondViewConfig:
    """How a second view of a window is made, beside the augmentation of all windows. Zero (or one) switches one off."""

    rotate: bool = True
    """Turn each sensor by a random rotation in SO(3); the windows must be in SI units."""
    scale_range: float = 0.1
    """Amplitude factor, uniform in 1 +- this."""
    noise_share: float = 0.0
    """Standard deviation of white noise, as a share of the window's own standard deviation of each channel."""
    crop_share: float = 0.6
    """Shortest stretch that is kept, as a share of the window; the rest is absent. 1 keeps all."""
    negate_share: float = 0.0
    """Share of windows whose readings change sign, as in PRIMUS."""
    permute_segments: int = 0
    """Number of equal segments whose order is drawn anew, as in PRIMUS; 0 keeps the order."""


def second_view(imu: Tensor, valid: Tensor, config: SecondViewConfig) -> tuple[Tensor, Tensor]:
    """Return another view of windows imu [B, T, P, 6] and valid [B, T, P, 2], of the same shapes."""
    batch, steps, sensors, _ = imu.shape
    device = imu.device
    if config.permute_segments > 1:
        length = steps // config.permute_segments
        order = torch.rand(batch, config.permute_segments, device=device).argsort(1)
        index = (order[..., None] * length + torch.arange(length, device=device)).flatten(1)
        rest = torch.arange(index.shape[1], steps, device=device).expand(batch, -1)
        index = torch.cat([index, rest], 1)[..., None, None]
        imu, valid = imu.take_along_dim(index, 1), valid.take_along_dim(index, 1)
    if config.rotate:
        turn = random_rotations(batch * sensors, device).view(batch, 1, sensors, 3, 3)
        imu = (turn @ imu.unflatten(-1, (2, 3)).transpose(-1, -2)).transpose(-1, -2).flatten(-2)
    factor = 1 + (2 * torch.rand(batch, 1, 1, 1, device=device) - 1) * config.scale_range
    if config.negate_share > 0:
        factor = factor * (1 - 2 * (torch.rand(batch, 1, 1, 1, device=device) < config.negate_share))
    imu = imu * factor
    if config.noise_share > 0:
        imu = imu + torch.randn_like(imu) * imu.std(1, keepdim=True) * config.noise_share
    if config.crop_share < 1:
        kept = config.crop_share + (1 - config.crop_share) * torch.rand(batch, 1, device=device)
        start = (1 - kept) * torch.rand(batch, 1, device=device)
        place = (torch.arange(steps, device=device) + 0.5) / steps
        valid = valid & ((place >= start) & (place < start + kept))[..., None, None]
    return imu * valid.repeat_interleave(3, dim=-1), valid


def second_clip(frames: Tensor, frame_valid: Tensor) -> Tensor:
    """Return another view of clips uint8 [B, F, H, W, 3]: mirrored or not, other contrast and brightness."""
    batch, device = len(frames), frames.device
    mirrored = (torch.rand(batch, device=device) < 0.5)[:, None, None, None, None]
    contrast, offset = (2 * torch.rand(2, batch, 1, 1, 1, 1, device=device) - 1) * CLIP_RANGE
    x = torch.where(mirrored, frames.flip(3), frames).float()
    x = ((x - 127.5) * (1 + contrast) + 127.5 * (1 + 2 * offset)).clamp(0, 255)
    return (x * frame_valid[:, :, None, None, None]).to(torch.uint8)


def hide_patches(valid: Tensor, share: float, patch_samples: int) -> Tensor:
    """Return bool [B, T, P]: a share of the patches of each sensor, at least one; ``valid`` is [B, T, P, 2]."""
    batch, steps, sensors, _ = valid.shape
    num = -(-steps // patch_samples)
    place = torch.rand(batch, num, sensors, device=valid.device).argsort(1).argsort(1)
    return (place < max(1, round(share * num))).repeat_interleave(patch_samples, 1)[:, :steps]


def random_rotations(num: int, device: torch.device) -> Tensor:
    """Return [num, 3, 3] rotations, uniform over SO(3): from normalised quaternions of normal numbers."""
    w, x, y, z = torch.nn.functional.normalize(torch.randn(num, 4, device=device), dim=1).unbind(1)
    rows = [
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack([torch.stack(row, 1) for row in rows], 1)
