"""What `imuvid export` leaves: a folder that torch and onnxruntime open alike, without the training's packages."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import imuvid
from imuvid.errors import UserError
from imuvid.export import export_encoder, onnx_difference
from imuvid.imu.condition import ConditionConfig
from imuvid.models.encoder import Encoder, EncoderConfig, load_encoder, save_encoder
from imuvid.models.heads import HeadConfig
from imuvid.models.imu_cnn import ImuCnnConfig
from imuvid.models.text_encoder import TextEncoder, TextEncoderConfig, save_text_encoder
from imuvid.models.text_tokens import load_tokenizer
from imuvid.models.towers import ImuTowerConfig
from tests.imuvid.models.small import IMU, TEXT, THIS, imu_tower, window, write_tokenizer

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
KINDS = ["cnn", "patchtst", "patchtst_paper", "cnn_gru", "cnn_gru_channels", "resnet", "external"]


@pytest.fixture(autouse=True)
def trusted(monkeypatch):
    monkeypatch.setenv("IMUVID_TRUSTED_FACTORIES", f"{THIS}:Series")


def saved(kind: str, folder: Path, **fields) -> Path:
    config = EncoderConfig(IMU[kind], imu_rate_hz=25.0, window_s=2.0, **fields)
    save_encoder(folder, config, imu_tower(kind).state_dict())
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """Run folder with a checkpoint of a tower that is exported fast, a log and a report."""
    run = tmp_path_factory.mktemp("runs") / "first"
    torch.manual_seed(0)
    tower = ImuTowerConfig(cnn=ImuCnnConfig(channels=[4], kernel_sizes=[5]))
    config = EncoderConfig(
        tower,
        imu_rate_hz=25.0,
        window_s=2.0,
        positions=["wrist", "head"],
        condition=ConditionConfig(5, "window"),
        provenance={"run": "first", "step": 7, "dataset": "walks", "train_subjects": ["a1", "b2"]},
    )
    folder = run / "checkpoints/step-00000007/encoder"
    save_encoder(folder, config, Encoder(config).tower.state_dict())
    tower = dataclasses.replace(TEXT, clip=dataclasses.replace(TEXT.clip, tokenizer=str(write_tokenizer(run))))
    text = TextEncoderConfig(tower, HeadConfig(dim=4), imu_feature_dim=8)
    tokenizer = load_tokenizer(tower)
    state = TextEncoder(text, tokenizer).state_dict()
    save_text_encoder(folder.parent / "text_encoder", text, state, tokenizer.description)
    (run / "checkpoints/latest").write_text("step-00000007\n")
    (run / "metrics.jsonl").write_text('{"step": 7, "split": "train", "loss": 0.25}\n')
    report = run / "report/step-00000007/report.json"
    report.parent.mkdir(parents=True)
    report.write_text(json.dumps({"statements": [{"text": "On HAPT it is better than a random one."}]}))
    return run


@pytest.fixture(scope="module")
def exported(small) -> Path:
    export_encoder(small / "checkpoints/latest", small.parent / "out/mine")
    return small.parent / "out/mine"


def test_the_text_encoder_comes_along_and_is_exported_again(small, exported, tmp_path):
    embedded = imuvid.load_text_encoder(small / "checkpoints/latest").embed(["walk"])
    export_encoder(exported, tmp_path / "again")
    for folder in (exported, tmp_path / "again"):
        assert torch.equal(imuvid.load_text_encoder(folder).embed(["walk"]), embedded)


@pytest.mark.parametrize("kind", KINDS)
def test_every_tower_gives_the_same_features_in_onnxruntime(kind, tmp_path):
    result = export_encoder(saved(kind, tmp_path / "encoder"), tmp_path / "out")
    assert result.onnx_difference < 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "out/encoder.onnx"))
    tower = imu_tower(kind)
    for batch, sensors in ((1, 1), (5, 4)):
        imu, valid = window(batch, sensors=sensors, seed=3)
        valid[0, 10:, 0] = False
        valid[-1, :, -1, 1] = False
        found = session.run(None, {"imu": imu.numpy(), "valid": valid.numpy()})[0]
        with torch.no_grad():
            expected = tower(imu, valid).numpy()
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_the_folder_is_what_the_checkpoint_was(small, exported):
    assert sorted(path.name for path in exported.iterdir()) == [
        "README.md",
        "config.json",
        "encoder.onnx",
        "model.safetensors",
        "text_encoder",
    ]
    imu, valid = window()
    ours, theirs = imuvid.load_encoder(exported), load_encoder(small / "checkpoints/latest")
    assert torch.equal(ours(imu, valid), theirs(imu, valid))
    assert ours.config == theirs.config


def test_a_damaged_onnx_file_would_be_noticed(small, exported):
    encoder = load_encoder(exported)
    assert onnx_difference(encoder, exported / "encoder.onnx") < 1e-6
    with torch.no_grad():
        next(encoder.parameters()).mul_(1.01)
    assert onnx_difference(encoder, exported / "encoder.onnx") > 1e-3


def test_the_model_card_says_what_it_is(exported):
    card = (exported / "README.md").read_text()
    encoder = load_encoder(exported)
    for text in (
        "# mine",
        "2 s at 25 Hz (50 samples)",
        "trained on wrist, head",
        "median of 5 samples, z-score by window",
        f"[windows, {encoder.feature_dim}]",
        "| dataset | walks |",
        "| train_subjects | 2 |",
        "train/loss 0.25.",
        "On HAPT it is better than a random one.",
        "No medical device",
    ):
        assert text in card, text
    assert "a1" not in card
    assert "{" not in card.replace('{"imu": imu, "valid": valid}', "")


def test_the_code_of_the_model_card_runs(exported, monkeypatch):
    card = (exported / "README.md").read_text()
    imu, valid = window()
    windows = imu[:, :, 0].numpy()
    monkeypatch.chdir(exported.parent)
    blocks = [part.partition("```")[0] for part in card.split("```python\n")[1:]]
    assert len(blocks) == 3
    names = {"imu": imu, "valid": valid, "windows": windows}
    exec(blocks[0], names)
    in_torch = names["features"]
    names |= {"imu": imu.numpy(), "valid": valid.numpy()}
    exec(blocks[1], names)
    assert np.allclose(names["features"], in_torch.numpy(), atol=1e-4)
    exec(blocks[2], names)


PROGRAM = """
import sys
import numpy as np
import imuvid
assert "torch" not in sys.modules  # the command line's help needs none
encoder = imuvid.load_encoder(sys.argv[1])
import torch
features = encoder(torch.ones(2, 50, 1, 6), torch.ones(2, 50, 1, 2, dtype=torch.bool))
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1] + "/encoder.onnx")
again, = session.run(["features"], {"imu": np.ones((2, 50, 1, 6), np.float32), "valid": np.ones((2, 50, 1, 2), bool)})
assert np.allclose(features, again, atol=1e-4)
from imuvid.sklearn import ImuFeatures
assert ImuFeatures(sys.argv[1]).fit_transform(np.ones((2, 50, 6))).shape == again.shape
training = {"deepspeed", "ray", "decord", "av", "webdataset", "tensorboard", "shards", "launcher", "peft"}
print(sorted(training & {name.partition(".")[0] for name in sys.modules}))
"""


def test_no_package_of_the_training_is_imported(exported):
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(exported)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


def test_mistakes_are_one_line(small, exported, tmp_path, monkeypatch):
    def refused(*arguments) -> str:
        with pytest.raises(UserError) as caught:
            export_encoder(*arguments)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "is not an empty folder" in refused(small / "checkpoints/latest", exported)
    assert "no encoder there" in refused(tmp_path, tmp_path / "out")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert "pip install 'imuvid[onnx]'" in refused(small / "checkpoints/latest", tmp_path / "out")
