"""A trial: a Ray Tune trainable that starts the normal launcher on the machines of its placement group.

What it tells Tune is read from the run's own files, from the beginning: a trial of a sweep that is gone on with first
says again what it said before, so that searcher and scheduler know what they knew, and then goes on from the run's last
checkpoint. Nothing of Ray's own state is needed for that.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from launcher.local import Place
from launcher.sweep import records
from launcher.sweep.config import OOD_METRIC, SweepConfig, trial_words
from launcher.sweep.failures import KILLED, judge
from launcher.sweep.host import Host, Share, owned
from launcher.sweep.ood_score import OodScorer
from launcher.sweep.records import UNFINISHED, Outcome, Score

logger = logging.getLogger(__name__)

SCORE, PERCENT, STEP, SECONDS = "score", "percent", "step", "seconds"
"""Of a result: the metric, the progress of the run, and how long its resources were held over all starts."""
AGAIN = "again"
"""Of a result: whether the score is one that the trial had before it was started."""
HEARTBEAT_S = 1.0
"""A result without a score comes so often, so that Tune can act on the trial."""
POLL_S = 0.2
LEAVE_NAME = "leave.json"
"""File in the sweep's folder by which the driver asks all trials to save and leave; it names the start it is for."""


@dataclass(frozen=True)
class Plan:
    """What all trials of one start of a sweep have in common."""

    config: SweepConfig
    folder: Path
    """Of the sweep, absolute."""
    start: str
    """Names this start of the sweep."""
    cwd: str


def resources(config: SweepConfig, replay: bool) -> tune.PlacementGroupFactory:
    """Return what a trial asks of Ray: a bundle a machine, and nothing for the trainable itself.

    A trial that is through only says again how it went, which takes no machine.
    """
    if replay:
        return tune.PlacementGroupFactory([{"memory": 1}])  # a byte: Ray takes no bundle without anything
    trial = config.trial
    bundle = {"CPU": trial.cpus_per_rank * trial.ranks_per_node}
    if trial.gpus_per_rank:
        bundle["GPU"] = trial.gpus_per_rank * trial.ranks_per_node
    strategy = "STRICT_SPREAD" if trial.nodes > 1 else "PACK"
    return tune.PlacementGroupFactory([{}, *[dict(bundle) for _ in range(trial.nodes)]], strategy=strategy)


