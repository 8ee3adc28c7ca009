"""A small 1-D convolutional IMU tower, for CPUs and small data."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from imuvid.models.norm import GlobalBatchNorm
from imuvid.models.sensors import normalise_si, pool_sensors


@dataclass
class ImuCnnConfig:
    """Strided convolutions over time, one after another."""

    channels: list[int] = field(default_factory=lambda: [64, 128, 128])
    """Output channels of each convolution; each halves the rate."""
    kernel_sizes: list[int] = field(default_factory=lambda: [7, 5, 5])
    """Kernel of each convolution, samples."""


class ImuCnn(nn.Module):
    """Convolutions with batch normalisation, pooled over time by mean and maximum of the valid steps.

    One set of weights reads every sensor; the features of the sensors that are present are averaged, so any
    number of positions goes, in any order. What is absent enters as zeros with its validity as two more channels.
    """

    def __init__(self, config: ImuCnnConfig):
        super().__init__()
        if len(config.channels) != len(config.kernel_sizes):
            raise ValueError(f"{len(config.channels)} channels but {len(config.kernel_sizes)} kernel_sizes")
        widths = [8, *config.channels]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(a, b, k, stride=2, padding=k // 2, bias=False)
            for a, b, k in zip(widths, widths[1:], config.kernel_sizes, strict=False)
        )
        self.norms = nn.ModuleList(GlobalBatchNorm(width) for width in config.channels)
        self.feature_dim = 2 * config.channels[-1]

    def forward(self, imu: Tensor, valid: Tensor) -> Tensor:
        """Map imu [B, T, P, 6] (SI) and valid [B, T, P, 2] to features [B, feature_dim]."""
        batch, _, sensors, _ = imu.shape
        x = torch.cat([normalise_si(imu, valid), valid.to(imu.dtype)], dim=-1)  # [B, T, P, 8]
        x = x.permute(0, 2, 3, 1).flatten(0, 1)  # [B P, 8, T]
        present = valid.any(-1).permute(0, 2, 1).flatten(0, 1)  # [B P, T]
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = torch.relu(norm(convolution(x)))
            present = nn.functional.max_pool1d(present[:, None].float(), 2, ceil_mode=True)[:, 0] > 0
        weight = present[:, None].to(x.dtype)
        mean = (x * weight).sum(-1) / weight.sum(-1).clamp(min=1)
        maximum = (x * weight).amax(-1)  # x >= 0 after the ReLU, so a masked step never wins wrongly
        features = torch.cat([mean, maximum], dim=1).view(batch, sensors, -1)
        return pool_sensors(features, valid)
