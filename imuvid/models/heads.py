"""Projection heads from a tower's features to the shared space."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from imuvid.errors import UserError


@dataclass
class HeadConfig:
    """The same form for both towers."""

    kind: str = "linear"
    """linear; mlp: the paper's residual head; or none, where both towers give features of the shared width."""
    dim: int = 128
    """Width of the shared space; the paper has 512."""
    dropout: float = 0.1
    """Share, in the mlp head."""


class ResidualHead(nn.Module):
    """The paper's head (Cheshmi et al., MLHC 2025): Linear, GELU, Linear, Dropout, + the first Linear, LayerNorm."""

    def __init__(self, feature_dim: int, dim: int, dropout: float):
        super().__init__()
        self.project = nn.Linear(feature_dim, dim)
        self.refine = nn.Sequential(nn.GELU(), nn.Linear(dim, dim), nn.Dropout(dropout))
        self.norm = nn.LayerNorm(dim)

    def forward(self, features: Tensor) -> Tensor:
        """Map [B, feature_dim] to [B, dim]."""
        projected = self.project(features)
        return self.norm(projected + self.refine(projected))


def build_head(config: HeadConfig, feature_dim: int) -> nn.Module:
    """Return a head [B, feature_dim] -> [B, dim]; UserError where the kind is unknown."""
    if config.kind == "linear":
        return nn.Linear(feature_dim, config.dim)
    if config.kind == "mlp":
        return ResidualHead(feature_dim, config.dim, config.dropout)
    if config.kind == "none":
        if feature_dim != config.dim:
            raise UserError(f"head.kind=none, but a tower gives {feature_dim} features and head.dim is {config.dim}")
        return nn.Identity()
    raise UserError(f"head.kind is '{config.kind}', expected linear, mlp or none")
