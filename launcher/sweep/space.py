"""Search spaces: which values a parameter takes, and when it has a part at all.

    optimizer.lr: {loguniform: [1.0e-4, 1.0e-2]}
    optimizer.weight_decay: {uniform: [0.0, 0.2]}
    train.epochs: {int: [2, 8]}
    data.batch_size: {choice: [32, 64, 128]}
    engine.zero_stage: {grid: [0, 1]}                                      a choice, by another name
    model.objective.infonce.x: {choice: [1, 2], when: {model.objective.kind: infonce}}

A key may be written with dots or nested. ``when`` names other parameters and the value, or list of values, that they
must have; else the parameter is not set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from imuvid.errors import UserError

KINDS = ("choice", "grid", "uniform", "loguniform", "int")
NOT_FREE = ("name", "runs_dir", "data.val_split", "data.train_split", "data.path", "data.mixture")


@dataclass(frozen=True)
class Parameter:
    """One dimension of a space."""

    key: str
    kind: str
    """choice, uniform, loguniform or int."""
    values: tuple[Any, ...] = ()
    """Of a choice."""
    low: float = 0.0
    high: float = 0.0
    """Both ends belong to it."""
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def holds(self, chosen: Mapping[str, Any]) -> bool:
        """Whether it has a part beside the parameters that were chosen before it."""
        return all(key in chosen and chosen[key] in values for key, values in self.when.items())


Space = list[Parameter]
"""Each one after those that its ``when`` names."""


def parse_space(space: Mapping[str, Any]) -> Space:
    """Return the parameters of a space as it stands in a config.

    Raises:
        UserError: names the key and what is wrong with it.
    """
    parameters = [_parameter(key, entry) for key, entry in _flatten(space)]
    if not parameters:
        raise UserError("space: has no parameter: write for example optimizer.lr: {loguniform: [1.0e-4, 1.0e-2]}")
    return _in_order(parameters)


def draw(space: Space, pick: Callable[[Parameter], Any]) -> dict[str, Any]:
    """Return values of the parameters that have a part; ``pick`` gives the value of each."""
    chosen: dict[str, Any] = {}
    for parameter in space:
        if parameter.holds(chosen):
            chosen[parameter.key] = pick(parameter)
    return chosen


def draw_random(space: Space, seed: int, number: int) -> dict[str, Any]:
    """Return the values of trial ``number``: a function of these alone, so that no state has to be kept."""
    rng = np.random.default_rng([seed, number])

    def pick(parameter: Parameter) -> Any:
        if parameter.kind == "choice":
            return parameter.values[int(rng.integers(len(parameter.values)))]
        if parameter.kind == "int":
            return int(rng.integers(int(parameter.low), int(parameter.high) + 1))
        if parameter.kind == "loguniform":
            return float(math.exp(rng.uniform(math.log(parameter.low), math.log(parameter.high))))
        return float(rng.uniform(parameter.low, parameter.high))

    return draw(space, pick)


def grid(space: Space) -> Iterator[dict[str, Any]]:
    """Yield all combinations, the last parameter fastest.

    Raises:
        UserError: a parameter is continuous.
    """
    for parameter in space:
        if parameter.kind in ("uniform", "loguniform"):
            raise UserError(f"space: {parameter.key} is {parameter.kind}: a grid search needs grid, choice or int")
    yield from _combinations(space, {})


def _combinations(space: Space, chosen: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if not space:
        yield chosen
        return
    first, rest = space[0], space[1:]
    if not first.holds(chosen):
        yield from _combinations(rest, chosen)
        return
    values = first.values or range(int(first.low), int(first.high) + 1)
    for value in values:
        yield from _combinations(rest, {**chosen, first.key: value})


def _flatten(entries: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    for key, entry in entries.items():
        name = f"{prefix}{key}"
        if not isinstance(entry, Mapping):
            raise UserError(f"space: {name}: expected one of {', '.join(KINDS)}, as {{choice: [1, 2]}}, not {entry!r}")
        if any(kind in entry for kind in KINDS):
            yield name, entry
        else:
            yield from _flatten(entry, f"{name}.")


def _parameter(key: str, entry: Mapping[str, Any]) -> Parameter:
    if key in NOT_FREE:
        raise UserError(f"space: {key} cannot be swept: trials would not be judged on the same data, or lie elsewhere")
    kinds = [kind for kind in KINDS if kind in entry]
    unknown = [word for word in entry if word not in (*KINDS, "when")]
    if len(kinds) != 1 or unknown:
        raise UserError(
            f"space: {key}: has {', '.join(map(str, entry))}: one of {', '.join(KINDS)}, and when, are known"
        )
    kind, values = kinds[0], entry[kinds[0]]
    if not isinstance(values, list) or not values:
        raise UserError(f"space: {key}: {kind} needs a list, not {values!r}")
    when = {
        name: tuple(value) if isinstance(value, list) else (value,) for name, value in (entry.get("when") or {}).items()
    }
    if kind in ("choice", "grid"):
        return Parameter(key, "choice", values=tuple(values), when=when)
    if len(values) != 2 or not all(isinstance(value, (int, float)) for value in values) or values[0] >= values[1]:
        raise UserError(f"space: {key}: {kind} needs [low, high] with low below high, not {values}")
    if kind == "loguniform" and values[0] <= 0:
        raise UserError(f"space: {key}: loguniform needs low above 0, not {values[0]}")
    if kind == "int" and any(value != int(value) for value in values):
        raise UserError(f"space: {key}: int needs whole numbers, not {values}")
    return Parameter(key, kind, low=values[0], high=values[1], when=when)


def _in_order(parameters: list[Parameter]) -> Space:
    keys = {parameter.key for parameter in parameters}
    ordered: Space = []
    waiting = list(parameters)
    for parameter in parameters:
        for name in parameter.when:
            if name not in keys:
                raise UserError(f"space: {parameter.key}: when names {name}, which is no parameter of the space")
    while waiting:
        there = {parameter.key for parameter in ordered}
        ready = [parameter for parameter in waiting if set(parameter.when) <= there]
        if not ready:
            names = ", ".join(parameter.key for parameter in waiting)
            raise UserError(f"space: {names}: the conditions go round in a circle")
        ordered += ready
        waiting = [parameter for parameter in waiting if parameter not in ready]
    return ordered
