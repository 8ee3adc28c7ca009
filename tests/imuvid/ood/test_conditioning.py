"""What an encoder's windows went through in pretraining, those of an evaluation go through as well."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from scipy import stats

from imuvid.data.shard_dataset import ShardDataset
from imuvid.data.stream import evaluation_batches
from imuvid.imu.condition import ConditionConfig
from imuvid.models.encoder import EncoderConfig, load_encoder, random_encoder
from imuvid.models.towers import ImuTowerConfig
from imuvid.ood.config import OODConfig
from imuvid.ood.datasets.base import Windows
from imuvid.ood.datasets.hapt import HAPTConfig
from imuvid.ood.embedding import conditioned, embed
from imuvid.ood.job import evaluate
from imuvid.ood.predictions import read_predictions
from imuvid.ood.protocols.folds import ProtocolConfig
from tests.imuvid.ood.fakes import write_encoder, write_hapt

CONDITIONS = [ConditionConfig(5, "none"), ConditionConfig(1, "window"), ConditionConfig(5, "recording")]


def windows_of(dataset: ShardDataset, samples: list[int]) -> Windows:
    examples = [dataset.example(sample) for sample in samples]
    text, zeros = np.array(["s"] * len(samples)), np.zeros(len(samples))
    return Windows(
        name="tiny",
        imu=np.stack([example.imu for example in examples]),
        valid=np.stack([example.valid for example in examples]),
        label=zeros.astype(np.int64),
        subject=text,
        recording=np.array([dataset.recordings[sample] for sample in samples]),
        start_s=zeros,
        classes=["a"],
        positions=["wrist"],
        rate_hz=20.0,
    )


@pytest.mark.parametrize("condition", CONDITIONS, ids=str)
def test_windows_give_the_features_that_they_had_in_pretraining(tiny_dataset, condition):
    dataset = ShardDataset(tiny_dataset, "val")
    order = [5, 0, 3, 1, 4, 2, *range(6, 12)]  # the windows of a recording need not be neighbours
    encoder = random_encoder(EncoderConfig(ImuTowerConfig(), 20.0, 1.0, ["wrist"], condition), 0)
    [batch] = evaluation_batches(dataset, order, 12, condition)
    with torch.inference_mode():
        expected = encoder(batch.imu, batch.valid).numpy()
    windows = windows_of(dataset, order)
    cpu = torch.device("cpu")
    features = embed(encoder, conditioned(windows, condition), 5, cpu)
    assert features == pytest.approx(expected, abs=1e-4)
    assert embed(encoder, windows, 5, cpu) != pytest.approx(expected, abs=1e-2)


def test_recordings_are_normalised_apart(tiny_dataset):
    windows = windows_of(ShardDataset(tiny_dataset, "val"), list(range(12)))
    windows = dataclasses.replace(windows, recording=np.repeat(["a", "b"], [3, 9]))
    seen = conditioned(windows, ConditionConfig(normalise="recording")).imu / ([9.80665] * 3 + [3.0] * 3)
    for rows in (slice(0, 3), slice(3, 12)):
        expected = stats.zscore(windows.imu[rows].reshape(-1, 1, 6).astype(np.float64))
        assert seen[rows].reshape(-1, 1, 6) == pytest.approx(expected, abs=1e-4)


def test_the_report_says_it_and_the_features_of_experts_are_of_si_units(tmp_path):
    write_hapt(tmp_path / "hapt")
    split = ProtocolConfig("subject-split", ["1", "2", "3", "4"], ["5", "6"])
    config = OODConfig(datasets=["hapt"], hapt=HAPTConfig(str(tmp_path / "hapt"), protocol=split), shots=[5])
    config = dataclasses.replace(config, num_draws=1, num_bootstrap=20, device="cpu")
    scores, reports = {}, {}
    for name, condition in {"si": ConditionConfig(), "recording": ConditionConfig(5, "recording")}.items():
        checkpoint = write_encoder(tmp_path / name)
        path = checkpoint / "encoder/config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"condition": dataclasses.asdict(condition)}))
        assert load_encoder(checkpoint).config.condition == condition
        result = evaluate(checkpoint, config)
        reports[name] = (result.report, result.html.read_text())
        rows = read_predictions(result.out / "predictions.parquet").to_pylist()
        for method in ("pretrained", "random", "handmade"):
            scores[name, method] = np.array(
                [row["scores"] for row in rows if row["representation"] == method and row["probe"] == "linear"]
            )
    assert (scores["si", "handmade"] == scores["recording", "handmade"]).all()
    for method in ("pretrained", "random"):
        assert np.abs(scores["si", method] - scores["recording", method]).max() > 0.01
    report, page = reports["recording"]
    assert report["encoder"]["condition"] == {"median_samples": 5, "normalise": "recording"}
    assert "median_samples: 5, normalise: recording" in page
    assert any(
        "normalised by the mean and deviation" in note for note in report["tasks"]["hapt/subject-split"]["notes"]
    )
    assert not any("normalised by" in note for note in reports["si"][0]["tasks"]["hapt/subject-split"]["notes"])
