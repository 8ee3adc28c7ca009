"""Encoders that are trained further with labels, and the same architecture trained from scratch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from imuvid.ood.embedding import conditioned
from imuvid.ood.finetune import train_and_score
from imuvid.ood.names import FINETUNE, PRETRAINED, RANDOM
from imuvid.ood.protocols.folds import Fold, draw_shots
from imuvid.ood.protocols.task import Block, Task
from imuvid.ood.representations import EncoderRepresentation


def finetuned(task: Task, fold: Fold) -> Iterator[Block]:
    """Yield the scores of encoders trained with their labels: from their pretraining, and from scratch."""
    settings = task.settings
    config = settings.finetune
    if config.steps == 0:
        return
    for seed in range(config.seeds):
        yield from train_by_shots(task, fold, None, seed, fold.train)
    kept = [k for k in sorted(set(config.shots)) if k <= task.available_shots]
    for draw, chosen in enumerate(
        draw_shots(task.windows.label, fold, max(kept, default=0), settings.num_draws, settings.seed)
    ):
        for k in kept:
            yield from train_by_shots(task, fold, k, draw, np.concatenate([members[:k] for members in chosen.values()]))


def train_by_shots(task: Task, fold: Fold, k: int | None, draw: int, train: np.ndarray) -> Iterator[Block]:
    """Yield the scores of both encoders trained on the windows ``train`` int64 [M], k per class or None for all."""
    config, seed = task.settings.finetune, task.settings.seed
    for name, lr in ((PRETRAINED, config.encoder_lr), (RANDOM, config.lr)):
        representation = task.representations.get(name)
        if not isinstance(representation, EncoderRepresentation):
            continue
        which = draw % representation.num_draws
        encoder = representation.encoders[which]
        windows = conditioned(task.windows, encoder.config.condition)
        scores = train_and_score(
            encoder,
            windows,
            task.features[name][which][fold.train],
            train,
            fold.test,
            config,
            lr,
            seed + draw,
            representation.device,
            representation.sensors,
            representation.batch_size,
        )
        yield Block(name, FINETUNE, fold.name, fold.test, scores, shots=k, draw=draw)
