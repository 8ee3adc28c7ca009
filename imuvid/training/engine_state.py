"""Parameters and moments of a training, in a form that knows neither the number of ranks nor the ZeRO stage.

    engine/state.json                      shape of every parameter and buffer, number of updates
           part-00000-of-00002.safetensors one file a rank: the stretches that it holds, "KIND/NAME@START", flat

A stretch is a part of a flattened parameter, or of one of its two moments, from element START on. Under ZeRO a rank
writes what it holds anyway; what all ranks hold alike is shared out among them. So saving needs no communication and no
memory for whole tensors, and any number of ranks at any stage finds its own stretches among those of all. (DeepSpeed's
own files are bound to both; its universal format is made of them by a conversion that is a job of its own.)
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from imuvid.distributed import rank, world_size
from imuvid.errors import UserError
from imuvid.models.tensor_file import write_tensors
from imuvid.training.loss_scale import LossScale

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Of AdamW, beside its count of updates."""
_PARAMETER, _BUFFER = "parameter", "buffer"
_FORMAT = 1


@dataclass
class Snapshot:
    """A copy of this rank's part in host memory: training may go on while it is written."""

    tensors: dict[str, Tensor]
    description: dict[str, Any]

    def files(self) -> dict[str, Callable[[Path], None]]:
        """Return what writes this rank's files at a path, by their names."""
        part = f"part-{rank():05d}-of-{world_size():05d}.safetensors"
        files: dict[str, Callable[[Path], None]] = {part: lambda path: write_tensors(path, self.tensors)}
        if rank() == 0:
            text = json.dumps(self.description, indent=1, sort_keys=True) + "\n"
            files["state.json"] = lambda path: _write_text(path, text)
        return files


@dataclass
class _Stretch:
    """Where a rank holds elements of a parameter, as the optimiser updates them."""

    owner: Tensor
    """What the optimiser has as a parameter: the parameter itself, or a flat tensor with stretches of many."""
    at: int
    """First element in the flattened owner."""
    start: int
    """First element in the flattened parameter."""
    size: int


