"""What other processes do for an evaluation: they read the encoder, the config and the cache, and need nothing else."""

from __future__ import annotations

import dataclasses
import logging
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from imuvid.config import to_dict
from imuvid.models.encoder import Encoder, load_encoder
from imuvid.ood.cache import content_key
from imuvid.ood.config import OODConfig
from imuvid.ood.datasets.base import Windows
from imuvid.ood.embedding import choose_device, weights_sha256
from imuvid.ood.names import PRETRAINED
from imuvid.ood.parts import Execute, Parts, one_thread
from imuvid.ood.protocols.folds import Fold
from imuvid.ood.protocols.task import Representation, Task

logger = logging.getLogger(__name__)

MakeTasks = Callable[[OODConfig, Encoder, Any], list[Task]]
Read = Callable[[OODConfig, Encoder, float], list[tuple[str, Callable[[], Windows]]]]
Represent = Callable[[Encoder, OODConfig, Any, int], list[Representation]]
_IN_PLACE = ("out", "cache", "workers", "executor", "num_bootstrap")
"""Words of the config that no part depends on."""
_made: dict[str, list[Task]] = {}


def identity(encoder: Any, config: OODConfig) -> list[Any]:
    """Return what the parts of an evaluation follow from, besides the data: weights, encoder's config, config."""
    settings = {key: value for key, value in to_dict(config).items() if key not in _IN_PLACE}
    if not isinstance(encoder, Encoder):
        return [
            secrets.token_hex(16),
            settings,
        ]  # nothing says what a function computes: its parts are never taken again
    return [weights_sha256(encoder), dataclasses.asdict(encoder.config), settings]


def run_part(
    make_tasks: MakeTasks,
    run_fold: Callable[[Task, Fold], pa.Table],
    encoder: Path,
    folder: Path,
    config: OODConfig,
    key: str,
    fold_name: str,
) -> None:
    """Compute one part and keep it in the folder.

    Args:
        make_tasks: makes the tasks of an encoder.
        run_fold: computes a part.
        encoder: its folder.
        folder: of the parts.
        config: of the evaluation.
        key: of the task.
        fold_name: of its fold.
    """
    model = load_encoder(encoder)
    parts = Parts(folder, identity(model, config))
    which = content_key(parts.identity)
    if which not in _made:
        _made.clear()
        with one_thread():
            _made[which] = make_tasks(config, model, choose_device(config.device))
    task = next(task for task in _made[which] if task.key == key)
    parts.make(task, next(fold for fold in task.folds if fold.name == fold_name), run_fold)


def prepare(
    encoder: Path, num_random: int, config: OODConfig, read: Read, represent: Represent, execute: Execute
) -> None:
    """Fill the cache, in other processes: read every data set, then embed each by every encoder.

    On a GPU the embedding is left to this process: side by side it would take no less time, and more memory.

    Args:
        encoder: folder of the pretrained one.
        num_random: random-initialised ones.
        config: of the evaluation.
        read: returns the readers of the config's data sets.
        represent: returns the representations by encoders.
        execute: runs jobs in other processes.
    """
    if config.cache.max_gb == 0:
        return
    reading = [(read, represent, encoder, config, key, -1) for key in config.datasets]
    _run(execute, reading, config.workers)
    if choose_device(config.device).type == "cpu":
        draws = range(1 + num_random)
        _run(execute, [(*job[:-1], draw) for job in reading for draw in draws], config.workers)


def _run(execute: Execute, jobs: Sequence[tuple], workers: int) -> None:
    for which, lost in execute(_prepare, jobs, workers, 0.0):
        if lost is not None:
            logger.warning("%s: %s: this process does it", jobs[which][4], lost)


def _prepare(read: Read, represent: Represent, encoder: Path, config: OODConfig, key: str, draw: int) -> None:
    """Read a data set; with a draw of 0 embed it by the pretrained encoder, with d by the d-th random one."""
    model = load_encoder(encoder)
    with one_thread():
        window_s = config.window_s or model.config.window_s
        windows = dict(read(config, model, window_s))[key]()
        if draw < 0:
            return
        for representation in represent(model, config, choose_device(config.device), draw):
            if (representation.name == PRETRAINED) == (draw == 0):
                representation.features(windows, max(0, draw - 1))
