"""Pairwise sigmoid loss of SigLIP (Zhai et al., ICCV 2023, Equation 1), the objective of Cheshmi et al. (MLHC 2025).

With unit embeddings u_i, v_j of N pairs, temperature t and bias b,

    L = -1/N sum_i sum_j log sigmoid(z_ij (t u_i . v_j + b)),   z_ij = 1 if i = j else -1.

The temperature is stored as its logarithm. It starts at t = 10, b = -10, so that the many negatives do not
dominate the first steps.

The videos of all ranks travel round a ring. Loss and gradients of a block of pairs come from the same logits,
dL/dl_ij = sigmoid(l_ij) - [i = j], so that they are made within the forward, block by block, and the gradient of a
video travels with it: autograd keeps two [b, D] tensors, and at no time are there more than chunk^2 logits.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from imuvid.distributed import around_ring, rank
from imuvid.objectives.objective import Objective
from imuvid.objectives.scale import bounded_scale
from imuvid.objectives.views import Modalities, Pairing, Views, tiles

CHUNK = 2048
"""Rows and columns of the blocks of logits: 16 MiB each in float32."""


class PairwiseSigmoid(Objective):
    """Sigmoid loss with the negatives of all ranks. Parameters have shape [1]: DeepSpeed refuses scalars.

    Args:
        margin_s: see :class:`Pairing`.
        chunk: rows and columns of the blocks of logits.
        modalities: the two that are contrasted.
    """

    def __init__(self, margin_s: float = 0.0, chunk: int = CHUNK, modalities: Modalities = ("imu", "video")):
        super().__init__()
        self.margin_s, self.chunk, self.modalities = margin_s, chunk, modalities
        self.needs = frozenset(modalities)
        self.log_scale = nn.Parameter(torch.full([1], math.log(10.0)))
        self.bias = nn.Parameter(torch.full([1], -10.0))

    def forward(self, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`Objective`."""
        pairing = views.pairing(self.margin_s, self.modalities)
        scale = bounded_scale(self.log_scale)
        first, second = views.pair(self.modalities)
        loss = _RingSigmoid.apply(first, second, scale, self.bias, pairing, self.chunk, torch.is_grad_enabled())
        return loss, {"temperature": 1 / scale.detach(), "bias": self.bias.detach()}


class _RingSigmoid(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, imu: Tensor, video: Tensor, scale: Tensor, bias: Tensor, pairing: Pairing, chunk: int, with_grad: bool
    ) -> Tensor:
        cuts = tiles(len(imu), chunk)
        scaled = scale * imu
        total = imu.new_zeros(1)
        grad_imu, grad_bias = torch.zeros_like(imu), torch.zeros_like(bias)
        memory = imu.new_empty(min(chunk, len(imu)) ** 2)

        def visit(origin: int, videos: Tensor) -> Tensor | None:
            grad_videos = torch.zeros_like(videos) if with_grad else None
            for rows in cuts:
                for columns in cuts:
                    shape = (rows.stop - rows.start, columns.stop - columns.start)
                    logits = memory[: shape[0] * shape[1]].view(shape)
                    own = origin == rank() and rows == columns
                    excluded = pairing.excluded(rows, origin, columns)
                    torch.addmm(bias, scaled[rows], videos[columns].T, out=logits)
                    logits.masked_fill_(excluded, -math.inf)
                    # -log sigmoid(-x) = softplus(x) for negatives and softplus(-x) = softplus(x) - x for the positive.
                    total.add_(F.softplus(logits).sum())
                    if own:
                        total.sub_(logits.diagonal().masked_fill(~pairing.positive[rows], 0.0).sum())
                    if grad_videos is None:
                        continue
                    slope = logits.sigmoid_()
                    if own:
                        slope.diagonal().sub_(pairing.positive[rows].to(slope.dtype))
                    grad_bias.add_(slope.sum())
                    grad_imu[rows].addmm_(slope, videos[columns])
                    grad_videos[columns].addmm_(slope.T, imu[rows])
            return grad_videos

        grad_video = around_ring(video, visit)
        share = 1 / pairing.positives_per_rank.to(imu.dtype)
        if grad_video is not None:
            # sum_ij slope_ij u_i . v_j, without the logits.
            grad_scale = (grad_imu * imu).sum().view(1)
            ctx.save_for_backward(grad_imu * (scale * share), grad_video * (scale * share))
            ctx.small = (grad_scale * share, grad_bias * share)
        return (total * share).squeeze(0)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        return *(grad * x for x in (*ctx.saved_tensors, *ctx.small)), None, None, None
