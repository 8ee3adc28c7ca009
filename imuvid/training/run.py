"""One rank's part of a run: what is set up once, what is done in every step, and what now and then."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from imuvid import config as configs
from imuvid.data.batch import Batch
from imuvid.data.damage import Damage
from imuvid.data.mixture import sample_order
from imuvid.data.shard_dataset import retrieval_windows
from imuvid.data.stream import training_stream
from imuvid.errors import UserError
from imuvid.models.text_tokens import load_tokenizer
from imuvid.models.towers import with_places
from imuvid.models.two_tower import TwoTower
from imuvid.training import preemption
from imuvid.training.agreement import Agreed, agree
from imuvid.training.checkpoint import StreamState, read_stream_state, write_finished
from imuvid.training.checkpoint_writer import CheckpointWriter, Parts, clear_staging
from imuvid.training.config import PretrainConfig
from imuvid.training.engine import Engine, rank_store, resolve_device, resolve_dtype, start_process_group
from imuvid.training.environment import describe_environment
from imuvid.training.flops import Throughput, flops_per_window, peak_flops
from imuvid.training.guard import Guard, GuardState, Verdict
from imuvid.training.journal import Journal
from imuvid.training.meters import StepTimer, memory_gb
from imuvid.training.mirror import Mirror
from imuvid.training.optimisation import learning_rate
from imuvid.training.phases import COMMUNICATION, Phases
from imuvid.training.profiling import StepProfiler, profile_window
from imuvid.training.retrieval import validate
from imuvid.training.start import check_run_folder, check_start, meta_model
from imuvid.training.starts import CrashLoop, count_start, forget_starts
from imuvid.training.tower_files import tower_parts, tower_states
from imuvid.training.watchdog import Watchdog

log = logging.getLogger(__name__)
STOP_NAME = "STOP"
"""File in the run folder by which a user asks a run to save and end."""
MIRROR_WAIT_S = 300.0
"""Longest wait at the end of a run for the copy of its last checkpoint."""
MIRROR_GRACE_S = 15.0
"""The same after a signal."""


class Run:
    """One rank's part of a run: what is set up once and what is done now and then."""

    journal: Journal | None = None  # until the run is set up, and on all ranks but 0
    mirror: Mirror | None = None  # where there is none, and on all ranks but 0
    profiler: StepProfiler | None = None  # where no steps are to be recorded, and on all ranks but 0
    watchdog: Watchdog | None = None  # until the ranks have met
    step: int
    """Steps done."""
    validation_due: bool
    """Whether the validation of this step is not through."""

    def __init__(self, config: PretrainConfig):
        self.config = config
        self.rank, self.world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.device = resolve_device(config.engine.device, int(os.environ["LOCAL_RANK"]))
        self.dataset, self.held_out = check_start(config, self.world)
        middle = retrieval_windows(self.held_out, config.train.validate_windows) if self.dataset.info.num_frames else []
        stride = max(1, -(-len(middle) // config.train.validate_max_windows))
        self.validation_samples = middle[::stride]
        self.tokenizer = load_tokenizer(config.model.text_tower)
        self.order = sample_order(self.dataset, config.data, config.seed)
        self.epoch_size = config.data.epoch_samples or self.order.num_samples
        steps_per_epoch = self.epoch_size / config.data.batch_size
        self.num_steps = math.ceil(config.train.epochs * steps_per_epoch)
        self.validate_every = max(1, round(config.train.validate_every_epochs * steps_per_epoch))
        self.folder = Path(config.runs_dir) / config.name
        self.checkpoints = self.folder / "checkpoints"
        self._first_step = True  # of this start, or after going back
        self._losses: list[float] = []
        self._figures: dict[str, Tensor] = {}
        self._lr = 0.0
        self._overflows = 0
        self.phases = Phases(self.device)
        self._watching = contextlib.ExitStack()
        self._look_at, self._stop_asked = 0.0, False

    def set_up(self) -> None:
        """Meet the other ranks, and take up the run where it is."""
        config = self.config
        dtype = resolve_dtype(config.engine.dtype)
        flops = flops_per_window(meta_model(config.model, dtype), self.dataset, self.dataset.num_frames)
        self.throughput = Throughput(self.world, flops, peak_flops(self.device, dtype, config.engine.peak_tflops))
        self._watching.enter_context(self.phases.watch_collectives())
        start_process_group(self.device, config.engine.timeout_s)
        self.watchdog = Watchdog(rank_store(), self.rank, self.world, config.engine.timeout_s)
        # A second group for the ranks' decisions: on GPUs it spares the step a synchronisation with the device.
        self.control = dist.new_group(backend="gloo") if self.device.type == "cuda" else dist.group.WORLD
        train = config.train
        self.writer = CheckpointWriter(self.checkpoints, train.keep_checkpoints, train.keep_every_steps, self.control)
        self.checkpoint = self._prepare_folder()
        torch.manual_seed(config.seed)
        positions = self.dataset.info.positions
        imu_tower = with_places(config.model.imu_tower, positions)
        model = TwoTower(dataclasses.replace(config.model, imu_tower=imu_tower), dtype)
        model.imu_tower.wear(positions)
        local = config.data.batch_size // self.world
        self.engine = Engine(model, config.engine, config.optimizer, self.device, local, self.phases)
        self._resume()
        if self.rank == 0:
            self.journal = Journal(config, self.folder, self.dataset, self.order, self.step)
            self.journal.say(self._describe())
            steps = profile_window(config.train.profile_steps)
            self.profiler = StepProfiler(steps, self.folder, self.device) if steps else None
        self._began = time.monotonic()
        self._save_at = self._began + 60 * train.checkpoint_every_minutes

    def stream(self) -> Iterator[Batch]:
        """This rank's batches from the current step on."""
        pin_memory = self.device.type == "cuda"
        data, seed, tokenize = self.config.data, self.config.seed, self.tokenizer
        return training_stream(self.dataset, data, seed, self.rank, self.world, self.step, pin_memory, tokenize)

    def watch(self, phase: str, limit_s: float) -> None:
        """Tell the watchdog what this rank does from now on."""
        if self.watchdog:
            self.watchdog.enter(phase, self.step, limit_s)

    def came(self) -> int:
        """Return the signal that any rank got, 0 if none did; ``STOP`` in the run folder counts as SIGTERM."""
        return agree(self.control, self._signal()).signal

    def train_on(self, batch: Batch) -> tuple[Agreed, Verdict]:
        """Do a step; its update is left out where the ranks find its loss bad."""
        torch.manual_seed(_step_seed(self.config.seed, self.step, self.rank))  # dropout: of the step, so it resumes
        # The first step compiles kernels and meets the others for the first time.
        if self.profiler:
            self.profiler.before(self.step)
        log_every = self.config.train.log_every_steps
        self.engine.module.measures_spread = (self.step + 1) % log_every == 0 or self.step + 1 == self.num_steps
        limit_s = self.config.engine.timeout_s if self._first_step else self.config.engine.step_timeout_s
        self.watch("forward", limit_s)
        loss = None
        if not self.guard.passes_over(self.step):
            self.engine.keep_buffers()
            self.engine.at_step(self.step)
            loss, self._figures = self.engine.forward(batch.to(self.device))
        self.watch("agreeing", limit_s)
        due = self.config.train.checkpoint_every_minutes > 0 and time.monotonic() > self._save_at
        corrupt = [(sample, reason) for sample, reason in batch.skipped.tolist() if sample >= 0]
        local = 0.0 if loss is None else loss.item()
        with self.phases.phase(COMMUNICATION):
            agreed = agree(self.control, self._signal(), local, self.writer.writing, due, bool(corrupt))
        if agreed.corrupt:
            self._count_corrupt(corrupt)
        verdict = self.guard.judge(self.step, agreed.loss)
        if verdict is Verdict.STEP:
            assert loss is not None
            self.watch("backward", limit_s)
            self._lr = learning_rate(self.step, self.num_steps, self.config.optimizer)
            self.engine.backward_and_step(loss, self._lr)
            norm = self.engine.gradient_norm()
            if self.engine.overflowed:
                self.engine.restore_buffers()
                self._overflows += 1
            elif norm is not None and not math.isfinite(norm):
                verdict = self.guard.judge(self.step, agreed.loss, gradient_is_finite=False)
            self._losses.append(agreed.loss)
        elif loss is not None:
            self.engine.discard()
        if verdict is not Verdict.STEP and self.journal:
            self.journal.bad_step(self.step, self.guard.state.bad)
        self._first_step = False
        return agreed, verdict

    def go_back(self) -> Iterator[Batch]:
        """Take up the last checkpoint again, and return the batches from there on."""
        self.watch("going back", self.config.engine.timeout_s)
        self.finish_saving()
        state = read_stream_state(self.checkpoint) if self.checkpoint else None
        self.guard.go_back(state.step if state else None, state.guard if state else GuardState())
        assert self.checkpoint is not None
        assert state is not None
        self.engine.restore(self.checkpoint / "engine")
        if self.journal:
            self.journal.say(f"step {self.step}  goes back to step {state.step}, to pass over the bad steps after it")
            self.journal.go_back(state.step)
        self.step, self._first_step = state.step, True
        self._losses.clear()
        return self.stream()

    def _signal(self) -> int:
        """The signal that this rank got; on rank 0 ``STOP`` in the run folder, too."""
        number = preemption.received()
        if number or self.rank:
            return number
        if time.monotonic() > self._look_at:
            self._look_at = time.monotonic() + 1  # on shared storage it takes a while
            self._stop_asked = (self.folder / STOP_NAME).exists()
        return int(preemption.signal.SIGTERM) if self._stop_asked else 0

    def _count_corrupt(self, mine: list[tuple[int, int]]) -> None:
        everyone: list[list[tuple[int, int]]] = [[]] * self.world
        dist.all_gather_object(everyone, mine, group=self.control)
        self.damage.add([each for part in everyone for each in part])

    def log_training(self, timer: StepTimer) -> None:
        """Log the steps since the last line."""
        # The step of all waits for the rank that waits longest.
        shares = timer.shares()
        waits = torch.tensor([*timer.waits(), memory_gb(self.device)])
        dist.all_reduce(waits, op=dist.ReduceOp.MAX, group=self.control)
        norm = self.engine.gradient_norm()
        losses, self._losses = self._losses, []
        if self.journal is None:
            return
        more = {
            **self.throughput.figures(timer.samples_per_s()),
            "data_wait_share": waits[0].item(),
            "data_wait_longest_s": waits[1].item(),
            "checkpoint_share": waits[2].item(),
            **shares,
            "memory_gb": waits[3].item(),
            "bad_steps": float(len(self.guard.state.bad)),
            **self._scale_figures(),
            **self.damage.figures(),
            **({"gradient_norm": norm} if norm is not None else {}),
        }
        self.journal.training(self.step, self.num_steps, losses, self._lr, self._figures, more)
        if news := self.damage.news():
            self.journal.say(f"step {self.step}  {news}")

    def _scale_figures(self) -> dict[str, float]:
        """Of fp16: the loss scale, and the steps since the last line that it was too high for."""
        if self.engine.loss_scale is None:
            return {}
        overflows, self._overflows = self._overflows, 0
        return {"loss_scale": self.engine.loss_scale.value, "overflows": float(overflows)}

    def validate(self) -> dict[str, float] | None:
        """Retrieval on the held-out windows, nothing where they have no video; None where a signal came in between."""
        if not self.validation_samples:
            self.validation_due = False
            return {}
        local = self.config.data.batch_size // self.world
        condition = self.config.data.condition

        def stops() -> bool:
            self.watch("validation", self.config.engine.timeout_s)
            return self.came() != 0

        model, samples = self.engine.module, self.validation_samples
        scores = validate(model, self.held_out, samples, local, self.device, condition, stops)
        if scores is None:
            return None
        self.validation_due = False
        if self.journal:
            self.journal.validation(self.step, scores)
        return scores

    def save(self, wait: bool) -> None:
        """Have a checkpoint of the current step written; ``wait`` until it is."""
        self.finish_saving()
        self.watch("saving", self.config.engine.timeout_s)
        states = tower_states(self.engine, self.dataset)
        parts: Parts = {f"engine/{name}": write for name, write in self.engine.snapshot().files().items()}
        if self.rank == 0:
            parts |= tower_parts(self.config, self.dataset, self.step, states, self.tokenizer)
        state = StreamState(
            step=self.step,
            samples_seen=self.step * self.config.data.batch_size,
            seed=self.config.seed,
            batch_size=self.config.data.batch_size,
            fingerprint=self.dataset.fingerprint,
            corrupt=self.damage.known,
            validation_due=self.validation_due,
            guard=self.guard.state,
        )
        self.writer.start(state, parts)
        self._save_at = time.monotonic() + 60 * self.config.train.checkpoint_every_minutes
        if wait:
            self.finish_saving()

    def finish_saving(self) -> None:
        """Wait for the checkpoint that is being written, if any."""
        if self.writer.pending:
            self.watch("saving", self.config.engine.timeout_s)
            self.checkpoint = self.writer.finish()
            if self.mirror:
                self.mirror.copy(self.checkpoint)

    def end(self, started_at: int, signal_number: int) -> None:
        """Say how the start ended (0 for no signal); it is none of those that came to nothing."""
        if self.journal is None:
            return
        took = time.monotonic() - self._began
        if self.mirror:
            self.watch("copying the checkpoint", 2 * MIRROR_WAIT_S)
            self.mirror.wait(MIRROR_GRACE_S if signal_number else MIRROR_WAIT_S)
        if signal_number:
            what = STOP_NAME if self._stop_asked else preemption.signal.Signals(signal_number).name
            self.journal.say(f"stopped by {what} at step {self.step}: checkpoint {self.checkpoint}")
            (self.folder / STOP_NAME).unlink(missing_ok=True)  # heard: the next start shall go on
        else:
            done = self.step - started_at
            write_finished(self.folder, self.step)
            self.journal.say(f"finished: {done} steps in {took:.0f} s; checkpoint {self.checkpoint}")
        self.forget_starts()

    def forget_starts(self) -> None:
        """Call where this start is none of those that came to nothing."""
        if self.rank == 0:
            forget_starts(self.folder)

    def close(self) -> None:
        """Close the logs and leave the process group."""
        self._watching.close()
        if self.watchdog:
            self.watchdog.close()
        if self.profiler:
            self.profiler.end()
        if self.journal:
            self.journal.close()
        if dist.is_initialized():
            dist.destroy_process_group()

    def _prepare_folder(self) -> Path | None:
        """Make or check the run folder on rank 0; return the checkpoint that every rank resumes from."""
        outcome: list = [None, None, False]
        if self.rank == 0:
            try:
                outcome[0] = self._claim_folder()
            except (UserError, OSError) as error:
                reason = getattr(error, "strerror", None)
                outcome[1] = f"{self.folder}: {reason}" if reason else str(error)
                outcome[2] = isinstance(error, CrashLoop)
        dist.broadcast_object_list(outcome, src=0, group=self.control)
        if outcome[1]:
            raise (CrashLoop if outcome[2] else UserError)(outcome[1])
        return outcome[0]

    def _claim_folder(self) -> Path | None:
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        there = sorted(path.name for path in self.checkpoints.glob("step-*"))
        train = self.config.train
        if train.checkpoint_mirror is not None:
            self.mirror = Mirror(train.checkpoint_mirror, self.config.name, train.keep_checkpoints, there)
            if not there and (brought := self.mirror.fetch(self.checkpoints)):
                log.info(f"brought {brought} from {train.checkpoint_mirror}")
        checkpoint, problems = check_run_folder(self.config, self.dataset.fingerprint)
        for problem in problems:
            log.warning(f"damaged checkpoint: {problem}; going back to {checkpoint}")
        clear_staging(self.checkpoints)
        count_start(self.folder, checkpoint.name if checkpoint else None)
        # By way of another name: a half-written config would be that of another run at the next start.
        temporary = self.folder / "config.yaml.tmp"
        temporary.write_text(configs.to_yaml(self.config))
        temporary.replace(self.folder / "config.yaml")
        (self.folder / "environment.json").write_text(json.dumps(describe_environment(), indent=1) + "\n")
        return checkpoint

    def _resume(self) -> None:
        state = read_stream_state(self.checkpoint) if self.checkpoint else StreamState(0, 0, 0, 0, "")
        train = self.config.train
        self.step, self.validation_due = state.step, state.validation_due
        self.damage = Damage(self.dataset, self.config.data.max_corrupt, state.corrupt)
        self.guard = Guard(train.max_bad_steps, train.leap_deviations, state.guard)
        if self.checkpoint:
            self.engine.restore(self.checkpoint / "engine")

    def _describe(self) -> str:
        position = f"resumed at step {self.step} from {self.checkpoint}" if self.checkpoint else "starts"
        return (
            f"run {self.folder}: {position}; {self.num_steps} steps of {self.config.data.batch_size} windows on"
            f" {self.world} rank{'s' * (self.world > 1)} ({self.device.type}, {self.config.engine.dtype}, ZeRO"
            f" {self.config.engine.zero_stage}); {len(self.dataset)} training windows of"
            f" {len(self.dataset.recordings.unique())} recordings, {len(self.validation_samples)} held-out windows"
        )


def _step_seed(seed: int, step: int, rank: int) -> int:
    return (seed * 1_000_003 + step * 4099 + rank) % 2**63
