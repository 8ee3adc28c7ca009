"""imuvid's own tower: what is absent, turned, sat on, or worn where pretraining never saw it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import signal

from imuvid.errors import UserError
from imuvid.imu.rotation import random_rotation, rotate
from imuvid.models.encoder import Encoder, EncoderConfig, load_encoder, save_encoder
from imuvid.models.imu_gravity import BANDS, ImuGravity, ImuGravityConfig
from imuvid.models.towers import ImuTowerConfig, build_imu_tower, with_places
from imuvid.ood.datasets.base import Windows
from imuvid.ood.embedding import embed

SMALL = {"stem_channels": [8, 16], "num_filters": 8, "d_model": 16, "num_heads": 2, "ffn_dim": 16}
NUM_BANDS = len(BANDS) - 1


def tower(**changes):
    torch.manual_seed(0)
    built = ImuGravity(ImuGravityConfig(**{**SMALL, **changes})).eval()
    with torch.no_grad():
        built.place_embeddings.normal_()
    return built


def window(batch=3, steps=100, sensors=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    imu = torch.randn(batch, steps, sensors, 6, generator=generator) * 2
    imu[..., 2] += 9.81
    return imu, torch.ones(batch, steps, sensors, 2, dtype=torch.bool)


def turned(imu, seed):
    return torch.from_numpy(rotate(imu.numpy(), random_rotation(np.random.default_rng(seed))))


def test_absent_channels_change_nothing():
    imu, valid = window(sensors=3)
    valid[:, :, 2] = False
    valid[0, :, 0, 1] = False
    valid[1, 40:60, 0] = False
    valid[2, :, 1, 0] = False
    features = tower()(imu, valid)
    garbage = torch.where(valid.repeat_interleave(3, -1), imu, torch.full_like(imu, 1e3))
    assert torch.equal(features, tower()(garbage, valid))
    assert torch.allclose(features, tower()(imu[:, :, :2], valid[:, :, :2]), atol=1e-5)
    assert torch.allclose(features, tower()(imu[:, :, [2, 1, 0]], valid[:, :, [2, 1, 0]]), atol=1e-5)
    assert torch.isfinite(tower()(imu, torch.zeros_like(valid))).all()


def test_a_sensor_that_is_there_is_attended_to():
    imu, valid = window(sensors=2)
    other = imu.clone()
    other[:, :, 1] = imu[:, :, 1].flip(0)
    seen = []
    model = tower()
    model.layers[-1].register_forward_hook(lambda _m, _i, out: seen.append(out))
    for x in (imu, other):
        model(x, valid)
    of_first_sensor = seen[0].shape[1] // 2
    assert (seen[0] - seen[1])[:, :of_first_sensor].abs().max() > 1e-3


def test_a_missing_gyroscope_is_not_a_still_one():
    imu, valid = window(sensors=1)
    imu[..., 3:] = 0
    without = valid.clone()
    without[..., 1] = False
    assert not torch.allclose(tower()(imu, valid), tower()(imu, without), atol=1e-3)


def test_sitting_and_standing_differ_and_so_does_the_strength_of_gravity():
    # A still thigh: gravity along one axis or along another, with the same noise.
    noise = 0.05 * torch.randn(1, 100, 1, 6, generator=torch.Generator().manual_seed(1))
    again = 0.05 * torch.randn(1, 100, 1, 6, generator=torch.Generator().manual_seed(2))
    valid = torch.ones(1, 100, 1, 2, dtype=torch.bool)
    standing, sitting, weak = (torch.zeros(1, 100, 1, 6) for _ in range(3))
    standing[..., 0], sitting[..., 2], weak[..., 0] = 9.81, 9.81, 8.5
    model = tower()
    reference = model(standing + noise, valid)
    # The spectra of noise vary on their own.
    spectra = -2 * 6 * NUM_BANDS

    def change(imu):
        return (model(imu, valid) - reference)[:, :spectra].norm()

    assert change(sitting + noise) > 10 * change(standing + again)
    assert change(weak + noise) > 2 * change(standing + again)


def test_turning_a_sensor_changes_the_view_as_mounted_and_not_the_view_by_gravity():
    imu, valid = window(sensors=1)
    model, seen = tower(), {"mounted": [], "gravity": []}
    for name, outputs in seen.items():
        model.get_submodule(name).register_forward_hook(lambda _m, _i, out, outputs=outputs: outputs.append(out))
    first, second = model(imu, valid), model(turned(imu, 3), valid)
    (a, _, statistics), (b, _, turned_statistics) = seen["gravity"]
    assert torch.allclose(a, b, atol=1e-4)
    assert all(torch.allclose(x, y, atol=1e-4) for x, y in zip(statistics, turned_statistics, strict=True))
    assert a.std() > 1e-2
    assert (seen["mounted"][0][0] - seen["mounted"][1][0]).abs().max() > 0.1
    powers = [f[:, -12 * NUM_BANDS :].view(3, 2, NUM_BANDS, 6) for f in (first, second)]
    assert torch.allclose(powers[0][..., 3:], powers[1][..., 3:], atol=1e-3)
    assert (powers[0][..., :3] - powers[1][..., :3]).abs().max() > 0.05


def test_the_view_by_gravity_tells_up_from_sideways():
    # Gravity points along z, the sensor turns about z or about x.
    valid = torch.ones(1, 100, 1, 2, dtype=torch.bool)
    outputs = []
    model = tower()
    model.gravity.register_forward_hook(lambda _m, _i, out: outputs.append(out[0]))
    for axis in (2, 0):
        imu = torch.zeros(1, 100, 1, 6)
        imu[..., 2] = 9.81
        imu[..., 3 + axis] = torch.sin(torch.arange(100) / 5.0)[:, None]
        model(imu, valid)
    assert (outputs[0] - outputs[1]).abs().max() > 1e-2


def test_spectra_are_those_of_scipy():
    imu, valid = window(batch=1, sensors=1)
    spectra = tower()(imu, valid)[0, -12 * NUM_BANDS :].view(2, NUM_BANDS, 6).detach().numpy()
    taper = np.sin(np.pi * (np.arange(100) + 0.5) / 100) ** 2
    for sensor, scale in ((0, 9.80665), (1, 3.0)):
        axes = imu[0, :, 0, 3 * sensor : 3 * sensor + 3].numpy() / scale
        up = imu[0, :, 0, :3].numpy().mean(0)
        along = axes @ (up / np.linalg.norm(up))
        channels = np.column_stack([axes, np.linalg.norm(axes, axis=1), along])
        frequency, power = signal.periodogram(
            channels - channels.mean(0), window=taper, detrend=False, scaling="density", axis=0
        )
        power[1:-1] /= 2  # one-sided
        for band, (low, high) in enumerate(itertools.pairwise(BANDS)):
            inside = (frequency >= low - 1e-9) & (frequency < high - 1e-9)
            expected = power[inside].mean(axis=0)
            expected = np.append(expected, expected[:3].sum())
            np.testing.assert_allclose(np.exp(4 * spectra[sensor, band] - 8), expected, rtol=2e-3, atol=1e-5)


def test_sensors_and_places_that_were_not_together_in_pretraining():
    model = tower(places=["thigh", "wrist"])
    imu, valid = window(sensors=3)
    model.wear(["left_waist", "right_wrist", "right_thigh"])
    told = model(imu, valid)
    assert torch.isfinite(told).all()
    model.wear(["left_waist", "right_thigh", "right_wrist"])
    assert (model(imu, valid) - told).abs().max() > 1e-3  # where a sensor is worn is known
    model.wear(["waist"])
    elsewhere = model(imu[:, :, :1], valid[:, :, :1])
    model.wear([])
    assert torch.equal(elsewhere, model(imu[:, :, :1], valid[:, :, :1]))  # a new place is one that is not told
    model.wear(["left_wrist"])
    with pytest.raises(ValueError, match="told 1 positions, the window has 3 sensors"):
        model(imu, valid)


def test_training_meets_windows_that_are_not_told_their_places():
    imu, valid = window(batch=64, sensors=1)
    model = tower(places=["wrist"])
    model.wear(["wrist"])
    assert torch.equal(model._place(64, 1, imu)[:, 0], model.place_embeddings[1].expand(64, -1))
    model.train()
    told = (model._place(64, 1, imu)[:, 0] == model.place_embeddings[1]).all(-1)
    assert 16 < int(told.sum()) < 48
    torch.manual_seed(0)
    (model(imu, valid) * torch.randn(model.feature_dim)).sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("steps", [25, 101, 250])
def test_any_length(steps):
    imu, valid = window(steps=steps)
    model = tower()
    assert model(imu, valid).shape == (3, model.feature_dim)


def test_places_of_the_dataset_go_with_the_encoder(tmp_path):
    config = with_places(
        ImuTowerConfig(kind="gravity", gravity=ImuGravityConfig(**SMALL)), ["right_wrist", "left_wrist"]
    )
    assert config.gravity.places == ["wrist"]
    model = build_imu_tower(config).eval()
    with torch.no_grad():
        model.place_embeddings.normal_()
    save_encoder(tmp_path, EncoderConfig(config, 50.0, 2.0, ["right_wrist", "left_wrist"]), model.state_dict())
    encoder = load_encoder(tmp_path)
    imu, valid = window(sensors=1)
    for positions in (["wrist"], ["ankle"]):
        model.wear(positions)
        encoder.tower.wear(positions)
        assert torch.equal(model(imu, valid), encoder(imu, valid))


@pytest.mark.parametrize("sensors", ["apart", "together"])
def test_evaluation_tells_the_tower_where_the_sensors_are_worn(sensors):
    config = ImuTowerConfig(kind="gravity", gravity=ImuGravityConfig(**SMALL, places=["wrist"]))
    encoder = Encoder(EncoderConfig(config, 50.0, 2.0)).eval()
    with torch.no_grad():
        encoder.tower.place_embeddings.normal_()
    imu, valid = window(sensors=2)
    texts = np.array(["a", "b", "c"])
    arrays = [imu.numpy(), valid.numpy(), np.zeros(3, dtype=int), texts, texts, np.zeros(3)]
    windows = Windows("set", *arrays, ["x"], ["right_wrist", "waist"], 50.0)
    features = embed(encoder, windows, 2, torch.device("cpu"), sensors)
    model, expected = encoder.tower, []
    for group in [slice(0, 1), slice(1, 2)] if sensors == "apart" else [slice(0, 2)]:
        model.wear(["wrist", "elsewhere"][group])
        expected.append(model(imu[:, :, group], valid[:, :, group]))
    np.testing.assert_allclose(features, torch.cat(expected, dim=1).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stem_kernels": [7]}, "2 stem_channels but 1 stem_kernels"),
        ({"d_model": 15}, "d_model is 15, expected an even multiple of num_heads 2"),
    ],
)
def test_mistakes_are_one_line(changes, message):
    with pytest.raises(UserError, match=f"imu_tower.gravity: {message}"):
        build_imu_tower(ImuTowerConfig(kind="gravity", gravity=ImuGravityConfig(**{**SMALL, **changes})))
