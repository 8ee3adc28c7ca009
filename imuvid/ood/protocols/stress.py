"""Probes trained on windows as they are, tested on windows that were tampered with."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from imuvid.ood.datasets.base import Windows
from imuvid.ood.names import HANDMADE, LINEAR, PRETRAINED, RANDOM
from imuvid.ood.probes import apply_probe
from imuvid.ood.protocols.folds import Fold
from imuvid.ood.protocols.task import Block, Task
from imuvid.ood.stress import chosen_stressors, stress, usable_severities


def stressed(task: Task, fold: Fold) -> Iterator[Block]:
    """Yield the scores of linear probes on stressed test windows, and on the same windows as they are (severity 0).

    The first random-initialised encoder stands for all of them.
    """
    chosen = chosen_stressors(task.settings.stress)
    tested = np.intersect1d(fold.test, _sample(task))
    if not chosen or not len(tested):
        return
    windows, settings = task.windows, task.settings
    own = _rows(windows, tested)
    cases = [(name, 0.0, own) for name in chosen if usable_severities(windows, name, chosen[name])[0]]
    for name, wanted in chosen.items():
        for severity in usable_severities(windows, name, wanted)[0]:
            cases.append((name, severity, stress(own, name, severity, settings.seed)))
    for name in (PRETRAINED, RANDOM, HANDMADE):
        if name not in task.features:
            continue
        clean = task.features[name][0]
        tests = [
            task.representations[name].features(altered, 0) if severity else clean[tested]
            for _, severity, altered in cases
        ]
        # One probe serves all: it never sees what it is tested on.
        scores = apply_probe(
            LINEAR,
            clean[fold.train],
            windows.label[fold.train],
            np.concatenate(tests),
            len(windows.classes),
            settings.probe,
            seed=settings.seed,
        )
        for (stressor, severity, _), part in zip(cases, np.split(scores, len(cases)), strict=True):
            yield Block(name, LINEAR, fold.name, tested, part, stressor=stressor, severity=severity)


def stress_notes(task: Task) -> list[str]:
    """Return what a reader of the curves should know: what was left out, and on how many windows they are."""
    chosen = chosen_stressors(task.settings.stress)
    notes = [usable_severities(task.windows, name, severities)[1] for name, severities in chosen.items()]
    tested = sum(len(fold.test) for fold in task.folds)
    if chosen and tested > task.settings.stress.max_windows:
        notes.append(f"Stress curves are of {task.settings.stress.max_windows} of the {tested} test windows.")
    return [note for note in notes if note]


def _sample(task: Task) -> np.ndarray:
    """Return the test windows of all folds that are stressed, int64, drawn without looking at scores."""
    tested = np.unique(np.concatenate([fold.test for fold in task.folds]))
    drawn = np.random.default_rng([task.settings.seed, len(tested)]).permutation(tested)
    return np.sort(drawn[: task.settings.stress.max_windows])


def _rows(windows: Windows, rows: np.ndarray) -> Windows:
    per_window = ("imu", "valid", "label", "subject", "recording", "start_s")
    changes = {name: getattr(windows, name)[rows] for name in per_window}
    return dataclasses.replace(
        windows, domain={name: values[rows] for name, values in windows.domain.items()}, **changes
    )
