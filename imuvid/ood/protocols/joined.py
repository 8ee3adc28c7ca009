"""Data sets joined on common activities; one data set, position, device, rate or population is left out at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from imuvid.models.imu_gravity import place_of
from imuvid.ood.datasets.base import MIN_PRESENT, Windows
from imuvid.ood.datasets.common_labels import common_label
from imuvid.ood.protocols.folds import Fold, natural_order
from imuvid.ood.protocols.task import Task

AXES = ("dataset", "position", "device", "rate", "population")
FAMILIES = {
    "activities": (
        *("walking", "running", "stairs_up", "stairs_down", "sitting", "standing", "lying", "cycling"),
        *("sit_to_stand", "stand_to_sit"),
    ),
    "freezing": ("no_freeze", "freeze"),
    "falls": ("daily_activity", "fall"),
}
"""Common activities that one classifier can tell apart; the last of two is the rare one."""
SUBJECT_GROUPS = 5
"""Where people of the domain that is left out are also in others, they are tested in so many groups."""


@dataclass
class Joined:
    """Windows of one sensor each, of several data sets, and where they come from."""

    windows: Windows
    """``subject`` is DATASET/PERSON; ``domain`` holds every axis, empty where a window has no value of it."""
    features: dict[str, list[np.ndarray]]
    """As of a task."""


def join(tasks: Sequence[Task], populations: dict[str, str], family: str) -> Joined | None:
    """Return the windows of data sets that carry a common activity, one for each sensor, with their features.

    Args:
        tasks: of data sets, whose features stand sensor by sensor; windows are of one rate and length.
        populations: by name of the data set, where it is known.
        family: of FAMILIES.

    Returns:
        None where fewer than two common activities occur.
    """
    names = FAMILIES[family]
    parts: list[dict[str, np.ndarray]] = []
    features: dict[str, list[list[np.ndarray]]] = {name: [[] for _ in rows] for name, rows in tasks[0].features.items()}
    for task in tasks:
        windows = task.windows
        number = {i: names.index(c) for i, name in enumerate(windows.classes) if (c := common_label(name)) in names}
        for place, position in enumerate(windows.positions):
            seen = windows.valid[:, :, place].any(axis=2).mean(axis=1) >= MIN_PRESENT
            rows = np.flatnonzero(seen & np.isin(windows.label, list(number)))
            if not len(rows):
                continue
            parts.append(_part(windows, rows, place, position, number, populations.get(windows.name, "")))
            for name, arrays in task.features.items():
                for draw, array in enumerate(arrays):
                    by_place = array.reshape(len(array), len(windows.positions), -1)
                    features[name][draw].append(by_place[rows, place])
    if not parts:
        return None
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    found = np.unique(columns["label"])
    if len(found) < 2:
        return None
    first = tasks[0].windows
    windows = Windows(
        name=f"common_{family}",
        imu=columns["imu"],
        valid=columns["valid"],
        label=np.searchsorted(found, columns["label"]),
        subject=columns["subject"],
        recording=columns["recording"],
        start_s=columns["start_s"],
        classes=[names[i] for i in found],
        positions=["any"],
        rate_hz=first.rate_hz,
        positive=names[-1] if len(names) == 2 else None,
        provenance=_provenance(columns, first),
        domain={axis: columns[axis] for axis in AXES},
    )
    return Joined(windows, {name: [np.concatenate(draw) for draw in draws] for name, draws in features.items()})


def _part(
    windows: Windows, rows: np.ndarray, place: int, position: str, number: dict[int, int], population: str
) -> dict[str, np.ndarray]:
    """Return the columns of one sensor of a data set."""

    def axis(name: str, usual: str) -> np.ndarray:
        own = windows.domain.get(name)
        return np.full(len(rows), usual) if own is None else np.where(own[rows] == "", usual, own[rows])

    return {
        "imu": windows.imu[rows][:, :, place : place + 1],
        "valid": windows.valid[rows][:, :, place : place + 1],
        "label": np.array([number[kind] for kind in windows.label[rows].tolist()]),
        "subject": np.char.add(f"{windows.name}/", windows.subject[rows].astype(str)),
        "recording": np.char.add(f"{windows.name}/{position}/", windows.recording[rows].astype(str)),
        "start_s": windows.start_s[rows],
        "dataset": np.full(len(rows), windows.name),
        "position": np.full(len(rows), place_of(position)),
        "device": axis("device", ""),
        "rate": axis("rate", _rate(windows.provenance.get("native_rate_hz"))),
        "population": axis("population", population),
    }


def _rate(native_hz: Any) -> str:
    if native_hz is None:
        return ""
    return "-".join(f"{rate:g}" for rate in native_hz) + " Hz" if isinstance(native_hz, list) else f"{native_hz:g} Hz"


def _provenance(columns: dict[str, np.ndarray], first: Windows) -> dict[str, Any]:
    return {
        "datasets": sorted(set(columns["dataset"].tolist())),
        "windows": len(columns["label"]),
        "subjects_with_windows": len(set(columns["subject"].tolist())),
        "window_s": first.provenance["window_s"],
        "rate_hz": first.rate_hz,
        "positions": sorted(set(columns["position"].tolist())),
    }


def leave_one_domain_out(windows: Windows, axis: str, untested: set[str]) -> tuple[list[Fold], list[str]]:
    """Return folds that test one domain each, trained on the others, and notes on what is left out.

    No fold trains on a person whom it tests: where the people of a domain are also in others, they are tested in
    groups. A fold tests the activities that its training windows have.

    Args:
        windows: joined ones.
        axis: of AXES.
        untested: people (DATASET/PERSON) who are never tested, such as those of the pretraining.
    """
    domain, folds, notes = windows.domain[axis], [], []
    for name in sorted(set(domain.tolist()) - {""}, key=natural_order):
        inside = domain == name
        elsewhere = ~inside & (domain != "")
        people = sorted(set(windows.subject[inside].tolist()) - untested, key=natural_order)
        shared = set(people) & set(windows.subject[elsewhere].tolist())
        num_groups = min(SUBJECT_GROUPS, len(people)) if shared else 1
        for number in range(num_groups):
            group = people[number::num_groups]
            train = np.flatnonzero(elsewhere & ~np.isin(windows.subject, group))
            known = np.unique(windows.label[train])
            test = np.flatnonzero(inside & np.isin(windows.subject, group) & np.isin(windows.label, known))
            kinds = len(np.unique(windows.label[test]))
            if len(known) < 2 or kinds < (1 if shared else 2):
                notes.append(f"{name} is not tested: it shares {kinds} activities with the other domains.")
                continue
            folds.append(Fold(name if num_groups == 1 else f"{name}/group-{number}", train, test))
    return folds, list(dict.fromkeys(notes))


def joined_tasks(
    tasks: Sequence[Task], axes: Sequence[str], populations: dict[str, str], untested: set[str]
) -> list[Task]:
    """Return a task for each axis and family of activities that has two domains or more.

    Args:
        tasks: of the data sets, with features that stand sensor by sensor.
        axes: of AXES.
        populations: by name of the data set.
        untested: names of people (as in their data set) who are never tested.
    """
    made = []
    for family in FAMILIES:
        joined = join(tasks, populations, family) if axes else None
        if joined is None:
            continue
        windows = joined.windows
        people = {name for name in windows.subject.tolist() if name.partition("/")[2] in untested}
        for axis in axes:
            folds, notes = leave_one_domain_out(windows, axis, people)
            if len({fold.name.partition("/")[0] for fold in folds}) < 2:
                continue
            if people:
                notes.append(f"{len(people)} people are not tested: the encoder was pretrained on them.")
            first = tasks[0]
            made.append(
                Task(
                    windows,
                    f"leave-one-{axis}-out",
                    folds,
                    first.representations,
                    joined.features,
                    first.settings,
                    first.evaluators,
                    domain=windows.domain[axis],
                    notes=notes,
                )
            )
    return made
