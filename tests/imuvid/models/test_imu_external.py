"""Encoders of other packages as IMU towers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from imuvid.errors import UserError
from imuvid.models.towers import build_imu_tower
from tests.imuvid.models.small import THIS, Series, external, window


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
        ({"factory": "tests.imuvid.models.test_imu_external:broken"}, "fails: RuntimeError: no weights here$"),
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
