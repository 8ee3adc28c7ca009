"""What a sweep leaves on disk: enough to go on after anything was killed, and to draw every result from.

    runs/NAME/sweep.yaml                       its config
              trials.jsonl                     a line for each trial before it starts: number, parameters
              trials/trial-0003/               the run of trial 3, as of every pretraining
              trials/trial-0003.1/             its next generation, where pbt gave it another's weights
              trials/trial-0003/outcome.json   how it ended: written once
              trials/trial-0003/ood.jsonl      its OOD validation scores, where they are the metric
              trials/trial-0003/usage.json     seconds that it held its resources
              trials/trial-0003/host-0.log     what its ranks printed

A trial without an outcome is not through. Scores are read from the run's own metrics.jsonl.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from launcher.sweep.config import OOD_METRIC

FINISHED, STOPPED = "finished", "stopped"
"""States of a trial that did all its steps, and of one that the scheduler stopped early. Others are failures: refused,
out_of_memory, diverged, hung, killed, failed."""
UNFINISHED = "unfinished"
"""Of a trial without an outcome: a sweep that is gone on with goes on with it."""


@dataclass(frozen=True)
class Score:
    """The metric at a step of a trial."""

    step: int
    percent: float
    """Of the run's steps."""
    value: float


@dataclass
class Outcome:
    """How a trial ended."""

    state: str
    message: str = ""


@dataclass
class Trial:
    """A trial as the disk has it."""

    number: int
    parameters: dict[str, Any]
    state: str
    message: str
    scores: list[Score]
    seconds: float
    folder: Path
    """Of its last generation."""

    @property
    def value(self) -> float | None:
        """The last score."""
        return self.scores[-1].value if self.scores else None

    @property
    def steps(self) -> int:
        """Up to the last score."""
        return self.scores[-1].step if self.scores else 0


def replace_text(path: Path, text: str) -> None:
    """Write a file that is either there whole or as it was."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def run_name(number: int, generation: int = 0) -> str:
    """Return the name of the run folder of a trial."""
    return f"trial-{number:04d}.{generation}" if generation else f"trial-{number:04d}"


def read_journal(folder: Path) -> dict[int, dict[str, Any]]:
    """Return the parameters of the trials by number; where a number stands twice, the later line holds."""
    try:
        lines = (folder / "trials.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return {}
    found = {}
    for line in lines:
        try:
            entry = json.loads(line)
            found[int(entry["number"])] = dict(entry["parameters"])
        except (ValueError, KeyError, TypeError):
            continue  # the last line of a driver that was killed while writing it: that trial had not begun
    return found


def append_journal(folder: Path, number: int, parameters: dict[str, Any]) -> None:
    """Write down a trial; on the disk when this returns."""
    path = folder / "trials.jsonl"
    torn = path.exists() and not path.read_bytes().endswith(b"\n")
    with path.open("a") as file:
        file.write("\n" * torn + json.dumps({"number": number, "parameters": parameters}) + "\n")
        file.flush()
        os.fsync(file.fileno())


def generations(folder: Path, number: int) -> list[Path]:
    """Return the run folders of a trial, the first generation first."""
    first = folder / "trials" / run_name(number)
    found = {int(path.name.split(".")[1]): path for path in first.parent.glob(f"{first.name}.*") if path.is_dir()}
    return [first, *(found[each] for each in sorted(found))]


def read_outcome(folder: Path, number: int) -> Outcome | None:
    """Return how a trial ended, None while it has not."""
    try:
        return Outcome(**json.loads((folder / "trials" / run_name(number) / "outcome.json").read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def write_outcome(folder: Path, number: int, outcome: Outcome) -> None:
    """Write down how a trial ended, unless that is known."""
    if read_outcome(folder, number) is not None:
        return
    path = folder / "trials" / run_name(number) / "outcome.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(asdict(outcome)) + "\n")


def read_origin(run: Path) -> str | None:
    """Return which checkpoint of another trial a run folder was begun from, None for none."""
    try:
        return str(json.loads((run / "origin.json").read_text())["checkpoint"])
    except (OSError, ValueError, KeyError):
        return None


def write_origin(run: Path, checkpoint: str) -> None:
    """Write down which checkpoint of another trial a run folder was begun from."""
    replace_text(run / "origin.json", json.dumps({"checkpoint": checkpoint}) + "\n")


def read_seconds(folder: Path, number: int) -> float:
    """Return how long a trial held its resources, seconds over all starts."""
    try:
        return float(json.loads((folder / "trials" / run_name(number) / "usage.json").read_text())["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def write_seconds(folder: Path, number: int, seconds: float) -> None:
    """Write down how long a trial held its resources."""
    path = folder / "trials" / run_name(number) / "usage.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps({"seconds": round(seconds, 1)}) + "\n")


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a JSON-lines file; a line that is being written is passed over."""
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record


def read_scores(run: Path, metric: str, epochs: float) -> list[Score]:
    """Return the scores of one run folder, by step.

    Args:
        run: its folder.
        metric: a score of its validation, or ood_validation.
        epochs: that the run is to do.
    """
    at: dict[int, float] = {}
    values: dict[int, float] = {}
    for line in read_lines(run / "metrics.jsonl"):
        if line.get("split") == "train" and line.get("epoch") is not None:
            at[line["step"]] = line["epoch"]
        elif line.get("split") == "val" and metric in line:
            values[line["step"]] = math.nan if line[metric] is None else line[metric]
    if metric == OOD_METRIC:
        values = {line["step"]: line[OOD_METRIC] for line in read_lines(run / "ood.jsonl")}
    if not at:
        return []
    step, epoch = next(reversed(at.items()))
    num_steps = math.ceil(epochs * step / epoch - 1e-6)
    return [Score(step, 100 * step / num_steps, values[step]) for step in sorted(values)]


def read_trial(folder: Path, number: int, parameters: dict[str, Any], metric: str) -> Trial:
    """Return all that the disk says of a trial."""
    outcome = read_outcome(folder, number) or Outcome(UNFINISHED)
    runs = generations(folder, number)
    scores: list[Score] = []
    for run in runs:
        here = read_scores(run, metric, epochs_of(run))
        scores = [score for score in scores if not here or score.step < here[0].step] + here
    seconds = read_seconds(folder, number)
    return Trial(number, parameters, outcome.state, outcome.message, scores, seconds, runs[-1])


def read_trials(folder: Path, metric: str) -> list[Trial]:
    """Return all trials of a sweep, by number."""
    return [read_trial(folder, number, given, metric) for number, given in sorted(read_journal(folder).items())]


def best_trial(trials: list[Trial], maximise: bool) -> Trial | None:
    """Return the best of those that did all steps or, where none did, of those that were stopped; None without any."""
    for states in ((FINISHED,), (STOPPED, UNFINISHED)):
        judged = [t for t in trials if t.state in states and t.value is not None and math.isfinite(t.value)]
        if judged:
            return (max if maximise else min)(judged, key=lambda trial: trial.value or 0.0)
    return None


def epochs_of(run: Path) -> float:
    """Return the epochs that a run folder's config asks for; 1 where it has none yet."""
    try:
        return float(yaml.safe_load((run / "config.yaml").read_text())["train"]["epochs"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
        return 1.0
