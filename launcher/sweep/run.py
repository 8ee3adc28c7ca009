"""The sweep: journal, Ray and Tune put together; limits and signals end it so that it can be gone on with."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
import signal
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before ray.tune is imported: its own handlers and writers would stand beside ours.
os.environ.update(
    RAY_AIR_NEW_OUTPUT="0",
    RAY_CHDIR_TO_TRIAL_DIR="0",
    RAY_TRAIN_V2_ENABLED="0",
    TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
    TUNE_DISABLE_SIGINT_HANDLER="1",
    TUNE_DISABLE_STRICT_METRIC_CHECKING="1",
)

import ray
from ray import tune
from ray.tune import CheckpointConfig, FailureConfig, RunConfig, Stopper

from imuvid import config as configs
from imuvid.errors import UserError
from launcher.local import REQUEUE_CODE
from launcher.ray_cluster import connect, wait_for_machines
from launcher.sweep import records
from launcher.sweep.config import SAME_PRIORITY, SweepConfig, check_sweep, pretrain_config
from launcher.sweep.records import UNFINISHED, Trial
from launcher.sweep.schedulers import NoteStops, build_scheduler
from launcher.sweep.searchers import JournalSearcher, ListedSearch, Search, build_search
from launcher.sweep.space import Space, draw_random, parse_space
from launcher.sweep.table import Table
from launcher.sweep.trial import LEAVE_NAME, SECONDS, Plan, SweepTrial, resources

logger = logging.getLogger(__name__)

MAX_LOSSES = 3
"""How often a trial is started anew after Ray lost it, in one start of the sweep."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
# What may differ between the starts of a sweep: how much, and on what, not what is compared.
_FREE = ("runs_dir", "limits", "ray", "trial.restarts", "trial.grace_s", "trial.silent_minutes")


@dataclass
class SweepResult:
    """How a start of a sweep ended."""

    folder: str
    trials: list[Trial]
    complete: bool
    """Whether every trial is through and no limit or signal came before."""
    why: str
    """What ended it, empty where nothing did before its end."""
    exit_code: int


def sweep(
    config: SweepConfig, resume: bool = False, listed: list[dict[str, Any]] | None = None, machines: int = 1
) -> SweepResult:
    """Run a sweep to its end, to a limit or to a signal.

    Args:
        config: of the sweep.
        resume: whether to go on with the sweep that is in the folder.
        listed: parameters of the trials, instead of a search.
        machines: that the Ray cluster is waited to have, for a few minutes.

    Raises:
        UserError: the config does not allow it, or the folder holds a sweep and ``resume`` is not set, or another one.
    """
    check_sweep(config)
    space = [] if listed is not None else parse_space(config.space)
    folder = config.folder.resolve()
    _check_base(config, space, folder)
    with _only_one(folder):
        begun = _claim(config, folder, resume)
        search: Search = (
            ListedSearch(listed)
            if listed is not None
            else build_search(config.search, space, config.maximise, len(begun))
        )
        scheduler = build_scheduler(config, space, folder)
        os.environ.update(SAME_PRIORITY)
        connect(config.ray.address, config.ray.cpus or len(os.sched_getaffinity(0)), config.ray.dashboard)
        try:
            wait_for_machines(machines)
            _check_room(config)
            plan = Plan(config, folder, uuid.uuid4().hex, os.getcwd())
            searcher = JournalSearcher(search, folder, config.limits.trials)
            limits = Limits(plan, searcher)
            with limits.listening():
                _fit(plan, searcher, scheduler, limits)
        finally:
            ray.shutdown()
            shutil.rmtree(folder / "ray", ignore_errors=True)
    trials = records.read_trials(folder, config.metric)
    open_trials = [trial.number for trial in trials if trial.state == UNFINISHED]
    why = limits.why or (f"{len(open_trials)} trials were lost" if open_trials else "")
    return SweepResult(str(folder), trials, not open_trials and not limits.why, why, limits.exit_code(bool(why)))


