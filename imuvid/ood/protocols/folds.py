"""Who is trained on and who is tested: pure functions of the subjects, the labels and a seed.

A fold is a pair of subject-disjoint sets of windows. One fold by lists of subjects is a split; several folds that
test every subject once are scored on their pooled predictions.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from imuvid.errors import UserError

VALIDATION_GROUPS = 4
KINDS = ("subject-split", "leave-one-subject-out", "grouped-folds")


@dataclass
class ProtocolConfig:
    """Which subjects train the probe and which test it."""

    kind: str = "leave-one-subject-out"
    """subject-split (the two lists), leave-one-subject-out, or grouped-folds (num_folds groups of subjects)."""
    train_subjects: list[str] = field(default_factory=list)
    """Subjects that the probe is trained on, for subject-split."""
    test_subjects: list[str] = field(default_factory=list)
    """Subjects that it is tested on, for subject-split."""
    num_folds: int = 5
    """Number of groups, for grouped-folds."""


@dataclass
class Fold:
    """One subject-disjoint pair of training and test windows."""

    name: str
    train: np.ndarray
    """int64, indices of the training windows, increasing."""
    test: np.ndarray
    """int64, indices of the test windows, increasing."""


def protocol_name(config: ProtocolConfig) -> str:
    """Return the name that every result carries, such as ``subject-split`` or ``grouped-5-folds``."""
    return f"grouped-{config.num_folds}-folds" if config.kind == "grouped-folds" else config.kind


def make_folds(subjects: np.ndarray, config: ProtocolConfig, dataset: str) -> list[Fold]:
    """Return the folds of windows whose subjects are given, in the order of the subjects' names.

    Args:
        subjects: str [N], of each window.
        config: the protocol.
        dataset: named in messages.

    Raises:
        UserError: an unknown kind or subject, a subject in both lists, or too few subjects.
    """
    known = sorted(set(subjects.tolist()), key=natural_order)
    if config.kind == "subject-split":
        _check_lists(known, config, dataset)
        train, test = (np.isin(subjects, names) for names in (config.train_subjects, config.test_subjects))
        return [Fold("split", np.flatnonzero(train), np.flatnonzero(test))]
    if config.kind == "leave-one-subject-out":
        groups = {subject: [subject] for subject in known}
    elif config.kind == "grouped-folds":
        if not 2 <= config.num_folds <= len(known):
            raise UserError(
                f"{dataset}.protocol.num_folds={config.num_folds}: must lie between 2 and the {len(known)} subjects"
            )
        groups = {f"group-{i}": known[i :: config.num_folds] for i in range(config.num_folds)}
    else:
        raise UserError(f"{dataset}.protocol.kind={config.kind}: choose one of {', '.join(KINDS)}")
    if len(known) < 2:
        raise UserError(f"{dataset}: {config.kind} needs at least 2 subjects, the windows are of {len(known)}")
    folds = []
    for name, group in groups.items():
        test = np.isin(subjects, group)
        folds.append(Fold(name, np.flatnonzero(~test), np.flatnonzero(test)))
    return folds


def validation_folds(subjects: np.ndarray, config: ProtocolConfig, dataset: str) -> list[Fold]:
    """Return folds of the training subjects alone, up to VALIDATION_GROUPS groups of them, each held out once.

    Args:
        subjects: str [N], of each window.
        config: a subject-split; its test subjects enter no fold.
        dataset: named in messages.

    Raises:
        UserError: the protocol tests every subject, so none is left to validate on; or as of :func:`make_folds`.
    """
    if config.kind != "subject-split":
        raise UserError(
            f"subjects=validation: {dataset}.protocol.kind={config.kind} tests every subject: set kind=subject-split, "
            "train_subjects and test_subjects"
        )
    known = sorted(set(subjects.tolist()), key=natural_order)
    _check_lists(known, config, dataset)
    names = sorted(config.train_subjects, key=natural_order)
    if len(names) < 2:
        raise UserError(
            f"{dataset}.protocol.train_subjects: subjects=validation needs at least 2, there is {len(names)}"
        )
    train, folds = np.isin(subjects, names), []
    for number in range(min(VALIDATION_GROUPS, len(names))):
        held = np.isin(subjects, names[number::VALIDATION_GROUPS])
        folds.append(Fold(f"group-{number}", np.flatnonzero(train & ~held), np.flatnonzero(held)))
    return folds


def _check_lists(known: Sequence[str], config: ProtocolConfig, dataset: str) -> None:
    both = sorted(set(config.train_subjects) & set(config.test_subjects), key=natural_order)
    if both:
        raise UserError(f"{dataset}.protocol: subject {both[0]} is in train_subjects and in test_subjects")
    for key in ("train_subjects", "test_subjects"):
        names = getattr(config, key)
        if not names:
            raise UserError(f"{dataset}.protocol.{key} is empty: list the subjects, or choose another protocol.kind")
        missing = [name for name in names if name not in known]
        if missing:
            raise UserError(
                f"{dataset}.protocol.{key}: subject {missing[0]} has no window: the subjects are {', '.join(known)}"
            )


def check_not_pretrained(test_subjects: Collection[str], pretrained: Collection[str], dataset: str) -> None:
    """Refuse test subjects that the encoder was pretrained on.

    Args:
        test_subjects: salted hashes, as in the data set.
        pretrained: salted hashes of the subjects of pretraining, made with the same salt.
        dataset: named in the message.

    Raises:
        UserError: a test subject was pretrained on.
    """
    leaked = sorted(set(test_subjects) & set(pretrained))
    if leaked:
        raise UserError(
            f"{dataset}: {len(leaked)} test subjects, first {leaked[0]}, were pretrained on: "
            f"test on the data set's test split, or list other subjects in {dataset}.protocol.test_subjects"
        )


def draw_shots(label: np.ndarray, fold: Fold, num_shots: int, num_draws: int, seed: int) -> list[dict[int, np.ndarray]]:
    """Draw training windows for few-shot probes: one dict a draw, class to int64 indices of windows in drawn order.

    k shots of a draw are the first k windows of each class, so the shots of a smaller k are among those of a larger
    one. The draws are a pure function of the arguments; no method of representation enters.

    Args:
        label: int [N], class of each window of the data set.
        fold: whose training windows are drawn from; its name is part of the random state.
        num_shots: most windows of a class that are kept; fewer where the class has fewer.
        num_draws: independent draws.
        seed: part of the random state.
    """
    number = zlib.crc32(fold.name.encode())
    draws = []
    for draw in range(num_draws):
        shots = {}
        for kind in np.unique(label[fold.train]).tolist():
            candidates = fold.train[label[fold.train] == kind]
            rng = np.random.default_rng([seed, number, draw, kind])
            shots[kind] = rng.permutation(candidates)[:num_shots]
        draws.append(shots)
    return draws


def natural_order(name: str) -> list[tuple[int, str]]:
    """Return a sort key that puts ``2`` before ``10``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part]
