"""The figures of a sweep's page, as the places that its template draws at."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from launcher.sweep.records import Trial
from launcher.sweep.space import Parameter, Space

WIDTH, HEIGHT = 960.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 56.0, 16.0, 34.0, 30.0
# Ends and middle of a ramp that reads in grey, and with defective colour vision (after cividis, Nuñez et al., 2018).
_RAMP = ((0, 45, 110), (124, 123, 120), (250, 200, 40))
MOST_LABELS = 6


@dataclass
class Axis:
    """One dimension of the parallel coordinates."""

    name: str
    x: float
    ticks: list[tuple[float, str]]
    """(y, text)."""


@dataclass
class Line:
    """One trial in a figure."""

    trial: int
    state: str
    points: str
    """As an SVG polyline takes them."""
    colour: str
    title: str
    end: tuple[float, float]


@dataclass
class Figure:
    """What the template draws."""

    width: float = WIDTH
    height: float = HEIGHT
    axes: list[Axis] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    y_ticks: list[tuple[float, str]] = field(default_factory=list)
    x_ticks: list[tuple[float, str]] = field(default_factory=list)


def parallel_coordinates(trials: list[Trial], space: Space, metric: str) -> Figure:
    """Return one axis a parameter and one for the score; each trial with a score is a line, worse ones below."""
    judged = _judged(trials)
    keys = [p.key for p in space] or list(dict.fromkeys(key for trial in trials for key in trial.parameters))
    known = {p.key: p for p in space}
    columns = [(key, _Scale([t.parameters.get(key) for t in judged], known.get(key))) for key in keys]
    columns.append((metric, _Scale([t.value for t in judged], None)))
    width = max(WIDTH, 130.0 * len(columns))
    step = (width - LEFT - 120) / max(1, len(columns) - 1)
    figure = Figure(width=width)
    for place, (name, scale) in enumerate(columns):
        ticks = [(_y(share), text) for share, text in scale.ticks()]
        figure.axes.append(Axis(name, LEFT + 20 + place * step, ticks))
    for trial in sorted(judged, key=lambda t: t.value or 0.0):
        values = [trial.parameters.get(key) for key in keys] + [trial.value]
        points = [
            (axis.x, _y(share))
            for axis, (_, scale), value in zip(figure.axes, columns, values, strict=True)
            if (share := scale.share(value)) is not None
        ]
        figure.lines.append(_line(trial, points, columns[-1][1].share(trial.value) or 0.0, metric))
    return figure


def learning_curves(trials: list[Trial], metric: str) -> Figure:
    """Return the score of each trial over the percentage of its steps."""
    judged = _judged(trials)
    values = [s.value for t in judged for s in t.scores if math.isfinite(s.value)]
    scale, colours = _Scale(values, None), _Scale([t.value for t in judged], None)
    figure = Figure(
        y_ticks=[(_y(share), text) for share, text in scale.ticks()],
        x_ticks=[(_x(percent), f"{percent:.0f} %") for percent in (0, 25, 50, 75, 100)],
    )
    for trial in sorted(judged, key=lambda t: t.value or 0.0):
        points = [(_x(s.percent), _y(scale.share(s.value) or 0.0)) for s in trial.scores if math.isfinite(s.value)]
        figure.lines.append(_line(trial, points, colours.share(trial.value) or 0.0, metric))
    return figure


class _Scale:
    """Maps the values of one axis to [0, 1]: by logarithm where they were drawn so, by place where they are choices."""

    def __init__(self, values: list[Any], parameter: Parameter | None):
        present = [value for value in values if value is not None]
        numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in present)
        self.labels: list[str] = []
        if not numeric or (parameter is not None and parameter.values):
            self.labels = sorted({json.dumps(v) for v in present}, key=lambda text: _order(json.loads(text)))
            return
        self.logarithmic = parameter is not None and parameter.kind == "loguniform"
        self.low = parameter.low if parameter else min(present, default=0.0)
        self.high = parameter.high if parameter else max(present, default=1.0)
        if self.low == self.high:
            self.low, self.high = self.low - 0.5, self.high + 0.5

    def share(self, value: Any) -> float | None:
        if value is None:
            return None
        if self.labels:
            return (self.labels.index(json.dumps(value)) + 0.5) / len(self.labels)
        low, high = self._bent(self.low), self._bent(self.high)
        return min(1.0, max(0.0, (self._bent(value) - low) / (high - low)))

    def ticks(self) -> list[tuple[float, str]]:
        if self.labels:
            shown = self.labels if len(self.labels) <= MOST_LABELS else [self.labels[0], self.labels[-1]]
            return [(self.share(json.loads(label)) or 0.0, label.strip('"')) for label in shown]
        low, high = self._bent(self.low), self._bent(self.high)
        places = [low + (high - low) * i / 4 for i in range(5)]
        return [(i / 4, f"{10**place if self.logarithmic else place:.3g}") for i, place in enumerate(places)]

    def _bent(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else float(value)


def _judged(trials: list[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.value is not None and math.isfinite(trial.value)]


def _line(trial: Trial, points: list[tuple[float, float]], share: float, metric: str) -> Line:
    title = f"trial {trial.number}, {trial.state}: {metric} {trial.value:.4f} at step {trial.steps}"
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return Line(trial.number, trial.state, text, _colour(share), title, points[-1])


def _colour(share: float) -> str:
    first, second = (_RAMP[0], _RAMP[1]) if share < 0.5 else (_RAMP[1], _RAMP[2])
    at = 2 * share if share < 0.5 else 2 * share - 1
    return "#" + "".join(f"{round(a + (b - a) * at):02x}" for a, b in zip(first, second, strict=True))


def _x(percent: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * percent / 100


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share


def _order(value: Any) -> tuple[int, float, str]:
    if isinstance(value, (int, float)):
        return 0, float(value), ""
    return 1, 0.0, str(value)
