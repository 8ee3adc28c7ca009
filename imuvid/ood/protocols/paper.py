"""The few-shot protocol of Cheshmi et al. (MLHC 2025, section 4): windows of a person may train and test.

Each draw takes 20 windows of each class to test and 10, 20, 50 or 100 others to train, whoever they are of. Windows of
one recording lie on both sides, so the scores say little of new people: the report marks them, and the strict protocol
of the data set stands beside.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from imuvid.ood.protocols.finetune import train_by_shots
from imuvid.ood.protocols.folds import Fold
from imuvid.ood.protocols.frozen import probe_by_shots
from imuvid.ood.protocols.task import Block, Task

PROTOCOL = "paper"
PREFIX = "draw-"
SHOTS = (10, 20, 50, 100)
LEAKY_NOTE = (
    "LEAKY PROTOCOL: windows of the same people and recordings train and test; it is here to compare with numbers "
    "that were published that way."
)
NUM_TEST = 20
"""Test windows of each class."""


def paper_folds(label: np.ndarray, num_draws: int, seed: int) -> list[Fold]:
    """Return one fold a draw: per class 20 test windows and up to 100 training windows, in drawn order.

    Args:
        label: int [N].
        num_draws: folds.
        seed: of the draws.

    Returns:
        none where a class has fewer than 30 windows.
    """
    kinds = np.unique(label)
    if np.bincount(label)[kinds].min() < NUM_TEST + min(SHOTS):
        return []
    folds = []
    for draw in range(num_draws):
        train, test = [], []
        for kind in kinds.tolist():
            order = np.random.default_rng([seed, draw, kind, NUM_TEST]).permutation(np.flatnonzero(label == kind))
            test.append(order[:NUM_TEST])
            train.append(order[NUM_TEST : NUM_TEST + max(SHOTS)])
        folds.append(Fold(f"{PREFIX}{draw}", np.concatenate(train), np.concatenate(test)))
    return folds


def few_shot(task: Task, fold: Fold) -> Iterator[Block]:
    """Yield the scores of probes, and of fine-tuning at the shots of its settings, on 10 to 100 windows per class."""
    draw = int(fold.name.removeprefix(PREFIX))
    (members,) = task.draws(fold)
    for k in task.usable_shots:
        train = np.concatenate([rows[:k] for rows in members.values()])
        yield from probe_by_shots(task, fold, k, draw, train)
        if k in task.settings.finetune.shots:
            yield from train_by_shots(task, fold, k, draw, train)
