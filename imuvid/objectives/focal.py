"""Shared and private subspaces of an embedding (FOCAL: Liu et al., NeurIPS 2023, Sections 3.2 and 3.3).

The embedding of the IMU is the shared part s, which the video has too; a linear head of its own makes of the same
features a private part p of the same width:

    L = C(s, v) + C(p, p') + w/N sum_i [cos^2(s_i, p_i)],

with C the InfoNCE loss of both directions, v the video embedding and p' the private part of a second view of the IMU.
FOCAL contrasts the private parts of every modality and ranks stretches of time; here the video has no second view, and
order in time is a matter of ``alignment``. For orthogonality it has the cosine embedding loss, which is zero where
this is. The shared temperature is learned from 0.07, the private one fixed at 0.5. Windows without video take part in
C(p, p') and in the orthogonality.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imuvid.distributed import share_of_mean
from imuvid.objectives.infonce import symmetric_infonce
from imuvid.objectives.objective import Objective, Widths
from imuvid.objectives.scale import bounded_scale
from imuvid.objectives.views import Pairing, Views


@dataclass
class FocalConfig:
    """As the authors weigh them."""

    private_weight: float = 1.0
    orthogonal_weight: float = 3.0
    private_temperature: float = 0.5


class Focal(Objective):
    """The sum above, with the negatives of all ranks. The shared part is the embedding that retrieval uses."""

    needs = frozenset({"imu", "video", "imu_features", "second_features"})

    def __init__(self, config: FocalConfig, widths: Widths, margin_s: float):
        super().__init__()
        self.config, self.margin_s = config, margin_s
        # Orthogonality needs both parts in one space.
        self.private = nn.Linear(widths.imu_features, widths.embedding)
        self.log_scale = nn.Parameter(torch.full([1], math.log(1 / 0.07)))

    def forward(self, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`Objective`."""
        shared, video = views.pair()
        private, second = (F.normalize(self.private(x), dim=-1) for x in (views.imu_features, views.second_features))
        to_video = views.pairing(self.margin_s)
        to_second = Pairing(views, self.margin_s, views.has_imu)
        scale = bounded_scale(self.log_scale)
        fixed = torch.full_like(scale, 1 / self.config.private_temperature)
        shared_loss = symmetric_infonce(shared, video, scale, to_video)
        private_loss = symmetric_infonce(private, second, fixed, to_second)
        overlap = share_of_mean((shared * private).sum(1).square(), views.has_imu)
        loss = shared_loss + self.config.private_weight * private_loss + self.config.orthogonal_weight * overlap
        figures = {
            "shared_loss": shared_loss,
            "private_loss": private_loss,
            "overlap": overlap,
            "temperature": 1 / scale,
        }
        return loss, {name: value.detach() for name, value in figures.items()}
