"""What every tower is."""

from __future__ import annotations

from torch import nn


class Tower(nn.Module):
    """An encoder of one modality."""

    feature_dim: int
    """Width of what forward returns, before any projection head."""
    token_dim: int | None = None
    """Width of the tokens, which ``forward(..., with_tokens=True)`` returns as (features, tokens [B, L, token_dim],
    token_valid bool [B, L]), in the order of time; None where there are none."""
