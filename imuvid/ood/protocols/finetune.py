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
    settings, label = task.settings, task.windows.label
    config = settings.finetune
    if config.steps == 0:
        return
    kept = [k for k in sorted(set(config.shots)) if k <= task.available_shots]
    shots = draw_shots(label, fold, max(kept, default=0), settings.num_draws, settings.seed)
    for name in (PRETRAINED, RANDOM):
        representation = task.representations.get(name)
        if not isinstance(representation, EncoderRepresentation):
            continue
        windows = conditioned(task.windows, representation.encoders[0].config.condition)
        plan = [(None, draw, fold.train) for draw in range(config.seeds)]
        plan += [
            (k, draw, np.concatenate([members[:k] for members in chosen.values()]))
            for k in kept
            for draw, chosen in enumerate(shots)
        ]
        for k, draw, train in plan:
            which = draw % representation.num_draws
            start = task.features[name][which][fold.train]
            lr = config.encoder_lr if name == PRETRAINED else config.lr
            scores = train_and_score(
                representation.encoders[which],
                windows,
                start,
                train,
                fold.test,
                config,
                lr,
                settings.seed + draw,
                representation.device,
                representation.sensors,
                representation.batch_size,
            )
            yield Block(name, FINETUNE, fold.name, fold.test, scores, shots=k, draw=draw)
