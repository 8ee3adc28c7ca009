"""PRIMUS (Das et al., ICASSP 2025): self-supervision, video supervision and nearest neighbours from a queue.

With embeddings u of the IMU and v of the video, z and z' of the IMU and its second view from a head of their own, and,
for each window, the pair (v~, z~) of the queue whose v~ is nearest to its v,

    L = (1 - a) [C(u, v) + C(u, v~)] + a [C(z, z') + C(z, z~)],

where C is the sum of the InfoNCE losses of both directions. The temperatures of the video's and of the IMU's terms are
learned from 0.1. The authors' code stores them as they are; here it is their logarithm, bounded as CLIP's. The queue's
negatives are those of the batch: other windows' neighbours. Windows without video take part in C(z, z') alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imuvid.objectives.infonce import symmetric_infonce
from imuvid.objectives.objective import Objective, Widths
from imuvid.objectives.queue import Queue
from imuvid.objectives.scale import bounded_scale
from imuvid.objectives.views import Pairing, Views


@dataclass
class PrimusConfig:
    """The second view is made as ``second_view`` says: the authors negate and permute."""

    self_share: float = 0.5
    """a: weight of the terms without video."""
    queue_size: int = 8192
    """Pairs among which neighbours are sought; 0 leaves their terms out."""
    dim: int = 512
    """Of the embeddings z."""


class Primus(Objective):
    """The weighted sum above, each term with the negatives of all ranks."""

    needs = frozenset({"imu", "video", "imu_features", "second_features"})

    def __init__(self, config: PrimusConfig, widths: Widths, margin_s: float):
        super().__init__()
        self.self_share, self.margin_s = config.self_share, margin_s
        self.head = nn.Linear(widths.imu_features, config.dim)
        self.queue = Queue(config.queue_size, [widths.embedding, config.dim]) if config.queue_size else None
        self.log_scale_video = nn.Parameter(torch.full([1], math.log(10.0)))
        self.log_scale_self = nn.Parameter(torch.full([1], math.log(10.0)))

    def forward(self, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`Objective`. Only in training mode are embeddings put into the queue."""
        imu, video = views.pair()
        first, second = (F.normalize(self.head(x), dim=-1) for x in (views.imu_features, views.second_features))
        to_video = views.pairing(self.margin_s)
        to_self = Pairing(views, self.margin_s, views.has_imu)
        scales = bounded_scale(self.log_scale_video), bounded_scale(self.log_scale_self)
        by_video = symmetric_infonce(imu, video, scales[0], to_video)
        by_self = symmetric_infonce(first, second, scales[1], to_self)
        if self.queue is not None:
            near_video, near_first, found = self._neighbours(video)
            with_neighbour = Pairing(views, self.margin_s, to_video.positive & found)
            by_video = by_video + symmetric_infonce(imu, near_video, scales[0], with_neighbour)
            by_self = by_self + symmetric_infonce(first, near_first, scales[1], with_neighbour)
            if self.training:
                self.queue.put([video, first], to_video.positive)
        # Twice, since the authors add the two directions where symmetric_infonce averages them.
        loss = 2 * ((1 - self.self_share) * by_video + self.self_share * by_self)
        figures = {"video_loss": by_video, "self_loss": by_self}
        figures |= {"temperature": 1 / scales[0], "self_temperature": 1 / scales[1]}
        return loss, {name: value.detach() for name, value in figures.items()}

    def _neighbours(self, video: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the queue holds nearest to each clip [b, D]: (v~, z~, bool [b]: is there any)."""
        assert self.queue is not None
        videos, firsts = self.queue.contents()
        similarity = (video.detach() @ videos.T).masked_fill(~self.queue.filled, -math.inf)
        nearest = similarity.argmax(1)
        return videos[nearest], firsts[nearest], self.queue.filled[nearest]
