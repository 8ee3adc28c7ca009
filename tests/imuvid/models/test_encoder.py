"""The encoder folder: the same features after a round trip, and nothing in it is ever executed."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imuvid.errors import UserError
from imuvid.imu.condition import ConditionConfig
from imuvid.models.encoder import Encoder, EncoderConfig, load_encoder, random_encoder, save_encoder
from imuvid.models.imu_cnn import ImuCnnConfig
from imuvid.models.imu_patchtst import ImuPatchTSTConfig
from imuvid.models.towers import ImuTowerConfig
from tests.imuvid.models.small import IMU, THIS, external, imu_tower, window

TOWERS = {
    "cnn": ImuTowerConfig(kind="cnn", cnn=ImuCnnConfig(channels=[4, 6], kernel_sizes=[5, 3])),
    "patchtst": ImuTowerConfig(
        kind="patchtst",
        patchtst=ImuPatchTSTConfig(context_length=40, d_model=16, num_layers=1, num_heads=2, ffn_dim=16),
    ),
}

KINDS = list(IMU)


@pytest.fixture(autouse=True)
def trusted(monkeypatch):
    monkeypatch.setenv("IMUVID_TRUSTED_FACTORIES", f"{THIS}:Series,{THIS}:Pretrained")


def test_a_random_external_encoder_is_not_the_one_that_comes_with_weights():
    tower = external(factory=f"{THIS}:Pretrained", arguments={"weights": 7.0}, feature_dim=4, frozen=True)
    config = EncoderConfig(tower, imu_rate_hz=25.0, window_s=2.0)
    pretrained, *others = Encoder(config), *(random_encoder(config, seed) for seed in (1, 1, 2))
    states = [encoder.tower.encoder.state_dict() for encoder in (pretrained, *others)]
    assert all((tensor == 7).all() for tensor in states[0].values())
    for name, first in states[1].items():
        assert torch.equal(first, states[2][name])
        assert not (first == 7).any()
        assert first.abs().max() < 2
    assert not torch.equal(states[1]["module.scale"], states[3]["module.scale"])
    assert not torch.equal(states[1]["module.net.weight"], states[3]["module.net.weight"])


def config_of(kind: str) -> EncoderConfig:
    return EncoderConfig(TOWERS[kind], imu_rate_hz=20.0, window_s=2.0, positions=["wrist"], provenance={"run": "a"})


def windows() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    valid = torch.ones(3, 40, 2, 2, dtype=torch.bool)
    valid[1, :, :, 1] = False
    return torch.randn(3, 40, 2, 6, generator=generator), valid


@pytest.fixture(params=TOWERS)
def saved(request, tmp_path):
    torch.manual_seed(3)
    encoder = Encoder(config_of(request.param)).eval()
    for buffer in encoder.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)  # as running statistics are after a training
    save_encoder(tmp_path / "step-00000005" / "encoder", encoder.config, encoder.tower.state_dict())
    return encoder, tmp_path / "step-00000005" / "encoder"


@torch.no_grad()
def test_a_loaded_encoder_gives_the_same_features(saved):
    encoder, folder = saved
    expected = encoder(*windows())
    assert expected.shape == (3, encoder.feature_dim)
    (folder.parent.parent / "latest").write_text("step-00000005\n")
    for path in (folder, folder.parent, folder.parent.parent / "latest", str(folder)):
        loaded = load_encoder(path)
        assert torch.equal(loaded(*windows()), expected)
        assert not loaded.training
    assert loaded.config == encoder.config


def test_the_encoder_says_how_its_windows_are_conditioned(tmp_path):
    config = dataclasses.replace(config_of("cnn"), condition=ConditionConfig(5, "recording"))
    save_encoder(tmp_path, config, Encoder(config).tower.state_dict())
    assert load_encoder(tmp_path).config == config
    assert random_encoder(load_encoder(tmp_path).config, 0).config.condition == ConditionConfig(5, "recording")
    path = tmp_path / "config.json"
    fields = json.loads(path.read_text())
    for condition, message in (
        ({"normalise": "person"}, r"config\.json: condition\.normalise=person"),
        ({"median_samples": 4}, r"condition\.median_samples=4"),
        ({"median": 5}, "damaged encoder"),
        (5, "damaged encoder"),
    ):
        path.write_text(json.dumps(fields | {"condition": condition}))
        with pytest.raises(UserError, match=message):
            load_encoder(tmp_path)
    del fields["condition"]
    path.write_text(json.dumps(fields))
    assert load_encoder(tmp_path).config.condition == ConditionConfig()


def test_a_random_encoder_depends_on_its_seed_alone_and_leaves_the_generator_alone():
    for kind in TOWERS:
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = random_encoder(config_of(kind), 7)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        again, other = random_encoder(config_of(kind), 7), random_encoder(config_of(kind), 8)
        with torch.no_grad():
            assert torch.equal(first(*windows()), again(*windows()))
            assert not torch.equal(first(*windows()), other(*windows()))
        assert first.config.provenance == {}


def refused(path) -> str:
    with pytest.raises(UserError) as caught:
        load_encoder(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "encoder"
    save_encoder(folder, config_of("cnn"), Encoder(config_of("cnn")).tower.state_dict())
    return folder


def test_what_is_missing_is_named(folder, tmp_path):
    assert "no encoder there" in refused(tmp_path / "nowhere")
    (tmp_path / "latest").write_text("step-00000009\n")
    assert "step-00000009" in refused(tmp_path / "latest")
    (folder / "model.safetensors").unlink()
    assert "model.safetensors" in refused(folder)
    (folder / "config.json").unlink()
    assert "config.json" in refused(folder)


def test_what_is_damaged_is_one_line(folder):
    config, weights = folder / "config.json", folder / "model.safetensors"
    raw_config, raw = config.read_text(), weights.read_bytes()
    fields = json.loads(raw_config)
    for content in (b"", raw[:100], raw[:-1], b"\xff" * 200, pickle.dumps({"a": 1})):
        weights.write_bytes(content)
        assert str(folder) in refused(folder)
    weights.write_bytes(raw)
    tower = fields["tower"]
    bad = [
        {**fields, "tower": {**tower, "kind": "unknown"}},
        {**fields, "tower": {**tower, "cnn": {"channels": "x"}}},
        {**fields, "tower": {**tower, "more": 1}},
        {**fields, "tower": 3},
        {**fields, "tower": [1]},
        {**fields, "tower": None},
        {**fields, "tower": {**tower, "cnn": {"channels": [4, 7], "kernel_sizes": [5, 3]}}},
        {**fields, "more": 1},
        {k: v for k, v in fields.items() if k != "window_s"},
        {k: v for k, v in fields.items() if k != "format"},
        [],
        3,
    ]
    for content in (*map(json.dumps, bad), "", "{"):
        config.write_text(content)
        refused(folder)
    config.write_bytes(b"\xff\xfe")
    refused(folder)
    config.write_text(json.dumps({**fields, "format": 2}))
    assert "format 2" in refused(folder)
    config.write_text(raw_config)
    load_encoder(folder)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_in_the_config_is_one_line_or_another_config(folder, share, bit):
    copy = folder.parent / "copy"
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    raw = bytearray((copy / "config.json").read_bytes())
    raw[int(share * len(raw))] ^= 1 << bit
    (copy / "config.json").write_bytes(raw)
    try:
        loaded, problem = load_encoder(copy), ""
    except UserError as error:
        loaded, problem = None, str(error)
    assert "\n" not in problem
    if loaded is not None:
        weights = load_encoder(folder).tower.state_dict()
        assert all(torch.equal(loaded.tower.state_dict()[name], value) for name, value in weights.items())


class Trap:
    def __reduce__(self):
        return os.mkdir, (os.environ["IMUVID_TRAP"],)


def test_a_pickle_is_never_read(folder, tmp_path, monkeypatch):
    trap = tmp_path / "trap"
    monkeypatch.setenv("IMUVID_TRAP", str(trap))
    for name in ("pytorch_model.bin", "model.pt", "config.pkl"):
        (folder / name).write_bytes(pickle.dumps(Trap()))
    load_encoder(folder)
    (folder / "model.safetensors").write_bytes(pickle.dumps(Trap()))
    refused(folder)
    (folder / "config.json").write_bytes(pickle.dumps(Trap()))
    refused(folder)
    assert not trap.exists()


def test_weights_of_a_pretrained_start_are_not_asked_for_again(tmp_path):
    tower = dataclasses.replace(
        TOWERS["patchtst"], patchtst=dataclasses.replace(TOWERS["patchtst"].patchtst, weights=None)
    )
    config = dataclasses.replace(config_of("patchtst"), tower=tower)
    save_encoder(tmp_path, config, Encoder(config).tower.state_dict())
    fields = json.loads((tmp_path / "config.json").read_text())
    fields["tower"]["patchtst"]["weights"] = "/gone"
    (tmp_path / "config.json").write_text(json.dumps(fields))
    loaded = load_encoder(tmp_path)
    assert loaded.config.tower.patchtst.weights is None
    assert random_encoder(loaded.config, 0).feature_dim == loaded.feature_dim


def test_a_probe_leaves_a_loaded_encoder_as_it_is(tmp_path):
    """Buffers included, whatever mode the model around it is put into: the paper's code changed 12 of them."""
    for kind in KINDS:
        config = EncoderConfig(IMU[kind], imu_rate_hz=25.0, window_s=2.0)
        save_encoder(tmp_path / kind, config, imu_tower(kind).state_dict())
        encoder = load_encoder(tmp_path / kind)
        before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
        imu, valid = window(batch=8)
        features = encoder(imu, valid)
        model = torch.nn.Sequential(torch.nn.Linear(encoder.feature_dim, 2))
        model.add_module("encoder", encoder)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        for _ in range(3):
            model.train()
            loss = model[0](encoder(imu, valid)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert torch.equal(encoder(imu, valid), features), kind
        assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items()), kind


