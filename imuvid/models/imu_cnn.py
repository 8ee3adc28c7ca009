"""A small 1-D convolutional IMU tower, for CPUs and small data."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from imuvid.models.norm import GlobalBatchNorm
from imuvid.models.sensors import fold_sensors, normalise_si, pool_sensors, unfold_sensors, valid_parts
from imuvid.models.tower import Encoding, Tower


@dataclass
class ImuCnnConfig:
    """Strided convolutions over time, one after another."""

    channels: list[int] = field(default_factory=lambda: [64, 128, 128])
    """Output channels of each convolution; each halves the rate."""
    kernel_sizes: list[int] = field(default_factory=lambda: [7, 5, 5])
    """Kernel of each convolution, samples."""


class ImuCnn(Tower):
    """Convolutions with batch normalisation; the feature is mean and standard deviation over time, of every layer.

    Early layers keep what the last one has given up: of the layers of a network trained on one set of motions, the
    first ones serve motions that it never saw, and their mean and spread are posture and intensity. One set of
    weights reads every sensor, and the sensors that are present are averaged, so any number of positions goes, in
    any order. What is absent enters as zeros with its validity as two more channels.
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
        self.feature_dim = 2 * sum(config.channels)
        self.token_dim = config.channels[-1]

    def encode(self, imu: Tensor, valid: Tensor) -> Encoding:
        """Map imu [B, T, P, 6] (SI) and valid [B, T, P, 2] to features; the tokens are the last layer, at its rate."""
        sensors = imu.shape[2]
        x = torch.cat([normalise_si(imu, valid), valid.to(imu.dtype)], dim=-1)  # [B, T, P, 8]
        x = fold_sensors(x).transpose(1, 2)  # [B P, 8, T]
        weight = fold_sensors(valid).any(-1)[:, None].float()  # [B P, 1, T]
        pooled = []
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = torch.relu(norm(convolution(x)))
            weight = nn.functional.max_pool1d(weight, 2, ceil_mode=True)  # padding does not count
            total = weight.sum(-1).clamp(min=1)
            mean = (x * weight).sum(-1) / total
            variance = ((x - mean[..., None]).square() * weight).sum(-1) / total
            pooled += [mean, (variance + 1e-6).sqrt()]  # the root's slope at zero would be infinite
        features = pool_sensors(unfold_sensors(torch.cat(pooled, dim=1), sensors), valid)
        tokens = pool_sensors(unfold_sensors(x.transpose(1, 2), sensors), valid)
        return Encoding(features, tokens, valid_parts(valid, tokens.shape[1]))
