"""How many directions embeddings take: where they collapse, one."""

from __future__ import annotations

import torch
from torch import Tensor


def effective_rank(x: Tensor) -> Tensor:
    """Return the exponential of the entropy of the singular values, scaled to sum one, of x [N, D]; a float32 scalar.

    Roy and Vetterli (EUSIPCO 2007, equation 3), as RankMe (Garrido et al., ICML 2023, equation 1) judges embeddings by
    it: between 1, where all have one direction, and min(N, D).
    """
    x = x.detach().double()
    gram = x.T @ x if len(x) > x.shape[1] else x @ x.T
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    shares = values / values.sum().clamp(min=1e-300)
    return torch.special.entr(shares).sum().exp().float()
