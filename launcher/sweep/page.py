"""The results of a sweep as one HTML page without anything to load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from launcher.sweep.config import SweepConfig
from launcher.sweep.importance import Importance
from launcher.sweep.plots import learning_curves, parallel_coordinates
from launcher.sweep.records import Trial
from launcher.sweep.space import parse_space

if TYPE_CHECKING:
    from launcher.sweep.results import SweepSummary

TEMPLATE = "sweep.html"


def render(
    config: SweepConfig,
    trials: list[Trial],
    summary: SweepSummary,
    importance: Importance | str,
    best_yaml: str,
    again: str,
) -> str:
    """Return the page.

    Args:
        config: of the sweep.
        trials: all of them.
        summary: of them.
        importance: of the parameters, or why there is none.
        best_yaml: config of the best trial, as ``imuvid pretrain`` takes it; empty where there is none.
        again: command that goes on with the sweep.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(TEMPLATE).render(
        config=config,
        summary=summary,
        parallel=parallel_coordinates(trials, parse_space(config.space), config.metric),
        curves=learning_curves(trials, config.metric),
        importance=importance if isinstance(importance, Importance) else None,
        why_not="" if isinstance(importance, Importance) else importance,
        best_yaml=best_yaml,
        again=again,
        seconds=sum(trial.seconds for trial in trials),
    )
