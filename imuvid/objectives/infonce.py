"""Symmetric InfoNCE with a learned temperature (CLIP: Radford et al., ICML 2021, Figure 3; van den Oord et al., 2018).

With unit embeddings u_i, v_j of N pairs and temperature tau,

    L = -1/(2N) sum_i [ log softmax_j(u_i . v_j / tau)_i + log softmax_j(v_i . u_j / tau)_i ].

1/tau is stored as its logarithm, starts at 1/0.07 and is bounded by 100, as in CLIP.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imuvid.distributed import gather_batch, rank
from imuvid.objectives.pairwise_sigmoid import MAX_LOG_SCALE, same_recording


class InfoNCE(nn.Module):
    """InfoNCE in both directions with the negatives of all ranks, in the local-loss form."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.full([1], math.log(1 / 0.07)))

    def forward(self, imu: Tensor, video: Tensor, recording: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return this rank's loss, whose mean over ranks is the loss of the concatenated batch, and figures to log.

        Args:
            imu: [b, D] embeddings, of unit length.
            video: [b, D] embeddings of the same windows.
            recording: int64 [b]; if given, other windows of a recording are no negatives of each other.
        """
        scale = self.log_scale.clamp(max=MAX_LOG_SCALE).exp()
        imu_to_video = scale * imu @ gather_batch(video).T  # [b, W b]
        video_to_imu = scale * video @ gather_batch(imu).T
        own = torch.arange(len(imu), device=imu.device) + rank() * len(imu)
        if recording is not None:
            mask = same_recording(recording, own)
            imu_to_video = imu_to_video.masked_fill(mask, -math.inf)
            video_to_imu = video_to_imu.masked_fill(mask, -math.inf)
        loss = (F.cross_entropy(imu_to_video, own) + F.cross_entropy(video_to_imu, own)) / 2
        return loss, {"temperature": 1 / scale.detach()}
