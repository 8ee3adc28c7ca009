"""What a protocol is given and what it returns: windows, folds and representations in, blocks of predictions out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from imuvid.errors import UserError
from imuvid.ood.datasets.base import Windows
from imuvid.ood.names import FIXED
from imuvid.ood.protocols.folds import Fold, draw_shots
from imuvid.ood.settings import EvaluationSettings


class Representation(Protocol):
    """What turns windows into vectors: an encoder, hand-made features, or the signal as it is."""

    @property
    def name(self) -> str:
        """Return pretrained, random, handmade or raw."""
        ...

    @property
    def num_draws(self) -> int:
        """Return how many of them there are: random encoders come one a draw, all else once."""
        ...

    def features(self, windows: Windows, draw: int) -> np.ndarray:
        """Return float32 [N, D] of the windows, in their order. D is a multiple of the number of positions P, and
        the features of a position stand together, in the order of the positions."""
        ...


@dataclass
class Task:
    """One data set (or several joined) under one protocol."""

    windows: Windows
    protocol: str
    """Name of the protocol, which every result carries."""
    folds: list[Fold]
    representations: dict[str, Representation]
    """By name: for windows other than the task's own, such as those of a stress test."""
    features: dict[str, list[np.ndarray]]
    """By name of the representation: of the task's windows, one float32 [N, D] a draw."""
    settings: EvaluationSettings
    evaluators: list[str]
    """Which functions of the registry are run on each fold, in order."""
    strict: bool = True
    """No test subject is trained on."""
    domain: np.ndarray | None = None
    """str [N]: the domain that leave-one-domain-out goes by; None where the protocol leaves out no domain."""
    drawn: bool = False
    """The training windows of a fold are themselves one draw of shots, class by class in drawn order."""
    notes: list[str] = field(default_factory=list)
    """Sentences for the report."""

    @property
    def key(self) -> str:
        """Name of the task in report.json and draws.json: ``DATASET/PROTOCOL``."""
        return f"{self.windows.name}/{self.protocol}"

    @functools.cached_property
    def class_counts(self) -> np.ndarray:
        """Training windows of each class, int64 [folds, K]."""
        label, num_classes = self.windows.label, len(self.windows.classes)
        return np.stack([np.bincount(label[fold.train], minlength=num_classes) for fold in self.folds])

    @property
    def available_shots(self) -> int:
        """Training windows of the smallest class of any fold, of those that have any."""
        return int(self.class_counts[self.class_counts > 0].min())

    @property
    def usable_shots(self) -> list[int]:
        """The numbers of shots that every class of every fold has, in increasing order."""
        return [k for k in sorted(set(self.settings.shots)) if k <= self.available_shots]

    def draws(self, fold: Fold) -> list[dict[int, np.ndarray]]:
        """Return the draws of shots of a fold, as of :func:`draw_shots`, up to the largest usable number of shots."""
        label, settings = self.windows.label, self.settings
        if self.drawn:
            kinds = np.unique(label[fold.train]).tolist()
            return [{kind: fold.train[label[fold.train] == kind] for kind in kinds}]
        return draw_shots(label, fold, max(self.usable_shots, default=0), settings.num_draws, settings.seed)


@dataclass(frozen=True)
class Block:
    """Scores of some test windows by one method, trained once."""

    representation: str
    probe: str
    fold: str
    test: np.ndarray
    """int64 [M], indices of windows of the task."""
    scores: np.ndarray
    """float32 [M, K], one a class; the highest is the prediction."""
    shots: int | None = None
    """Training windows per class; None: all of them."""
    draw: int = 0
    """Of the shots, and of the random encoder."""
    selection: str = FIXED
    """How settings were chosen: fixed, source-validation, lodo-cv or oracle."""
    stressor: str = ""
    """What was done to the test windows; empty: nothing."""
    severity: float = 0.0
    """How much of it, in the stressor's own unit; 0: nothing."""


Evaluator = Callable[[Task, Fold], Iterator[Block]]
"""A pure function of a task and one of its folds: the folds of a task can be run in any order, in any process."""


def check_task(task: Task) -> list[str]:
    """Return what a reader should know of the folds of a task, one sentence each.

    Raises:
        UserError: the training windows of a fold are of one class only.
    """
    notes = []
    for fold, count in zip(task.folds, task.class_counts, strict=True):
        if (count > 0).sum() < 2:
            raise UserError(f"{task.windows.name}: the training windows of fold {fold.name} are all of one class")
        absent = [name for name, number in zip(task.windows.classes, count, strict=True) if not number]
        notes += [f"Fold {fold.name} has no training window of class {name}." for name in absent]
    for k in sorted(set(task.settings.shots) - set(task.usable_shots)):
        notes.append(f"{k} shots are left out: a class has only {task.available_shots} training windows.")
    return notes


def published_draws(task: Task) -> dict[str, list[dict[str, list[str]]]]:
    """Return the names of the drawn windows: fold to draw to class, in order: k shots are the first k."""
    windows, ids = task.windows, task.windows.ids
    return {
        fold.name: [
            {windows.classes[kind]: ids[chosen].tolist() for kind, chosen in draw.items()} for draw in task.draws(fold)
        ]
        for fold in task.folds
    }
