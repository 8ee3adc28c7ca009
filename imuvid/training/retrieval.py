"""Retrieval of the right clip for an IMU window, and the reverse, among held-out windows."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from imuvid.data.mixture import AnyDataset
from imuvid.data.stream import evaluation_batches
from imuvid.distributed import rank, world_size
from imuvid.imu.condition import ConditionConfig
from imuvid.models.spread import effective_rank
from imuvid.models.two_tower import TwoTower


def retrieval_scores(queries: Tensor, candidates: Tensor, chunk: int = 1024) -> dict[str, float]:
    """Return R@1, R@5, the median rank and the mean reciprocal rank of the candidate with the query's own number.

    Args:
        queries: [N, D]; query i belongs to candidate i.
        candidates: [N, D].
        chunk: queries scored at a time; no [N, N] matrix is made.

    A tie counts against the query, so that a collapsed model, which embeds everything alike, scores zero.
    """
    ranks = []
    for start in range(0, len(queries), chunk):
        scores = queries[start : start + chunk] @ candidates.T
        own = scores.gather(1, torch.arange(start, start + len(scores), device=scores.device)[:, None])
        ranks.append((scores >= own).sum(1))  # the own score is one of them, so the best rank is 1
    rank_of_own = torch.cat(ranks).double()
    return {
        "r_at_1": (rank_of_own <= 1).double().mean().item(),
        "r_at_5": (rank_of_own <= 5).double().mean().item(),
        "median_rank": rank_of_own.median().item(),
        "mrr": (1 / rank_of_own).mean().item(),
    }


@torch.no_grad()
def validate(
    model: TwoTower,
    dataset: AnyDataset,
    samples: list[int],
    batch_size: int,
    device: torch.device,
    condition: ConditionConfig,
    stops: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """Embed held-out samples on all ranks and return the retrieval scores in both directions.

    Every rank must call it; every rank gets the result. R@k has ``_imu_to_video`` or ``_video_to_imu`` appended;
    ``effective_rank_imu`` and ``_video`` say how many directions the embeddings take, and
    ``num_candidates`` and ``chance_r_at_1`` = 1 / num_candidates say what to compare with. ``stops`` is asked before
    each batch, on every rank, and must answer all of them alike; where it is true the result is None.
    """
    was_training = model.training
    model.eval()
    # Every rank embeds equally many, wrapping around, so that ZeRO 3's collectives inside a forward match.
    share = -(-len(samples) // world_size())
    mine = [samples[i % len(samples)] for i in range(rank() * share, (rank() + 1) * share)]
    parts = []
    for batch in evaluation_batches(dataset, mine, batch_size, condition):
        if stopped := stops():
            break
        parts.append(model.embed(batch.to(device)))
    model.train(was_training)
    if stopped:
        return None
    imu, video = (_gather(torch.cat(tensors))[: len(samples)] for tensors in zip(*parts, strict=True))
    result = {"num_candidates": float(len(samples)), "chance_r_at_1": 1 / len(samples)}
    result |= {"effective_rank_imu": effective_rank(imu).item(), "effective_rank_video": effective_rank(video).item()}
    for direction, scores in (
        ("imu_to_video", retrieval_scores(imu, video)),
        ("video_to_imu", retrieval_scores(video, imu)),
    ):
        result |= {f"{name}_{direction}": value for name, value in scores.items()}
    return result


def _gather(x: Tensor) -> Tensor:
    if world_size() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)
