"""IMU2CLIP's IMU encoder as tower: the authors' layers where nothing is absent."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from imuvid.models.imu_cnn_gru import ImuCnnGru, ImuCnnGruConfig
from imuvid.models.towers import ImuTowerConfig, build_imu_tower
from tests.imuvid.models.small import imu_tower, window


def reference_cnn_gru(tower: ImuCnnGru, x: torch.Tensor, over_time: bool) -> torch.Tensor:
    """IMU2CLIP's layers in a row, from torch's own modules, on one sensor's [N, 6, T]."""
    for module in (nn.GroupNorm(2, 6),):
        module.load_state_dict(tower.input_norm.state_dict())
        x = module(x)
    for convolution in tower.convolutions:
        x = nn.functional.conv1d(x, convolution.weight, dilation=2)
        x = nn.functional.max_pool1d(x, kernel_size=3)
    x = nn.functional.group_norm(x, 4, tower.norm.weight, tower.norm.bias)
    return tower.gru(x.transpose(1, 2) if over_time else x)[1][0]


def test_the_cnn_gru_is_the_authors_where_nothing_is_absent():
    imu, valid = window(steps=1000, sensors=1)
    for steps, width in (("time", 32), ("channels", 32)):
        torch.manual_seed(0)
        tower = ImuCnnGru(ImuCnnGruConfig(steps=steps)).eval()
        assert tower.gru.input_size == width  # 5 s at 200 Hz leave 32 instants of 32 channels
        # Units do not matter to a group that is normalised.
        expected = reference_cnn_gru(tower, imu[:, :, 0].transpose(1, 2), steps == "time")
        assert tower(imu, valid).shape == (3, 512)
        assert torch.allclose(tower(imu, valid), expected, atol=1e-4)


def test_windows_that_are_too_short_are_refused():
    tower = build_imu_tower(ImuTowerConfig(kind="cnn_gru"))
    with pytest.raises(ValueError, match=r"100 samples is too short for kernel_sizes \[10, 5, 5\]"):
        tower(*window(steps=100))
    two = ImuCnnGruConfig(kernel_sizes=[10, 5])
    assert build_imu_tower(ImuTowerConfig(kind="cnn_gru", cnn_gru=two))(*window(steps=100)).shape == (3, 512)
    with pytest.raises(ValueError, match="built for 50 samples, the window has 60"):
        imu_tower("cnn_gru_channels")(*window(steps=60))
    with pytest.raises(ValueError, match="too short for its stages"):
        build_imu_tower(ImuTowerConfig(kind="resnet"))(*window(steps=50))
