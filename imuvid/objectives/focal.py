"""Shared and private subspaces of an embedding, and order in time (FOCAL: Liu et al., NeurIPS 2023, Section 3).

The embedding of the IMU is the shared part s, which the video has too; a linear head of its own makes of the same
features a private part p of the same width. With p' of a second view of the IMU and the video embedding v,

    L = C(s, v) + a C(p, p') + w/N sum_i cos^2(s_i, p_i) + r T(s, p),

where C is the InfoNCE loss of both directions. T is the temporal structural constraint: with d_ij the distance of the
joint features (s_i, p_i) and (s_j, p_j), the windows near i in time are on average no farther from it than the others,

    T = 1/N sum_i max(0, mean_{j near i} d_ij - mean_{j not near i} d_ij + 1),

over the windows that have both kinds of others in the global batch. FOCAL compares sequences of four windows; here
those near i are what the batch holds of the same recording. With ``private_video`` the video has a private part q too,
from a second view of the clips: a C(q, q'), the overlaps of (v, q) and of (p, q), and r T(v, q) are added.

For orthogonality FOCAL has the cosine embedding loss, which is zero where this is. The shared temperature is learned
from 0.07, the private one fixed at 0.5. Windows without video take part in what is of the IMU alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imuvid.distributed import gather_batch, rank, share_of_mean
from imuvid.objectives.infonce import symmetric_infonce
from imuvid.objectives.objective import Objective, Widths
from imuvid.objectives.row_blocks import MAX_LOGITS, by_row_blocks
from imuvid.objectives.scale import bounded_scale
from imuvid.objectives.views import Pairing, Views, near

RANK_MARGIN = 1.0
"""Of the constraint of time, in units of the distance; the authors'."""


@dataclass
class FocalConfig:
    """As the authors weigh them."""

    private_weight: float = 1.0
    orthogonal_weight: float = 3.0
    rank_weight: float = 5.0
    """Of the constraint of time; 0 leaves it out."""
    rank_span_s: float | None = None
    """Windows of one recording are near in time where their starts are closer than this, seconds; null for all."""
    private_temperature: float = 0.5
    private_video: bool = False
    """The private part of the video. It costs a second forward of a video tower, which must take pictures."""


class Focal(Objective):
    """The sum above, with the negatives of all ranks. The shared part is the embedding that retrieval uses."""

    needs = frozenset({"imu", "video", "imu_features", "second_features"})
    max_logits = MAX_LOGITS

    def __init__(self, config: FocalConfig, widths: Widths, margin_s: float):
        super().__init__()
        self.config, self.margin_s = config, margin_s
        # Orthogonality needs both parts in one space.
        self.private = nn.Linear(widths.imu_features, widths.embedding)
        self.private_video: nn.Module | None = None
        if config.private_video:
            assert widths.video_features is not None
            self.private_video = nn.Linear(widths.video_features, widths.embedding)
            self.needs = self.needs | {"video_features", "second_video_features"}
        self.log_scale = nn.Parameter(torch.full([1], math.log(1 / 0.07)))

    def forward(self, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`Objective`."""
        shared, video = views.pair()
        scale = bounded_scale(self.log_scale)
        figures = {"shared_loss": symmetric_infonce(shared, video, scale, views.pairing(self.margin_s))}
        private, *of_imu = self._of_one(
            views, shared, self.private, (views.imu_features, views.second_features), views.has_imu
        )
        terms = [of_imu]
        if self.private_video is not None:
            features = views.video_features, views.second_video_features
            private_video, *of_video = self._of_one(views, video, self.private_video, features, views.has_video)
            between = share_of_mean(_overlap(private, private_video), views.has_imu & views.has_video)
            terms += [of_video, [torch.zeros_like(between), between, torch.zeros_like(between)]]
        for name, values in zip(("private_loss", "overlap", "rank_loss"), zip(*terms, strict=True), strict=True):
            figures[name] = torch.stack(values).sum()
        weights = 1.0, self.config.private_weight, self.config.orthogonal_weight, self.config.rank_weight
        loss = torch.stack([weight * term for weight, term in zip(weights, figures.values(), strict=True)]).sum()
        return loss, {name: value.detach() for name, value in {**figures, "temperature": 1 / scale}.items()}

    def _of_one(
        self,
        views: Views,
        shared: Tensor,
        head: nn.Module,
        features: tuple[Tensor | None, Tensor | None],
        there: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the private part of one modality, its contrast, its overlap with the shared part, and T."""
        private, second = (F.normalize(head(x), dim=-1) for x in features)
        fixed = torch.full_like(self.log_scale, 1 / self.config.private_temperature)
        contrast = symmetric_infonce(private, second, fixed, Pairing(views, self.margin_s, there))
        overlap = share_of_mean(_overlap(shared, private), there)
        if self.config.rank_weight == 0:
            return private, contrast, overlap, torch.zeros_like(overlap)
        return private, contrast, overlap, self._out_of_order(views, torch.cat([shared, private], 1), there)

    def _out_of_order(self, views: Views, joint: Tensor, there: Tensor) -> Tensor:
        """Return this rank's share of T; ``joint`` is [b, 2 D]."""
        everyone, present = gather_batch(joint), gather_batch(there.long()).bool()
        near_rows = near(views, math.inf if self.config.rank_span_s is None else self.config.rank_span_s)
        begin = rank() * len(joint)

        def losses_of(rows: slice) -> Tensor:
            own = torch.arange(begin + rows.start, begin + rows.stop, device=joint.device)
            close = near_rows(rows)
            others = present & ~F.one_hot(own, len(everyone)).bool()
            square = joint[rows].square().sum(1, keepdim=True) + everyone.square().sum(1) - 2 * joint[rows] @ everyone.T
            distance = square.clamp(min=1e-6).sqrt()
            means, counts = [], []
            for mask in (close & others, ~close & others):
                counts.append(mask.sum(1))
                means.append((distance * mask).sum(1) / counts[-1].clamp(min=1))
            known = (counts[0] > 0) & (counts[1] > 0) & there[rows]
            return torch.stack([F.relu(means[0] - means[1] + RANK_MARGIN), known.to(distance.dtype)], 1)

        losses, known = by_row_blocks(losses_of, len(joint), len(everyone), self.max_logits).unbind(1)
        return share_of_mean(losses, known.detach())


def _overlap(first: Tensor, second: Tensor) -> Tensor:
    """Return the squared cosines [B] of unit vectors [B, D]."""
    return (first * second).sum(1).square()
