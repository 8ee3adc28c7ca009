"""Learning rates and parameter groups, against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from imuvid.models.two_tower import ModelConfig, ObjectiveConfig, TwoTower
from imuvid.training.optimisation import OptimizerConfig, learning_rate, parameter_groups

CONFIG = OptimizerConfig(lr=2.0, final_lr_share=0.1, warmup_share=0.1)


def test_warm_up_rises_in_equal_steps_to_the_peak():
    assert [learning_rate(step, 100, CONFIG) for step in range(11)] == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.0]
    )


def test_decay_is_half_a_cosine_down_to_the_floor():
    assert learning_rate(55, 100, CONFIG) == pytest.approx((2.0 + 0.2) / 2)  # half-way
    assert learning_rate(25, 100, CONFIG) == pytest.approx(0.2 + 1.8 * (1 + math.cos(math.pi / 6)) / 2)
    assert learning_rate(100, 100, CONFIG) == pytest.approx(0.2)
    assert 0.2 < learning_rate(99, 100, CONFIG) < 0.21
    decay = [learning_rate(step, 100, CONFIG) for step in range(10, 100)]
    assert decay == sorted(decay, reverse=True)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 1000])
@pytest.mark.parametrize("warmup_share", [0.0, 0.05, 1.0])
def test_every_step_of_a_run_of_any_length_has_a_rate(num_steps, warmup_share):
    config = OptimizerConfig(lr=1.0, warmup_share=warmup_share)
    rates = [learning_rate(step, num_steps, config) for step in range(num_steps)]
    assert all(0 < rate <= 1 for rate in rates)
    assert max(rates) == 1.0


@pytest.mark.parametrize("imu_tower", ["cnn", "patchtst"])
@pytest.mark.parametrize("video_tower", ["cnn", "videomae"])
def test_only_matrices_and_kernels_decay(imu_tower, video_tower):
    config = ModelConfig(objective=ObjectiveConfig(kind="sigmoid"))
    config.imu_tower.kind, config.video_tower.kind = imu_tower, video_tower
    patchtst, videomae = config.imu_tower.patchtst, config.video_tower.videomae
    patchtst.d_model, patchtst.num_heads, patchtst.ffn_dim, patchtst.num_layers = 16, 2, 16, 1
    videomae.hidden_size, videomae.num_heads, videomae.intermediate_size, videomae.num_layers = 16, 2, 16, 1
    model = TwoTower(config)
    decayed, free = parameter_groups(model, 0.05)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.05, 0.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    in_decayed = {names[id(p)] for p in decayed["params"]}
    in_free = {names[id(p)] for p in free["params"]}
    assert not in_decayed & in_free
    assert in_decayed | in_free == {name for name, p in model.named_parameters() if p.requires_grad}
    layers = (nn.Linear, nn.Conv1d, nn.Conv3d)
    weights = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, layers)}
    assert in_decayed == weights & (in_decayed | in_free)
    assert any("absent" in name for name in in_free) or imu_tower == "cnn"
    assert {"objective.log_temperature", "objective.bias"} & in_free or any("objective" in name for name in in_free)


def test_frozen_parameters_are_in_no_group():
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    decayed, free = parameter_groups(model, 0.1)
    assert decayed["params"] == []
    assert len(free["params"]) == 1
    assert isinstance(free["params"][0], torch.nn.Parameter)
