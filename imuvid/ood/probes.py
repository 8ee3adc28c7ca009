"""Classifiers on representations that stay as they are: logistic regression, nearest neighbours, random forest."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from imuvid.errors import UserError
from imuvid.ood.names import FIXED, FOREST, KNN, LINEAR, LODO_CV, ORACLE, SOURCE_VALIDATION

SELECTIONS = (FIXED, SOURCE_VALIDATION, LODO_CV, ORACLE)
REFERENCES = ("unlabelled", "labelled")


@dataclass
class ProbeConfig:
    """Classifiers on frozen features and how their one setting is chosen."""

    selection: list[str] = field(default_factory=lambda: [FIXED])
    """Rules for the setting of the probes on all windows; the first is the headline's: fixed (as it stands),
    source-validation (by training subjects held out), lodo-cv (each domain, or else subject, of the training windows
    held out in turn), oracle (by the test windows themselves: a bound, never the headline)."""
    c: float = 0.1
    """Inverse strength of the L2 penalty of logistic regression; of the few-shot probes always."""
    candidates: list[float] = field(default_factory=lambda: [0.001, 0.01, 0.1, 1.0, 10.0])
    """Values of c that are chosen from."""
    neighbours: int = 5
    """Of kNN; with fewer training windows per class, as many as those."""
    neighbour_candidates: list[int] = field(default_factory=lambda: [1, 5, 20, 50])
    """Numbers of neighbours that are chosen from."""
    trees: int = 100
    """Of the random forest."""
    leaf: int = 1
    """Fewest windows in a leaf of a tree."""
    leaf_candidates: list[int] = field(default_factory=lambda: [1, 3, 10])
    """Sizes of leaves that are chosen from."""
    standardise_by: str = "unlabelled"
    """Windows whose mean and SD standardise the features: unlabelled (all windows of the training subjects, whose
    labels are not looked at) or labelled (only those that train the probe: six windows at one shot of six classes)."""
    unit_length: bool = True
    """Scale each window's standardised features to the same length, so that no loud window decides a probe of few."""


def selection_rule(config: ProbeConfig) -> str:
    """Return the headline's rule as a sentence, as it stands in every report.

    Raises:
        UserError: a rule is unknown, the headline's is oracle, or a setting is not positive.
    """
    counts = [config.neighbours, *config.neighbour_candidates, config.trees, config.leaf, *config.leaf_candidates]
    if min([config.c, *config.candidates]) <= 0 or min(counts) < 1:
        raise UserError("probe.c, candidates, neighbours, trees and leaf must be greater than 0")
    if config.standardise_by not in REFERENCES:
        raise UserError(f"probe.standardise_by={config.standardise_by}: choose one of {', '.join(REFERENCES)}")
    for rule in config.selection or [""]:
        if rule not in SELECTIONS:
            raise UserError(f"probe.selection={rule}: choose from {', '.join(SELECTIONS)}")
    if config.selection[0] == ORACLE:
        raise UserError(
            "probe.selection: oracle looks at the test windows, it is never the headline: name another first"
        )
    choices = (
        f"C of the linear probe from {_listing(config.candidates)}, neighbours of kNN from "
        f"{_listing(config.neighbour_candidates)}, leaves of the forest from {_listing(config.leaf_candidates)}"
    )
    return {
        FIXED: (
            f"fixed: C = {config.c:g} for every linear probe, {config.neighbours} neighbours, {config.trees} trees, "
            "set before any test window was seen"
        ),
        SOURCE_VALIDATION: (
            f"source-validation: {choices}, by balanced accuracy on every fourth training subject, held out; few-shot "
            f"probes use C = {config.c:g}"
        ),
        LODO_CV: (
            f"lodo-cv: {choices}, by mean balanced accuracy over the training domains, or else subjects, each held out "
            f"once; few-shot probes use C = {config.c:g}"
        ),
    }[config.selection[0]]


def _listing(values: list) -> str:
    return ", ".join(f"{value:g}" for value in values)


def feature_rule(config: ProbeConfig) -> str:
    """Return what is done to the features before the classifier, as a sentence of the report."""
    which = {
        "unlabelled": "all windows of the training subjects, without looking at labels",
        "labelled": "the labelled windows alone",
    }[config.standardise_by]
    length = ", then scaled to unit length" if config.unit_length else ""
    return f"Features are standardised by the mean and SD of {which}{length}."


