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
from imuvid.models.tuning import FrozenAtFirst
from imuvid.training.engine_state import EngineState, Snapshot
from imuvid.training.grad_cache import CachedForward, check_cacheable
from imuvid.training.optimisation import OptimizerConfig, parameter_groups


@dataclass
class EngineConfig:
    """How the model is spread over the ranks and in what it computes."""

    zero_stage: int = 0
    """What DeepSpeed ZeRO shards over the ranks: 0 nothing, 1 optimiser state, 2 gradients too, 3 parameters too."""
    dtype: str = "fp32"
    """fp32 or bf16: what the towers compute in; parameters, optimiser and loss stay float32."""
    device: str = "auto"
    """auto (GPUs where there are any), cpu or cuda."""
    micro_batch_size: int = 0
    """Windows that go through the towers at a time on a rank; 0 for all. Fewer save memory and cost one more forward:
    the loss is still that of the whole batch, with all its negatives (gradient caching)."""
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
    """Return the torch dtype of ``fp32`` or ``bf16``; UserError for others."""
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if name not in dtypes:
        raise UserError(f"engine.dtype is '{name}', expected fp32 or bf16")
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


class Engine:
    """A model with its optimiser under DeepSpeed.

    Args:
        model: returns (loss, figures) for a batch; the mean of the ranks' losses is what is minimised.
        config: sharding and timeouts.
        optimizer: AdamW's settings.
        device: of this rank.
        local_batch_size: windows a step on this rank.
    """

    def __init__(
        self,
        model: nn.Module,
        config: EngineConfig,
        optimizer: OptimizerConfig,
        device: torch.device,
        local_batch_size: int,
    ):
        deepspeed = _import_deepspeed()
        if config.zero_stage not in (0, 1, 2, 3):
            raise UserError(f"engine.zero_stage is {config.zero_stage}, expected 0, 1, 2 or 3")
        self._deepspeed = deepspeed
        self.device = device
        self._stage = config.zero_stage
        self._clip = optimizer.grad_clip or math.inf
        self._norm: Tensor | None = None
        self._step = 0
        self._micro_batch_size = config.micro_batch_size
        self._cached: CachedForward | None = None
        if config.micro_batch_size:
            check_cacheable(model)
            if config.zero_stage and not hasattr(deepspeed.DeepSpeedEngine, "coalesce_grad_reduction"):
                raise UserError(
                    f"engine.micro_batch_size: DeepSpeed {deepspeed.__version__} cannot add up gradients under ZeRO:"
                    f" install 0.19.8 or newer, or set engine.zero_stage=0 instead of {config.zero_stage}"
                )
        settings = {
            "train_micro_batch_size_per_gpu": local_batch_size,
            "gradient_accumulation_steps": 1,
            # Always written: DeepSpeed's default is 1.0. At stage 0 it keeps the norm to itself.
            "gradient_clipping": optimizer.grad_clip if config.zero_stage else 0.0,
            "zero_optimization": {"stage": config.zero_stage},
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 10**9,
            "wall_clock_breakdown": False,
        }
        model.to(device)
        adamw = torch.optim.AdamW(
            parameter_groups(model, optimizer.weight_decay),
            lr=optimizer.lr,
            betas=(optimizer.betas[0], optimizer.betas[1]),
        )
        with _quiet():
            self.engine, self.optimizer, _, _ = deepspeed.initialize(
                model=model, optimizer=adamw, config=settings, dist_init_required=False
            )
        self._kept = [buffer.clone() for buffer in self.engine.module.buffers()]
        self._state = EngineState(
            self.engine.module, self.optimizer, config.zero_stage, lambda whole: self._gathered(whole, changed_by=0)
        )

    @property
    def module(self) -> Any:
        """The model itself."""
        return self.engine.module

    def at_step(self, step: int) -> None:
        """Say which step of the run comes next: some parts of a model are frozen in the first ones."""
        self._step = step
        for module in self.module.modules():
            if isinstance(module, FrozenAtFirst):
                module.at_step(step)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return (loss, figures) of this rank."""
        if not self._micro_batch_size or not torch.is_grad_enabled():
            return self.engine(batch)
        self._cached = CachedForward(self.engine, self.module.views, batch, self._micro_batch_size)
        return self._cached.loss, self._cached.figures

    def backward_and_step(self, loss: Tensor, lr: float) -> None:
        """Average the gradients of the ranks' losses over the ranks and update the parameters at ``lr``."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr if self._step >= group["frozen_steps"] else 0.0
        self.backward(loss)
        if self._stage == 0:
            self._norm = nn.utils.clip_grad_norm_(self.module.parameters(), self._clip)
        self.engine.step()

    def backward(self, loss: Tensor) -> None:
        """Average the gradients of the ranks' losses, those of the last :meth:`forward`, over the ranks."""
        cached, self._cached = self._cached, None
        if cached is None:
            self.engine.backward(loss)
        elif self._stage == 0:
            cached.backward(self._backward_unsharded)
        else:
            # Otherwise ZeRO would take the gradients of the last part for those of the step.
            with self.engine.coalesce_grad_reduction():
                cached.backward(lambda value, _last: self.engine.backward(value))

    def _backward_unsharded(self, value: Tensor, last: bool) -> None:
        with contextlib.nullcontext() if last else self.engine.no_sync():
            self.engine.backward(value)

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
        norm = self._norm if self._stage == 0 else self.engine.get_global_grad_norm()
        if norm is None:
            return None
        # DeepSpeed says -1 where it is not finite.
        return float(norm) if math.isfinite(norm) and norm >= 0 else math.nan

    def snapshot(self) -> Snapshot:
        """Copy this rank's part of model and optimiser to host memory, to be written while training goes on."""
        return self._state.snapshot()

    def restore(self, folder: Path) -> None:
        """Take over what was written, at any number of ranks and any ZeRO stage; every rank must call it.

        Raises:
            UserError: the state is damaged, or of another model.
        """
        self._state.restore(folder)

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
def _quiet() -> Iterator[None]:
    """Keep DeepSpeed's informational lines out of the user's terminal; warnings and errors pass."""
    logger = logging.getLogger("DeepSpeed")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # some lines are printed, not logged
            yield
    finally:
        logger.setLevel(level)
