"""Every IMU tower: what is absent changes nothing else, frozen is frozen, precision, torch.compile, and their forms."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy import signal
from torch import nn

from imuvid.errors import UserError
from imuvid.models.imu_cnn_gru import ImuCnnGru, ImuCnnGruConfig
from imuvid.models.imu_patchtst import ImuPatchTSTConfig
from imuvid.models.imu_resnet import ImuResNet, ImuResNetConfig, Resample
from imuvid.models.norm import MaskedGroupNorm
from imuvid.models.towers import ImuTowerConfig, build_imu_tower
from tests.imuvid.models.small import CNN_GRU, IMU, THIS, Series, external, imu_tower, window

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


# PatchTST


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


def test_patchtst_refuses_another_length():
    with pytest.raises(ValueError, match="built for 50 samples, the window has 49"):
        imu_tower("patchtst")(*window(steps=49))


def test_the_cnn_takes_any_length_and_padding_does_not_count():
    tower = imu_tower("cnn")
    imu, valid = window(steps=101, sensors=1)
    assert tower(imu, valid).shape == (3, tower.feature_dim)
    valid[:, 60:] = False
    padded = tower(imu, valid)
    imu[:, 60:] = 100
    assert torch.allclose(padded, tower(imu, valid), atol=1e-5)


# IMU2CLIP


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


# harnet's shape


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


# Encoders of other packages


def test_an_external_encoder_gives_its_own_features_side_by_side():
    tower = build_imu_tower(external(frozen=True)).eval()
    imu, valid = window(sensors=1)
    series = tower.encoder.module
    scale = torch.tensor([9.80665] * 3 + [3.0] * 3)
    with torch.no_grad():
        channels = [series((imu / scale)[:, None, :, 0, i]).mean(1) for i in range(6)]
    assert torch.allclose(tower(imu, valid), torch.cat(channels, dim=1), atol=1e-5)


def test_a_frozen_external_encoder_stays_as_it_is_in_training():
    torch.manual_seed(0)
    tower = build_imu_tower(external(frozen=True)).train()
    imu, valid = window()
    before = {name: tensor.clone() for name, tensor in tower.encoder.state_dict().items()}
    features = tower(imu, valid)
    assert torch.equal(features, tower(imu, valid))  # no dropout
    assert [name for name, p in tower.named_parameters() if p.requires_grad] == ["absent"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in tower.encoder.state_dict().items())
    tuned = build_imu_tower(external(frozen=False)).train()
    assert not torch.equal(tuned(imu, valid), tuned(imu, valid))
    assert all(p.requires_grad for p in tuned.parameters())


def broken():
    raise RuntimeError("no weights here\nand more")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"factory": ""}, "expected package.module:name"),
        ({"factory": "nowhere.at_all:x"}, "install the package"),
        ({"factory": f"{THIS}:nothing"}, "has no 'nothing'"),
        ({"factory": f"{THIS}:window"}, "gives a tuple, no torch module"),
        ({"factory": "tests.imuvid.models.test_imu_towers:broken"}, "fails: RuntimeError: no weights here$"),
        ({"arguments": {"wrong": 1}}, "fails: TypeError"),
        ({"channels": "pairs"}, "channels is 'pairs'"),
    ],
)
def test_mistakes_with_an_external_encoder_are_one_line(fields, message):
    with pytest.raises(UserError, match=message):
        build_imu_tower(external(**fields))


def test_an_external_encoder_of_another_width_is_named():
    with pytest.raises(ValueError, match=r"gives \[36, 10, 6\], expected \[N, 5\]"):
        build_imu_tower(external(feature_dim=5))(*window())
    assert isinstance(Series(), nn.Module)


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