def scaler(reference: np.ndarray, unit_length: bool) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that standardises features by the mean and SD of ``reference`` float [R, D].

    Args:
        reference: any windows but test windows.
        unit_length: scale the standardised features of each window to length sqrt(D).
    """
    centre, scale = reference.mean(axis=0), reference.std(axis=0)
    # A feature that does not vary among these windows says nothing; dividing by its rounding error would.
    scale = np.where(scale > 1e-6 * (1 + np.abs(centre)), scale, np.inf)

    def normalise(features: np.ndarray) -> np.ndarray:
        standardised = (features - centre) / scale
        if not unit_length:
            return standardised
        length = np.linalg.norm(standardised, axis=1, keepdims=True) / np.sqrt(standardised.shape[1])
        return standardised / np.maximum(length, 1e-12)

    return normalise


def fit_scores(
    train: np.ndarray,
    label: np.ndarray,
    test: np.ndarray,
    num_classes: int,
    c: float,
    reference: np.ndarray | None = None,
    unit_length: bool = False,
    seed: int = 0,
) -> np.ndarray:
    """Train logistic regression and return the class probabilities of ``test``, float32 [M, num_classes].

    The classes weigh the same whatever their numbers. A class that has no training window scores 0.

    Args:
        train: float [N, D].
        label: int [N], at least two classes.
        test: float [M, D].
        num_classes: K.
        c: inverse strength of the L2 penalty.
        reference: float [R, D], windows whose mean and SD standardise the features; None: ``train``.
        unit_length: scale the standardised features of each window to length sqrt(D).
        seed: of the solver.
    """
    normalise = scaler(train if reference is None else reference, unit_length)
    return _logistic(normalise(train), label, normalise(test), num_classes, c, seed)


def _logistic(
    train: np.ndarray, label: np.ndarray, test: np.ndarray, num_classes: int, c: float, seed: int
) -> np.ndarray:
    if train.shape[1] > len(train):
        # With an L2 penalty the weights lie in the span of the training windows (the representer theorem), so the
        # coordinates in that span give the same probe at a fraction of the cost.
        basis = np.linalg.qr(train.T)[0]
        train, test = train @ basis, test @ basis
    probe = LogisticRegression(C=c, class_weight="balanced", max_iter=2000, random_state=seed)
    return _probabilities(probe.fit(train, label), test, num_classes)


def _probabilities(model: object, test: np.ndarray, num_classes: int) -> np.ndarray:
    scores = np.zeros((len(test), num_classes), dtype=np.float32)
    scores[:, model.classes_] = model.predict_proba(test)  # type: ignore[attr-defined]
    return scores


def apply_probe(
    kind: str,
    train: np.ndarray,
    label: np.ndarray,
    test: np.ndarray,
    num_classes: int,
    config: ProbeConfig,
    setting: float | None = None,
    reference: np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Train a probe and return the class probabilities of ``test``, float32 [M, num_classes].

    Args:
        kind: linear, knn or forest.
        train: float [N, D].
        label: int [N].
        test: float [M, D].
        num_classes: K.
        config: of the probe.
        setting: C, number of neighbours or size of a leaf; None: the config's.
        reference: as of :func:`fit_scores`; of the linear probe and kNN.
        seed: of the solver and of the forest.
    """
    with warnings.catch_warnings():
        # Of one window a class, which is asked for, scikit-learn suspects that it is a regression.
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        return _apply(kind, train, label, test, num_classes, config, setting, reference, seed)


def _apply(
    kind: str,
    train: np.ndarray,
    label: np.ndarray,
    test: np.ndarray,
    num_classes: int,
    config: ProbeConfig,
    setting: float | None,
    reference: np.ndarray | None,
    seed: int,
) -> np.ndarray:
    if kind == FOREST:
        forest = RandomForestClassifier(
            config.trees,
            min_samples_leaf=int(setting or config.leaf),
            class_weight="balanced",
            random_state=seed,
        )
        return _probabilities(forest.fit(train, label), test, num_classes)
    normalise = scaler(train if reference is None else reference, config.unit_length)
    train, test = normalise(train), normalise(test)
    if kind == LINEAR:
        return _logistic(train, label, test, num_classes, setting or config.c, seed)
    # Of classes with k windows, no more than k neighbours can be of the right one.
    fewest = int(np.bincount(label)[np.unique(label)].min())
    neighbours = min(int(setting or config.neighbours), max(fewest, 1), len(train))
    model = KNeighborsClassifier(neighbours, weights="distance", algorithm="brute")
    return _probabilities(model.fit(train.astype(np.float32), label), test.astype(np.float32), num_classes)


def candidates_of(kind: str, config: ProbeConfig) -> list[float]:
    """Return the settings that a selection rule chooses from, for a kind of probe."""
    return {
        LINEAR: list(config.candidates),
        KNN: [float(k) for k in config.neighbour_candidates],
        FOREST: [float(leaf) for leaf in config.leaf_candidates],
    }[kind]


def choose_setting(
    kind: str,
    rule: str,
    train: np.ndarray,
    label: np.ndarray,
    subject: np.ndarray,
    domain: np.ndarray,
    config: ProbeConfig,
    seed: int = 0,
) -> float | None:
    """Return the setting of a probe by a rule that sees training windows alone; None: the config's own.

    Args:
        kind: linear, knn or forest.
        rule: fixed, source-validation or lodo-cv.
        train: float [N, D].
        label: int [N].
        subject: str [N].
        domain: str [N]; where all are of one, lodo-cv goes by subject.
        config: the candidates.
        seed: of the probes.

    Raises:
        UserError: the training windows of too few subjects or domains have two classes.
    """
    if rule == FIXED:
        return None
    groups = domain if rule == LODO_CV and len(np.unique(domain)) > 1 else subject
    names = np.unique(groups)
    held_out = [np.isin(groups, names[::4])] if rule == SOURCE_VALIDATION else [groups == name for name in names]
    held_out = [held for held in held_out if not held.all() and len(np.unique(label[~held])) > 1]
    if not held_out:
        raise UserError(f"probe.selection={rule} needs more training subjects: use probe.selection=[fixed]")
    num_classes = int(label.max()) + 1
    merits = []
    for setting in candidates_of(kind, config):
        accuracies = []
        for held in held_out:
            scores = apply_probe(kind, train[~held], label[~held], train[held], num_classes, config, setting, seed=seed)
            accuracies.append(_balanced_accuracy(label[held], scores))
        merits.append(np.mean(accuracies))
    return candidates_of(kind, config)[int(np.argmax(merits))]


def choose_oracle(label: np.ndarray, scores: list[np.ndarray]) -> int:
    """Return which of several scores [M, K] of the test windows is best on their labels [M]: a bound, no result."""
    return int(np.argmax([_balanced_accuracy(label, candidate) for candidate in scores]))


def _balanced_accuracy(label: np.ndarray, scores: np.ndarray) -> float:
    recalls = [np.mean(scores[label == kind].argmax(axis=1) == kind) for kind in np.unique(label)]
    return float(np.mean(recalls))
