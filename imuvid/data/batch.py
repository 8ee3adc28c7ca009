"""What a training step gets."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from torch import Tensor


@dataclass
class Example:
    """One window, decoded and augmented."""

    imu: np.ndarray
    """float32 [T, P, 6], m/s^2 and rad/s."""
    valid: np.ndarray
    """bool [T, P, 2]."""
    frames: np.ndarray
    """uint8 [F, H, W, 3], RGB; or float16 [D], the embedding of a frozen video tower that is stored instead."""
    frame_valid: np.ndarray
    """bool [F]."""
    recording: int
    """Number that stands for the recording."""
    sample: int
    """Number of the sample in its dataset."""
    frame_places: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """float64 [F]: where in the window each frame lies, 0 its start, 1 its end; empty where nobody asks."""
    start_s: float = 0.0
    """Where in the recording the window starts, seconds."""
    narration: str | None = None
    """What happens, in words; None where nobody has said."""
    text: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """int64 [L]: the tokens of the narration, -1 after its end; L = 0 where no tower reads them."""
    skipped: tuple[int, int] = (-1, -1)
    """Number of the corrupt sample that this one stands in for, and of the reason (damage.REASONS); -1 for none."""


@dataclass
class Batch:
    """B windows, stacked. Units and layout as in Example."""

    imu: Tensor
    """float32 [B, T, P, 6]."""
    valid: Tensor
    """bool [B, T, P, 2]."""
    frames: Tensor
    """uint8 [B, F, H, W, 3]; or float16 [B, D]."""
    frame_valid: Tensor
    """bool [B, F]."""
    recording: Tensor
    """int64 [B]."""
    sample: Tensor
    """int64 [B]."""
    skipped: Tensor
    """int64 [B, 2]."""
    start_s: Tensor
    """float64 [B]."""
    text: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.int64))
    """int64 [B, L]."""

    def to(self, device: torch.device) -> Batch:
        """Return the batch on another device; asynchronous from pinned memory."""
        return Batch(**{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)})

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory (the DataLoader calls this)."""
        return Batch(**{f.name: getattr(self, f.name).pin_memory() for f in fields(self)})

    def rows(self, start: int, stop: int) -> Batch:
        """Return the windows from ``start`` to ``stop`` of it, without copying."""
        return Batch(**{f.name: getattr(self, f.name)[start:stop] for f in fields(self)})

    def __len__(self) -> int:
        return len(self.imu)


def collate(examples: list[Example]) -> Batch:
    """Stack examples of equal shapes."""
    arrays = {
        f.name: torch.from_numpy(_stacked([getattr(example, f.name) for example in examples])) for f in fields(Batch)
    }
    return Batch(**arrays)


def _stacked(values: list) -> np.ndarray:
    first = values[0]
    if not isinstance(first, np.ndarray):
        return np.array(values)
    whole = first.base
    # Parts of one array, in its order, need no copy.
    if isinstance(whole, np.ndarray) and whole.shape == (len(values), *first.shape) and whole.dtype == first.dtype:
        begin, step = _address(whole), whole.strides[0]
        if all(
            part.base is whole
            and part.shape == first.shape
            and part.strides == whole.strides[1:]
            and _address(part) == begin + i * step
            for i, part in enumerate(values)
        ):
            return whole
    return np.stack(values)


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def recording_number(recording: str) -> int:
    """Return a number in [0, 2^63) that stands for a recording's identifier (the same in every process)."""
    return int.from_bytes(hashlib.sha256(recording.encode()).digest()[:8], "big") >> 1
