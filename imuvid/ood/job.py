"""The evaluation job: an encoder in, a table of predictions and a report out."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from imuvid.config import to_dict
from imuvid.errors import UserError
from imuvid.imu.condition import ConditionConfig
from imuvid.models import text_encoder
from imuvid.models.encoder import Encoder, load_encoder, random_encoder, save_encoder
from imuvid.models.shared_space import find_beside
from imuvid.models.text_encoder import TextEncoder
from imuvid.ood.cache import open_cache
from imuvid.ood.config import OODConfig
from imuvid.ood.datasets.base import Windows, data_folder
from imuvid.ood.datasets.catalog import CARDS
from imuvid.ood.datasets.daphnet import read_daphnet
from imuvid.ood.datasets.generic import GenericConfig, read_generic
from imuvid.ood.datasets.hapt import read_hapt
from imuvid.ood.datasets.kept import read_kept
from imuvid.ood.datasets.public_windows import read_public
from imuvid.ood.datasets.shards import ShardsConfig, read_shards
from imuvid.ood.datasets.spar import read_spar
from imuvid.ood.embedding import choose_device
from imuvid.ood.maps import embedding_maps
from imuvid.ood.model import FunctionModel
from imuvid.ood.names import LINEAR, PRETRAINED, RANDOM
from imuvid.ood.paired import PairEncoder, held_out
from imuvid.ood.parts import PARTS, Execute, Parts, one_thread, run_elsewhere, run_here
from imuvid.ood.predictions import merge, to_table
from imuvid.ood.probes import selection_rule
from imuvid.ood.protocols.folds import (
    Fold,
    ProtocolConfig,
    check_not_pretrained,
    make_folds,
    protocol_name,
    validation_folds,
)
from imuvid.ood.protocols.joined import AXES, joined_tasks
from imuvid.ood.protocols.paper import LEAKY_NOTE, PROTOCOL, SHOTS, paper_folds
from imuvid.ood.protocols.registry import EVALUATORS
from imuvid.ood.protocols.stress import stress_notes
from imuvid.ood.protocols.task import Representation, Task, check_task, published_draws
from imuvid.ood.representations import (
    EncoderRepresentation,
    FunctionRepresentation,
    HandmadeRepresentation,
    RawRepresentation,
)
from imuvid.ood.results import EvaluationResult, describe_model, describe_program, write_results
from imuvid.ood.retrieval import retrieve, summarise_retrieval
from imuvid.ood.scalars import write_scalars
from imuvid.ood.statements import describe, statements
from imuvid.ood.summary import ALL, HEADLINE_METRIC, summarise
from imuvid.ood.training_log import find_run, read_training_log
from imuvid.ood.workers import identity, prepare, run_part
from imuvid.ood.zero_shot_inputs import zero_shot_table

logger = logging.getLogger(__name__)

EXECUTORS = ("local", "ray")
ENCODER = "encoder"


def evaluate(model: str | Path | FunctionModel, config: OODConfig, execute: Execute | None = None) -> EvaluationResult:
    """Score an encoder on people, devices and places that it never saw.

    An evaluation that was killed goes on when it is called again with the same arguments: folds that were finished lie
    beside the report until it is complete.

    Args:
        model: a checkpoint folder, its ``encoder`` folder, ``checkpoints/latest`` of a run or an exported encoder, of
            which only safetensors and JSON are read, and the run's metrics.jsonl if it is there; or a function.
        config: data sets, protocols and probes.
        execute: runs folds in other processes; None: one after another in this one. The result is the same.

    Raises:
        UserError: the encoder or a data set cannot be read, the protocol does not fit the data, or a test subject
            was pretrained on.
    """
    rule = selection_rule(config.probe)
    config.check()
    device = choose_device(config.device)
    if config.sensors not in ("apart", "together"):
        raise UserError(f"sensors={config.sensors}: choose apart or together")
    if config.executor not in EXECUTORS or config.workers < 0:
        raise UserError(
            f"executor={config.executor}, workers={config.workers}: choose {' or '.join(EXECUTORS)}; 0 or more"
        )
    encoder = model if isinstance(model, FunctionModel) else load_encoder(model)
    run = None if isinstance(model, FunctionModel) else find_run(Path(model))
    out = _out_folder(config, run, encoder.config.provenance)
    text, pairs = _text_encoder(model, config), _pair_encoder(model, encoder, config, device)
    parts = Parts(out / PARTS, identity(encoder, config))
    with one_thread():
        if execute is not None and isinstance(encoder, Encoder):
            copy = parts.folder / ENCODER  # that of the run may be deleted meanwhile
            save_encoder(copy, encoder.config, encoder.tower.state_dict())
            num_random = config.num_draws if config.subjects == "test" else 0
            prepare(copy, num_random, config, _readers, _encoders, execute)
            tasks = make_tasks(config, encoder, device)
            arguments = (make_tasks, run_fold, copy, parts.folder, config)
            table = run_elsewhere(parts, tasks, run_fold, execute, config.workers, run_part, arguments)
        else:
            tasks = make_tasks(config, encoder, device)
            table = run_here(parts, tasks, run_fold)
        if isinstance(encoder, Encoder) and (pairs is not None or text is not None):
            table = merge([table, *zero_shot_table(tasks, encoder, pairs, text, config)])
        results = summarise(table, config.num_bootstrap, config.seed)
        queries = None
        if pairs is not None and config.paired.root is not None:
            queries = retrieve(pairs.embed(*held_out(config.paired, pairs.encoder)), config.paired.max_offset_s)
        maps = embedding_maps(tasks, config.seed)
    report = {
        "versions": describe_program(),
        "encoder": describe_model(model, encoder),
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
        "retrieval": None if queries is None else summarise_retrieval(queries, config.num_bootstrap, config.seed),
        "training": read_training_log(run) if run else None,
    }
    write_results(out, table, {task.key: published_draws(task) for task in tasks}, report, maps, queries)
    if run is not None and config.out is None:
        write_scalars(run, report)
    parts.clear()
    return EvaluationResult(out, report)


def _pair_encoder(
    model: str | Path | FunctionModel, encoder: Encoder | FunctionModel, config: OODConfig, device: torch.device
) -> PairEncoder | None:
    if config.subjects == "validation" or (config.paired.root is None and config.paired.prototypes is None):
        return None
    if isinstance(model, FunctionModel) or not isinstance(encoder, Encoder):
        raise UserError("paired.root and paired.prototypes need a checkpoint, with heads and a video tower")
    return PairEncoder(Path(model), encoder, config.batch_size, device)


def _text_encoder(model: str | Path | FunctionModel, config: OODConfig) -> TextEncoder | None:
    folder = None if isinstance(model, FunctionModel) else find_beside(model, text_encoder.FOLDER_NAME)
    if folder is None or config.subjects == "validation":
        return None
    if config.prompt.count("{}") != 1:
        raise UserError(f"prompt='{config.prompt}': must have {{}} once, where the name of the class goes")
    return text_encoder.load_text_encoder(folder)


def make_tasks(config: OODConfig, encoder: Encoder | FunctionModel, device: torch.device) -> list[Task]:
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
            evaluators = ["frozen", "finetune", *(["stress"] if config.stress.stressors else [])]
            representations = [
                *_encoders(encoder, config, device, config.num_draws),
                HandmadeRepresentation(),
                RawRepresentation(),
            ]
        tested = {name for fold in folds for name in windows.subject[fold.test]}
        check_not_pretrained(tested, encoder.config.provenance.get("train_subjects", []), key)
        tasks.append(_task(windows, name, folds, representations, evaluators, config))
    if config.subjects == "test":
        pretrained = set(encoder.config.provenance.get("train_subjects", []))
        tasks += _joined(tasks, config, pretrained)
        tasks += [task for strict in list(tasks) if config.paper and (task := _paper(strict)) is not None]
    for task in tasks:
        if "stress" in task.evaluators:
            task.notes += stress_notes(task)
        task.notes += check_task(task) + _condition_notes(encoder.config.condition)
    return tasks


def _joined(tasks: list[Task], config: OODConfig, pretrained: set[str]) -> list[Task]:
    for axis in config.leave_out:
        if axis not in AXES:
            raise UserError(f"leave_out: there is no '{axis}': choose from {', '.join(AXES)}")
    several = [task.windows.name for task in tasks if len(task.windows.positions) > 1]
    if config.leave_out and several and config.sensors != "apart":
        raise UserError(f"{several[0]} has several sensors: set leave_out=[], or sensors=apart")
    populations = {key: CARDS[key].population for key in config.datasets if key in CARDS}
    return joined_tasks(tasks, config.leave_out, populations, pretrained)


def _paper(task: Task) -> Task | None:
    """Return a data set's task under the paper's protocol; None where a class has too few windows, or it is joined."""
    folds = paper_folds(task.windows.label, task.settings.num_draws, task.settings.seed)
    if not folds or task.domain is not None:
        return None
    return dataclasses.replace(
        task,
        protocol=PROTOCOL,
        folds=folds,
        settings=dataclasses.replace(task.settings, shots=list(SHOTS)),
        evaluators=["paper"],
        strict=False,
        drawn=True,
        notes=[LEAKY_NOTE],
    )


def _encoders(
    encoder: Encoder | FunctionModel, config: OODConfig, device: torch.device, num_random: int
) -> list[Representation]:
    cache = open_cache(config.cache)

    def of(name: str, encoders: list[Encoder]) -> EncoderRepresentation:
        return EncoderRepresentation(name, encoders, config.batch_size, device, config.sensors, cache)

    if isinstance(encoder, FunctionModel):
        return [FunctionRepresentation(PRETRAINED, encoder, config.batch_size, config.sensors)]
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
    return Task(windows, protocol, folds, by_name, features, config, evaluators)


def run_fold(task: Task, fold: Fold) -> pa.Table:
    """Return the predictions of every evaluator of a task on one of its folds."""
    logger.info("%s: fold %s: %d training, %d test windows", task.key, fold.name, len(fold.train), len(fold.test))
    return to_table(task, [block for name in task.evaluators for block in EVALUATORS[name](task, fold)])


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


def _readers(
    config: OODConfig, encoder: Encoder | FunctionModel, window_s: float
) -> list[tuple[str, Callable[[], Windows]]]:
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
    return [(key, _kept(key, known[key], config, rate_hz, window_s)) for key in config.datasets]


def _kept(
    key: str, read: Callable[[], Windows], config: OODConfig, rate_hz: float, window_s: float
) -> Callable[[], Windows]:
    """Return a reader that looks into the cache first; shards are read as fast as the cache is."""
    settings = getattr(config, key)
    if not hasattr(settings, "root") or isinstance(settings, ShardsConfig):
        return read

    def kept() -> Windows:
        places = [data_folder(settings.root, key)]
        if isinstance(settings, GenericConfig) and settings.layout is not None:
            places.append(Path(settings.layout))
        words = {name: value for name, value in dataclasses.asdict(settings).items() if name != "protocol"}
        return read_kept(read, open_cache(config.cache), places, words, rate_hz, window_s)

    return kept


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
