"""The pretraining run: set up, train, leave a checkpoint behind whatever happens.

Every rank runs :func:`pretrain`. Ranks agree once a step on whether to go on, so that a signal to one of them, or a
loss that is not finite on one of them, stops all at the same step.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from imuvid import config as configs
from imuvid.data.damage import Damage
from imuvid.data.mixture import sample_order
from imuvid.data.order import epoch_size
from imuvid.data.shard_dataset import retrieval_windows
from imuvid.data.stream import training_stream
from imuvid.errors import UserError
from imuvid.models.encoder import EncoderConfig, save_encoder
from imuvid.models.towers import with_places
from imuvid.models.two_tower import TwoTower
from imuvid.models.video_encoder import VideoEncoderConfig, save_video_encoder
from imuvid.training import preemption
from imuvid.training.checkpoint import StreamState, read_stream_state, save_checkpoint
from imuvid.training.config import PretrainConfig
from imuvid.training.engine import Engine, resolve_device, resolve_dtype, start_process_group
from imuvid.training.environment import describe_environment
from imuvid.training.meters import MetricsLog, StepTimer
from imuvid.training.optimisation import learning_rate
from imuvid.training.retrieval import validate
from imuvid.training.start import check_run_folder, check_start


@dataclass
class RunResult:
    """How a start of a run ended."""

    folder: str
    step: int
    """Steps done in all."""
    finished: bool
    """False where a signal ended it before its last step."""
    exit_code: int
    checkpoint: str
    validation: dict[str, float]
    """Last retrieval scores, empty if none were taken in this start."""


def pretrain(config: PretrainConfig) -> RunResult:
    """Train on this rank (RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT in the environment) to the end.

    Raises:
        UserError: the config, the dataset or the run folder does not allow it.
        RuntimeError: a rank was lost or did not answer in time, or the loss is not finite.
        ValueError: a shard cannot be read, or more samples are corrupt than data.max_corrupt.
    """
    run = _Run(config)
    try:
        return _train(run)
    finally:
        run.close()


def _train(run: _Run) -> RunResult:
    config, timer, validation = run.config, StepTimer(), {}
    stream = training_stream(
        run.dataset, config.data, config.seed, run.rank, run.world, run.step, run.device.type == "cuda"
    )
    started_at, signal_number, sums = run.step, preemption.received(), torch.zeros(2)
    while run.step < run.num_steps:
        timer.waiting()
        batch = next(stream)
        timer.got(config.data.batch_size)
        torch.manual_seed(_step_seed(config.seed, run.step, run.rank))  # dropout: a function of the step, so it resumes
        loss, figures = run.engine.forward(batch.to(run.device))
        signal_number, finite = run.agree(preemption.received(), loss, batch.skipped)
        if not finite:
            raise RuntimeError(f"the loss is not finite at step {run.step}: lower optimizer.lr, or look at the data")
        lr = learning_rate(run.step, run.num_steps, config.optimizer)
        run.engine.backward_and_step(loss, lr)
        run.step += 1
        sums += torch.tensor([loss.item(), 1.0])
        last = run.step == run.num_steps
        if run.step % config.train.log_every_steps == 0 or last:
            run.log_training(sums, lr, figures, timer)
            sums.zero_()
            timer.reset()
        if last or (run.step % run.validate_every == 0 and not signal_number):
            validation = run.validate()
            timer.reset()
        if last or signal_number or run.step % config.train.checkpoint_every_steps == 0:
            run.save()
            timer.reset()
        if signal_number:
            break
    run.say_end(started_at, signal_number)
    finished = run.step >= run.num_steps
    code = 0 if finished else preemption.exit_code(signal_number)
    return RunResult(str(run.folder), run.step, finished, code, str(run.checkpoint), validation)


class _Run:
    """One rank's part of a run: what is set up once and what is done now and then."""

    meters: MetricsLog | None = None  # until the run is set up, and on all ranks but 0

    def __init__(self, config: PretrainConfig):
        self.config = config
        self.rank, self.world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.device = resolve_device(config.engine.device, int(os.environ["LOCAL_RANK"]))
        dtype = resolve_dtype(config.engine.dtype)
        self.dataset, self.held_out = check_start(config, self.world)
        middle = retrieval_windows(self.held_out, config.train.validate_windows)
        stride = -(-len(middle) // config.train.validate_max_windows)
        self.validation_samples = middle[::stride]
        self.order = sample_order(self.dataset, config.data, config.seed)
        self.epoch_size = config.data.epoch_samples or self.order.num_samples
        steps_per_epoch = self.epoch_size / config.data.batch_size
        self.num_steps = math.ceil(config.train.epochs * steps_per_epoch)
        self.validate_every = max(1, round(config.train.validate_every_epochs * steps_per_epoch))
        self.folder = Path(config.runs_dir) / config.name
        self.checkpoints = self.folder / "checkpoints"

        start_process_group(self.device, config.engine.timeout_s)
        # A second group for the ranks' decisions: on GPUs it spares the step a synchronisation with the device.
        self.control = dist.new_group(backend="gloo") if self.device.type == "cuda" else dist.group.WORLD
        self.checkpoint = self._prepare_folder()
        torch.manual_seed(config.seed)
        self.imu_tower = with_places(config.model.imu_tower, self.dataset.info.positions)
        model = TwoTower(dataclasses.replace(config.model, imu_tower=self.imu_tower), dtype)
        model.imu_tower.wear(self.dataset.info.positions)
        self.engine = Engine(model, config.engine, config.optimizer, self.device, config.data.batch_size // self.world)
        self.step = self._resume()
        if self.rank == 0:
            self.meters = MetricsLog(self.folder, self.step)
            self.meters.say(self._describe())
        self._began = time.monotonic()

    def agree(self, signal_number: int, loss: torch.Tensor, skipped: torch.Tensor) -> tuple[int, bool]:
        """Return (the signal that any rank got, is every rank's loss finite), and count the samples that were skipped.

        Raises:
            ValueError: on every rank alike: with those, more samples are corrupt than data.max_corrupt.
        """
        mine = [(sample, reason) for sample, reason in skipped.tolist() if sample >= 0]
        flags = torch.tensor([float(signal_number), float(not torch.isfinite(loss.detach())), float(len(mine))])
        dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self.control)
        if flags[2]:
            everyone: list[list[tuple[int, int]]] = [[]] * self.world
            dist.all_gather_object(everyone, mine, group=self.control)
            self.damage.add([each for part in everyone for each in part])
        return int(flags[0]), not flags[1]

    def log_training(self, sums: torch.Tensor, lr: float, figures: dict, timer: StepTimer) -> None:
        """Average the loss since the last line over steps and ranks, and write it with the other figures."""
        dist.all_reduce(sums, group=self.control)
        # The step of all waits for the rank that waits longest.
        waits = torch.tensor(timer.waits())
        dist.all_reduce(waits, op=dist.ReduceOp.MAX, group=self.control)
        norm = self.engine.gradient_norm()
        if self.meters is None:
            return
        line = {
            "loss": (sums[0] / sums[1]).item(),
            "lr": lr,
            "epoch": self.step * self.config.data.batch_size / self.epoch_size,
            **{name: value.item() for name, value in figures.items()},
            "samples_per_s": timer.samples_per_s(),
            "data_wait_share": waits[0].item(),
            "data_wait_longest_s": waits[1].item(),
            **self.damage.figures(),
            **self._counters(),
            **({"gradient_norm": norm} if norm is not None else {}),
        }
        self.meters.write(self.step, "train", line)
        done = self.step / self.num_steps
        self.meters.say(
            f"step {self.step}/{self.num_steps} ({done:.0%})  loss {line['loss']:.3f}  lr {lr:.1e}"
            f"  {line['samples_per_s']:.0f} samples/s  data wait {line['data_wait_share']:.0%}"
        )
        if news := self.damage.news():
            self.meters.say(f"step {self.step}  {news}")

    def _counters(self) -> dict[str, float]:
        """Of each dataset of a mixture: samples that were trained on, and how many of its epochs that is."""
        parts = self.dataset.parts
        if len(parts) == 1:
            return {}
        seen = self.order.seen(self.step * self.config.data.batch_size)
        figures: dict[str, float] = {}
        for number, (part, samples) in enumerate(zip(parts, seen, strict=True)):
            name = f"{number}_{part.info.name}"
            figures |= {f"samples/{name}": samples, f"epochs/{name}": samples / epoch_size(part.weights)}
        return figures

    def validate(self) -> dict[str, float]:
        """Retrieval on the held-out windows."""
        local = self.config.data.batch_size // self.world
        condition = self.config.data.condition
        scores = validate(self.engine.module, self.held_out, self.validation_samples, local, self.device, condition)
        if self.meters:
            self.meters.write(self.step, "val", scores)
            self.meters.say(
                f"step {self.step}  retrieval among {len(self.validation_samples)} held-out windows:"
                f"  IMU to video R@1 {scores['r_at_1_imu_to_video']:.3f} R@5 {scores['r_at_5_imu_to_video']:.3f},"
                f"  video to IMU R@1 {scores['r_at_1_video_to_imu']:.3f} R@5 {scores['r_at_5_video_to_imu']:.3f}"
                f"  (chance R@1 {scores['chance_r_at_1']:.3f})"
            )
        return scores

    def save(self) -> None:
        """Write a checkpoint of the current step."""
        state = StreamState(
            step=self.step,
            samples_seen=self.step * self.config.data.batch_size,
            seed=self.config.seed,
            batch_size=self.config.data.batch_size,
            fingerprint=self.dataset.fingerprint,
            corrupt=self.damage.known,
        )
        has_pictures = self.dataset.info.video_embedding is None
        self.checkpoint = save_checkpoint(
            self.checkpoints,
            state,
            self.engine.save,
            self._write_encoder,
            self.config.train.keep_checkpoints,
            self._write_video_encoder if has_pictures else None,
        )

    def say_end(self, started_at: int, signal_number: int) -> None:
        """Print how the start ended."""
        if self.meters is None:
            return
        took = time.monotonic() - self._began
        if self.step < self.num_steps:
            name = signal_number and preemption.signal.Signals(signal_number).name
            self.meters.say(f"stopped by {name} at step {self.step}: checkpoint {self.checkpoint}")
        else:
            self.meters.say(f"finished: {self.step - started_at} steps in {took:.0f} s; checkpoint {self.checkpoint}")

    def close(self) -> None:
        """Close the logs and leave the process group."""
        if self.meters:
            self.meters.close()
        if dist.is_initialized():
            dist.destroy_process_group()

    def _write_encoder(self, folder: Path) -> None:
        state = self.engine.tower_state("imu_tower")
        if self.rank:
            return
        info = self.dataset.info
        encoder = EncoderConfig(
            tower=self.imu_tower,
            imu_rate_hz=info.imu_rate_hz,
            window_s=info.window_s,
            positions=info.positions,
            condition=self.config.data.condition,
            provenance=self._provenance()
            | {
                "objective": " + ".join([self.config.model.objective.kind, *self.config.model.objective.extra]),
                "train_subjects": sorted({s for s in self.dataset.subjects.unique() if s is not None}),
                "train_windows": len(self.dataset),
            },
        )
        save_encoder(folder, encoder, state)

    def _write_video_encoder(self, folder: Path) -> None:
        state = self.engine.tower_state("video_tower")
        if self.rank:
            return
        info = self.dataset.info
        encoder = VideoEncoderConfig(
            self.config.model.video_tower, self.dataset.num_frames, info.frame_size, provenance=self._provenance()
        )
        save_video_encoder(folder, encoder, state)

    def _provenance(self) -> dict[str, Any]:
        name, fingerprint = self.dataset.info.name, self.dataset.fingerprint
        return {"run": self.config.name, "step": self.step, "dataset": name, "fingerprint": fingerprint}

    def _prepare_folder(self) -> Path | None:
        """Make or check the run folder on rank 0; return the checkpoint that every rank resumes from."""
        outcome: list = [None, None]
        if self.rank == 0:
            try:
                outcome[0] = self._claim_folder()
            except (UserError, OSError) as error:
                outcome[1] = f"{self.folder}: {error.strerror}" if isinstance(error, OSError) else str(error)
        dist.broadcast_object_list(outcome, src=0, group=self.control)
        if outcome[1]:
            raise UserError(outcome[1])
        return outcome[0]

    def _claim_folder(self) -> Path | None:
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        checkpoint = check_run_folder(self.config, self.dataset.fingerprint)
        # By way of another name: a half-written config would be that of another run at the next start.
        temporary = self.folder / "config.yaml.tmp"
        temporary.write_text(configs.to_yaml(self.config))
        temporary.replace(self.folder / "config.yaml")
        (self.folder / "environment.json").write_text(json.dumps(describe_environment(), indent=1) + "\n")
        return checkpoint

    def _resume(self) -> int:
        self.damage = Damage(self.dataset, self.config.data.max_corrupt)
        if self.checkpoint is None:
            return 0
        state = read_stream_state(self.checkpoint)
        self.damage = Damage(self.dataset, self.config.data.max_corrupt, state.corrupt)
        self.engine.load(self.checkpoint / "engine")
        return state.step

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
