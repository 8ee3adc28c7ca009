"""NT-Xent between two views of the IMU (SimCLR: Chen et al., ICML 2020, Equation 1), as CrossHAR and others use it.

With unit embeddings z_1 ... z_2N of N windows in two views, j(i) the other view of i, and temperature tau,

    L = -1/(2N) sum_i log [ exp(z_i . z_j(i) / tau) / sum_{k != i} exp(z_i . z_k / tau) ].

The temperature is fixed. The embeddings come from a head of its own, Linear - ReLU - Linear as in SimCLR, so that what
the views do not share may stay in the features. Windows without video take part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imuvid.distributed import gather_batch, rank, share_of_mean
from imuvid.objectives.objective import Objective, Widths
from imuvid.objectives.row_blocks import MAX_LOGITS, by_row_blocks
from imuvid.objectives.views import Views, near


@dataclass
class NtXentConfig:
    """The second view is made as ``second_view`` says."""

    temperature: float = 0.2
    """0.2 as in CrossHAR (Hong et al., 2024)."""
    dim: int = 128
    """Of the embeddings that are contrasted."""


class NtXent(Objective):
    """Contrast of two views of the IMU with the negatives of all ranks.

    Their embeddings are gathered, and the logits made some rows at a time.
    """

    needs = frozenset({"imu_features", "second_features"})
    max_logits = MAX_LOGITS

    def __init__(self, config: NtXentConfig, widths: Widths, margin_s: float):
        super().__init__()
        self.temperature, self.margin_s = config.temperature, margin_s
        width = widths.imu_features
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, config.dim))

    def forward(self, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`Objective`."""
        first, second = (F.normalize(self.head(x), dim=-1) for x in (views.imu_features, views.second_features))
        everyone = torch.cat([gather_batch(first), gather_batch(second)])  # [2 W b, dim]
        num, begin = len(everyone) // 2, rank() * len(first)
        absent = ~gather_batch(views.has_imu.long()).bool()
        near_rows = near(views, self.margin_s)

        def losses_of(rows: slice) -> Tensor:
            own = torch.arange(begin + rows.start, begin + rows.stop, device=first.device)
            itself = F.one_hot(own, num).bool()
            apart = (absent | near_rows(rows)) & ~itself  # [rows, W b]
            losses = []
            for z, mask, target in (
                (first, torch.cat([apart | itself, apart], 1), own + num),
                (second, torch.cat([apart, apart | itself], 1), own),
            ):
                logits = (z[rows] @ everyone.T / self.temperature).masked_fill(mask, -math.inf)
                losses.append(F.cross_entropy(logits, target, reduction="none"))
            return torch.stack(losses, 1)

        losses = by_row_blocks(losses_of, len(first), 2 * len(everyone), self.max_logits)
        return share_of_mean(losses, views.has_imu[:, None]), {}
