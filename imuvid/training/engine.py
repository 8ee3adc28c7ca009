"""DeepSpeed, behind the few calls that training needs. The only module that imports it."""

from __future__ import annotations

import contextlib
import datetime
import io
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from imuvid.data.batch import Batch
from imuvid.errors import UserError
from imuvid.models.tower import Tower
from imuvid.models.tuning import FrozenAtFirst
from imuvid.training.engine_state import EngineState, Snapshot
from imuvid.training.grad_cache import CachedForward, check_cacheable
from imuvid.training.loss_scale import LossScale
from imuvid.training.optimisation import OptimizerConfig, parameter_groups
from imuvid.training.phases import Phases
from imuvid.training.recompute import check_recomputable, recompute_layers


@dataclass
class EngineConfig:
    """How the model is spread over the ranks and in what it computes."""

    zero_stage: int = 0
    """What DeepSpeed ZeRO shards over the ranks: 0 nothing, 1 optimiser state, 2 gradients too, 3 parameters too."""
    offload: bool = False
    """Keep optimiser state and its copy of the parameters in host memory, and update them there (ZeRO 1 to 3)."""
    dtype: str = "fp32"
    """fp32, bf16, or fp16 with dynamic loss scaling: what the towers compute in; parameters, optimiser and loss stay
    float32."""
    device: str = "auto"
    """auto (GPUs where there are any), cpu or cuda."""
    micro_batch_size: int = 0
    """Windows that go through the towers at a time on a rank; 0 for all. Fewer save memory and cost one more forward:
    the loss is still that of the whole batch, with all its negatives (gradient caching)."""
    accumulate: int = 1
    """Parts of a rank's batch whose gradients are added up, each with a loss of its own: in a contrastive objective a
    window has the negatives of its part alone, those of the same part of all ranks. Costs no further forward."""
    activation_checkpointing: bool = False
    """Compute the layers of transformer towers again in the backward instead of keeping their activations."""
    compile: bool = False
    """Compile the towers (torch.compile): minutes at each start, faster steps. Not with ZeRO 3."""
    peak_tflops: float = 0.0
    """Operations that a device can do a second, in units of 10^12, for model FLOPs utilisation; 0 looks it up by the
    name of the GPU."""
    timeout_s: float = 600.0
    """Longest wait for the other ranks, at start-up, in validation and saving, and in every collective."""
    step_timeout_s: float = 180.0
    """Longest time that a step may take once the first is done, beside its wait for data (data.timeout_s)."""


