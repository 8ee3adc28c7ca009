"""What a sweep leaves for its reader: sweep.parquet, best.yaml, TensorBoard hparams, sweep.html, a table."""

from __future__ import annotations

import json
import math
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from imuvid import config as configs
from launcher.sweep import records
from launcher.sweep.config import SweepConfig, pretrain_config
from launcher.sweep.importance import Importance, importances
from launcher.sweep.records import FINISHED, Trial
from launcher.sweep.run import SweepResult
from launcher.sweep.table import describe

BEST_NAME = "best"
SHOWN_TRIALS = 20
SCHEMA = pa.schema(
    [
        ("trial", pa.int32()),
        ("state", pa.string()),
        ("message", pa.string()),
        ("score", pa.float64()),
        ("step", pa.int64()),
        ("percent", pa.float64()),
        ("seconds", pa.float64()),
        ("parameters", pa.string()),
        ("steps", pa.list_(pa.int64())),
        ("scores", pa.list_(pa.float64())),
        ("run", pa.string()),
    ]
)
"""Of sweep.parquet: a row a trial. ``score`` is the last of ``scores``, which were taken at ``steps``; ``parameters``
is JSON, and each parameter is a column of its own beside it."""


@dataclass
class SweepSummary:
    """What came out of a sweep."""

    folder: str
    metric: str
    trials: int
    states: dict[str, int]
    best: Trial | None
    """None where no trial has a score."""
    best_config: str
    page: str
    rerun: str
    importance: dict[str, float]
    """Of each parameter: share of the spread of the scores that a forest explains by it."""
    why: str
    """What ended the sweep before its end, empty where nothing did."""
    confirmation: dict[str, Any] | None
    rows: list[list[str]]

    def lines(self) -> list[str]:
        """Return the result as lines for the terminal."""
        lines = [f"{'trial':>5}  {'state':13}  {self.metric:>20}  {'step':>8}  parameters"]
        lines += [f"{row[0]:>5}  {row[1]:13}  {row[2]:>20}  {row[3]:>8}  {row[4]}" for row in self.rows[:SHOWN_TRIALS]]
        if len(self.rows) > SHOWN_TRIALS:
            lines.append(f"and {len(self.rows) - SHOWN_TRIALS} more in {self.folder}/sweep.parquet")
        lines.append("states: " + ", ".join(f"{number} {state}" for state, number in self.states.items()))
        if self.confirmation:
            lines += self.confirmation["lines"]
        if self.why:
            lines.append(f"not complete: {self.why}; --resume goes on with it")
        if self.best:
            lines.append(f"best: trial {self.best.number} with {self.metric} {self.best.value:.4f}: {self.rerun}")
        lines.append(f"page: {self.page}")
        return lines


def write_results(
    config: SweepConfig, result: SweepResult, config_path: str, confirmation: dict[str, Any] | None = None
) -> SweepSummary:
    """Write all results of a sweep into its folder and return what there is to say.

    Args:
        config: of the sweep.
        result: how it ended.
        config_path: file of the config, for the command that makes the page anew.
        confirmation: of the best, as :func:`launcher.sweep.confirm.confirm_best` gives it.
    """
    from launcher.sweep.page import render

    folder, trials = Path(result.folder), result.trials
    best = records.best_trial(trials, config.maximise)
    _write_parquet(folder / "sweep.parquet", trials)
    ranks = config.trial.nodes * config.trial.ranks_per_node
    rerun = ""
    if best is not None:
        settings = pretrain_config(config, best.parameters, f"{config.name}-{BEST_NAME}", Path(config.runs_dir))
        records.replace_text(folder / "best.yaml", configs.to_yaml(settings))
        rerun = shlex.join(["imuvid", "pretrain", str(folder / "best.yaml"), "--nproc", str(ranks)])
    _write_board(folder / "tensorboard", trials, config.metric)
    importance = importances(trials)
    summary = SweepSummary(
        folder=str(folder),
        metric=config.metric,
        trials=len(trials),
        states={s: sum(t.state == s for t in trials) for s in dict.fromkeys(t.state for t in trials)},
        best=best,
        best_config=str(folder / "best.yaml") if best else "",
        page=str(folder / "sweep.html"),
        rerun=rerun,
        importance=importance.shares if isinstance(importance, Importance) else {},
        why=result.why,
        confirmation=confirmation,
        rows=_rows(trials, config.maximise),
    )
    again = shlex.join(["imuvid", "sweep", config_path, "--resume"])
    best_yaml = (folder / "best.yaml").read_text() if best else ""
    records.replace_text(folder / "sweep.html", render(config, trials, summary, importance, best_yaml, again))
    return summary


def _rows(trials: list[Trial], maximise: bool) -> list[list[str]]:
    def order(trial: Trial) -> tuple[bool, bool, float]:
        value = trial.value
        known = value is not None and math.isfinite(value)
        return trial.state != FINISHED, not known, (-(value or 0.0) if maximise else (value or 0.0)) if known else 0.0

    return [
        [
            str(trial.number),
            trial.state,
            "" if trial.value is None else f"{trial.value:.4f}",
            str(trial.steps),
            describe(trial.parameters) + (f"  ({trial.message})" if trial.message else ""),
        ]
        for trial in sorted(trials, key=order)
    ]


def _write_parquet(path: Path, trials: list[Trial]) -> None:
    rows = [
        {
            "trial": trial.number,
            "state": trial.state,
            "message": trial.message,
            "score": trial.value,
            "step": trial.steps,
            "percent": trial.scores[-1].percent if trial.scores else 0.0,
            "seconds": trial.seconds,
            "parameters": json.dumps(trial.parameters),
            "steps": [score.step for score in trial.scores],
            "scores": [score.value for score in trial.scores],
            "run": str(trial.folder),
        }
        for trial in trials
    ]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    for key in dict.fromkeys(key for trial in trials for key in trial.parameters):
        table = table.append_column(key, _column([trial.parameters.get(key) for trial in trials]))
    temporary = path.with_suffix(".tmp")
    pq.write_table(table, temporary)
    temporary.replace(path)


def _column(values: list[Any]) -> pa.Array:
    """Numbers as numbers; what is of several types, or a list, as JSON."""
    try:
        column = pa.array(values)
        if not pa.types.is_nested(column.type):
            return column
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        pass
    return pa.array([None if value is None else json.dumps(value) for value in values], pa.string())


def _write_board(folder: Path, trials: list[Trial], metric: str) -> None:
    from tensorboardX import SummaryWriter
    from tensorboardX.summary import hparams

    shutil.rmtree(folder, ignore_errors=True)
    for trial in trials:
        given = {
            key: value if isinstance(value, (bool, int, float, str)) else json.dumps(value)
            for key, value in trial.parameters.items()
        }
        with SummaryWriter(str(folder / records.run_name(trial.number))) as board:
            for part in hparams(given, {metric: trial.value if trial.value is not None else math.nan}):
                board.file_writer.add_summary(part)
            for score in trial.scores:
                board.add_scalar(metric, score.value, score.step)
