"""Linear classifiers on frozen representations."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

from imuvid.errors import UserError

SELECTIONS = ("fixed", "source-validation")
REFERENCES = ("unlabelled", "labelled")


@dataclass
class ProbeConfig:
    """Logistic regression on standardised features."""

    selection: str = "fixed"
    """fixed (c as it stands) or source-validation (the linear probe's c chosen on training subjects held out)."""
    c: float = 0.1
    """Inverse strength of the L2 penalty; of the few-shot probes always."""
    candidates: list[float] = field(default_factory=lambda: [0.001, 0.01, 0.1, 1.0, 10.0])
    """Values of c that source-validation chooses from."""
    standardise_by: str = "unlabelled"
    """Windows whose mean and SD standardise the features: unlabelled (all windows of the training subjects, whose
    labels are not looked at) or labelled (only those that train the probe: six windows at one shot of six classes)."""
    unit_length: bool = True
    """Scale each window's standardised features to the same length, so that no loud window decides a probe of few."""


def selection_rule(config: ProbeConfig) -> str:
    """Return the rule as a sentence, as it stands in every report.

    Raises:
        UserError: the rule is unknown, or a c is not positive.
    """
    if min([config.c, *config.candidates]) <= 0:
        raise UserError("probe.c and probe.candidates must be greater than 0")
    if config.standardise_by not in REFERENCES:
        raise UserError(f"probe.standardise_by={config.standardise_by}: choose one of {', '.join(REFERENCES)}")
    if config.selection == "fixed":
        return f"fixed: C = {config.c:g} for every probe, set before any test window was seen"
    if config.selection == "source-validation":
        choices = ", ".join(f"{c:g}" for c in config.candidates)
        return (
            f"source-validation: the linear probe's C is chosen from {choices} by balanced accuracy on every fourth "
            f"training subject, held out; few-shot probes use C = {config.c:g}"
        )
    raise UserError(f"probe.selection={config.selection}: choose one of {', '.join(SELECTIONS)}")


def feature_rule(config: ProbeConfig) -> str:
    """Return what is done to the features before the classifier, as a sentence of the report."""
    which = {
        "unlabelled": "all windows of the training subjects, without looking at labels",
        "labelled": "the labelled windows alone",
    }[config.standardise_by]
    length = ", then scaled to unit length" if config.unit_length else ""
    return f"Features are standardised by the mean and SD of {which}{length}."


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
    """Train on ``train`` and return the class probabilities of ``test``, float32 [M, num_classes].

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
    reference = train if reference is None else reference
    centre, scale = reference.mean(axis=0), reference.std(axis=0)
    # A feature that does not vary among these windows says nothing; dividing by its rounding error would.
    scale = np.where(scale > 1e-6 * (1 + np.abs(centre)), scale, np.inf)

    def normalise(features: np.ndarray) -> np.ndarray:
        standardised = (features - centre) / scale
        if not unit_length:
            return standardised
        length = np.linalg.norm(standardised, axis=1, keepdims=True) / np.sqrt(standardised.shape[1])
        return standardised / np.maximum(length, 1e-12)

    train, test = normalise(train), normalise(test)
    if train.shape[1] > len(train):
        # With an L2 penalty the weights lie in the span of the training windows (the representer theorem), so the
        # coordinates in that span give the same probe at a fraction of the cost.
        basis = np.linalg.qr(train.T)[0]
        train, test = train @ basis, test @ basis
    probe = LogisticRegression(C=c, class_weight="balanced", max_iter=2000, random_state=seed)
    probe.fit(train, label)
    scores = np.zeros((len(test), num_classes), dtype=np.float32)
    scores[:, probe.classes_] = probe.predict_proba(test)
    return scores


def choose_c(train: np.ndarray, label: np.ndarray, subject: np.ndarray, config: ProbeConfig) -> float:
    """Return the C of the linear probe by the selection rule, from training windows alone.

    Args:
        train: float [N, D].
        label: int [N].
        subject: str [N].
        config: the rule.

    Raises:
        UserError: source-validation with fewer than 2 training subjects, or where those left for training lack
            all classes but one.
    """
    if config.selection == "fixed":
        return config.c
    held_out = np.isin(subject, np.unique(subject)[::4])
    if held_out.all() or len(np.unique(label[~held_out])) < 2:
        raise UserError("probe.selection=source-validation needs more training subjects: use probe.selection=fixed")
    num_classes = int(label.max()) + 1
    merits = []
    for c in config.candidates:
        fit, held = train[~held_out], train[held_out]
        scores = fit_scores(fit, label[~held_out], held, num_classes, c, unit_length=config.unit_length)
        merits.append(balanced_accuracy_score(label[held_out], scores.argmax(axis=1)))
    return config.candidates[int(np.argmax(merits))]
