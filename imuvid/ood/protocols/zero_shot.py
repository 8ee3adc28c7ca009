"""Classification without a labelled IMU window: by words, by video of source recordings, by video of the target.

The three are kept apart: words ask for nothing, source video for labelled recordings of other places, target video (the
"zero-shot" of Cheshmi et al., MLHC 2025, section 3.3) for labelled video of the very data set that is tested, though
here never of the people who are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from imuvid.ood.datasets.common_labels import common_label
from imuvid.ood.names import PRETRAINED
from imuvid.ood.protocols.folds import Fold
from imuvid.ood.protocols.task import Block, Task

TEXT, SOURCE_VIDEO, TARGET_VIDEO = "zero-shot-text", "zero-shot-source-video", "zero-shot-target-video"
TEMPERATURE = 0.07
"""Of the softmax over similarities; it orders nothing anew."""


@dataclass
class ZeroShot:
    """What stands for the windows and for the classes of a task in a shared space; None where there is none."""

    text: tuple[np.ndarray, np.ndarray] | None = None
    """Unit embeddings of the windows float32 [N, E] and of one text a class [K, E], in the space of IMU and text."""
    imu: np.ndarray | None = None
    """Unit embeddings of the windows, float32 [N, E], in the space of IMU and video."""
    source: np.ndarray | None = None
    """float32 [K, E]: mean of the source's clips of each class, unit length."""
    video: np.ndarray | None = None
    """Unit embeddings of the windows' own clips, float32 [N, E]; NaN where a window has none."""


def zero_shot(task: Task, fold: Fold, given: ZeroShot) -> Iterator[Block]:
    """Yield the scores of each kind that there is what it takes for."""
    label, num_classes = task.windows.label, len(task.windows.classes)
    if given.text is not None:
        imu, texts = given.text
        yield Block(PRETRAINED, TEXT, fold.name, fold.test, _scores(imu[fold.test], texts))
    if given.imu is None:
        return
    if given.source is not None:
        yield Block(PRETRAINED, SOURCE_VIDEO, fold.name, fold.test, _scores(given.imu[fold.test], given.source))
    if given.video is not None:
        rows = fold.train[~np.isnan(given.video[fold.train]).any(axis=1)]
        if len(np.unique(label[rows])) == num_classes:
            prototypes = mean_by_class(given.video[rows], label[rows], num_classes)
            yield Block(PRETRAINED, TARGET_VIDEO, fold.name, fold.test, _scores(given.imu[fold.test], prototypes))


def mean_by_class(embeddings: np.ndarray, label: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the mean of the embeddings [N, E] of each class, unit length: float32 [K, E]; every class must occur."""
    means = np.stack([embeddings[label == kind].mean(axis=0) for kind in range(num_classes)])
    return (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)


def source_prototypes(classes: list[str], names: np.ndarray, video: np.ndarray) -> tuple[np.ndarray | None, list[str]]:
    """Return the prototypes of classes from labelled clips, and the classes that have none.

    A clip belongs to a class if its label is the same, or the same common activity.

    Args:
        classes: K names.
        names: str [N], label of each clip; empty where unlabelled.
        video: float32 [N, E], unit length.

    Returns:
        (None where a class has no clip, or float32 [K, E]; names of classes without a clip).
    """

    def same(a: str, b: str) -> bool:
        return a == b or (common_label(a) is not None and common_label(a) == common_label(b))

    members = [np.array([same(name, kind) for name in names.tolist()], bool) for kind in classes]
    missing = [kind for kind, chosen in zip(classes, members, strict=True) if not chosen.any()]
    if missing:
        return None, missing
    rows = [video[chosen].mean(axis=0) for chosen in members]
    return np.stack([row / np.linalg.norm(row) for row in rows]).astype(np.float32), []


def _scores(windows: np.ndarray, prototypes: np.ndarray) -> np.ndarray:
    logits = windows @ prototypes.T / TEMPERATURE
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
