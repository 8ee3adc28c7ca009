"""The softmax loss of the released code of Cheshmi et al. (MLHC 2025) as it was run: the ablation of their Table 5.

It is not InfoNCE. Its targets are soft and made of the embeddings that it trains, through which gradients flow too:

    P = softmax over rows of T (U U' + V V') / 2,      S = U V' / T,
    L = -1/(2N) sum_ij [ P_ij log softmax_j(S)_ij + P_ij log softmax_i(S)_ij ]

with the unit embeddings of N pairs as rows of U and V. T multiplies in the targets and divides in the logits. It is
learned, as itself, and starts at log 10 = 2.303, where aligned pairs of a batch of 32 are told to be alike with
probability 0.24 and can reach 0.047; the code's IMU2CLIP has the same loss from T = 0.1. The code has the negatives of
one GPU; here they are those of all ranks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from imuvid.distributed import gather_batch, share_of_mean
from imuvid.objectives.objective import Objective
from imuvid.objectives.row_blocks import MAX_LOGITS, by_row_blocks
from imuvid.objectives.views import Views


@dataclass
class Cheshmi2025SoftmaxConfig:
    """As released."""

    temperature: float = math.log(10.0)
    """Start of T."""


class Cheshmi2025Softmax(Objective):
    """The paper's soft-target softmax, some rows of logits at a time. Windows without IMU or video are left out."""

    needs = frozenset({"imu", "video"})
    max_logits = MAX_LOGITS

    def __init__(self, config: Cheshmi2025SoftmaxConfig):
        super().__init__()
        self.temperature = nn.Parameter(torch.full([1], config.temperature))

    def forward(self, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`Objective`."""
        imu, video = views.pair()
        paired = views.has_imu & views.has_video
        all_imu, all_video, all_paired = gather_batch(imu), gather_batch(video), gather_batch(paired.long()).bool()
        num, max_logits = len(all_imu), self.max_logits

        def left_out(logits: Tensor) -> Tensor:
            # Not -inf, which times a target of zero, or without any pair, would be no number.
            return logits.masked_fill(~all_paired, -1e4)

        def similarity(rows: slice) -> Tensor:  # [rows, W b], symmetric over all that is paired
            return left_out(self.temperature * (imu[rows] @ all_imu.T + video[rows] @ all_video.T) / 2)

        def log_softmax(logits: Tensor) -> Tensor:
            return left_out(logits).log_softmax(1)

        sums = by_row_blocks(lambda rows: similarity(rows).logsumexp(1), len(imu), num, max_logits)
        all_sums = gather_batch(sums)

        def losses_of(rows: slice) -> Tensor:
            along_rows = (similarity(rows) - sums[rows, None]).exp()
            along_columns = (similarity(rows) - all_sums).exp()  # P_ji: what other ranks' rows say of this one
            losses = -along_rows * log_softmax(imu[rows] @ all_video.T / self.temperature)
            losses = losses - along_columns * log_softmax(video[rows] @ all_imu.T / self.temperature)
            return losses.masked_fill(~all_paired, 0.0).sum(1)

        losses = by_row_blocks(losses_of, len(imu), num, max_logits)
        return share_of_mean(losses / 2, paired), {"temperature": self.temperature.detach()}
