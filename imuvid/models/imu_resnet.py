"""A 1-D residual network of the shape of harnet (Yuan et al., npj Digital Medicine 2024) as IMU tower."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor, nn

from imuvid.models.norm import GlobalBatchNorm
from imuvid.models.sensors import fold_sensors, normalise_si, pool_sensors, unfold_sensors, valid_parts
from imuvid.models.tower import Encoding, Tower

RATE_HZ = 30.0
"""Of harnet's input."""
KERNEL = 5


@dataclass
class ImuResNetConfig:
    """Sizes default to harnet's for windows of 5 s, which leave one instant of them.

    For 10 s it has channels [64, 128, 256, 512, 1024], factors [2, 2, 5, 5, 3] and the same orders; for 30 s factors
    [3, 3, 5, 5, 4] and orders [1, 1, 1, 1, 0].
    """

    rate_hz: float = 50.0
    """Rate of the windows, Hz; within the tower they are resampled to harnet's 30 Hz."""
    channels: list[int] = field(default_factory=lambda: [64, 128, 256, 256, 512])
    """Of each stage."""
    num_blocks: list[int] = field(default_factory=lambda: [2, 2, 2, 2, 0])
    """Residual blocks of each stage."""
    factors: list[int] = field(default_factory=lambda: [2, 2, 3, 3, 3])
    """By which each stage lowers the rate."""
    orders: list[int] = field(default_factory=lambda: [2, 2, 1, 1, 1])
    """Of the filter before that: 0 box, 1 triangle, 2 quadratic; order times (factor - 1) is even."""


class ImuResNet(Tower):
    """Stages of a convolution, pre-activation residual blocks, batch normalisation and anti-aliased decimation.

    It reads the accelerometer alone, in g: a gyroscope changes nothing, and a sensor without an accelerometer counts
    as absent. One set of weights reads every sensor, and the sensors that are present are averaged. The feature is the
    mean over the instants that the last stage leaves; tokens are those before it.
    """

    def __init__(self, config: ImuResNetConfig):
        super().__init__()
        stages = (config.channels, config.num_blocks, config.factors, config.orders)
        if len({len(stage) for stage in stages}) != 1 or len(config.channels) < 2:
            raise ValueError("channels, num_blocks, factors and orders must be of one length, at least 2")
        if config.rate_hz <= 0:
            raise ValueError(f"rate_hz {config.rate_hz:g} must be above 0")
        self.resample = Resample(config.rate_hz, RATE_HZ)
        self.stages = nn.ModuleList()
        width = 3
        for channels, num_blocks, factor, order in zip(*stages, strict=True):
            self.stages.append(
                nn.Sequential(
                    _convolution(width, channels),
                    *(_Block(channels) for _ in range(num_blocks)),
                    GlobalBatchNorm(channels),
                    nn.ReLU(),
                    _Decimate(channels, factor, order),
                )
            )
            width = channels
        self.feature_dim, self.token_dim = config.channels[-1], config.channels[-2]

    def encode(self, imu: Tensor, valid: Tensor) -> Encoding:
        """Map imu [B, T, P, 6] (SI) and valid [B, T, P, 2] to features; gyroscopes are not read.

        Raises:
            ValueError: the window is too short for the stages.
        """
        sensors, valid = imu.shape[2], valid[..., :1]
        g = normalise_si(imu, valid.expand(*valid.shape[:-1], 2))[..., :3]
        tokens = x = self.resample(fold_sensors(g).transpose(1, 2))  # [B P, 3, T']
        for stage in self.stages:
            tokens, x = x, stage(x)
        features = pool_sensors(unfold_sensors(x.mean(-1), sensors), valid)
        tokens = pool_sensors(unfold_sensors(tokens.transpose(1, 2), sensors), valid)
        return Encoding(features, tokens, valid_parts(valid, tokens.shape[1]))


class Resample(nn.Module):
    """Change the rate of [B, C, T] by a ratio of small whole numbers, anti-aliased; the first instant stays the first.

    A Kaiser-windowed sinc in polyphase form (Oppenheim and Schafer, 2010, sections 4.6 and 7.5) of gain one for a
    constant; beyond either end the signal is continued by its last value.
    """

    taps: Tensor

    def __init__(self, from_hz: float, to_hz: float):
        from scipy import signal

        super().__init__()
        ratio = Fraction(to_hz / from_hz).limit_denominator(100)
        self.up, self.down = ratio.numerator, ratio.denominator
        self.reach = 10 * max(self.up, self.down)
        taps = signal.firwin(2 * self.reach + 1, 1 / max(self.up, self.down, 1.0001), window=("kaiser", 5.0))
        for phase in range(self.up):
            taps[phase :: self.up] /= taps[phase :: self.up].sum()
        self.register_buffer("taps", torch.from_numpy(taps).float()[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, T] to [B, C, 1 + (T - 1) up // down]."""
        if self.up == self.down:
            return x
        channels, samples = x.shape[1:]
        pad = math.ceil(self.reach / self.up)
        spread = nn.functional.pad(x, (pad, pad), mode="replicate")[..., None]
        spread = nn.functional.pad(spread, (0, self.up - 1)).flatten(2)
        first, last = pad * self.up, (pad + samples - 1) * self.up
        spread = spread[..., first - self.reach : last + self.reach + 1]
        weight = self.taps.to(x.dtype).expand(channels, 1, -1)
        return nn.functional.conv1d(spread, weight, stride=self.down, groups=channels)


def _convolution(inputs: int, outputs: int) -> nn.Conv1d:
    layer = nn.Conv1d(inputs, outputs, KERNEL, padding=KERNEL // 2, padding_mode="circular", bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


class _Block(nn.Module):
    """Pre-activation residual block (He et al., ECCV 2016, figure 1b)."""

    def __init__(self, channels: int):
        super().__init__()
        self.residual = nn.Sequential(
            GlobalBatchNorm(channels),
            nn.ReLU(),
            _convolution(channels, channels),
            GlobalBatchNorm(channels),
            nn.ReLU(),
            _convolution(channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual(x)


class _Decimate(nn.Module):
    """A fixed binomial-like filter, then every factor-th sample (Zhang, ICML 2019, section 3)."""

    taps: Tensor

    def __init__(self, channels: int, factor: int, order: int):
        super().__init__()
        if factor < 2 or order < 0 or order * (factor - 1) % 2:
            raise ValueError(f"factor {factor} with order {order}: order times (factor - 1) must be even")
        box = np.ones(factor) / factor
        taps = box
        for _ in range(order):
            taps = np.convolve(taps, box)
        self.factor, self.padding = factor, order * (factor - 1) // 2
        self.register_buffer("taps", torch.from_numpy(taps).float().expand(channels, 1, -1).clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] + 2 * self.padding < self.taps.shape[-1]:
            raise ValueError("the window is too short for its stages: take fewer of them, or smaller factors")
        taps = self.taps.to(x.dtype)
        return nn.functional.conv1d(x, taps, stride=self.factor, padding=self.padding, groups=x.shape[1])