class Limits(Stopper):
    """Ends a sweep at its limits, and by SIGTERM, SIGINT and SIGUSR1: every run saves and leaves.

    Args:
        plan: of the sweep.
        searcher: that is told to begin no more trials.
    """

    def __init__(self, plan: Plan, searcher: JournalSearcher):
        self._plan, self._searcher = plan, searcher
        self._began = time.monotonic()
        self._gpus = plan.config.trial.gpus_per_rank * plan.config.trial.ranks_per_node * plan.config.trial.nodes
        self._seconds = {
            number: records.read_seconds(plan.folder, number) for number in records.read_journal(plan.folder)
        }
        self._end_by: float | None = None
        self.why = ""
        self.signal = 0

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Take in how long a trial has held its resources."""
        if SECONDS in result:
            self._seconds[result["number"]] = result[SECONDS]
        return False

    def stop_all(self) -> bool:
        """Whether Tune is to end at once: only where the trials did not leave by themselves in time."""
        if self._end_by is None:
            self.why = self._reached()
            if self.why:
                logger.info("sweep: %s: its trials save and leave", self.why)
                self._searcher.closed = True
                records.replace_text(self._plan.folder / LEAVE_NAME, json.dumps({"start": self._plan.start}))
                self._end_by = time.monotonic() + 2 * self._plan.config.trial.grace_s + 30
        return self._end_by is not None and time.monotonic() > self._end_by

    def gpu_hours(self) -> float:
        """Return what all trials have used in all starts."""
        return self._gpus * sum(self._seconds.values()) / 3600

    def exit_code(self, incomplete: bool) -> int:
        """Return that of the command: as of a pretraining after a signal, 0 after a limit, 1 where trials were lost."""
        if self.signal:
            return REQUEUE_CODE if self.signal == signal.SIGUSR1 else 128 + self.signal
        return int(incomplete and not self.why)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals for the time of the block."""

        def remember(number: int, _: Any) -> None:
            self.signal = number

        before = {number: signal.signal(number, remember) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _reached(self) -> str:
        limits = self._plan.config.limits
        if self.signal:
            return f"stopped by {signal.Signals(self.signal).name}"
        if limits.hours is not None and time.monotonic() - self._began > 3600 * limits.hours:
            return f"limits.hours={limits.hours:g} are over"
        if limits.gpu_hours is not None and self.gpu_hours() > limits.gpu_hours:
            return f"limits.gpu_hours={limits.gpu_hours:g} are used up"
        return ""


def _fit(plan: Plan, searcher: JournalSearcher, scheduler: Any, limits: Limits) -> None:
    config = plan.config
    trainable = tune.with_resources(
        tune.with_parameters(SweepTrial, plan=plan),
        lambda given: resources(config, given["replay"]),
    )
    # Tune's own files are not what a sweep goes on from; checkpoints in them only name runs.
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher, scheduler=scheduler, num_samples=-1, trial_dirname_creator=lambda t: t.trial_id
        ),
        run_config=RunConfig(
            name=plan.start,
            storage_path=str(plan.folder / "ray"),
            stop=limits,
            callbacks=[NoteStops(plan.folder), Table(plan)],
            failure_config=FailureConfig(max_failures=MAX_LOSSES),
            checkpoint_config=CheckpointConfig(num_to_keep=4),
            verbose=0,
        ),
    )
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    tuner.fit()


def _check_base(config: SweepConfig, space: Space, folder: Path) -> None:
    """Refuse a base, or parameters, that no trial can be started with; here it is one line and not one a trial."""
    from imuvid.training.start import check_start

    first = pretrain_config(config, draw_random(space, 0, 0), "trial", folder)
    if "test" in (first.data.val_split, first.data.train_split):
        raise UserError("data.val_split=test: a sweep that looks at test people leaves none to judge its best by")
    check_start(pretrain_config(config, {}, "trial", folder), config.trial.nodes * config.trial.ranks_per_node)


def _check_room(config: SweepConfig) -> None:
    """Refuse a trial that the cluster has no machines for: Ray would wait for ever."""
    trial = config.trial
    need = {"CPU": trial.cpus_per_rank * trial.ranks_per_node, "GPU": trial.gpus_per_rank * trial.ranks_per_node}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fitting = [node for node in nodes if all(node.get(name, 0.0) >= amount for name, amount in need.items())]
    if len(fitting) < trial.nodes:
        wanted = ", ".join(f"{amount:g} {name}s" for name, amount in need.items() if amount)
        raise UserError(
            f"a trial needs {trial.nodes} machine{'s' * (trial.nodes > 1)} with {wanted}, and {len(fitting)} of the"
            f" {len(nodes)} of the Ray cluster have that: lower trial.ranks_per_node, or trial.cpus_per_rank"
        )


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{folder}: another process is at this sweep") from error
        yield


def _claim(config: SweepConfig, folder: Path, resume: bool) -> dict[int, dict[str, Any]]:
    saved, begun = folder / "sweep.yaml", records.read_journal(folder)
    if saved.exists():
        if begun and not resume:
            raise UserError(
                f"{folder} holds a sweep of {len(begun)} trials: --resume goes on with it, name=... begins anew"
            )
        earlier = configs.load(SweepConfig, saved)
        changed = sorted(_changed(configs.to_dict(earlier), configs.to_dict(config)))
        if begun and changed:
            raise UserError(f"{folder} holds a sweep with another {', '.join(changed[:3])}: set them back, or name=...")
    records.replace_text(saved, configs.to_yaml(config))
    return begun


def _changed(before: Any, after: Any, key: str = "") -> Iterator[str]:
    if key.startswith(_FREE):
        return
    if isinstance(before, dict) and isinstance(after, dict) and not key.startswith("space"):
        for name in {*before, *after}:
            yield from _changed(before.get(name), after.get(name), f"{key}.{name}" if key else name)
    elif before != after:
        yield key
