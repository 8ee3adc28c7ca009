"""Retrieval scores against a plain sort of every candidate."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import label_ranking_average_precision_score, top_k_accuracy_score

from imuvid.data.shard_dataset import ShardDataset
from imuvid.imu.condition import ConditionConfig
from imuvid.models.two_tower import ModelConfig, TwoTower
from imuvid.training.retrieval import retrieval_scores, validate
from tests.ranks import run_ranks


def embeddings(n: int = 60, dim: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(n, dim, generator=generator)
    b = a + 0.8 * torch.randn(n, dim, generator=generator)
    return torch.nn.functional.normalize(a, dim=1), torch.nn.functional.normalize(b, dim=1)


def test_scores_are_those_of_other_programs():
    queries, candidates = embeddings()
    similarity = (queries @ candidates.T).double().numpy()
    labels = np.arange(60)
    scores = retrieval_scores(queries, candidates)
    assert scores["r_at_1"] == pytest.approx(top_k_accuracy_score(labels, similarity, k=1))
    assert scores["r_at_5"] == pytest.approx(top_k_accuracy_score(labels, similarity, k=5))
    # With one right answer a query, the average precision is the reciprocal rank.
    assert scores["mrr"] == pytest.approx(label_ranking_average_precision_score(np.eye(60), similarity))
    ranks = np.array([np.flatnonzero(np.argsort(-row) == i)[0] + 1 for i, row in enumerate(similarity)])
    assert scores["median_rank"] == np.sort(ranks)[29]  # the lower one of the two in the middle
    assert 0.1 < scores["r_at_1"] < 0.9


@pytest.mark.parametrize("chunk", [1, 7, 60, 1000])
def test_the_chunk_does_not_matter(chunk):
    queries, candidates = embeddings()
    assert retrieval_scores(queries, candidates, chunk) == retrieval_scores(queries, candidates)


def test_a_collapsed_model_scores_nothing():
    same = torch.ones(20, 4) / 2
    scores = retrieval_scores(same, same)
    assert scores["r_at_1"] == scores["r_at_5"] == 0
    assert scores["median_rank"] == 20
    assert scores["mrr"] == pytest.approx(1 / 20)


def test_a_tie_counts_against_the_query():
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    candidates = torch.tensor([[1.0, 0.0], [1.0, 1.0]])  # both as near to query 0, one alone to query 1
    assert retrieval_scores(queries, candidates)["r_at_1"] == 0.5


def test_perfect_and_reversed_order():
    eye = torch.eye(9)
    assert retrieval_scores(eye, eye) == {"r_at_1": 1, "r_at_5": 1, "median_rank": 1, "mrr": 1}
    assert retrieval_scores(eye, -eye)["median_rank"] == 9


def scores_of(rank: int, folder: str) -> dict:
    torch.manual_seed(0)
    model = TwoTower(ModelConfig()).train()
    result = validate(model, ShardDataset(folder, "val"), [1, 3, 5, 8, 9], 2, torch.device("cpu"), ConditionConfig())
    assert model.training
    return result


@pytest.mark.slow
def test_every_number_of_ranks_gives_the_same_scores(tiny_dataset):
    alone = scores_of(0, str(tiny_dataset))
    assert alone["num_candidates"] == 5
    assert alone["chance_r_at_1"] == 0.2
    for of_rank in run_ranks(scores_of, 2, str(tiny_dataset)):
        assert of_rank == pytest.approx(alone)
