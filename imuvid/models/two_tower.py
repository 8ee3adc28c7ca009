"""The model that is trained: two towers, two heads, one objective."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imuvid.data.batch import Batch
from imuvid.errors import UserError
from imuvid.models.heads import HeadConfig, build_head
from imuvid.models.towers import ImuTowerConfig, VideoTowerConfig, build_imu_tower, build_video_tower
from imuvid.objectives.infonce import InfoNCE
from imuvid.objectives.pairwise_sigmoid import PairwiseSigmoid
from imuvid.objectives.views import Views

OBJECTIVES: dict[str, type[nn.Module]] = {"sigmoid": PairwiseSigmoid, "infonce": InfoNCE}


@dataclass
class ObjectiveConfig:
    """What the two embeddings of a window are trained for."""

    kind: str = "sigmoid"
    """sigmoid (the paper's) or infonce."""
    mask_same_recording: bool = True
    """Windows of one recording are no negatives of each other: they may overlap or show the same."""
    mask_margin_s: float | None = None
    """Of these, only those whose starts are closer than this, seconds; null for all of a recording."""


@dataclass
class ModelConfig:
    """Both towers, their heads and the objective."""

    imu_tower: ImuTowerConfig = field(default_factory=ImuTowerConfig)
    video_tower: VideoTowerConfig = field(default_factory=VideoTowerConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)


class TwoTower(nn.Module):
    """Embeds IMU windows and video clips in one space and scores them with the objective.

    Args:
        config: towers, heads, objective.
        dtype: what towers and heads compute in (autocast); parameters, embeddings and loss stay float32.

    Raises:
        UserError: a kind is unknown.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.dtype = dtype
        self.imu_tower = build_imu_tower(config.imu_tower)
        self.video_tower = build_video_tower(config.video_tower)
        self.imu_head = build_head(config.head, self.imu_tower.feature_dim)
        self.video_head = build_head(config.head, self.video_tower.feature_dim)
        if config.objective.kind not in OBJECTIVES:
            kinds = ", ".join(OBJECTIVES)
            raise UserError(f"objective.kind is '{config.objective.kind}', expected one of {kinds}")
        self.objective = OBJECTIVES[config.objective.kind](_margin_s(config.objective))

    def embed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the unit embeddings (imu, video) of the windows, float32 [B, head.dim] each."""
        with torch.autocast(batch.imu.device.type, self.dtype, enabled=self.dtype != torch.float32):
            imu = self.imu_head(self.imu_tower(batch.imu, batch.valid))
            video = self.video_head(self.video_tower(batch.frames, batch.frame_valid))
        return F.normalize(imu.float(), dim=-1), F.normalize(video.float(), dim=-1)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return this rank's loss (mean over ranks = loss of the concatenated batch) and figures to log."""
        imu, video = self.embed(batch)
        views = Views(
            recording=batch.recording,
            start_s=batch.start_s,
            has_imu=batch.valid.flatten(1).any(1),
            has_video=batch.frame_valid.any(1),
            imu=imu,
            video=video,
        )
        return self.objective(views)


def _margin_s(config: ObjectiveConfig) -> float:
    if not config.mask_same_recording:
        return 0.0
    return math.inf if config.mask_margin_s is None else config.mask_margin_s
