"""Every IMU tower: what is absent changes nothing else, frozen is frozen, precision, torch.compile, and their forms."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from imuvid.errors import UserError
from imuvid.models.imu_cnn_gru import ImuCnnGruConfig
from imuvid.models.imu_patchtst import ImuPatchTSTConfig
from imuvid.models.imu_resnet import ImuResNetConfig
from imuvid.models.norm import MaskedGroupNorm
from imuvid.models.towers import ImuTowerConfig, build_imu_tower
from tests.imuvid.models.small import CNN_GRU, IMU, imu_tower, window

KINDS = list(IMU)
WITH_TOKENS = [kind for kind in KINDS if kind not in ("cnn_gru_channels", "external_together")]
FROZEN = ["external_together"]


@pytest.mark.parametrize("kind", KINDS)
def test_features_have_the_stated_width_and_gradients_reach_every_trained_parameter(kind):
    tower = imu_tower(kind).train()
    imu, valid = window(batch=4)
    valid[0, :, :, 1] = False  # so that what stands for an absent gyroscope is used
    valid[1, :, :, 0] = False
    features = tower(imu, valid)
    assert features.shape == (4, tower.feature_dim)
    assert torch.isfinite(features).all()
    if kind in FROZEN:
        assert not any(p.requires_grad for p in tower.parameters())
        return
    (features * torch.randn_like(features)).sum().backward()
    trained = [(n, p) for n, p in tower.named_parameters() if p.requires_grad]
    unused = [n for n, p in trained if p.grad is None or not p.grad.abs().sum() > 0]
    assert unused == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_valid_does_not_matter(kind):
    tower = imu_tower(kind)
    imu, valid = window()
    valid[:, :, 1] = False
    valid[0, :, 0, 1] = False
    valid[1, 20:30, 0] = False
    changed = torch.where(valid.repeat_interleave(3, -1), imu, torch.full_like(imu, 7.0))
    for a, b in zip(tower(imu, valid, True), tower(changed, valid, True), strict=True):
        assert a is b is None or torch.allclose(a.float(), b.float(), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_absent_in_one_window_changes_no_other_window(kind):
    tower = imu_tower(kind)
    imu, valid = window(sensors=3)
    before = tower(imu, valid)
    valid[1, :, 2] = False
    valid[1, 5:, 1, 0] = False
    valid[1, :, 0, 1] = False
    after = tower(imu, valid)
    assert torch.allclose(before[[0, 2]], after[[0, 2]], atol=1e-6)
    assert not torch.allclose(before[1], after[1], atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_absent_sensors_are_left_out_and_the_order_of_sensors_does_not_matter(kind):
    tower = imu_tower(kind)
    imu, valid = window(sensors=3)
    valid[:, :, 2] = False
    both = tower(imu, valid)
    assert torch.allclose(both, tower(imu[:, :, :2], valid[:, :, :2]), atol=1e-5)
    assert torch.allclose(both, tower(imu[:, :, [1, 2, 0]], valid[:, :, [1, 2, 0]]), atol=1e-5)
    assert torch.isfinite(tower(imu, torch.zeros_like(valid))).all()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("resnet", "external_together")])
def test_a_missing_gyroscope_is_not_a_still_one(kind):
    tower = imu_tower(kind)
    imu, valid = window(sensors=1)
    imu[..., 3:] = 0
    without = valid.clone()
    without[..., 1] = False
    assert not torch.allclose(tower(imu, valid), tower(imu, without), atol=1e-3)


@pytest.mark.parametrize("kind", WITH_TOKENS)
def test_tokens_follow_time_and_say_where_nothing_is(kind):
    tower = imu_tower(kind)
    imu, valid = window(sensors=2)
    features, tokens, token_valid = tower(imu, valid, True)
    assert torch.equal(features, tower(imu, valid))
    assert tokens.shape == (3, tokens.shape[1], tower.token_dim)
    assert token_valid.dtype == torch.bool
    assert token_valid.shape == tokens.shape[:2]
    assert token_valid.all()
    half = valid.clone()
    half[:, 25:] = False
    _, hidden, part = tower(imu, half, True)
    count = tokens.shape[1]
    assert part[:, : count // 2].all()
    assert not part[:, (count + 1) // 2 + 1 :].any()
    assert torch.isfinite(hidden).all()
    # A change at the start moves the first token more than one in the middle.
    changed = imu.clone()
    changed[:, :6] += torch.tensor([9.0, -5, 2, 3, -4, 1])
    moved = (tower(changed, valid, True)[1] - tokens).abs().amax((0, 2))
    assert moved[0] > 1e-3
    if kind not in (
        "patchtst_paper",
        "cnn_gru",
        "patchtst",
        "gravity",
    ):  # attention and normalisation look at the whole window
        assert moved[count // 2] < 0.5 * moved[0]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in WITH_TOKENS])
def test_towers_without_a_notion_of_time_give_no_tokens(kind):
    features, tokens, token_valid = imu_tower(kind)(*window(), True)
    assert features is not None
    assert tokens is token_valid is None


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_agrees_with_float32_to_three_hundredths_of_the_spread(kind):
    tower = imu_tower(kind)
    imu, valid = window(batch=8)
    with torch.no_grad():
        full = tower(imu, valid)
        with torch.autocast("cpu", torch.bfloat16):
            half = tower(imu, valid)
    error = (half.float() - full).square().mean().sqrt() / full.std()
    assert error < 0.03


# The C++ compiler of torch takes half a minute a tower: one goes through it, the others as far as the graphs.
@pytest.mark.slow
@pytest.mark.parametrize(("kind", "backend"), [*((kind, "aot_eager") for kind in KINDS), ("external", "inductor")])
def test_torch_compile_takes_every_tower_in_one_graph(kind, backend):
    tower = imu_tower(kind)
    imu, valid = window()
    valid[0, :, 0, 1] = False
    imu.requires_grad_()
    torch._dynamo.reset()
    compiled = torch.compile(
        copy.deepcopy(tower), backend=backend, fullgraph=not kind.startswith("cnn_gru")
    )  # recurrent units stay out of graphs
    expected, found = tower(imu, valid), compiled(imu, valid)
    assert torch.allclose(expected, found, atol=1e-4)
    weight = torch.randn_like(expected)
    gradients = [torch.autograd.grad((features * weight).sum(), imu)[0] for features in (expected, found)]
    assert torch.allclose(*gradients, atol=1e-3 * gradients[0].abs().max().item())


def test_intensity_and_posture_reach_the_features_where_the_form_keeps_them():
    imu, valid = window(sensors=1)
    gravity = torch.tensor([0.0, 0, 9.8, 0, 0, 0])

    def effect(kind, changed):
        tower = imu_tower(kind)
        return (tower(imu + gravity, valid) - tower(changed, valid)).abs().max().item()

    for kind in ("cnn", "patchtst", "resnet", "external"):
        assert effect(kind, 3 * (imu + gravity)) > 2e-3
        assert effect(kind, imu + gravity.roll(1)) > 2e-3
    # The paper's form cannot tell them apart; IMU2CLIP's keeps the direction of gravity alone.
    assert effect("patchtst_paper", 3 * (imu + gravity.roll(1))) < 1e-4
    assert effect("cnn_gru", 3 * (imu + gravity)) < 1e-3
    assert effect("cnn_gru", imu + gravity.roll(1)) > 1e-2


def test_the_cnn_takes_any_length_and_padding_does_not_count():
    tower = imu_tower("cnn")
    imu, valid = window(steps=101, sensors=1)
    assert tower(imu, valid).shape == (3, tower.feature_dim)
    valid[:, 60:] = False
    padded = tower(imu, valid)
    imu[:, 60:] = 100
    assert torch.allclose(padded, tower(imu, valid), atol=1e-5)


def test_masked_group_normalisation_takes_statistics_of_what_is_there():
    norm = MaskedGroupNorm(2, 6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = 50 + torch.randn(2, 6, 30)
    everything = torch.ones(2, 6, 30, dtype=torch.bool)
    plain = nn.functional.group_norm(x, 2, norm.weight, norm.bias)
    assert torch.allclose(norm(x, everything), plain, atol=1e-5)
    some = everything.clone()
    some[:, :, 20:] = False
    assert torch.allclose(norm(x, some)[..., :20], norm(x[..., :20]), atol=1e-5)
    assert not norm(x, some)[..., 20:].any()
    assert not norm(x, ~everything).any()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ImuTowerConfig(kind="cnnn"), "imu_tower.kind is 'cnnn', expected one of cnn, patchtst"),
        (
            ImuTowerConfig(kind="patchtst", patchtst=ImuPatchTSTConfig(norm="none")),
            "imu_tower.patchtst: norm is 'none'",
        ),
        (
            ImuTowerConfig(kind="patchtst", patchtst=ImuPatchTSTConfig(weights="/nowhere/at/all")),
            "weights '/nowhere/at/all' are neither",
        ),
        (
            ImuTowerConfig(kind="cnn_gru", cnn_gru=ImuCnnGruConfig(**{**vars(CNN_GRU), "steps": "both"})),
            "imu_tower.cnn_gru: steps is 'both'",
        ),
        (ImuTowerConfig(kind="resnet", resnet=ImuResNetConfig(factors=[2])), "must be of one length"),
        (ImuTowerConfig(kind="resnet", resnet=ImuResNetConfig(orders=[1] * 5)), "factor 2 with order 1"),
    ],
)
def test_mistakes_are_one_line(config, message):
    with pytest.raises(UserError, match=message):
        build_imu_tower(config)