class SweepTrial(tune.Trainable):
    """One trial; ``config`` has number, parameters and replay, as the searcher gave them."""

    def setup(self, config: dict[str, Any], plan: Plan | None = None) -> None:
        """See :class:`ray.tune.Trainable`."""
        assert plan is not None
        self._plan, self._sweep = plan, plan.config
        self._number, self._parameters = int(config["number"]), dict(config["parameters"])
        self._run = records.generations(plan.folder, self._number)[-1]
        self._log = self._run.parent / records.run_name(self._number)
        self._hosts: list[Any] = []
        self._logs: list[tuple[Path, int]] = []
        self._said = -1  # step of the last score that Tune knows
        self._had = self._last_step()
        self._restarts = 0
        self._before_s = records.read_seconds(plan.folder, self._number)
        self._held_since = time.monotonic()
        self._sign: tuple[int, ...] = ()
        self._signed_at = time.monotonic()
        self._seen: tuple[int, ...] = ()
        self._ended = records.read_outcome(plan.folder, self._number)  # of an earlier start; later of this one
        self._scores: list[Score] = []
        self._epochs = 0.0
        self._ood = OodScorer(self._sweep.ood, plan.cwd) if self._sweep.metric == OOD_METRIC else None

    def step(self) -> dict[str, Any]:
        """Return the next score, or after a while a sign of life."""
        deadline = time.monotonic() + HEARTBEAT_S
        while time.monotonic() < deadline:
            if self._ended is None and self._told_to_end():
                return {**self._result(None), "done": True}
            if (score := self._next_score()) is not None:
                done = self._ended is not None and score is self._scores[-1]
                return {**self._result(score), "done": done}
            if self._ended is not None:
                return {**self._result(None), "done": True}
            if not self._hosts:
                self._begin()
            elif (ended := self._look_at_hosts()) is not None:
                self._forget_hosts()
                if ended.state == KILLED and self._restarts < self._sweep.trial.restarts:
                    self._restarts += 1
                    logger.warning("trial %d: %s: going on from its checkpoint", self._number, ended.message)
                    continue
                self._ended = ended
                if ended.state != UNFINISHED:
                    records.write_outcome(self._plan.folder, self._number, ended)
                continue
            time.sleep(POLL_S)
        return self._result(None)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Name the run: its own checkpoints hold weights and stream state."""
        place = {"run": str(self._run), "id": uuid.uuid4().hex}
        (Path(checkpoint_dir) / "run.json").write_text(json.dumps(place))

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Go on with the own run or, where the checkpoint is another trial's, begin a generation from its state."""
        given = json.loads((Path(checkpoint) / "run.json").read_text())
        donor = Path(given["run"])
        own = records.generations(self._plan.folder, self._number)
        # Tune gives the same one again where the trial is lost before it has saved.
        if donor not in own and self._ended is None and records.read_origin(self._run) != given["id"]:
            self._clone(donor, given["id"])

    def cleanup(self) -> None:
        """See :class:`ray.tune.Trainable`: whatever runs saves and leaves."""
        self._end_hosts()

    def _clone(self, donor: Path, checkpoint: str) -> None:
        from launcher.sweep.cloning import copy_newest_checkpoint

        before = records.generations(self._plan.folder, self._number)
        run = before[0].with_name(records.run_name(self._number, len(before)))
        copy_newest_checkpoint(donor, run)
        records.append_journal(self._plan.folder, self._number, self._parameters)
        records.write_origin(run, checkpoint)
        self._run, self._said, self._had, self._seen = run, -1, -1, ()

    def _next_score(self) -> Score | None:
        """The first score of the run that Tune does not know; the last one is kept back until the run has ended."""
        sign = _sign_of(self._run / "metrics.jsonl", self._run / "ood.jsonl")
        if sign != self._seen:
            self._seen = sign
            self._epochs = self._epochs or self._read_epochs()
            self._scores = records.read_scores(self._run, self._sweep.metric, self._epochs or 1.0)
        score = next((each for each in self._scores if each.step > self._said), None)
        # A run ends after its last score: Tune hears of both at once, and never stops a trial that has finished.
        if score is None or (score.percent >= 100 and self._ended is None):
            return None
        self._said, self._restarts = score.step, 0
        return score

    def _last_step(self) -> int:
        scores = records.read_scores(self._run, self._sweep.metric, self._read_epochs() or 1.0)
        return scores[-1].step if scores else -1

    def _read_epochs(self) -> float:
        return records.epochs_of(self._run) if (self._run / "config.yaml").exists() else 0.0

    def _result(self, score: Score | None) -> dict[str, Any]:
        result: dict[str, Any] = {SECONDS: self._seconds(), "number": self._number}
        if score is None:
            return result
        self._note_seconds()
        value = score.value
        if not math.isfinite(value):
            records.write_outcome(self._plan.folder, self._number, Outcome("diverged", "a score is not finite"))
            return result
        return {**result, SCORE: value, PERCENT: score.percent, STEP: score.step, AGAIN: score.step <= self._had}

    def _begin(self) -> None:
        """Start the ranks on the machines of the placement group: Tune leaves the empty bundle of the trainable out."""
        plan, trial = self._plan, self._sweep.trial
        self._log.mkdir(parents=True, exist_ok=True)
        owners = [self._run.with_name(f"{self._run.name}.owner-{host}") for host in range(trial.nodes)]
        deadline = time.monotonic() + 2 * trial.grace_s
        while any(map(owned, owners)) and time.monotonic() < deadline:
            time.sleep(POLL_S)  # an actor of this trial that was paused is still saving
        group = ray.util.get_current_placement_group()
        assert group is not None  # a trial is started in one
        make = ray.remote(num_cpus=trial.cpus_per_rank * trial.ranks_per_node, num_gpus=_gpus(self._sweep))(Host)
        self._hosts = [
            make.options(
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=host)
            ).remote()
            for host in range(trial.nodes)
        ]
        address, port = ray.get(self._hosts[0].address.remote())
        words = trial_words(self._sweep, self._parameters)
        words += [f"runs_dir={json.dumps(str(self._run.parent))}", f"name={self._run.name}"]
        world, token = trial.nodes * trial.ranks_per_node, uuid.uuid4().hex
        self._logs, starts = [], []
        for number, host in enumerate(self._hosts):
            log = self._log / f"host-{number}.log"
            self._logs.append((log, log.stat().st_size if log.exists() else 0))
            share = Share(
                argv=["pretrain", str(Path(plan.cwd) / self._sweep.base), *words],
                nproc=trial.ranks_per_node,
                place=Place(number * trial.ranks_per_node, world, address, port),
                grace_s=trial.grace_s,
                cpus_per_rank=trial.cpus_per_rank,
                cwd=plan.cwd,
                log=str(log),
                owner=str(owners[number]),
                token=token,
            )
            starts.append(host.start.remote(share))
        ray.get(starts)
        self._signed_at = time.monotonic()

    def _look_at_hosts(self) -> Outcome | None:
        """How the ranks ended, None while they are well."""
        codes = ray.get([host.poll.remote() for host in self._hosts])
        if any(code is not None for code in codes):
            if any(codes):
                ray.get([host.terminate.remote() for host in self._hosts])
            ray.get([host.wait.remote() for host in self._hosts])
            return judge(ray.get([host.poll.remote() for host in self._hosts]), self._logs)
        if self._ood:
            self._ood.look_at(self._run)
        sign = _sign_of(self._run / "metrics.jsonl", *(log for log, _ in self._logs))
        if sign != self._sign:
            self._sign, self._signed_at = sign, time.monotonic()
        silent_s = time.monotonic() - self._signed_at
        if silent_s > 60 * self._sweep.trial.silent_minutes:
            ray.get([host.kill.remote() for host in self._hosts])
            return Outcome("hung", f"said nothing for {silent_s:.0f} s")
        return None

    def _told_to_end(self) -> bool:
        """Whether the scheduler has stopped this trial, or all are to leave; then the run has saved and left."""
        told = records.read_outcome(self._plan.folder, self._number) is not None or self._leaving()
        if told:
            self._end_hosts()
        return told

    def _leaving(self) -> bool:
        try:
            return bool(json.loads((self._plan.folder / LEAVE_NAME).read_text())["start"] == self._plan.start)
        except (OSError, ValueError, KeyError):
            return False

    def _end_hosts(self) -> None:
        if self._hosts:
            with contextlib.suppress(ray.exceptions.RayError):  # of a machine that is lost
                ray.get([host.terminate.remote() for host in self._hosts])
                ray.get([host.wait.remote() for host in self._hosts])
            self._forget_hosts()

    def _forget_hosts(self) -> None:
        self._note_seconds()
        for host in self._hosts:
            ray.kill(host)  # and with it whatever of its ranks should still be there
        self._hosts = []
        if self._ood:
            self._ood.finish(self._run)

    def _seconds(self) -> float:
        return self._before_s + (0 if self.config["replay"] else time.monotonic() - self._held_since)

    def _note_seconds(self) -> None:
        if not self.config["replay"]:
            records.write_seconds(self._plan.folder, self._number, self._seconds())


def _gpus(config: SweepConfig) -> float:
    return config.trial.gpus_per_rank * config.trial.ranks_per_node


def _sign_of(*paths: Path) -> tuple[int, ...]:
    """What changes when one of the files does."""
    sign: list[int] = []
    for path in paths:
        try:
            stat = path.stat()
            sign += [stat.st_ino, stat.st_size, stat.st_mtime_ns]
        except OSError:
            sign += [0, 0, 0]
    return tuple(sign)
