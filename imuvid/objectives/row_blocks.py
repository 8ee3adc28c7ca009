"""Losses of rows of logits, some rows at a time: for objectives whose logits no ring can make (see ``around_ring``)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from imuvid.objectives.views import tiles

MAX_LOGITS = 2048 * 2048
"""Logits at a time, as in the blocks of the other objectives."""


def by_row_blocks(losses_of: Callable[[slice], Tensor], rows: int, columns: int, most: int = MAX_LOGITS) -> Tensor:
    """Return [rows, ...]: what ``losses_of`` gives for slices of them, one after another; nothing of it is kept.

    In the backward each slice is computed again, so that there are at most ``most`` logits at any time.

    Args:
        losses_of: from a slice of the rows to [rows of it, ...]; it must not call collectives.
        rows: of this rank.
        columns: logits a row.
        most: logits at a time, if a row has not more.
    """
    parts = tiles(rows, max(1, most // columns))
    if not torch.is_grad_enabled():
        return torch.cat([losses_of(part) for part in parts])
    return torch.cat([checkpoint(losses_of, part, use_reentrant=False, preserve_rng_state=False) for part in parts])
