"""A pretraining with narrations: windows without one take no part, and its checkpoint tells windows apart by words."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import imuvid
from imuvid.data.shard_dataset import ShardDataset
from imuvid.data.stream import DataConfig, training_stream
from imuvid.errors import UserError
from imuvid.models.text_tokens import load_tokenizer
from imuvid.models.two_tower import ModelConfig, TwoTower
from imuvid.objectives.build import ObjectiveConfig
from tests.imuvid.models.small import TEXT, write_tokenizer
from tests.imuvid.training.jobs import Job, train
from tests.tiny_dataset import write_tiny_dataset


def test_narrations_reach_the_objective_as_numbers(tmp_path):
    dataset = ShardDataset(write_tiny_dataset(tmp_path / "data", narrated=True), "train")
    text = dataclasses.replace(
        TEXT, clip=dataclasses.replace(TEXT.clip, tokenizer=str(write_tokenizer(tmp_path)), max_tokens=24)
    )
    tokenizer = load_tokenizer(text)
    config = DataConfig(batch_size=8, num_workers=1)
    batch = next(training_stream(dataset, config, 0, 0, 1, 0, False, tokenizer))
    for sample, row in zip(batch.sample.tolist(), batch.text, strict=True):
        assert row.tolist() == tokenizer(dataset.read(sample).meta.text).tolist()
    assert 0 < (batch.text >= 0).any(1).sum() < 8
    model = TwoTower(ModelConfig(text_tower=text, objective=ObjectiveConfig(kind="infonce_imu_text")))
    views = model.views(batch)
    assert set(views.differentiable()) == {"imu", "text"}
    assert views.has_text.tolist() == [dataset.read(sample).meta.text is not None for sample in batch.sample.tolist()]
    same_text = batch.text[:, None].eq(batch.text).all(2)
    assert torch.equal(views.text_number[:, None] == views.text_number, same_text)
    assert not same_text.all()
    # What the tower makes of a window without a narration changes neither loss nor gradient.
    loss, _ = model.objective(views)
    changed = dataclasses.replace(views, text=torch.where(views.has_text[:, None], views.text, 7.0))
    assert model.objective(changed)[0].item() == loss.item()


def test_a_text_tower_and_its_objective_come_together():
    with pytest.raises(UserError, match="no objective contrasts with text: add one"):
        TwoTower(ModelConfig(text_tower=TEXT))
    with pytest.raises(UserError, match=r"model\.text_tower\.kind=none, but an objective contrasts with text"):
        TwoTower(ModelConfig(objective=ObjectiveConfig(extra={"infonce_video_text": 1.0})))


@pytest.mark.slow
def test_words_tell_windows_apart_that_were_not_trained_on(tmp_path):
    data = write_tiny_dataset(tmp_path / "data", num_train=88, num_val=40, narrated=True)
    write_tokenizer(tmp_path / "tokenizer")
    clip = "model.text_tower.clip"
    words = [
        f"data.path={data}",
        f"runs_dir={tmp_path}",
        "name=run",
        "data.batch_size=16",
        "model.text_tower.kind=clip",
    ]
    words += [f"{clip}.{key}={value}" for key, value in {**vars(TEXT.clip), "max_tokens": 24}.items() if value]
    words += [f"{clip}.tokenizer={tmp_path / 'tokenizer'}", "model.objective.extra={infonce_imu_text: 1.0}"]
    words += ["train.epochs=8", "train.validate_every_epochs=8", "optimizer.lr=0.01", "engine.zero_stage=3"]
    [outcome] = train(tmp_path, 2, [Job(words)])
    assert outcome.finished, outcome.error
    checkpoint = tmp_path / "run" / "checkpoints" / "latest"
    encoder, text = imuvid.load_encoder(checkpoint), imuvid.load_text_encoder(checkpoint)
    assert text.config.provenance["objective"] == "sigmoid + infonce_imu_text"
    held_out = ShardDataset(data, "val")
    imu, valid = (
        torch.from_numpy(np.stack([getattr(held_out.read(i), name) for i in range(len(held_out))]))
        for name in ("imu", "valid")
    )
    classes = ["strong", "weak"]
    scores = text.project(encoder(imu, valid)) @ text.embed([f"A {label} movement." for label in classes]).T
    right = [classes[guess] == label for guess, label in zip(scores.argmax(1).tolist(), held_out.labels, strict=True)]
    assert np.mean(right) > 0.85