class EngineState:
    """Access to what has to be saved of a model and its AdamW under DeepSpeed.

    Args:
        module: the model.
        optimizer: what ``deepspeed.initialize`` returned.
        stage: of ZeRO.
        gathered: context in which parameters are whole; what rank 0 does to them there is done to all ranks'.
        loss_scale: of fp16; saved, and set by :meth:`restore`.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: Any,
        stage: int,
        gathered: Callable[[list[nn.Parameter]], contextlib.AbstractContextManager[None]],
        loss_scale: LossScale | None = None,
    ):
        self._loss_scale = loss_scale
        self._module, self._zero, self._stage, self._gathered = module, optimizer, stage, gathered
        self._adamw: torch.optim.Optimizer = optimizer.optimizer if stage else optimizer

    def snapshot(self) -> Snapshot:
        """Copy this rank's part to host memory; no communication."""
        tensors: dict[str, Tensor] = {}
        replicated = 0  # elements so far that every rank holds
        total = sum(p.numel() for p in self._module.parameters() if self._is_replicated(p))
        first, last = (total * number // world_size() for number in (rank(), rank() + 1))
        updates = 0
        for name, parameter in self._module.named_parameters():
            stretch = self._stretch(parameter)
            if stretch is None:
                continue
            begin, end = 0, stretch.size
            if self._is_replicated(parameter):
                begin, end = max(first - replicated, 0), min(last - replicated, stretch.size)
                replicated += stretch.size
            if begin >= end:
                continue
            state = self._adamw.state.get(stretch.owner, {})
            updates = max(updates, int(state.get("step", 0)))
            values = {_PARAMETER: stretch.owner} | {kind: state[kind] for kind in MOMENTS if kind in state}
            for kind, value in values.items():
                part = value.detach().reshape(-1)[stretch.at + begin : stretch.at + end]
                tensors[f"{kind}/{name}@{stretch.start + begin}"] = part.to("cpu", copy=True)
        if rank() == 0:
            for name, buffer in self._buffers().items():
                tensors[f"{_BUFFER}/{name}@0"] = buffer.detach().reshape(-1).to("cpu", copy=True)
        scale = {"loss_scale": dataclasses.asdict(self._loss_scale)} if self._loss_scale else {}
        return Snapshot(tensors, {"format": _FORMAT, "updates": updates, **scale, **self._shapes})

    def restore(self, folder: Path) -> None:
        """Take over what was saved at any number of ranks and any stage; every rank must call it.

        Raises:
            UserError: it is of another model, or damaged.
        """
        saved = SavedState(folder)
        saved.check(self._shapes)
        if self._loss_scale:
            for name, value in saved.loss_scale.items():
                setattr(self._loss_scale, name, value)
        for name, parameter in self._module.named_parameters():
            whole = saved.whole(_PARAMETER, name)
            with self._gathered([parameter]), torch.no_grad():
                parameter.copy_(whole.view(parameter.shape))
            stretch = self._stretch(parameter)
            if stretch is None:
                continue
            self._put(stretch, stretch.owner, whole)
            if parameter.requires_grad:
                state = self._adamw.state[stretch.owner]
                state["step"] = torch.tensor(float(saved.updates))
                for kind in MOMENTS:
                    state.setdefault(kind, torch.zeros_like(stretch.owner))
                    self._put(stretch, state[kind], saved.whole(kind, name))
        for name, buffer in self._buffers().items():
            with torch.no_grad():
                buffer.copy_(saved.whole(_BUFFER, name).view(buffer.shape))

    def _is_replicated(self, parameter: nn.Parameter) -> bool:
        return self._stage == 0 or (self._stage < 3 and not parameter.requires_grad)

    def _stretch(self, parameter: Any) -> _Stretch | None:
        """Return where this rank holds a part of the parameter, None where it holds none."""
        if self._is_replicated(parameter):
            return _Stretch(parameter, 0, 0, parameter.numel())
        if self._stage < 3:
            mapping = parameter._hp_mapping
            if mapping is None:
                return None
            flat = self._zero.single_partition_of_fp32_groups[mapping.param_group_index]
            there, here = mapping.hp_fragment_address, mapping.lp_fragment_address
            return _Stretch(flat, there.start, here.start, here.numel)
        if parameter.requires_grad:
            group, at, size = self._zero.grad_position[self._zero.get_param_id(parameter)]
            flat = self._zero.fp32_partitioned_groups_flat[group]
        else:
            flat, at, size = parameter.ds_tensor, 0, parameter.ds_tensor.numel()
        start = rank() * size
        size = min(size, parameter.ds_numel - start)  # the last parts are filled up to equal sizes
        return _Stretch(flat, at, start, size) if size > 0 else None

    @staticmethod
    def _put(stretch: _Stretch, target: Tensor, whole: Tensor) -> None:
        part = whole[stretch.start : stretch.start + stretch.size]
        if part.numel() == target.numel():
            target.data.copy_(part.view(target.shape))
        else:
            target.data[stretch.at : stretch.at + stretch.size].copy_(part)

    def _buffers(self) -> dict[str, Tensor]:
        kept = self._module.state_dict(keep_vars=True).keys()  # without those that are not persistent
        return {name: buffer for name, buffer in self._module.named_buffers() if name in kept}

    @cached_property
    def _shapes(self) -> dict[str, dict[str, list[int]]]:
        parameters: list[tuple[str, Any]] = list(self._module.named_parameters())
        return {
            "parameters": {name: list(getattr(p, "ds_shape", p.shape)) for name, p in parameters},
            "buffers": {name: list(buffer.shape) for name, buffer in self._buffers().items()},
        }


class SavedState:
    """Reads an ``engine`` folder.

    Raises:
        UserError: it is not there, or damaged.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._stretches: dict[str, list[tuple[int, Any, str]]] = {}
        try:
            description = json.loads((folder / "state.json").read_text())
            if description["format"] != _FORMAT:
                raise UserError(
                    f"{folder}: engine state of format {description['format']}, this program reads {_FORMAT}"
                )
            self.updates = int(description["updates"])
            self.loss_scale = dataclasses.asdict(LossScale(**description.get("loss_scale", {})))
            self.shapes = {kind: dict(description[kind]) for kind in ("parameters", "buffers")}
            for path in sorted(folder.glob("part-*.safetensors")):
                file = safe_open(path, framework="pt")
                for key in file.keys():  # noqa: SIM118 - no mapping
                    name, start = key.rsplit("@", 1)
                    self._stretches.setdefault(name, []).append((int(start), file, key))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise UserError(f"{folder}: damaged engine state: {error}") from error

    def check(self, shapes: dict[str, dict[str, list[int]]]) -> None:
        """Raise UserError unless it is the state of a model of these ``parameters`` and ``buffers``."""
        for kind, expected in shapes.items():
            saved = self.shapes[kind]
            for name in sorted(expected.keys() | saved.keys()):
                if expected.get(name) != saved.get(name):
                    here, there = (
                        f"shape {each[name]}" if name in each else f"no such {kind[:-1]}" for each in (expected, saved)
                    )
                    raise UserError(
                        f"{self.folder}: is the state of another model: {name} has {there} there and {here} in this"
                        " one: go on with the model settings of that run, or choose another name=..."
                    )

    def whole(self, kind: str, name: str) -> Tensor:
        """Return a flattened tensor; zeros for the moments of a parameter that was never updated."""
        shape = self.shapes["buffers" if kind == _BUFFER else "parameters"][name]
        stretches = sorted(self._stretches.get(f"{kind}/{name}", []), key=lambda stretch: stretch[0])
        size = torch.Size(shape).numel()
        if not stretches and kind in MOMENTS:
            return torch.zeros(size)
        parts, end = [], 0
        for start, file, key in stretches:
            if start != end:
                break
            parts.append(file.get_tensor(key))
            end += parts[-1].numel()
        if end != size:
            raise UserError(f"{self.folder}: damaged engine state: of {kind} {name} elements from {end} on are missing")
        return torch.cat(parts) if len(parts) > 1 else parts[0] if parts else torch.zeros(0)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text)
