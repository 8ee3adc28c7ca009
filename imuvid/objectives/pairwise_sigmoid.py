"""Pairwise sigmoid loss of SigLIP (Zhai et al., ICCV 2023, Equation 1), the objective of the paper.

With unit embeddings u_i, v_j of N pairs, temperature t and bias b,

    L = -1/N sum_i sum_j log sigmoid(z_ij (t u_i . v_j + b)),   z_ij = 1 if i = j else -1.

The temperature is stored as its logarithm. It starts at t = 10, b = -10, so that the many negatives do not
dominate the first steps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imuvid.distributed import gather_batch, rank

MAX_LOG_SCALE = math.log(100.0)


class PairwiseSigmoid(nn.Module):
    """Sigmoid loss with the negatives of all ranks. Parameters have shape [1]: DeepSpeed refuses scalars."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.full([1], math.log(10.0)))
        self.bias = nn.Parameter(torch.full([1], -10.0))

    def forward(self, imu: Tensor, video: Tensor, recording: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return this rank's loss, whose mean over ranks is the loss of the concatenated batch, and figures to log.

        Args:
            imu: [b, D] embeddings, of unit length.
            video: [b, D] embeddings of the same windows.
            recording: int64 [b]; if given, other windows of a recording are no negatives of each other.
        """
        everyone = gather_batch(video)
        scale = self.log_scale.clamp(max=MAX_LOG_SCALE).exp()
        logits = scale * imu @ everyone.T + self.bias  # [b, W b]
        own = torch.arange(len(imu), device=imu.device) + rank() * len(imu)
        # -log sigmoid(-x) = softplus(x) for negatives and softplus(-x) = softplus(x) - x for the positive.
        losses = F.softplus(logits)
        if recording is not None:
            losses = losses.masked_fill(same_recording(recording, own), 0.0)
        positives = logits.gather(1, own[:, None])
        loss = (losses.sum() - positives.sum()) / len(imu)
        return loss, {"temperature": 1 / scale.detach(), "bias": self.bias.detach()}


def same_recording(recording: Tensor, own: Tensor) -> Tensor:
    """Return bool [b, W b]: True for another window of the same recording. ``own`` [b]: the windows' own columns."""
    everyone = gather_batch(recording)
    mask = recording[:, None] == everyone[None]
    mask[torch.arange(len(own), device=own.device), own] = False
    return mask
