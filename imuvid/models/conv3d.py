"""3-D convolutions where bfloat16 cannot be relied on."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SteadyConv3d(nn.Conv3d):
    """``torch.nn.Conv3d`` that computes in float32 on a CPU, also under autocast.

    The bfloat16 kernels of oneDNN were seen to give wrong gradients of the weights for inputs whose channels lie last.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x [N, C, F, H, W]."""
        if x.device.type != "cpu":
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float())


def steady_conv3d(module: nn.Module) -> nn.Module:
    """Let every ``nn.Conv3d`` inside the module be a :class:`SteadyConv3d`, with its state; return the module."""
    for part in module.modules():
        if type(part) is nn.Conv3d:
            part.__class__ = SteadyConv3d
    return module
