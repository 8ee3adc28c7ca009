"""What every tower is."""

from __future__ import annotations

from torch import nn


class Tower(nn.Module):
    """An encoder of one modality."""

    feature_dim: int
    """Width of what forward returns, before any projection head."""

    def wear(self, positions: list[str]) -> None:
        """Say where the P sensors of the windows to come are worn; a tower that does not care ignores it."""
