"""The model that is trained: two towers, or three with one for text, a head for each, one objective."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imuvid.data.batch import Batch
from imuvid.errors import UserError
from imuvid.models.heads import HeadConfig, build_head
from imuvid.models.sensors import normalise_si
from imuvid.models.spread import effective_rank
from imuvid.models.tower import Tower
from imuvid.models.towers import (
    ImuTowerConfig,
    TextTowerConfig,
    VideoTowerConfig,
    build_imu_tower,
    build_text_tower,
    build_video_tower,
)
from imuvid.objectives.build import ObjectiveConfig, build_objective
from imuvid.objectives.corrupt import hide_patches, second_clip, second_view
from imuvid.objectives.objective import Widths
from imuvid.objectives.views import Views


@dataclass
class ModelConfig:
    """The towers, their heads and the objective."""

    imu_tower: ImuTowerConfig = field(default_factory=ImuTowerConfig)
    video_tower: VideoTowerConfig = field(default_factory=VideoTowerConfig)
    text_tower: TextTowerConfig = field(default_factory=TextTowerConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)


class TwoTower(nn.Module):
    """Embeds IMU windows, video clips and narrations in one space and scores them with the objective.

    Args:
        config: towers, heads, objective.
        dtype: what towers and heads compute in (autocast); parameters, embeddings and loss stay float32.

    Raises:
        UserError: a kind is unknown, the objective needs what the towers do not give, or it has no use for text.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.config, self.dtype = config.objective, dtype
        self.imu_tower = build_imu_tower(config.imu_tower)
        self.video_tower = build_video_tower(config.video_tower)
        self.imu_head = build_head(config.head, self.imu_tower.feature_dim)
        self.video_head = build_head(config.head, self.video_tower.feature_dim)
        widths = Widths(
            imu_features=self.imu_tower.feature_dim,
            imu_tokens=self.imu_tower.token_dim,
            video_tokens=self.video_tower.token_dim,
            embedding=config.head.dim,
            video_features=self.video_tower.feature_dim,
        )
        self.objective = build_objective(config.objective, widths)
        if "second_video_features" in self.objective.needs and config.video_tower.kind == "embedding":
            raise UserError(
                "model.objective.focal.private_video=true needs a second view of the clips, of which there are stored"
                " embeddings alone: set it to false, or train on a dataset with frames"
            )
        self.text_tower = build_text_tower(config.text_tower)
        if (self.text_tower is not None) != ("text" in self.objective.needs):
            raise UserError(
                "model.text_tower.kind=none, but an objective contrasts with text: set it to clip"
                if self.text_tower is None
                else "model.text_tower is there, but no objective contrasts with text: add one, as"
                " model.objective.extra={infonce_imu_text: 1.0}, or set its kind to none"
            )
        if self.text_tower is not None:
            self.text_head = build_head(config.head, self.text_tower.feature_dim)
        self.measures_spread = False
        """Whether the figures have the effective rank of this rank's embeddings, which takes a moment."""

    def embed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the unit embeddings (imu, video) of the windows, float32 [B, head.dim] each."""
        with self._autocast(batch):
            imu = self.imu_head(self.imu_tower(batch.imu, batch.valid))
            video = self.video_head(self.video_tower(batch.frames, batch.frame_valid))
        return F.normalize(imu.float(), dim=-1), F.normalize(video.float(), dim=-1)

    def views(self, batch: Batch) -> Views:
        """Return what the objective needs of the windows, and nothing else; all in float32."""
        needs = self.objective.needs
        views = Views(
            recording=batch.recording,
            start_s=batch.start_s,
            has_imu=batch.valid.flatten(1).any(1),
            has_video=batch.frame_valid.any(1),
        )
        if "second_features" in needs:
            second = second_view(batch.imu, batch.valid, self.config.second_view)  # in float32
        with self._autocast(batch):
            if needs & {"imu", "imu_features", "imu_tokens"}:
                features, tokens = _encode(self.imu_tower, batch.imu, batch.valid, "imu_tokens" in needs)
                views.imu_tokens, views.imu_token_valid = tokens
                views.imu_features = features.float() if "imu_features" in needs else None
                if "imu" in needs:
                    views.imu = F.normalize(self.imu_head(features).float(), dim=-1)
            if needs & {"video", "video_features", "video_tokens"}:
                features, tokens = _encode(self.video_tower, batch.frames, batch.frame_valid, "video_tokens" in needs)
                views.video_tokens, views.video_token_valid = tokens
                views.video_features = features.float() if "video_features" in needs else None
                if "video" in needs:
                    views.video = F.normalize(self.video_head(features).float(), dim=-1)
            if "text" in needs:
                assert self.text_tower is not None
                there = batch.text >= 0
                views.text = F.normalize(self.text_head(self.text_tower(batch.text, there)).float(), dim=-1)
                views.has_text, views.text_number = there.any(1), _text_number(batch.text)
            if "second_features" in needs:
                views.second_features = self.imu_tower(*second).float()
            if "second_video_features" in needs:
                frames = second_clip(batch.frames, batch.frame_valid)
                views.second_video_features = self.video_tower(frames, batch.frame_valid).float()
            if "hidden_tokens" in needs:
                masked = self.config.masked
                hide = hide_patches(batch.valid, masked.share, masked.patch_samples)[..., None]
                seen = batch.valid & ~hide
                rest = batch.imu * seen.repeat_interleave(3, dim=-1)
                _, (views.hidden_tokens, _) = _encode(self.imu_tower, rest, seen, True)
                views.hidden = (batch.valid & hide).repeat_interleave(3, dim=-1)
                views.readings = normalise_si(batch.imu, batch.valid)
        return views

    def forward(
        self, batch: Batch | Views, slopes: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return this rank's loss (mean over ranks = loss of the concatenated batch) and figures to log.

        Args:
            batch: windows, or what the towers have made of them already.
            slopes: gradients with respect to fields of the views of ``batch``, for gradient caching: the sum of their
                products is returned instead of the loss.
        """
        views = batch if isinstance(batch, Views) else self.views(batch)
        if slopes is None:
            loss, figures = self.objective(views)
            return loss, figures | (self._spread(views) if self.measures_spread else {})
        made = views.differentiable()
        return torch.stack([(made[name] * slope).sum() for name, slope in slopes.items()]).sum(), {}

    @staticmethod
    def _spread(views: Views) -> dict[str, Tensor]:
        found = {"imu": views.imu, "video": views.video}
        return {f"effective_rank_{name}": effective_rank(x) for name, x in found.items() if x is not None}

    def _autocast(self, batch: Batch) -> torch.autocast:
        kind = batch.imu.device.type
        # The meta device, on which nothing is computed, knows no autocast.
        return torch.autocast("cpu" if kind == "meta" else kind, self.dtype, enabled=self.dtype != torch.float32)


def _text_number(tokens: Tensor) -> Tensor:
    """Return a hash int64 [B] of tokens int64 [B, L]: a polynomial of them modulo 2^64."""
    number = torch.zeros_like(tokens[:, 0])
    for column in tokens.unbind(1):
        number = number * 1_000_003 + column + 2
    return number


def _encode(
    tower: Tower, x: Tensor, valid: Tensor, with_tokens: bool
) -> tuple[Tensor, tuple[Tensor | None, Tensor | None]]:
    """Return (features, (tokens in float32, which are valid)) of a tower."""
    if not with_tokens:
        return tower(x, valid), (None, None)
    features, tokens, token_valid = tower(x, valid, with_tokens=True)
    return features, (tokens.float(), token_valid)
