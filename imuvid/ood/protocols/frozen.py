"""Probes on representations that stay as they are, on all training windows and on few, with the baselines beside."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from imuvid.ood.names import (
    FIXED,
    FOREST,
    HANDMADE,
    KNN,
    LINEAR,
    MAJORITY,
    NONE,
    ORACLE,
    PRETRAINED,
    RANDOM,
    RAW,
)
from imuvid.ood.probes import apply_probe, candidates_of, choose_oracle, choose_setting
from imuvid.ood.protocols.folds import Fold
from imuvid.ood.protocols.task import Block, Task

PAIRS = (
    (PRETRAINED, LINEAR),
    (PRETRAINED, KNN),
    (RANDOM, LINEAR),
    (RANDOM, KNN),
    (HANDMADE, LINEAR),
    (HANDMADE, FOREST),
    (RAW, KNN),
)
"""Representations and the probes on them."""


def frozen(task: Task, fold: Fold) -> Iterator[Block]:
    """Yield the scores of the majority class and of every probe: on all training windows, then on k per class."""
    windows, settings = task.windows, task.settings
    label, num_classes = windows.label, len(windows.classes)
    majority = np.zeros((len(fold.test), num_classes), np.float32)
    majority[:, np.bincount(label[fold.train], minlength=num_classes).argmax()] = 1.0
    yield Block(NONE, MAJORITY, fold.name, fold.test, majority)
    pairs = [pair for pair in PAIRS if pair[0] in task.features]
    for representation, probe in pairs:
        for draw, array in enumerate(task.features[representation]):
            for rule in settings.probe.selection:
                scores = _scores(task, fold, array, probe, rule)
                yield Block(representation, probe, fold.name, fold.test, scores, draw=draw, selection=rule)
    for draw, chosen in enumerate(task.draws(fold)):
        for k in task.usable_shots:
            train = np.concatenate([members[:k] for members in chosen.values()])
            yield from probe_by_shots(task, fold, k, draw, train)


def probe_by_shots(task: Task, fold: Fold, k: int, draw: int, train: np.ndarray) -> Iterator[Block]:
    """Yield the scores of every probe trained on the k windows per class ``train`` int64 [k K]."""
    windows, config = task.windows, task.settings.probe
    for representation, probe in PAIRS:
        if representation not in task.features:
            continue
        arrays = task.features[representation]
        array = arrays[draw % len(arrays)]
        scores = apply_probe(
            probe,
            array[train],
            windows.label[train],
            array[fold.test],
            len(windows.classes),
            config,
            reference=array[fold.train] if config.standardise_by == "unlabelled" else None,
            seed=task.settings.seed + draw,
        )
        yield Block(representation, probe, fold.name, fold.test, scores, shots=k, draw=draw)


def _scores(task: Task, fold: Fold, array: np.ndarray, probe: str, rule: str) -> np.ndarray:
    """Return the scores of a probe on all training windows whose setting is chosen by ``rule``."""
    windows, config, seed = task.windows, task.settings.probe, task.settings.seed
    train, label, test = array[fold.train], windows.label[fold.train], array[fold.test]
    num_classes = len(windows.classes)
    if rule == ORACLE:
        tried = [
            apply_probe(probe, train, label, test, num_classes, config, setting, seed=seed)
            for setting in candidates_of(probe, config)
        ]
        return tried[choose_oracle(windows.label[fold.test], tried)]
    setting = None
    if rule != FIXED:
        domain = np.full(len(label), "") if task.domain is None else task.domain[fold.train]
        setting = choose_setting(probe, rule, train, label, windows.subject[fold.train], domain, config, seed)
    return apply_probe(probe, train, label, test, num_classes, config, setting, seed=seed)
