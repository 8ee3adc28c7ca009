"""Windows without video: cross-modal terms are those of the rest, and runs on them need no picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import imuvid
from imuvid.data.batch import Batch
from imuvid.errors import UserError
from imuvid.models.imu_patchtst import ImuPatchTSTConfig
from imuvid.models.towers import ImuTowerConfig
from imuvid.models.two_tower import ModelConfig, TwoTower
from imuvid.objectives.build import ObjectiveConfig
from tests.imuvid.training.jobs import Job, train
from tests.ranks import run_ranks
from tests.tiny_dataset import write_tiny_dataset

SIZE, WITH_VIDEO = 12, [0, 1, 2, 5]
PATCHTST = ImuPatchTSTConfig(context_length=40, d_model=8, num_layers=1, num_heads=2, ffn_dim=16, dropout=0.0)
CROSS_MODAL = ("sigmoid", "infonce", "cheshmi2025_softmax", "comodo")


def make_batch(rows) -> Batch:
    generator = torch.Generator().manual_seed(3)
    frames = torch.randint(0, 256, (SIZE, 4, 16, 16, 3), generator=generator, dtype=torch.uint8)
    frame_valid = torch.zeros(SIZE, 4, dtype=torch.bool)
    frame_valid[WITH_VIDEO] = True
    whole = Batch(
        imu=torch.randn(SIZE, 40, 2, 6, generator=generator) * 3,
        valid=torch.ones(SIZE, 40, 2, 2, dtype=torch.bool),
        frames=frames * frame_valid[..., None, None, None],
        frame_valid=frame_valid,
        recording=torch.arange(SIZE) // 2,
        sample=torch.arange(SIZE),
        skipped=torch.full((SIZE, 2), -1),
        start_s=torch.zeros(SIZE, dtype=torch.float64),
        text=torch.zeros(SIZE, 0, dtype=torch.int64),
    )
    return Batch(**{name: tensor[rows] for name, tensor in vars(whole).items()})


def on_rank(rank: int, world: int, rows: list[int] | None = None) -> dict:
    """Loss, gradients and running statistics by objective; of the batch's rows, or of all in shares of the ranks."""
    share = SIZE // world
    batch = make_batch(rows or list(range(rank * share, (rank + 1) * share)))
    results = {}
    for kind in CROSS_MODAL:
        torch.manual_seed(0)
        tower = ImuTowerConfig(kind="patchtst", patchtst=PATCHTST)
        model = TwoTower(ModelConfig(imu_tower=tower, objective=ObjectiveConfig(kind=kind))).train()
        loss, _ = model(batch)
        loss.backward()
        gradients = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
        statistics = {n: x.numpy() for n, x in model.video_tower.named_buffers()}
        results[kind] = loss.item(), gradients, statistics
    return results


@pytest.mark.parametrize("world", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_cross_modal_loss_is_that_of_the_windows_with_both(world):
    alone = on_rank(0, 1, WITH_VIDEO)
    ranks = [on_rank(0, 1)] if world == 1 else run_ranks(on_rank, world, world)  # of two, the last has no video
    for kind in CROSS_MODAL:
        loss, gradients, statistics = alone[kind]
        assert np.mean([r[kind][0] for r in ranks]) == pytest.approx(loss, rel=1e-5)
        for name, expected in gradients.items():
            found = np.mean([r[kind][1][name] for r in ranks], axis=0)
            # By the norm, as of two ranks against one: single elements are sums of many, in another order.
            off = np.linalg.norm(found - expected)
            assert off <= 1e-5 * max(np.linalg.norm(expected), 0.1), (kind, name)
        for name, expected in statistics.items():
            assert np.allclose(ranks[-1][kind][2][name], expected, rtol=1e-5, atol=1e-6), (kind, name)


@pytest.mark.slow
def test_runs_with_windows_without_video(tmp_path):
    paired = write_tiny_dataset(tmp_path / "paired")
    alone = write_tiny_dataset(tmp_path / "alone", 20, 6, 7, people="p", with_video=False)
    common = [f"runs_dir={tmp_path}", "train.epochs=1", "train.validate_every_epochs=1"]
    mixture = f"data.mixture=[{{path: {alone}, weight: 1}}, {{path: {paired}, weight: 3}}]"
    jobs = [
        Job([*common, "name=both", mixture, "model.objective.extra={nt_xent: 0.5}"]),
        Job([*common, "name=alone", f"data.path={alone}", "model.objective.kind=nt_xent"]),
        Job([*common, "name=refused", f"data.path={alone}"]),
    ]
    both, only, refused = train(tmp_path, 2, jobs)
    assert both.finished, both.error
    assert only.finished, only.error
    assert "has no video, which the objective needs" in refused.error
    at = [tmp_path / name / "checkpoints/latest" for name in ("both", "alone")]
    assert all(imuvid.load_encoder(path).feature_dim for path in at)
    assert [(p.parent / p.read_text().strip() / "video_encoder").is_dir() for p in at] == [True, False]
    metrics = (tmp_path / "both" / "metrics.jsonl").read_text()
    assert '"num_candidates": 6.0' in metrics  # of the dataset with video alone
    with pytest.raises(UserError, match="no text encoder"):
        imuvid.load_text_encoder(at[0])
