"""PatchTST as IMU tower: what it reads, and the paper's size."""

from __future__ import annotations

import pytest
import torch

from imuvid.models.imu_patchtst import ImuPatchTSTConfig
from imuvid.models.towers import ImuTowerConfig, build_imu_tower
from tests.imuvid.models.small import imu_tower, window


def test_patchtst_reads_every_sample_by_default_and_the_papers_code_drops_ten():
    def blind_and_tokens(config):
        tower = build_imu_tower(ImuTowerConfig(kind="patchtst", patchtst=config)).eval()
        imu = torch.zeros(1, 250, 1, 6, requires_grad=True)
        valid = torch.ones(1, 250, 1, 2, dtype=torch.bool)
        features, tokens, _ = tower(imu + torch.randn(imu.shape), valid, True)
        features.square().sum().backward()
        return (imu.grad.abs().sum((0, 2, 3)) == 0).nonzero().flatten().tolist(), tokens.shape[1]

    small = {"d_model": 16, "num_layers": 1, "num_heads": 2, "ffn_dim": 16}
    assert blind_and_tokens(ImuPatchTSTConfig(**small)) == ([], 25)
    paper = {"patch_length": 16, "patch_stride": 16, **small}
    assert blind_and_tokens(ImuPatchTSTConfig(**paper)) == ([], 16)
    assert blind_and_tokens(ImuPatchTSTConfig(**paper, drop_remainder=True)) == (list(range(10)), 15)


def test_patchtst_has_the_papers_size():
    # 599,168 parameters in the released code (d 128, 3 layers, patch 16, 15 patches and a CLS token); ours has 256 more
    # for absent channels, and layer normalisation has as many as batch normalisation.
    config = ImuPatchTSTConfig(patch_length=16, patch_stride=16, norm="batchnorm", drop_remainder=True)
    tower = build_imu_tower(ImuTowerConfig(kind="patchtst", patchtst=config))
    assert sum(p.numel() for p in tower.parameters()) == 599_168 + 256


def test_patchtst_refuses_another_length():
    with pytest.raises(ValueError, match="built for 50 samples, the window has 49"):
        imu_tower("patchtst")(*window(steps=49))
