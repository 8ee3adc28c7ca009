"""Temporal alignment inside a pair: which part of the video does a part of the IMU belong to (as MoBind, CVPR 2026).

With unit embeddings p_bk of part k of the IMU of window b and q_bl of part l of its video, K parts each,

    L = -1/(2BK) sum_b sum_k [ log softmax_l(p_bk . q_bl / tau)_k + log softmax_l(p_bl . q_bk / tau)_k ]:

the negatives are the other instants of the same window, so that the embedding knows when and not only what. 1/tau is
learned as its logarithm, starts at 1/0.07 and is bounded by 100, as in MoBind. The parts are embedded by linear heads
of its own. No negative comes from another window, so none comes from another rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imuvid.distributed import share_of_mean
from imuvid.errors import UserError
from imuvid.objectives.objective import Objective, Widths
from imuvid.objectives.scale import bounded_scale
from imuvid.objectives.views import Views


@dataclass
class AlignmentConfig:
    """The number of parts is that of the tower with fewer tokens."""

    dim: int = 128
    """Of the embeddings of parts."""


class Alignment(Objective):
    """Contrast of the instants of a window. Parts in which IMU or frames are absent are left out."""

    needs = frozenset({"imu_tokens", "imu_token_valid", "video_tokens", "video_token_valid"})

    def __init__(self, config: AlignmentConfig, widths: Widths):
        super().__init__()
        assert widths.imu_tokens is not None
        assert widths.video_tokens is not None
        self.imu_head = nn.Linear(widths.imu_tokens, config.dim)
        self.video_head = nn.Linear(widths.video_tokens, config.dim)
        self.log_scale = nn.Parameter(torch.full([1], math.log(1 / 0.07)))

    def forward(self, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`Objective`.

        Raises:
            UserError: a tower gives a single token, which has no order in time.
        """
        assert views.imu_tokens is not None
        assert views.video_tokens is not None
        num_parts = min(views.imu_tokens.shape[1], views.video_tokens.shape[1])
        if num_parts < 2:
            raise UserError(
                f"objective alignment: a tower gives {num_parts} token a window, where there is no order in time:"
                " choose another tower, or more frames"
            )
        imu, has_imu = _parts(self.imu_head(views.imu_tokens), views.imu_token_valid, num_parts)
        video, has_video = _parts(self.video_head(views.video_tokens), views.video_token_valid, num_parts)
        scale = bounded_scale(self.log_scale)
        logits = scale * imu @ video.transpose(1, 2)  # [B, K, K]
        both = has_imu & has_video
        own = torch.arange(num_parts, device=logits.device).expand(len(logits), -1)
        losses = []
        for x, there in ((logits, has_video), (logits.transpose(1, 2), has_imu)):
            x = x.masked_fill(~(there[:, None] | ~both[..., None]), -math.inf)
            losses.append(F.cross_entropy(x.transpose(1, 2), own, reduction="none"))
        correct = (logits.argmax(2) == own).float()
        figures = {"accuracy": share_of_mean(correct, both).detach(), "temperature": 1 / scale.detach()}
        return share_of_mean((losses[0] + losses[1]) / 2, both), figures


def _parts(tokens: Tensor, valid: Tensor | None, num: int) -> tuple[Tensor, Tensor]:
    """Average tokens [B, L, D] over each of ``num`` equal parts; return them [B, num, D], of unit length, and which."""
    assert valid is not None
    weight = valid.to(tokens.dtype)[:, None]
    total = F.adaptive_avg_pool1d(tokens.transpose(1, 2) * weight, num)
    share = F.adaptive_avg_pool1d(weight, num)
    return F.normalize(total / share.clamp(min=1e-6), dim=1).transpose(1, 2), share[:, 0] > 0
