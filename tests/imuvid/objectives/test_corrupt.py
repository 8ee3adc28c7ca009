"""Second views and hidden patches of IMU windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from imuvid.objectives.corrupt import SecondViewConfig, hide_patches, random_rotations, second_view

OFF = {"rotate": False, "scale_range": 0.0, "crop_share": 1.0}


@pytest.fixture
def windows():
    torch.manual_seed(0)
    imu = torch.randn(64, 50, 2, 6) + torch.tensor([0, 0, 9.81, 0, 0, 0])
    valid = torch.ones(64, 50, 2, 2, dtype=torch.bool)
    valid[:32, :, 1, 1] = False
    return imu * valid.repeat_interleave(3, dim=-1), valid


def test_everything_off_changes_nothing(windows):
    imu, valid = second_view(*windows, SecondViewConfig(**OFF))
    assert torch.equal(imu, windows[0])
    assert torch.equal(valid, windows[1])


def test_a_rotation_keeps_lengths_and_turns_each_sensor_as_a_whole(windows):
    imu, valid = second_view(*windows, SecondViewConfig(**{**OFF, "rotate": True}))
    before, after = windows[0].unflatten(-1, (2, 3)), imu.unflatten(-1, (2, 3))
    assert torch.allclose(before.norm(dim=-1), after.norm(dim=-1), atol=1e-4)
    assert torch.equal(valid, windows[1])
    # Angles between accelerometer and gyroscope of a sensor stay; those between two sensors do not.
    within = [(x[..., 0, :] * x[..., 1, :]).sum(-1) for x in (before, after)]
    assert torch.allclose(*within, atol=1e-3)
    between = [(x[:, :, 0, 0] * x[:, :, 1, 0]).sum(-1).mean(1) for x in (before, after)]
    assert (between[0] - between[1]).abs().median() > 10


def test_rotations_are_uniform_over_the_group():
    turns = random_rotations(4000, torch.device("cpu")).double()
    assert torch.allclose(turns @ turns.transpose(1, 2), torch.eye(3).double().expand(4000, 3, 3), atol=1e-5)
    assert torch.allclose(torch.linalg.det(turns), torch.ones(4000).double(), atol=1e-5)
    # Uniform rotations take a vector to a point uniform on the sphere, whose coordinates are uniform in [-1, 1].
    assert kstest(turns[:, 2, 0].numpy(), "uniform", args=(-1, 2)).pvalue > 1e-3
    # Their angle has density (1 - cos) / pi.
    angle = np.arccos(np.clip((turns.diagonal(dim1=1, dim2=2).sum(1).numpy() - 1) / 2, -1, 1))
    assert kstest(angle, lambda a: (a - np.sin(a)) / np.pi).pvalue > 1e-3


def test_a_crop_keeps_one_stretch_and_marks_the_rest_absent(windows):
    imu, valid = second_view(*windows, SecondViewConfig(**{**OFF, "crop_share": 0.5}))
    there = valid[:, :, 0, 0]
    assert there.float().mean(1).min() >= 0.5 - 1 / 50
    assert there.float().mean(1).max() > 0.9
    assert (there[:, 1:] & ~there[:, :-1]).sum(1).max() <= 1  # it begins once
    assert not imu[~valid.repeat_interleave(3, dim=-1)].any()
    assert not (valid & ~windows[1]).any()


def test_segments_change_places_and_signs_change(windows):
    config = SecondViewConfig(**OFF, permute_segments=5, negate_share=0.5)
    imu, valid = second_view(*windows, config)
    moved = 0
    for before, after, there_before, there_after in zip(windows[0], imu, windows[1], valid, strict=True):
        sign = torch.sign(before[:, 0, 2].sum() * after[:, 0, 2].sum())
        pieces = [sign * piece for piece in after.split(10)]
        order = [next(i for i, x in enumerate(before.split(10)) if torch.equal(x, piece)) for piece in pieces]
        assert sorted(order) == list(range(5))
        moved += order != list(range(5))
        assert torch.equal(there_before, there_after)
    assert moved > 50
    signs = torch.sign(imu[:, :, 0, 2].sum(1))
    assert 16 < (signs < 0).sum() < 48


def test_the_share_of_patches_is_hidden_of_each_sensor(windows):
    hidden = hide_patches(windows[1], 0.4, 10)
    assert hidden.shape == (64, 50, 2)
    patches = hidden.unflatten(1, (5, 10))
    assert torch.equal(patches.any(2), patches.all(2))
    assert (patches.all(2).sum(1) == 2).all()
    assert (patches.all(2)[:, :, 0] != patches.all(2)[:, :, 1]).any(1).sum() > 32  # sensors on their own
