"""The differentiable collectives that towers and objectives share, and what a rank is.

Gradients follow one convention: the scalar that is differentiated is the *sum* over ranks of the local losses, as
every rank calls backward on its own one. With parameter gradients averaged over ranks afterwards (what DeepSpeed
and DDP do), the result is the gradient of the *mean* of the local losses: that of one process on the
concatenated batch. The same functions work with no process group, as a world of one.
"""

from __future__ import annotations

from collections.abc import Callable

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


def share_of_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Return this rank's share of the weighted mean of ``values`` over the global batch: the mean of the shares is it.

    Args:
        values: float [...], with gradients; what has no weight may be anything but NaN or infinite.
        weight: bool or float, broadcastable to it.

    Returns:
        A scalar; 0 where no element of any rank has a weight.
    """
    weight = weight.to(values.dtype).expand_as(values)
    total = sum_over_ranks(weight.sum().view(1)).squeeze(0)
    return world_size() * (values * weight).sum() / torch.where(total > 0, total, 1.0)


def log_sum_exp_over_ranks(x: Tensor) -> Tensor:
    """Return log sum_r exp(x_r) over the ranks' tensors of equal shape, element by element; without gradients."""
    if world_size() == 1:
        return x
    largest = x.clone()
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    # Where every rank has -inf, the difference would be no number.
    shift = largest.clamp(min=torch.finfo(x.dtype).min)
    total = (x - shift).exp_()
    dist.all_reduce(total)
    return total.log_().add_(shift)


def around_ring(x: Tensor, visit: Callable[[int, Tensor], Tensor | None]) -> Tensor | None:
    """Show the [b, ...] tensor of every rank to ``visit``, one after another; without gradients.

    No rank ever holds more than two of the tensors: they travel from rank to rank while ``visit`` computes.

    Args:
        x: of equal shape on all ranks.
        visit: gets (number of the rank that the tensor comes from, tensor) and returns its share of a result for that
            rank, of the tensor's shape, or None at every visit.

    Returns:
        The sum over ranks of what their visits returned for this rank's ``x``; None where they returned None.
    """
    world = world_size()
    if world == 1:
        return visit(0, x)
    held, total, arriving = x.contiguous(), None, None
    for step in range(world):
        following = _PassOn(held, tag=0) if step < world - 1 else None
        share = visit((rank() - step) % world, held)
        if share is not None:
            if arriving is not None:
                share += arriving.wait()
            arriving = _PassOn(share, tag=1)  # after the last step this one comes home
        if following is not None:
            held = following.wait()
    if arriving is not None:
        total = arriving.wait()
    return total


class _PassOn:
    """A tensor on its way to the next rank, and that of the previous one on its way here."""

    def __init__(self, x: Tensor, tag: int):
        world = world_size()
        self.sent, self.received = x, torch.empty_like(x)
        operations = [
            dist.P2POp(dist.isend, x, (rank() + 1) % world, tag=tag),
            dist.P2POp(dist.irecv, self.received, (rank() - 1) % world, tag=tag),
        ]
        self.works = dist.batch_isend_irecv(operations)

    def wait(self) -> Tensor:
        """Return what has come; on GPUs it is the stream that waits, not the host."""
        for work in self.works:
            work.wait()
        return self.received


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
