"""What every tower is."""

from __future__ import annotations

from torch import nn


class Tower(nn.Module):
    """An encoder of one modality."""

    feature_dim: int
    """Width of what forward returns, before any projection head."""
