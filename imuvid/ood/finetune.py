"""Full fine-tuning of an encoder with labels, and the same training from scratch: the supervised baseline."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from imuvid.errors import UserError
from imuvid.models.encoder import Encoder
from imuvid.ood.datasets.base import Windows


@dataclass
class FinetuneConfig:
    """Training of all weights of an encoder with a linear classifier on it: AdamW, cosine, balanced batches."""

    steps: int = 150
    """Updates; 0: neither fine-tuning nor training from scratch."""
    batch_size: int = 32
    """Windows an update, classes drawn equally."""
    lr: float = 1e-3
    """Learning rate of the classifier, and of an encoder that is trained from scratch."""
    encoder_lr: float = 1e-4
    """Learning rate of a pretrained encoder."""
    weight_decay: float = 0.01
    """Of AdamW, on matrices."""
    shots: list[int] = field(default_factory=list)
    """Numbers of training windows per class at which it is also done; each costs as much as all windows, per draw."""
    seeds: int = 1
    """Trainings on all windows, each with its own order (and from scratch, its own initialisation)."""

    def check(self) -> None:
        """Raise UserError where a setting cannot be."""
        if self.steps < 0 or min(self.batch_size, self.seeds, self.lr, self.encoder_lr, *self.shots, 1) <= 0:
            raise UserError(
                "finetune: batch_size, lr, encoder_lr, shots and seeds must be greater than 0, steps not less"
            )


class Classifier(nn.Module):
    """An encoder, its features standardised as they were at the start, and a linear layer.

    Args:
        encoder: trained with the layer.
        features: float32 [N, D] of the training windows at the start.
        num_classes: K.
        positions: of the P sensors.
        sensors: apart or together.
    """

    def __init__(self, encoder: Encoder, features: np.ndarray, num_classes: int, positions: list[str], sensors: str):
        super().__init__()
        self.centre: Tensor
        self.scale: Tensor
        self.encoder, self.positions, self.apart = encoder, positions, sensors == "apart"
        spread = features.std(axis=0)
        spread = np.where(spread > 1e-6 * (1 + np.abs(features.mean(axis=0))), spread, np.inf)
        self.register_buffer("centre", torch.from_numpy(features.mean(axis=0).astype(np.float32)))
        self.register_buffer("scale", torch.from_numpy((1 / spread).astype(np.float32)))
        self.layer = nn.Linear(features.shape[1], num_classes)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, imu: Tensor, valid: Tensor) -> Tensor:
        """Map imu float32 [B, T, P, 6] and valid bool [B, T, P, 2] to logits float32 [B, K]."""
        num = len(self.positions)
        groups = [slice(p, p + 1) for p in range(num)] if self.apart else [slice(None)]
        parts = []
        for group in groups:
            self.encoder.tower.wear(self.positions[group])
            parts.append(self.encoder(imu[:, :, group], valid[:, :, group]))
        return self.layer((torch.cat(parts, dim=1) - self.centre) * self.scale)


def train_and_score(
    encoder: Encoder,
    windows: Windows,
    start: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    config: FinetuneConfig,
    encoder_lr: float,
    seed: int,
    device: torch.device,
    sensors: str,
    batch_size: int,
) -> np.ndarray:
    """Train a copy of an encoder and return the class probabilities of the test windows, float32 [M, K].

    Args:
        encoder: the start; not changed.
        windows: conditioned as the encoder wants them.
        start: float32 [R, D], its features of windows that are not test windows.
        train: int64 [N], windows that are trained on.
        test: int64 [M].
        config: of the training.
        encoder_lr: learning rate of the encoder.
        seed: of the order of the windows and of dropout.
        device: where it is trained.
        sensors: apart or together.
        batch_size: test windows at once.
    """
    num_classes = len(windows.classes)
    encoder = copy.deepcopy(encoder).freeze(False)
    rng = np.random.default_rng([seed, len(train)])
    members = [train[windows.label[train] == kind] for kind in np.unique(windows.label[train])]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Classifier(encoder, start, num_classes, windows.positions, sensors).to(device)
        trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "lr": encoder_lr},
            {"params": [p for p in trained if p.ndim <= 1], "lr": encoder_lr, "weight_decay": 0.0},
            {"params": list(model.layer.parameters()), "lr": config.lr},
        ]
        optimizer = torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=config.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
        model.train()
        for _ in range(config.steps):
            kinds = rng.integers(0, len(members), config.batch_size)
            rows = np.array([rng.choice(members[kind]) for kind in kinds])
            imu, valid = (torch.from_numpy(array[rows]).to(device) for array in (windows.imu, windows.valid))
            logits = model(imu, valid)
            loss = nn.functional.cross_entropy(logits, torch.from_numpy(windows.label[rows]).to(device))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    # A class without a training window must not get a share: its logit was never pulled down.
    absent = np.setdiff1d(np.arange(num_classes), np.unique(windows.label[train]))
    return _scores(model.eval(), windows, test, absent, device, batch_size)


@torch.inference_mode()
def _scores(
    model: Classifier, windows: Windows, test: np.ndarray, absent: np.ndarray, device: torch.device, batch_size: int
) -> np.ndarray:
    parts = []
    for begin in range(0, len(test), batch_size):
        rows = test[begin : begin + batch_size]
        imu, valid = (torch.from_numpy(array[rows]) for array in (windows.imu, windows.valid))
        logits = model(imu.to(device), valid.to(device))
        logits[:, absent] = -torch.inf
        parts.append(logits.float().softmax(dim=1).cpu().numpy())
    return np.concatenate(parts)
