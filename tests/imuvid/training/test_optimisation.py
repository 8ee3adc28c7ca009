"""Learning rates and parameter groups, against values worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from imuvid.models.two_tower import ModelConfig, ObjectiveConfig, TwoTower
from imuvid.models.video_framewise import Framewise, FramewiseConfig
from imuvid.training.optimisation import SCHEDULES, OptimizerConfig, learning_rate, parameter_groups

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


def test_warm_up_stable_decay_stays_at_the_peak_and_falls_as_one_minus_the_root():
    config = replace(CONFIG, schedule="wsd", decay_share=0.4)
    rates = [learning_rate(step, 100, config) for step in range(101)]
    assert rates[:9] == pytest.approx([0.2 * (step + 1) for step in range(9)])
    assert rates[9:61] == pytest.approx([2.0] * 52)  # the decay begins at step 60, 40 before the end
    assert rates[70] == pytest.approx(0.2 + 1.8 * 0.5)  # a quarter of the way
    assert rates[100] == pytest.approx(0.2)
    assert rates[60:] == sorted(rates[60:], reverse=True)


def test_constant_stays_at_the_peak():
    assert [learning_rate(step, 50, replace(CONFIG, schedule="constant")) for step in range(5, 50)] == [2.0] * 45


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_ends_where_it_should(schedule):
    config = replace(CONFIG, schedule=schedule, decay_share=1.0, warmup_share=0.5)
    assert learning_rate(10**6, 10**6, config) == pytest.approx(2.0 if schedule == "constant" else 0.2)


@pytest.mark.parametrize("kind", ["gravity", "patchtst"])
def test_layers_further_from_the_output_learn_more_slowly(kind):
    config = ModelConfig(objective=ObjectiveConfig(kind="sigmoid"))
    config.imu_tower.kind, config.imu_tower.patchtst.num_layers, config.imu_tower.gravity.num_layers = kind, 3, 3
    model = TwoTower(config)
    groups = parameter_groups(model, 0.05, layer_decay=0.5)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    shares = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    assert shares.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    stack = "imu_tower.layers" if kind == "gravity" else "imu_tower.model.encoder.layers"
    first = "imu_tower.mounted" if kind == "gravity" else "imu_tower.model.encoder.embedder"
    for beginning, share in ((f"{stack}.2", 0.5), (f"{stack}.1", 0.25), (f"{stack}.0", 0.125), (first, 0.0625)):
        assert {value for name, value in shares.items() if name.startswith(beginning)} == {share}
    # Heads, objective and the video tower, which is no stack of layers.
    assert {value for name, value in shares.items() if not name.startswith("imu_tower")} == {1.0}
    decays = {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}
    assert decays == {names[id(p)]: g["weight_decay"] for g in parameter_groups(model, 0.05) for p in g["params"]}


@pytest.mark.parametrize("name", ["clip", "siglip", "dinov2"])
def test_position_tables_and_tokens_of_picture_encoders_do_not_decay(name):
    config = FramewiseConfig(name, 32, 16, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32)
    config.temporal_layers = 1
    tower = Framewise(config)
    decayed, free, *slower = parameter_groups(tower, 0.05)
    assert slower == []
    names = {id(parameter): name for name, parameter in tower.named_parameters()}
    matrices = (nn.Linear, nn.Conv2d, nn.MultiheadAttention)
    weights = {n for n, m in tower.named_modules() if isinstance(m, matrices)}
    assert {names[id(p)].rsplit(".", 1)[0] for p in decayed["params"]} - weights <= {"model.head"}
    assert any("position_embedding" in names[id(p)] for p in free["params"])
    assert len(tower.stack()) == 2
