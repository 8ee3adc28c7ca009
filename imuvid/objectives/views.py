"""What a step offers to the objectives, and which windows may be contrasted with which."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
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
    video_features: Tensor | None = None
    """[B, G]: what the video tower gives, before its head."""
    second_video_features: Tensor | None = None
    """[B, G]: the same of a second, augmented view of the clip."""
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
        return Pairing(self, margin_s, first & second, self.text_number if "text" in modalities else None)

    def differentiable(self) -> dict[str, Tensor]:
        """Return what towers and heads have made, by name: all that a gradient can flow to."""
        names = (
            "imu",
            "video",
            "text",
            "imu_features",
            "second_features",
            "video_features",
            "second_video_features",
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
    """Which pairs (one modality of window i, another of window j) of the global batch count.

    Of windows that have both modalities, their own pairs are the positives and the others are negatives, unless the
    two windows belong to one recording and start closer than the margin: they may overlap or show the same. Nor is
    there a negative between windows of which the same is said. Windows that lack one of the two take no part: the
    loss is that of the batch without them.

    Args:
        views: this rank's windows; equally many on every rank.
        margin_s: seconds; 0 makes negatives of all other windows, inf of none of the same recording.
        there: bool [b]: the window has both.
        number: int64 [b]: windows with the same one are no negatives of each other; None where there is no such number.
    """

    def __init__(self, views: Views, margin_s: float, there: Tensor, number: Tensor | None = None):
        self.margin_s, self.positive = margin_s, there
        columns = [there, views.recording, views.start_s.double().view(torch.int64)]
        columns += [] if number is None else [number]
        everyone = gather_batch(torch.stack(columns, 1))  # [W b, 3 or 4], in one collective
        self.all_positive = everyone[:, 0].bool()
        self._recording = everyone[:, 1]
        self._start_s = everyone[:, 2].contiguous().view(torch.float64)
        self._number = None if number is None else everyone[:, 3]

    @property
    def positives_per_rank(self) -> Tensor:
        """Pairs in the global batch over the number of ranks, at least 1 in all; 0-dimensional."""
        return self.all_positive.sum().clamp(min=1) / world_size()

    def excluded(self, rows: slice, origin: int, columns: slice) -> Tensor:
        """Return bool [rows, columns]: True where ``rows`` of this rank and ``columns`` of rank ``origin`` are no pair.

        False on the windows' own pairs, where both modalities are there.
        """
        own, other = (
            slice(number * len(self.positive) + part.start, number * len(self.positive) + part.stop)
            for number, part in ((rank(), rows), (origin, columns))
        )

        def table(compare: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> Tensor:
            return compare(x[own, None], x[other])

        out = ~table(torch.logical_and, self.all_positive)
        if self.margin_s > 0:
            near = table(torch.eq, self._recording)
            if math.isfinite(self.margin_s):
                near &= table(torch.sub, self._start_s).abs() < self.margin_s
            out |= near
        if self._number is not None:
            out |= table(torch.eq, self._number)
        if origin == rank() and rows.start == columns.start:
            out.diagonal().copy_(~self.positive[rows])
        return out


def tiles(rows: int, chunk: int) -> list[slice]:
    """Cut ``rows`` rows into slices of at most ``chunk``."""
    return [slice(start, min(start + chunk, rows)) for start in range(0, rows, chunk)]


def near(views: Views, margin_s: float) -> Callable[[slice], Tensor]:
    """Say which windows of all ranks belong to the same recording and start closer than the margin.

    Returns:
        From a slice of the windows of this rank to bool [rows, W b]; True for a window itself, but nowhere where the
        margin is 0.
    """
    columns = gather_batch(torch.stack([views.recording, views.start_s.double().view(torch.int64)], 1))
    recording, start_s = columns[:, 0], columns[:, 1].contiguous().view(torch.float64)

    def rows_of(rows: slice) -> Tensor:
        same = views.recording[rows, None] == recording
        return same & ((views.start_s[rows, None] - start_s).abs() < margin_s)

    return rows_of
