"""What every objective is."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from imuvid.objectives.views import Views


class Objective(nn.Module):
    """A loss on what the towers make of a batch. Its parameters have at least one dimension: DeepSpeed needs that."""

    needs: frozenset[str]
    """Fields of :class:`Views` that it reads, besides those that are always there."""

    def forward(self, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Return this rank's loss, whose mean over ranks is the loss of the concatenated batch, and figures to log.

        The figures are scalars or of shape [1], without gradient.
        """
        raise NotImplementedError  # abstract: each objective has its own


@dataclass
class Widths:
    """Of what an objective may put layers of its own on; None where a tower does not have it."""

    imu_features: int
    imu_tokens: int | None
    video_tokens: int | None
    embedding: int
    video_features: int | None = None