def resolve_device(name: str, local_rank: int) -> torch.device:
    """Return the device of this rank: the one place where it is decided.

    Raises:
        UserError: the name is unknown, or there is no such GPU for this rank.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"engine.device is '{name}', expected auto, cpu or cuda")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    visible = torch.cuda.device_count()
    # With --gpus-per-task=1 Slurm shows each rank only its own GPU, as number 0.
    index = 0 if visible == 1 else local_rank
    if index >= visible:
        raise UserError(
            f"local rank {local_rank} has no GPU of its own ({visible} visible): start as many ranks per node as"
            " there are GPUs"
        )
    return torch.device("cuda", index)


def resolve_dtype(name: str) -> torch.dtype:
    """Return the torch dtype of ``fp32``, ``bf16`` or ``fp16``; UserError for others."""
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if name not in dtypes:
        raise UserError(f"engine.dtype is '{name}', expected fp32, bf16 or fp16")
    return dtypes[name]


def _import_deepspeed() -> Any:
    """Import DeepSpeed late, since that takes seconds and reads DS_ACCELERATOR."""
    import deepspeed

    # On a CPU it would compile an extension for inference at its first start, and wait for ever for the lock of a
    # process that was killed meanwhile. Training needs none of the operators that it knows how to compile.
    deepspeed.ops.__compatible_ops__ = {}
    return deepspeed


def start_process_group(device: torch.device, timeout_s: float) -> None:
    """Join the ranks named by RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT: gloo on CPUs, nccl on GPUs.

    Raises:
        RuntimeError: the others did not come within ``timeout_s``; names this rank and the meeting point.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        # DeepSpeed asks once for its accelerator; on a machine with GPUs it would take them.
        os.environ["DS_ACCELERATOR"] = "cpu"
    deepspeed = _import_deepspeed()
    rank, world = os.environ["RANK"], os.environ["WORLD_SIZE"]
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", timeout=datetime.timedelta(seconds=timeout_s)
        )
        with _quiet():
            deepspeed.init_distributed(dist_backend=dist.get_backend(), dist_init_required=False)
    except (dist.DistError, RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise RuntimeError(f"rank {rank} of {world} could not meet the others at {place}: {first}") from error


def rank_store() -> dist.Store:
    """Return a new connection to the store by which the ranks met."""
    # Its own, since a connection serves one caller at a time.
    store: Any = dist.distributed_c10d._get_default_store()
    return dist.PrefixStore("watchdog", store.clone())


def check_engine(config: EngineConfig, model: nn.Module) -> None:
    """Refuse settings that exclude each other, or that the towers of ``model`` do not allow.

    Raises:
        UserError: says which, and what to set instead.
    """
    if config.zero_stage not in (0, 1, 2, 3):
        raise UserError(f"engine.zero_stage is {config.zero_stage}, expected 0, 1, 2 or 3")
    if config.offload and config.zero_stage == 0:
        raise UserError("engine.offload=true needs ZeRO, which it is a part of: set engine.zero_stage to 1, 2 or 3")
    if config.compile and config.zero_stage == 3:
        raise UserError(
            "engine.compile=true: ZeRO 3 gathers the parameters while the towers run, which torch.compile cannot see:"
            " set engine.zero_stage to 0, 1 or 2, or engine.compile=false"
        )
    if config.micro_batch_size:
        check_cacheable(model)
    if config.activation_checkpointing:
        check_recomputable(model)


class Engine:
    """A model with its optimiser under DeepSpeed.

    Args:
        model: returns (loss, figures) for a batch; the mean of the ranks' losses is what is minimised.
        config: sharding and timeouts.
        optimizer: AdamW's settings.
        device: of this rank.
        local_batch_size: windows a step on this rank.
        phases: where the time of the steps is summed up.
    """

    def __init__(
        self,
        model: nn.Module,
        config: EngineConfig,
        optimizer: OptimizerConfig,
        device: torch.device,
        local_batch_size: int,
        phases: Phases | None = None,
    ):
        deepspeed = _import_deepspeed()
        check_engine(config, model)
        self._deepspeed = deepspeed
        self.device = device
        self._phases = phases or Phases(device)
        self._stage, self._accumulate = config.zero_stage, config.accumulate
        self._step_number = 0
        self._micro_batch_size = config.micro_batch_size
        self._clip = optimizer.grad_clip or math.inf
        self._norm: float | None = None
        self._cached: CachedForward | None = None
        self._collecting: contextlib.ExitStack | None = None
        self.loss_scale = LossScale() if config.dtype == "fp16" else None
        self.overflowed = False
        several = config.micro_batch_size or config.accumulate > 1
        if several and config.zero_stage and not hasattr(deepspeed.DeepSpeedEngine, "coalesce_grad_reduction"):
            raise UserError(
                f"engine.micro_batch_size and engine.accumulate: DeepSpeed {deepspeed.__version__} cannot add up"
                " gradients under ZeRO: install 0.19.8 or newer, or set engine.zero_stage=0 instead of"
                f" {config.zero_stage}"
            )
        sharding: dict[str, Any] = {"stage": config.zero_stage}
        if config.offload:
            sharding["offload_optimizer"] = {"device": "cpu", "pin_memory": device.type == "cuda"}
        settings = {
            "train_micro_batch_size_per_gpu": local_batch_size,
            "gradient_accumulation_steps": 1,
            # Always written: DeepSpeed's default is 1.0. At stage 0 it keeps the norm to itself.
            "gradient_clipping": optimizer.grad_clip if config.zero_stage else 0.0,
            "zero_optimization": sharding,
            "zero_allow_untested_optimizer": True,
            # Its own has to be compiled, by an extension that a killed start may leave locked; torch's has not.
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 10**9,
            "wall_clock_breakdown": False,
        }
        model.to(device)
        if config.activation_checkpointing:
            recompute_layers(model)
        adamw = torch.optim.AdamW(
            parameter_groups(model, optimizer.weight_decay, optimizer.layer_decay),
            lr=optimizer.lr,
            betas=(optimizer.betas[0], optimizer.betas[1]),
            fused=config.offload,
        )
        with _quiet():
            self.engine, self.optimizer, _, _ = deepspeed.initialize(
                model=model, optimizer=adamw, config=settings, dist_init_required=False
            )
        self._first_micro_step = getattr(self.optimizer, "micro_step_id", 0)
        self._tell_loss_scale()
        if config.compile:
            for tower in (module for module in model.modules() if isinstance(module, Tower)):
                tower.compile()
        self._kept = [buffer.clone() for buffer in self.engine.module.buffers()]
        self._state = EngineState(
            self.engine.module,
            self.optimizer,
            config.zero_stage,
            lambda whole: self._gathered(whole, changed_by=0),
            self.loss_scale,
        )

    @property
    def module(self) -> Any:
        """The model itself."""
        return self.engine.module

    def at_step(self, step: int) -> None:
        """Say which step of the run comes next: some parts of a model are frozen in the first ones."""
        self._step_number = step
        for module in self.module.modules():
            if isinstance(module, FrozenAtFirst):
                module.at_step(step)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return (loss, figures) of this rank: with ``accumulate`` the mean loss of the parts, figures of the last.

        With gradients enabled, :meth:`backward_and_step` or :meth:`discard` must follow.
        """
        if not torch.is_grad_enabled():
            return self.engine(batch)
        if self._accumulate == 1:
            return self._forward_part(batch)
        self._collect()
        size, done = len(batch) // self._accumulate, torch.zeros((), device=self.device)
        for start in range(0, len(batch) - size, size):
            loss, _ = self._forward_part(batch.rows(start, start + size))
            done += loss.detach() / self._accumulate
            self._backward_part(loss / self._accumulate, last=False)
        loss, figures = self._forward_part(batch.rows(len(batch) - size, len(batch)))
        return done + loss / self._accumulate, figures

    def backward_and_step(self, loss: Tensor, lr: float) -> None:
        """Average the gradients of the ranks' losses over the ranks and update the parameters at ``lr``.

        A gradient that is not finite changes nothing: :meth:`gradient_norm` says so, and ``overflowed`` whether it
        was one of fp16 that a lower loss scale, which the next step has, may mend.
        """
        for group in self.optimizer.param_groups:
            started = self._step_number >= group["frozen_steps"]
            group["lr"] = lr * group["lr_scale"] if started else 0.0
        self.backward(loss)
        with self._phases.phase("optimizer"):
            self._norm = self._step()
        if self.loss_scale is not None:
            self.overflowed = self.loss_scale.update(overflow=not math.isfinite(self._norm))
            self._tell_loss_scale()

    def backward(self, loss: Tensor) -> None:
        """Average the gradients of the ranks' losses, those of the last :meth:`forward`, over the ranks."""
        if self._cached is not None:
            self._collect()
        self._backward_part(loss, last=True)
        with self._phases.phase("backward"):
            self._end_collecting()

    def discard(self) -> None:
        """Undo the last :meth:`forward`: no gradient of it is left, and the buffers are as at :meth:`keep_buffers`."""
        self._cached = None
        self.engine.zero_grad()
        if self._collecting is not None:
            self._end_collecting()
            self.optimizer.zero_grad()
            # Otherwise the gradients of the next step would be added to those of the last good one.
            self.optimizer.micro_step_id = self._first_micro_step
        self.restore_buffers()

    def _forward_part(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        with self._phases.phase("forward"):
            if not self._micro_batch_size:
                return self.engine(batch)
            self._cached = CachedForward(self.engine, self.module.views, batch, self._micro_batch_size)
            return self._cached.loss, self._cached.figures

    def _backward_part(self, loss: Tensor, last: bool) -> None:
        cached, self._cached = self._cached, None
        with self._phases.phase("backward"):
            if cached is None:
                self._differentiate(loss, last)
            else:
                scale = self.loss_scale.value if self.loss_scale else 1.0
                cached.backward(loss, lambda value, end: self._differentiate(value, last and end), scale)

    def _differentiate(self, value: Tensor, last: bool) -> None:
        """Add the gradient of a scalar to what is there; at stage 0 the ``last`` one is averaged over the ranks."""
        if self._stage:
            self.engine.backward(value)
            return
        with contextlib.nullcontext() if last else self.engine.no_sync():
            self.engine.backward(value * self.loss_scale.value if self.loss_scale else value)

    def _collect(self) -> None:
        """Add up the gradients of several backwards: otherwise ZeRO would take those of the last one for the step's."""
        if self._stage and self._collecting is None:
            self._collecting = contextlib.ExitStack()
            self._collecting.enter_context(self.engine.coalesce_grad_reduction())

    def _end_collecting(self) -> None:
        collecting, self._collecting = self._collecting, None
        if collecting is not None:
            collecting.close()

    def _step(self) -> float:
        """Update the parameters; return the norm of the gradient before clipping, NaN where it is not finite."""
        if self._stage:
            with _quiet(logging.ERROR) if self.loss_scale else contextlib.nullcontext():  # it warns of each overflow
                self.engine.step()
            norm = float(self.engine.get_global_grad_norm())
            return norm if norm >= 0 and math.isfinite(norm) else math.nan  # DeepSpeed says -1 where it is not finite
        norm = self._clip_unsharded()
        if math.isfinite(norm):
            self.engine.step()
        else:
            self.engine.zero_grad()
        return norm if math.isfinite(norm) else math.nan

    def _clip_unsharded(self) -> float:
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        if self.loss_scale is not None:
            torch._foreach_mul_(gradients, 1 / self.loss_scale.value)
        return float(nn.utils.clip_grad_norm_(self.module.parameters(), self._clip))

    def _tell_loss_scale(self) -> None:
        if self._stage and self.loss_scale is not None:
            with _quiet():
                self.optimizer.override_loss_scale(self.loss_scale.value)

    def keep_buffers(self) -> None:
        """Remember the buffers (running statistics, queues), which the next forward may change."""
        for kept, buffer in zip(self._kept, self.module.buffers(), strict=True):
            kept.copy_(buffer)

    def restore_buffers(self) -> None:
        """Undo what happened to the buffers since :meth:`keep_buffers`."""
        for kept, buffer in zip(self._kept, self.module.buffers(), strict=True):
            buffer.copy_(kept)

    def gradient_norm(self) -> float | None:
        """Return the norm of the last gradient before clipping, NaN where it is not finite; None before the first."""
        return self._norm

    def snapshot(self) -> Snapshot:
        """Copy this rank's part of model and optimiser to host memory, to be written while training goes on."""
        return self._state.snapshot()

    def restore(self, folder: Path) -> None:
        """Take over what was written, at any number of ranks and any ZeRO stage; every rank must call it.

        Raises:
            UserError: the state is damaged, or of another model.
        """
        self._state.restore(folder)
        self._tell_loss_scale()

    def tower_state(self, prefix: str) -> dict[str, Tensor]:
        """Return the state of the submodule ``prefix`` on the CPU, names without it; every rank must call it.

        Rank 0 gets it, the others get nothing.
        """
        submodule = self.module.get_submodule(prefix)
        with self._gathered(list(submodule.parameters())):
            if dist.get_rank():
                return {}
            return {name: tensor.detach().cpu().clone() for name, tensor in submodule.state_dict().items()}

    @contextlib.contextmanager
    def _gathered(self, parameters: list[nn.Parameter], changed_by: int | None = None) -> Iterator[None]:
        """Under ZeRO 3 a parameter lies in pieces on the ranks: put together within this context.

        What rank ``changed_by`` changes there stays, on all ranks.
        """
        if self._stage < 3:
            yield
            return
        with self._deepspeed.zero.GatheredParameters(parameters, modifier_rank=changed_by):
            yield


@contextlib.contextmanager
def _quiet(least: int = logging.WARNING) -> Iterator[None]:
    """Keep DeepSpeed's lines below level ``least`` out of the user's terminal."""
    logger = logging.getLogger("DeepSpeed")
    level = logger.level
    logger.setLevel(least)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # some lines are printed, not logged
            yield
    finally:
        logger.setLevel(level)
