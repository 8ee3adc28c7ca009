"""Every configuration that is shipped builds a model that takes the windows it is made for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from imuvid import config as configs
from imuvid.data.batch import Batch
from imuvid.errors import UserError
from imuvid.models.heads import HeadConfig, build_head
from imuvid.models.towers import without_weights
from imuvid.models.two_tower import TwoTower
from imuvid.training.config import PretrainConfig

FOLDER = Path(__file__).parents[3] / "configs/pretrain"
WINDOWS = {"imu2clip": (1000, 10, 224)}
"""Samples, frames and pixels; of others 5 s at 50 Hz, and on two cores 2 s with 8 frames of 64 px."""


def shape_of(name: str) -> tuple[int, int, int]:
    small = name.endswith("_cpu") or name == "demo"
    return WINDOWS.get(name, (100, 8, 64) if small else (250, 10, 224))


def load(name: str) -> PretrainConfig:
    return configs.load(PretrainConfig, FOLDER / f"{name}.yaml", ["name=a", "data.path=b"])


def batch(size: int, name: str) -> Batch:
    samples, frames, pixels = shape_of(name)
    return Batch(
        torch.randn(size, samples, 1, 6),
        torch.ones(size, samples, 1, 2, dtype=torch.bool),
        torch.randint(0, 256, (size, frames, pixels, pixels, 3), dtype=torch.uint8),
        torch.ones(size, frames, dtype=torch.bool),
        torch.arange(size),
        torch.arange(size),
        torch.full((size, 2), -1),
        torch.zeros(size, dtype=torch.float64),
    )


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.yaml")))
def test_the_model_takes_its_windows(name):
    model = load(name).model
    model = dataclasses.replace(
        model, imu_tower=without_weights(model.imu_tower), video_tower=without_weights(model.video_tower)
    )
    with torch.device("meta"):
        whole = TwoTower(model)
        samples, *_ = shape_of(name)
        features = whole.imu_tower(torch.zeros(2, samples, 1, 6), torch.ones(2, samples, 1, 2, dtype=torch.bool))
    assert features.shape == (2, whole.imu_tower.feature_dim)


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*_cpu.yaml")))
def test_a_step_of_those_for_two_cores(name):
    torch.manual_seed(0)
    model = TwoTower(load(name).model).train()
    loss, _ = model(batch(4, name))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_the_papers_numbers():
    """Cheshmi et al., section 4, and what its code has where the text is silent."""
    config = load("cheshmi2025")
    assert config.model.imu_tower.patchtst.patch_length == config.model.imu_tower.patchtst.patch_stride == 16
    assert (config.optimizer.lr, config.optimizer.lr * config.optimizer.final_lr_share) == (1e-4, pytest.approx(1e-7))
    assert (config.train.epochs, config.data.batch_size, config.model.head.dim) == (50, 64, 512)
    with torch.device("meta"):
        patchtst = TwoTower(dataclasses.replace(config.model, video_tower=load("demo").model.video_tower)).imu_tower
    imu, valid = torch.zeros(1, 250, 1, 6, device="meta"), torch.ones(1, 250, 1, 2, dtype=torch.bool, device="meta")
    assert patchtst(imu, valid, True)[1].shape == (1, 16, 768)


def test_no_head_wants_features_of_the_shared_width():
    assert build_head(HeadConfig(kind="none", dim=5), 5)(torch.ones(2, 5)).shape == (2, 5)
    with pytest.raises(UserError, match=r"a tower gives 6 features and head\.dim is 5"):
        build_head(HeadConfig(kind="none", dim=5), 6)
