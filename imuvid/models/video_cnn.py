"""A small 3-D convolutional video tower, for CPUs and small data."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from imuvid.models.norm import GlobalBatchNorm
from imuvid.models.tower import Encoding, Tower


@dataclass
class VideoCnnConfig:
    """Spatio-temporal 3x3x3 convolutions, each halving height and width."""

    channels: list[int] = field(default_factory=lambda: [16, 32, 64, 128])
    """Output channels of each convolution."""
    time_strides: list[int] = field(default_factory=lambda: [1, 2, 2, 1])
    """Stride of each convolution over frames."""
    motion: bool = True
    """Also give the differences between successive frames as input channels."""


class VideoCnn(Tower):
    """3-D convolutions with batch normalisation, averaged over space and the valid frames.

    Clips without any valid frame do not enter its statistics.
    """

    def __init__(self, config: VideoCnnConfig):
        super().__init__()
        if len(config.channels) != len(config.time_strides):
            raise ValueError(f"{len(config.channels)} channels but {len(config.time_strides)} time_strides")
        self.motion, self.time_strides = config.motion, config.time_strides
        widths = [6 if config.motion else 3, *config.channels]
        self.convolutions = nn.ModuleList(
            nn.Conv3d(a, b, 3, stride=(t, 2, 2), padding=1, bias=False)
            for a, b, t in zip(widths, widths[1:], config.time_strides, strict=False)
        )
        self.norms = nn.ModuleList(GlobalBatchNorm(width) for width in config.channels)
        self.feature_dim = self.token_dim = config.channels[-1]

    def encode(self, frames: Tensor, frame_valid: Tensor) -> Encoding:
        """Map frames uint8 [B, F, H, W, 3] and frame_valid bool [B, F] to features; the tokens are the last layer's."""
        x = frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1  # [B, 3, F, H, W]
        x = x * frame_valid[:, None, :, None, None]
        if self.motion:
            # A difference to a frame that is not there would be a flash.
            both = (frame_valid[:, 1:] & frame_valid[:, :-1])[:, None, :, None, None]
            change = nn.functional.pad((x[:, :, 1:] - x[:, :, :-1]) * both, (0, 0, 0, 0, 1, 0))
            x = torch.cat([x, 2 * change], dim=1)
        present = frame_valid[:, None].float()
        for convolution, norm, time_stride in zip(self.convolutions, self.norms, self.time_strides, strict=True):
            x = torch.relu(norm(convolution(x), frame_valid.any(1)))
            present = nn.functional.max_pool1d(present, time_stride, ceil_mode=True)
        weight = present[:, :, : x.shape[2]].to(x.dtype)  # [B, 1, F']
        tokens = x.mean((3, 4))  # [B, C, F']
        features = (tokens * weight).sum(2) / weight.sum(2).clamp(min=1)
        return Encoding(features, tokens.transpose(1, 2), weight[:, 0] > 0)
