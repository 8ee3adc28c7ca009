"""Maps of the feature space: each window a point, near others that the encoder takes for alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from imuvid.ood.names import PRETRAINED
from imuvid.ood.protocols.task import Task

MAX_POINTS = 600
"""Windows on a map; more cannot be told apart, and t-SNE takes its time."""
DIMENSIONS = 30
"""Principal components that t-SNE starts from, as its authors did (van der Maaten and Hinton 2008)."""


def embedding_maps(tasks: Sequence[Task], seed: int) -> dict[str, dict[str, Any]]:
    """Return, by task, a map of its test windows by the pretrained encoder; one for each data set.

    Labels do not enter where a point lies.

    Args:
        tasks: with the features of their windows.
        seed: of the choice of windows and of t-SNE.

    Returns:
        dicts with ``points`` (PCA and t-SNE to n pairs) and ``colours`` (class, subject and domains to n names).
    """
    maps: dict[str, dict[str, Any]] = {}
    seen: set[str] = set()
    for task in tasks:
        windows = task.windows
        if PRETRAINED not in task.features or windows.name in seen:
            continue
        seen.add(windows.name)
        tested = np.unique(np.concatenate([fold.test for fold in task.folds]))
        chosen = np.sort(np.random.default_rng([seed, len(tested)]).permutation(tested)[:MAX_POINTS])
        if len(chosen) < 10:
            continue
        colours = {"class": np.array(windows.classes)[windows.label[chosen]], "subject": windows.subject[chosen]}
        colours |= {name: values[chosen] for name, values in windows.domain.items()}
        maps[task.key] = {
            "points": _points(task.features[PRETRAINED][0][chosen], seed),
            # A colour that all points share, or each has for itself, says nothing.
            "colours": {
                name: values.tolist()
                for name, values in colours.items()
                if name in ("class", "subject") or 1 < len(set(values.tolist())) < len(chosen) / 4
            },
        }
    return maps


def _points(features: np.ndarray, seed: int) -> dict[str, list[list[float]]]:
    scale = features.std(axis=0)
    standardised = (features - features.mean(axis=0)) / np.where(scale > 1e-6, scale, np.inf)
    size = min(DIMENSIONS, *standardised.shape)
    components = PCA(size, svd_solver="full", random_state=seed).fit_transform(standardised.astype(np.float64))
    perplexity = min(30.0, (len(features) - 1) / 3)
    spread = TSNE(2, perplexity=perplexity, init=components[:, :2] * 1e-4, random_state=seed).fit_transform(components)
    return {"PCA": components[:, :2].round(4).tolist(), "t-SNE": np.asarray(spread, float).round(4).tolist()}