def test_an_unfrozen_encoder_is_trained(tmp_path):
    for kind in KINDS:
        config = EncoderConfig(IMU[kind], imu_rate_hz=25.0, window_s=2.0)
        tower = imu_tower(kind)
        save_encoder(tmp_path / kind, config, tower.state_dict())
        encoder = load_encoder(tmp_path / kind)
        encoder.freeze(False)
        assert encoder.training
        trained = {name for name, p in encoder.tower.named_parameters() if p.requires_grad}
        assert trained == {name for name, p in tower.named_parameters() if p.requires_grad}, kind


def test_code_that_a_file_names_is_run_only_where_the_user_names_it(tmp_path, monkeypatch):
    config = EncoderConfig(IMU["external"], imu_rate_hz=25.0, window_s=2.0)
    save_encoder(tmp_path, config, imu_tower("external").state_dict())
    imu, valid = window()
    monkeypatch.delenv("IMUVID_TRUSTED_FACTORIES")
    assert "built by 'tests.imuvid.models.small:Series', which is code" in refused(tmp_path)
    monkeypatch.setenv("IMUVID_TRUSTED_FACTORIES", "os:system")
    assert "IMUVID_TRUSTED_FACTORIES=tests.imuvid.models.small:Series" in refused(tmp_path)
    monkeypatch.setenv("IMUVID_TRUSTED_FACTORIES", "a.b:c,tests.imuvid.models.small:Series")
    assert torch.equal(load_encoder(tmp_path)(imu, valid), imu_tower("external")(imu, valid))
