"""Training of all weights: it learns, from training windows alone, and leaves the encoder as it was."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from imuvid.errors import UserError
from imuvid.models.encoder import EncoderConfig, random_encoder
from imuvid.models.towers import ImuTowerConfig
from imuvid.ood.datasets.base import Windows
from imuvid.ood.embedding import embed, weights_sha256
from imuvid.ood.finetune import FinetuneConfig, train_and_score
from imuvid.ood.protocols.folds import ProtocolConfig, make_folds
from imuvid.ood.protocols.registry import EVALUATORS
from imuvid.ood.protocols.task import Task
from imuvid.ood.representations import EncoderRepresentation
from imuvid.ood.settings import EvaluationSettings

CPU = torch.device("cpu")


def swings(num_subjects: int = 6, per_subject: int = 20, num_positions: int = 1) -> Windows:
    """Return windows of two classes that differ in how fast they swing about a random axis."""
    rng = np.random.default_rng(0)
    number, t = num_subjects * per_subject, np.arange(50) / 50
    label = np.tile([0, 1], number // 2)
    phase = rng.uniform(0, 6, (number, 1))
    wave = np.sin(2 * np.pi * (2 + 4 * label[:, None]) * t + phase)
    axis = rng.standard_normal((number, 1, 6))
    one = (wave[..., None] * axis * 3 + 0.5 * rng.standard_normal((number, 50, 6))).astype(np.float32)
    imu = np.repeat(one[:, :, None], num_positions, axis=2)
    subject = np.repeat([f"s{i}" for i in range(num_subjects)], per_subject)
    return Windows(
        name="toy",
        imu=imu,
        valid=np.ones((*imu.shape[:3], 2), bool),
        label=label,
        subject=subject,
        recording=subject,
        start_s=np.arange(number) * 1.0,
        classes=["slow", "fast"],
        positions=["waist", "left_wrist"][:num_positions],
        rate_hz=50.0,
    )


def encoder():
    return random_encoder(EncoderConfig(ImuTowerConfig(), 50.0, 1.0, ["waist"]), 0)


def run(windows: Windows, config: FinetuneConfig, seed: int = 0) -> np.ndarray:
    start = encoder()
    train, test = (
        np.flatnonzero(np.isin(windows.subject, names)) for names in (["s0", "s1", "s2", "s3"], ["s4", "s5"])
    )
    features = embed(start, windows, 64, CPU)[train]
    before = weights_sha256(start)
    scores = train_and_score(
        start, windows, features, train, test, config, config.lr, seed, CPU, "apart", batch_size=16
    )
    assert weights_sha256(start) == before
    assert not any(parameter.requires_grad for parameter in start.parameters())
    return scores


@pytest.mark.parametrize("num_positions", [1, 2])
def test_it_learns_what_a_random_encoder_does_not_show(num_positions):
    windows = swings(num_positions=num_positions)
    scores = run(windows, FinetuneConfig(steps=40))
    assert scores.sum(axis=1) == pytest.approx(np.ones(40), abs=1e-5)
    assert (scores.argmax(axis=1) == windows.label[-40:]).mean() > 0.9


def test_the_same_seed_gives_the_same_scores_and_test_labels_are_not_looked_at():
    windows, config = swings(), FinetuneConfig(steps=5)
    scores = run(windows, config)
    label = windows.label.copy()
    label[-40:] = 1 - label[-40:]
    np.testing.assert_array_equal(run(dataclasses.replace(windows, label=label), config), scores)
    assert np.abs(run(windows, config, seed=1) - scores).max() > 1e-4


def test_a_class_without_a_training_window_scores_nothing():
    windows = swings()
    windows.classes = ["slow", "fast", "rare"]
    windows.label[-1] = 2
    assert (run(windows, FinetuneConfig(steps=3))[:, 2] == 0).all()


def test_blocks_are_of_all_windows_and_of_shots_and_none_without_steps():
    windows = swings()
    representations = {
        "pretrained": EncoderRepresentation("pretrained", [encoder()], 64, CPU, "apart"),
        "random": EncoderRepresentation("random", [encoder()] * 2, 64, CPU, "apart"),
    }
    features = {
        name: [part.features(windows, draw) for draw in range(part.num_draws)] for name, part in representations.items()
    }
    folds = make_folds(windows.subject, ProtocolConfig("subject-split", ["s0", "s1"], ["s2"]), "toy")
    settings = EvaluationSettings(finetune=FinetuneConfig(steps=2, shots=[3, 500]), num_draws=2)
    task = Task(windows, "subject-split", folds, representations, features, settings, ["finetune"])
    blocks = list(EVALUATORS["finetune"](task, folds[0]))
    expected = [(None, 0), (3, 0), (3, 1)]
    assert [(b.representation, b.shots, b.draw) for b in blocks] == [
        (name, *plan) for plan in expected for name in ("pretrained", "random")
    ]
    settings.finetune.steps = 0
    assert list(EVALUATORS["finetune"](task, folds[0])) == []
    with pytest.raises(UserError, match="must be greater than 0"):
        FinetuneConfig(lr=0.0).check()
