"""harnet's residual network as IMU tower: its sizes, its resampling, its decimation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import signal

from imuvid.models.imu_resnet import ImuResNet, ImuResNetConfig, Resample
from tests.imuvid.models.small import imu_tower, window


def test_the_resnet_reads_accelerometers_alone():
    tower = imu_tower("resnet")
    imu, valid = window()
    features = tower(imu, valid)
    other = imu.clone()
    other[..., 3:] = 9
    valid[..., 1] = False
    assert torch.allclose(features, tower(other, valid), atol=1e-6)
    valid[:, :, 1] = torch.tensor([False, True])  # a sensor without an accelerometer counts as absent
    assert torch.allclose(tower(imu, valid), tower(imu[:, :, :1], valid[:, :, :1]), atol=1e-6)


def test_the_resnet_has_harnets_sizes():
    for config, seconds, width in (
        (ImuResNetConfig(), 5, 512),
        (ImuResNetConfig(channels=[64, 128, 256, 512, 1024], factors=[2, 2, 5, 5, 3]), 10, 1024),
        (
            ImuResNetConfig(channels=[64, 128, 256, 512, 1024], factors=[3, 3, 5, 5, 4], orders=[1, 1, 1, 1, 0]),
            30,
            1024,
        ),
    ):
        config.rate_hz = 30
        tower = ImuResNet(config).eval()
        x = torch.randn(1, 3, 30 * seconds)
        for stage in tower.stages:
            x = stage(x)
        assert x.shape == (1, width, 1)
        assert tower(*window(1, 30 * seconds, 1)).shape == (1, width)
        per_stage = [3, *config.channels]
        expected = sum(
            5 * a * b + blocks * (2 * 5 * b * b + 4 * b) + 2 * b
            for a, b, blocks in zip(per_stage, per_stage[1:], config.num_blocks, strict=False)
        )
        assert sum(p.numel() for p in tower.parameters()) == expected


@pytest.mark.parametrize("rate", [50.0, 100.0, 64.0, 25.0, 30.0])
def test_resampling_keeps_what_30_hz_can_hold_and_removes_the_rest(rate):
    times, wanted = np.arange(0, 8, 1 / rate), np.arange(0, 8, 1 / 30)
    x = np.stack([np.full_like(times, 9.8), np.sin(2 * np.pi * 3 * times), np.cos(2 * np.pi * 7 * times)])
    found = Resample(rate, 30.0)(torch.from_numpy(x).float()[None])[0].numpy()
    wanted = wanted[: found.shape[1]]
    assert abs(found.shape[1] - 240) <= 1
    assert found[0] == pytest.approx(9.8, abs=1e-4)
    inner = slice(30, -30)
    assert found[1, inner] == pytest.approx(np.sin(2 * np.pi * 3 * wanted)[inner], abs=0.01)
    assert found[2, inner] == pytest.approx(np.cos(2 * np.pi * 7 * wanted)[inner], abs=0.01)
    if rate > 50:
        fast = torch.from_numpy(np.sin(2 * np.pi * 24 * times)).float()[None, None]
        assert Resample(rate, 30.0)(fast)[0, 0, inner].abs().max() < 0.01


def test_decimation_is_a_running_triangle():
    from imuvid.models.imu_resnet import _Decimate

    x = np.random.default_rng(0).normal(size=(2, 31))
    found = _Decimate(2, 3, 1)(torch.from_numpy(x).float()[None])[0].numpy()
    triangle = np.array([1, 2, 3, 2, 1]) / 9
    expected = np.stack([signal.convolve(np.pad(row, 1), triangle, mode="valid")[::3] for row in x])
    assert found == pytest.approx(expected, abs=1e-6)
