"""Batch normalisation whose statistics are those of the global batch, on any backend."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from imuvid.distributed import sum_over_ranks, world_size


class GlobalBatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy, 2015, Algorithm 1) over the concatenated batch of all ranks.

    ``torch.nn.SyncBatchNorm`` does the same but refuses CPU tensors; plain BatchNorm makes the result depend on
    the number of ranks. Statistics are float32 whatever the input. Expects [B, C, ...] with the same number of
    elements on every rank; returns the same shape and dtype.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor, there: Tensor | None = None) -> Tensor:
        """Normalise x [B, C, ...]; statistics are over the windows that are ``there``, bool [B], or all of them."""
        if there is not None and x.device.type == "cpu" and world_size() == 1 and there.all():
            there = None  # on a GPU the host would have to wait for the answer
        if not self.training:
            mean, variance = self.running_mean, self.running_var
        elif world_size() == 1 and there is None:
            # The fused kernel, a third of the time on CPUs; it updates the running statistics itself.
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, True, self.momentum, self.eps
            )
        else:
            mean, variance = self._global_statistics(x.float(), there)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        shape = (1, -1) + (1,) * (x.ndim - 2)
        return (x.float() * scale.view(shape) + shift.view(shape)).to(x.dtype)

    def _global_statistics(self, x: Tensor, there: Tensor | None) -> tuple[Tensor, Tensor]:
        axes, shape = [0, *range(2, x.ndim)], (-1,) + (1,) * (x.ndim - 1)
        weight = (x.new_ones(len(x)) if there is None else there.to(x.dtype)).view(shape)
        local_count = (weight.sum() * (x[0].numel() // x.shape[1])).view(1)
        count = sum_over_ranks(local_count)
        # The local variance around the local mean, then Chan's pairwise formula: sums of squares around zero
        # would lose float32 digits where the mean is large.
        local_mean = (x * weight).sum(axes) / local_count.clamp(min=1)
        local_m2 = ((x - local_mean.view((1, -1) + (1,) * (x.ndim - 2))).square() * weight).sum(axes)
        mean = sum_over_ranks(local_mean * local_count) / count.clamp(min=1)
        m2 = sum_over_ranks(local_m2 + local_count * (local_mean - mean).square())
        variance = m2 / count.clamp(min=1)
        with torch.no_grad():
            step = self.momentum * (count > 0)
            self.running_mean.lerp_(mean.detach(), step)
            self.running_var.lerp_(variance.detach() * count / (count - 1).clamp(min=1), step)
        return mean, variance


def globalise_batchnorm(module: nn.Module) -> nn.Module:
    """Replace every ``nn.BatchNorm*`` inside ``module`` by GlobalBatchNorm with the same state; return the module."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        if not (module.affine and module.track_running_stats):
            raise ValueError(f"{module}: only affine batch normalisation with running statistics can be made global")
        momentum = 0.1 if module.momentum is None else module.momentum
        replacement = GlobalBatchNorm(module.num_features, module.eps, momentum)
        state = {k: v for k, v in module.state_dict().items() if k != "num_batches_tracked"}
        replacement.load_state_dict(state)
        return replacement
    for name, child in module.named_children():
        setattr(module, name, globalise_batchnorm(child))
    return module


class MaskedGroupNorm(nn.GroupNorm):
    """Group normalisation (Wu and He, ECCV 2018, equation 1) over the elements that are there; zeros elsewhere.

    Where all are, it is ``torch.nn.GroupNorm``.
    """

    def forward(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """Normalise x [B, C, T] over each of the groups of channels, by what is present bool [B, C, T]."""
        if present is None:
            return super().forward(x)
        groups = x.float().unflatten(1, (self.num_groups, -1))
        weight = present.unflatten(1, (self.num_groups, -1)).to(groups.dtype)
        count = weight.sum((2, 3), keepdim=True).clamp(min=1)
        centred = (groups - (groups * weight).sum((2, 3), keepdim=True) / count) * weight
        variance = centred.square().sum((2, 3), keepdim=True) / count
        normal = (centred * torch.rsqrt(variance + self.eps)).flatten(1, 2)
        return ((normal * self.weight[:, None] + self.bias[:, None]) * present).to(x.dtype)
