"""The evaluation job: an encoder in, a table of predictions and a report out."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

import imuvid
from imuvid.config import to_dict
from imuvid.errors import UserError
from imuvid.imu.condition import ConditionConfig
from imuvid.models.encoder import Encoder, load_encoder, random_encoder
from imuvid.ood.config import OODConfig
from imuvid.ood.datasets.base import Windows
from imuvid.ood.datasets.catalog import CARDS
from imuvid.ood.datasets.daphnet import read_daphnet
from imuvid.ood.datasets.generic import read_generic
from imuvid.ood.datasets.hapt import read_hapt
from imuvid.ood.datasets.public_windows import read_public
from imuvid.ood.datasets.shards import read_shards
from imuvid.ood.datasets.spar import read_spar
from imuvid.ood.embedding import choose_device, weights_sha256
from imuvid.ood.names import LINEAR, PRETRAINED, RANDOM
from imuvid.ood.predictions import merge, to_table, write_predictions
from imuvid.ood.probes import selection_rule
from imuvid.ood.protocols.folds import (
    Fold,
    ProtocolConfig,
    check_not_pretrained,
    make_folds,
    protocol_name,
    validation_folds,
)
from imuvid.ood.protocols.registry import EVALUATORS
from imuvid.ood.protocols.task import Representation, Task, check_task, published_draws
from imuvid.ood.report import render
from imuvid.ood.representations import EncoderRepresentation, HandmadeRepresentation, RawRepresentation
from imuvid.ood.statements import describe, score_table, statements
from imuvid.ood.summary import ALL, HEADLINE_METRIC, summarise
from imuvid.ood.training_log import find_run, read_training_log

logger = logging.getLogger(__name__)

PREDICTIONS, DRAWS, REPORT_JSON, REPORT_HTML = "predictions.parquet", "draws.json", "report.json", "report.html"


@dataclass
class EvaluationResult:
    """What :func:`evaluate` leaves behind."""

    out: Path
    """Folder with predictions.parquet, draws.json, report.json and report.html."""
    report: dict[str, Any]
    """The content of report.json."""

    @property
    def html(self) -> Path:
        """The report to open in a browser."""
        return self.out / REPORT_HTML

    def lines(self) -> list[str]:
        """Return the table of balanced accuracies, the findings and the place of the report, for the terminal."""
        return [*score_table(self.report["results"]), *[s["text"] for s in self.report["statements"]], f"{self.html}"]


def evaluate(checkpoint: Path, config: OODConfig) -> EvaluationResult:
    """Score an encoder on people, devices and places that it never saw.

    Args:
        checkpoint: a checkpoint folder, its ``encoder`` folder, or ``checkpoints/latest`` of a run. Only the
            encoder's safetensors and JSON are read, and the run's metrics.jsonl if it is there.
        config: data sets, protocols and probes.

    Raises:
        UserError: the encoder or a data set cannot be read, the protocol does not fit the data, or a test subject
            was pretrained on.
    """
    checkpoint = Path(checkpoint)
    rule = selection_rule(config.probe)
    config.check()
    device = choose_device(config.device)
    if config.sensors not in ("apart", "together"):
        raise UserError(f"sensors={config.sensors}: choose apart or together")
    encoder = load_encoder(checkpoint)
    run = find_run(checkpoint)
    out = _out_folder(config, run, encoder.config.provenance)
    tasks = make_tasks(config, encoder, device)
    table = run_tasks(tasks)
    results = summarise(table, config.num_bootstrap, config.seed)
    report = {
        "imuvid": imuvid.__version__,
        "encoder": {
            "checkpoint": str(checkpoint),
            "weights_sha256": weights_sha256(encoder),
            "num_parameters": sum(parameter.numel() for parameter in encoder.parameters()),
            "imu_rate_hz": encoder.config.imu_rate_hz,
            "window_s": encoder.config.window_s,
            "positions": encoder.config.positions,
            "condition": dataclasses.asdict(encoder.config.condition),
            "provenance": encoder.config.provenance,
        },
        "config": to_dict(config),
        "headline": headline(results, config),
        "statements": statements(results),
        "tasks": {
            task.key: {
                "protocol": describe(task, config.sensors),
                "selection_rule": rule,
                "data": task.windows.provenance,
                "notes": task.windows.notes + task.notes,
            }
            for task in tasks
        },
        "results": results,
        "training": read_training_log(run) if run else None,
    }
    _write(out, table, {task.key: published_draws(task) for task in tasks}, report)
    return EvaluationResult(out, report)


def make_tasks(config: OODConfig, encoder: Encoder, device: torch.device) -> list[Task]:
    """Return what is to be scored: every data set under its own protocol.

    Args:
        config: data sets, protocols and probes.
        encoder: the pretrained one.
        device: where encoders run.

    Raises:
        UserError: a data set cannot be read, the protocol does not fit the data, or a test subject was pretrained on.
    """
    if config.subjects not in ("test", "validation"):
        raise UserError(f"subjects={config.subjects}: choose test or validation")
    tasks: list[Task] = []
    for key, read in _readers(config, encoder, config.window_s or encoder.config.window_s):
        logger.info("reading %s", key)
        windows = read()
        if windows.name in {task.windows.name for task in tasks}:
            raise UserError(f"datasets: two of them are named {windows.name}: evaluate them one by one")
        protocol: ProtocolConfig = getattr(config, key).protocol
        if config.subjects == "validation":
            name, folds = "validation", validation_folds(windows.subject, protocol, key)
            evaluators, representations = ["frozen"], _encoders(encoder, config, device, num_random=0)
        else:
            name, folds = protocol_name(protocol), make_folds(windows.subject, protocol, key)
            evaluators = list(EVALUATORS)
            representations = [
                *_encoders(encoder, config, device, config.num_draws),
                HandmadeRepresentation(),
                RawRepresentation(),
            ]
        tested = {name for fold in folds for name in windows.subject[fold.test]}
        check_not_pretrained(tested, encoder.config.provenance.get("train_subjects", []), key)
        tasks.append(_task(windows, name, folds, representations, evaluators, config))
        tasks[-1].notes += _condition_notes(encoder.config.condition)
    return tasks


def _encoders(encoder: Encoder, config: OODConfig, device: torch.device, num_random: int) -> list[Representation]:
    def of(name: str, encoders: list[Encoder]) -> EncoderRepresentation:
        return EncoderRepresentation(name, encoders, config.batch_size, device, config.sensors)

    others = [random_encoder(encoder.config, config.seed + draw) for draw in range(num_random)]
    return [of(PRETRAINED, [encoder]), *([of(RANDOM, others)] if others else [])]


def _task(
    windows: Windows,
    protocol: str,
    folds: list[Fold],
    representations: Sequence[Representation],
    evaluators: list[str],
    config: OODConfig,
) -> Task:
    logger.info("%s: embedding %d windows", windows.name, len(windows.label))
    features = {
        representation.name: [representation.features(windows, draw) for draw in range(representation.num_draws)]
        for representation in representations
    }
    by_name = {representation.name: representation for representation in representations}
    task = Task(windows, protocol, folds, by_name, features, config, evaluators)
    check_task(task)
    return task


def run_fold(task: Task, fold: Fold) -> pa.Table:
    """Return the predictions of every evaluator of a task on one of its folds."""
    logger.info("%s: fold %s: %d training, %d test windows", task.key, fold.name, len(fold.train), len(fold.test))
    return to_table(task, [block for name in task.evaluators for block in EVALUATORS[name](task, fold)])


def run_tasks(tasks: list[Task]) -> pa.Table:
    """Return the predictions of all folds of all tasks; the folds do not depend on each other."""
    return merge([run_fold(task, fold) for task in tasks for fold in task.folds])


def headline(results: dict[str, Any], config: OODConfig) -> dict[str, Any]:
    """Return the one number that a sweep compares: the linear probe's balanced accuracy, mean over strict tasks."""
    by_task = {}
    for name, result in results.items():
        for row in result["scores"]:
            chosen = (row["method"], row["shots"], row["selection"], row["stressor"])
            if result["strict"] and chosen == (f"{PRETRAINED}/{LINEAR}", ALL, config.probe.selection[0], ""):
                by_task[name] = row["metrics"][HEADLINE_METRIC]["value"]
    return {
        "subjects": config.subjects,
        "metric": HEADLINE_METRIC,
        "method": f"{PRETRAINED}/{LINEAR}",
        "shots": ALL,
        "selection": config.probe.selection[0],
        "value": sum(by_task.values()) / len(by_task),
        "by_task": by_task,
    }


