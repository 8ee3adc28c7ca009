"""The differentiable collectives that towers and objectives share, and what a rank is.

Gradients follow one convention: the scalar that is differentiated is the *sum* over ranks of the local losses, as
every rank calls backward on its own one. With parameter gradients averaged over ranks afterwards (what DeepSpeed
and DDP do), the result is the gradient of the *mean* of the local losses: that of one process on the
concatenated batch. The same functions work with no process group, as a world of one.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this rank; 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gather_batch(x: Tensor) -> Tensor:
    """Concatenate the [b, ...] tensors of all ranks to [W b, ...], in the order of the ranks, with gradients.

    The backward sums over ranks what each of them derives for the rows of this one (the local-loss form with
    gathered gradients of open_clip: the only one whose gradient equals that of a single process).
    """
    if world_size() == 1:
        return x
    return _GatherBatch.apply(x)


def sum_over_ranks(x: Tensor) -> Tensor:
    """Sum a tensor of equal shape over the ranks, with gradients."""
    if world_size() == 1:
        return x
    return _SumOverRanks.apply(x)


class _GatherBatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.rows = x.shape[0]
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        # All-reduce and slice instead of reduce-scatter, which gloo does not have.
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad[rank() * ctx.rows : (rank() + 1) * ctx.rows]


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total
