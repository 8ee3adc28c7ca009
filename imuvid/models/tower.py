"""What every tower is."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn


class Encoding(NamedTuple):
    """What a tower makes of a window."""

    features: Tensor
    """float [B, feature_dim]: the window as a whole."""
    tokens: Tensor | None = None
    """float [B, L, token_dim]: the window in the order of time, token i of L standing for the i-th of L equal parts
    of it. There is a token for every part, also where nothing is valid, so that what is hidden can be predicted.
    None where the tower has no notion of time within a window."""
    token_valid: Tensor | None = None
    """bool [B, L]: whether any sample or frame of that part is valid."""


class Tower(nn.Module):
    """An encoder of one modality: a subclass sets the two widths and says in :meth:`encode` what it does."""

    feature_dim: int
    """Width of the features, before any projection head."""
    token_dim: int | None = None
    """Width of the tokens; None where there are none."""

    def wear(self, positions: list[str]) -> None:
        """Say where the P sensors of the windows to come are worn; a tower that does not care ignores it."""

    def stack(self) -> list[nn.Module]:
        """Return the equal layers that the tower is a stack of, from input to output; none where it is no such stack.

        They are what a learning rate can fall over, layer by layer, and what activations can be computed again of.
        """
        return []

    def encode(self, x: Tensor, valid: Tensor) -> Encoding:
        """Return features and tokens of windows and of what is valid in them; called by ``forward`` alone."""
        raise NotImplementedError  # abstract: each tower has its own

    def forward(self, x: Tensor, valid: Tensor, with_tokens: bool = False) -> Any:
        """Return the features [B, feature_dim], or (features, tokens, token_valid) as in :class:`Encoding`."""
        encoding = self.encode(x, valid)
        # A plain tuple: the hooks of ZeRO 3 look for tensors in these.
        return tuple(encoding) if with_tokens else encoding.features
