"""What a step offers to the objectives, and which windows may be contrasted with which."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from imuvid.distributed import gather_batch, rank, world_size

Modalities = tuple[str, str]
"""Two of imu, video and text; text is the second."""


@dataclass
class Views:
    """B windows of this rank. What no objective of the run asks for is None."""

    recording: Tensor
    """int64 [B]: number of the recording."""
    start_s: Tensor
    """float64 [B]: where in it the window starts, seconds."""
    has_imu: Tensor
    """bool [B]: the window has a valid IMU sample."""
    has_video: Tensor
    """bool [B]: the window has a valid frame."""
    imu: Tensor | None = None
    """[B, D] embeddings of unit length."""
    video: Tensor | None = None
    """[B, D] embeddings of unit length."""
    text: Tensor | None = None
    """[B, D] embeddings of unit length."""
    has_text: Tensor | None = None
    """bool [B]: the window has a narration."""
    text_number: Tensor | None = None
    """int64 [B]: stands for the narration; windows with the same words have the same."""
    imu_features: Tensor | None = None
    """[B, F]: what the IMU tower gives, before its head."""
    second_features: Tensor | None = None
    """[B, F]: the same of a second, augmented view of the IMU."""
    imu_tokens: Tensor | None = None
    """[B, L, E]: the window in the order of time, in L equal parts."""
    imu_token_valid: Tensor | None = None
    """bool [B, L]."""
    video_tokens: Tensor | None = None
    """[B, M, G]: the clip in the order of time, in M equal parts."""
    video_token_valid: Tensor | None = None
    """bool [B, M]."""
    hidden_tokens: Tensor | None = None
    """[B, L, E]: IMU tokens of the window with some of its patches hidden."""
    hidden: Tensor | None = None
    """bool [B, T, P, 6]: the valid readings that were hidden."""
    readings: Tensor | None = None
    """[B, T, P, 6]: the whole window, accelerations in g, rates in units of ``imu.units.GYRO_SCALE_RAD_S``."""

    def pair(self, modalities: Modalities = ("imu", "video")) -> tuple[Tensor, Tensor]:
        """Return the embeddings of two modalities, for an objective that needs both."""
        first, second = (getattr(self, name) for name in modalities)
        assert first is not None
        assert second is not None
        return first, second

    def pairing(self, margin_s: float, modalities: Modalities = ("imu", "video")) -> Pairing:
        """Return which of these pairs count; see :class:`Pairing`."""
        first, second = (getattr(self, f"has_{name}") for name in modalities)
        return Pairing(self, margin_s, first, second, self.text_number if "text" in modalities else None)

    def differentiable(self) -> dict[str, Tensor]:
        """Return what towers and heads have made, by name: all that a gradient can flow to."""
        names = (
            "imu",
            "video",
            "text",
            "imu_features",
            "second_features",
            "imu_tokens",
            "video_tokens",
            "hidden_tokens",
        )
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @staticmethod
    def cat(parts: Sequence[Views]) -> Views:
        """Return the windows of all parts as one."""
        joined: dict[str, Any] = {}
        for field in dataclasses.fields(Views):
            values = [getattr(part, field.name) for part in parts]
            joined[field.name] = None if values[0] is None else torch.cat(values)
        return Views(**joined)


class Pairing:
    """Which pairs (first modality of window i, second modality of window j) of the global batch count.

    The windows' own pairs are the positives. Other pairs are negatives, unless one of the two is absent, or the two
    windows belong to one recording and start closer than the margin: they may overlap or show the same. Nor is there
    a negative between windows of which the same is said.

    Args:
        views: this rank's windows; equally many on every rank.
        margin_s: seconds; 0 makes negatives of all other windows, inf of none of the same recording.
        has_first: bool [b]: the window has the first modality.
        has_second: bool [b].
        number: int64 [b]: windows with the same one are no negatives of each other; None where there is no such number.
    """

    def __init__(
        self, views: Views, margin_s: float, has_first: Tensor, has_second: Tensor, number: Tensor | None = None
    ):
        self.margin_s = margin_s
        self.positive = has_first & has_second
        self._own = (views.recording, views.start_s.double(), has_first)
        columns = [views.recording, views.start_s.double().view(torch.int64), has_first + 2 * has_second]
        self._number = number
        if number is not None:
            columns.append(number)
        everyone = gather_batch(torch.stack(columns, 1))  # [W b, 3 or 4], in one collective
        self._recording = everyone[:, 0]
        self._start_s = everyone[:, 1].contiguous().view(torch.float64)
        self._has_second = everyone[:, 2] >= 2
        self.all_positive = everyone[:, 2] == 3
        self._all_numbers = everyone[:, -1]

    @property
    def positives_per_rank(self) -> Tensor:
        """Pairs in the global batch over the number of ranks, at least 1 in all; 0-dimensional."""
        return self.all_positive.sum().clamp(min=1) / world_size()

    def excluded(self, rows: slice, origin: int, columns: slice) -> Tensor:
        """Return bool [rows, columns]: True where ``rows`` of this rank and ``columns`` of rank ``origin`` are no pair.

        False on the windows' own pairs, where both are there.
        """
        recording, start_s, has_first = (x[rows, None] for x in self._own)
        at = slice(origin * len(self.positive) + columns.start, origin * len(self.positive) + columns.stop)
        out = ~(has_first & self._has_second[at])
        if self.margin_s > 0:
            near = recording == self._recording[at]
            if math.isfinite(self.margin_s):
                near &= (start_s - self._start_s[at]).abs() < self.margin_s
            out |= near
        if self._number is not None:
            out |= self._number[rows, None] == self._all_numbers[at]
        if origin == rank() and rows.start == columns.start:
            out.diagonal().copy_(~self.positive[rows])
        return out


def tiles(rows: int, chunk: int) -> list[slice]:
    """Cut ``rows`` rows into slices of at most ``chunk``."""
    return [slice(start, min(start + chunk, rows)) for start in range(0, rows, chunk)]


def near(views: Views, margin_s: float) -> Tensor:
    """Return bool [b, W b]: which windows of all ranks belong to the same recording and start closer than the margin.

    True for a window itself, but nowhere where the margin is 0.
    """
    columns = gather_batch(torch.stack([views.recording, views.start_s.double().view(torch.int64)], 1))
    start_s = columns[:, 1].contiguous().view(torch.float64)
    same = views.recording[:, None] == columns[:, 0]
    return same & ((views.start_s[:, None] - start_s).abs() < margin_s)
