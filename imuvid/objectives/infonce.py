"""Symmetric InfoNCE with a learned temperature (CLIP: Radford et al., ICML 2021, Figure 3; van den Oord et al., 2018).

With unit embeddings u_i, v_j of N pairs and temperature tau,

    L = -1/(2N) sum_i [ log softmax_j(u_i . v_j / tau)_i + log softmax_j(v_i . u_j / tau)_i ].

1/tau is stored as its logarithm, starts at 1/0.07 and is bounded by 100, as in CLIP.

The videos of all ranks travel round a ring twice: once for the sums of exponentials of rows and columns, once for the
gradients, dL/dl_ij = (softmax of row + softmax of column - 2 [i = j]) / 2N, from logits that are made again (as Cheng
et al., "Breaking the Memory Barrier", 2024, do). Autograd keeps two [b, D] tensors, and at no time are there more
than chunk^2 logits.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from imuvid.distributed import around_ring, log_sum_exp_over_ranks, rank, world_size
from imuvid.objectives.objective import Objective
from imuvid.objectives.pairwise_sigmoid import CHUNK
from imuvid.objectives.scale import bounded_scale
from imuvid.objectives.views import Modalities, Pairing, Views, tiles


class InfoNCE(Objective):
    """InfoNCE in both directions with the negatives of all ranks.

    Args:
        margin_s: see :class:`Pairing`.
        chunk: rows and columns of the blocks of logits.
        modalities: the two that are contrasted.
    """

    def __init__(self, margin_s: float = 0.0, chunk: int = CHUNK, modalities: Modalities = ("imu", "video")):
        super().__init__()
        self.margin_s, self.chunk, self.modalities = margin_s, chunk, modalities
        self.needs = frozenset(modalities)
        self.log_scale = nn.Parameter(torch.full([1], math.log(1 / 0.07)))

    def forward(self, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`Objective`."""
        pairing = views.pairing(self.margin_s, self.modalities)
        scale = bounded_scale(self.log_scale)
        loss = symmetric_infonce(*views.pair(self.modalities), scale, pairing, self.chunk)
        return loss, {"temperature": 1 / scale.detach()}


def symmetric_infonce(first: Tensor, second: Tensor, scale: Tensor, pairing: Pairing, chunk: int = CHUNK) -> Tensor:
    """Return this rank's share of the loss above.

    Args:
        first: [b, D] embeddings.
        second: [b, D] embeddings of the same windows.
        scale: [1], the inverse temperature.
        pairing: which pairs count.
        chunk: rows and columns of the blocks of logits.
    """
    return _RingInfoNCE.apply(first, second, scale, pairing, chunk, torch.is_grad_enabled())


class _RingInfoNCE(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, imu: Tensor, video: Tensor, scale: Tensor, pairing: Pairing, chunk: int, with_grad: bool
    ) -> Tensor:
        local, cuts = len(imu), tiles(len(imu), chunk)
        scaled = scale * imu
        logits_memory, work_memory = (imu.new_empty(min(chunk, local) ** 2) for _ in range(2))

        def logits_of(origin: int, rows: slice, columns: slice, videos: Tensor) -> tuple[Tensor, Tensor]:
            shape = (rows.stop - rows.start, columns.stop - columns.start)
            logits, work = (x[: shape[0] * shape[1]].view(shape) for x in (logits_memory, work_memory))
            torch.mm(scaled[rows], videos[columns].T, out=logits)
            return logits.masked_fill_(pairing.excluded(rows, origin, columns), -math.inf), work

        row_sums = imu.new_full([local], -math.inf)  # logarithms of sums of exponentials
        column_sums = imu.new_full([world_size() * local], -math.inf)
        positives = imu.new_zeros(local)

        def sum_up(origin: int, videos: Tensor) -> None:
            for rows in cuts:
                for columns in cuts:
                    logits, work = logits_of(origin, rows, columns, videos)
                    if origin == rank() and rows == columns:
                        positives[rows] = logits.diagonal()
                    at = slice(origin * local + columns.start, origin * local + columns.stop)
                    _add_exponentials(row_sums[rows], logits, 1, work)
                    _add_exponentials(column_sums[at], logits, 0, work)

        around_ring(video, sum_up)
        column_sums = log_sum_exp_over_ranks(column_sums)
        # An infinite sum of a window that is in no pair: its share of the loss and its softmax become zero.
        row_sums.masked_fill_(~pairing.positive, math.inf)
        column_sums.masked_fill_(~pairing.all_positive, math.inf)
        share = 0.5 / pairing.positives_per_rank.to(imu.dtype)
        own_columns = column_sums[rank() * local : (rank() + 1) * local]
        losses = (row_sums + own_columns - 2 * positives).masked_fill(~pairing.positive, 0.0)
        if not with_grad:
            return losses.sum() * share
        grad_imu = torch.zeros_like(imu)

        def derive(origin: int, videos: Tensor) -> Tensor:
            grad_videos = torch.zeros_like(videos)
            for rows in cuts:
                for columns in cuts:
                    slope, work = logits_of(origin, rows, columns, videos)
                    at = slice(origin * local + columns.start, origin * local + columns.stop)
                    torch.sub(slope, column_sums[at], out=work).exp_()
                    slope.sub_(row_sums[rows, None]).exp_().add_(work)
                    if origin == rank() and rows == columns:
                        slope.diagonal().sub_(2.0 * pairing.positive[rows])
                    grad_imu[rows].addmm_(slope, videos[columns])
                    grad_videos[columns].addmm_(slope.T, imu[rows])
            return grad_videos

        grad_video = around_ring(video, derive)
        assert grad_video is not None
        ctx.grad_scale = (grad_imu * imu).sum().view(1) * share
        ctx.save_for_backward(grad_imu * (scale * share), grad_video * (scale * share))
        return losses.sum() * share

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        return *(grad * x for x in (*ctx.saved_tensors, ctx.grad_scale)), None, None, None


def _add_exponentials(sums: Tensor, logits: Tensor, axis: int, work: Tensor) -> None:
    """Set ``sums`` to log(exp(sums) + sum of exp(logits) along ``axis``), using the memory of ``work``."""
    # A row or column without any pair has no finite maximum to subtract.
    largest = torch.maximum(sums, logits.amax(axis)).clamp_(min=torch.finfo(logits.dtype).min)
    torch.sub(logits, largest.unsqueeze(axis), out=work).exp_()
    torch.log(work.sum(axis) + (sums - largest).exp(), out=sums).add_(largest)
