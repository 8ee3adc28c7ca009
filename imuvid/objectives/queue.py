"""A first-in-first-out memory of embeddings, the same on all ranks (MoCo: He et al., CVPR 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from imuvid.distributed import gather_batch


class Queue(nn.Module):
    """The last ``size`` rows that were put in on any rank. What has never been filled is marked as such.

    Args:
        size: rows.
        dims: width of each of the tensors that are kept side by side.
    """

    rows: Tensor
    filled: Tensor
    position: Tensor

    def __init__(self, size: int, dims: list[int]):
        super().__init__()
        self.size, self.dims = size, dims
        self.register_buffer("rows", torch.zeros(size, sum(dims)))
        self.register_buffer("filled", torch.zeros(size, dtype=torch.bool))
        self.register_buffer("position", torch.zeros(1, dtype=torch.int64))

    def contents(self) -> list[Tensor]:
        """Return copies of the kept tensors, [size, dim] each: what is put in later does not change them."""
        return list(self.rows.clone().split(self.dims, dim=1))

    @torch.no_grad()
    def put(self, tensors: list[Tensor], there: Tensor) -> None:
        """Replace the oldest rows by those of all ranks, in their order.

        Args:
            tensors: [b, dim] each.
            there: bool [b]: rows that are not there are not put in.
        """
        rows = gather_batch(torch.cat([x.detach().to(self.rows.dtype) for x in tensors], 1))
        there = gather_batch(there.long()).bool()
        # Places by counting, so that the host need not know how many there are: rows without a place go to a spare one.
        count = there.long().cumsum(0)
        recent = there & (count > count[-1] - self.size)
        place = torch.where(recent, (self.position + count - 1) % self.size, self.size)
        spare = torch.cat([self.rows, self.rows[:1]])
        self.rows.copy_(spare.index_copy_(0, place, rows)[:-1])
        marks = torch.cat([self.filled, self.filled[:1]])
        self.filled.copy_(marks.index_fill_(0, place, True)[:-1])
        self.position.add_(count[-1]).remainder_(self.size)