def _readers(config: OODConfig, encoder: Encoder, window_s: float) -> list[tuple[str, Callable[[], Windows]]]:
    rate_hz = encoder.config.imu_rate_hz
    known: dict[str, Callable[[], Windows]] = {
        "hapt": lambda: read_hapt(config.hapt, rate_hz, window_s),
        "daphnet": lambda: read_daphnet(config.daphnet, rate_hz, window_s),
        "spar": lambda: read_spar(config.spar, rate_hz, window_s),
        "shards": lambda: read_shards(config.shards, rate_hz, window_s, encoder.config.provenance),
        "generic": lambda: read_generic(config.generic, rate_hz, window_s),
    }
    for key, card in CARDS.items():
        known.setdefault(key, functools.partial(read_public, card, getattr(config, key), rate_hz, window_s))
    if not config.datasets:
        raise UserError(f"datasets is empty: list one or more of {', '.join(known)}")
    for key in config.datasets:
        if key not in known:
            raise UserError(f"datasets: '{key}' is unknown: choose from {', '.join(known)}")
    return [(key, known[key]) for key in config.datasets]


def _condition_notes(condition: ConditionConfig) -> list[str]:
    if condition.normalise != "recording":
        return []
    return [
        "Both encoders get each recording normalised by the mean and deviation of all its windows here, as in "
        "pretraining: this uses windows, but no labels, that come later than the one that is scored."
    ]


def _out_folder(config: OODConfig, run: Path | None, provenance: dict[str, Any]) -> Path:
    if config.out is not None:
        return Path(config.out)
    if run is None or "step" not in provenance:
        raise UserError("the checkpoint lies in no run folder: say where the report goes with out=FOLDER")
    return run / "report" / f"step-{provenance['step']:08d}"


def _write(out: Path, table: pa.Table, draws: dict[str, Any], report: dict[str, Any]) -> None:
    """Write the four files; each appears under its name only when it is whole."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        page = render(report)
        for name, write in (
            (PREDICTIONS, lambda path: write_predictions(table, path)),
            (DRAWS, lambda path: path.write_text(json.dumps(draws, indent=1))),
            (REPORT_JSON, lambda path: path.write_text(json.dumps(report, indent=1, allow_nan=False))),
            (REPORT_HTML, lambda path: path.write_text(page, encoding="utf-8")),
        ):
            partial = out / f".{name}.partial"
            write(partial)
            os.replace(partial, out / name)
    except OSError as error:
        raise UserError(
            f"{out}: the report cannot be written ({error}): choose another folder with out=FOLDER"
        ) from error
