"""Samples are read, and frames decoded where they will lie in the batch, in memory that is no longer needed.

A window of 10 frames of 224 px takes 1.5 MB. Copying it into its batch, and asking the system for fresh pages for
every batch, take about half as long again as decoding it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence

import numpy as np
import simplejpeg


def decode_frames(jpegs: Sequence[bytes | memoryview], out: np.ndarray | None = None) -> np.ndarray:
    """Decode the frames of one window.

    Args:
        jpegs: F pictures of one size.
        out: uint8 [F, H, W, 3], where they are to lie; pictures of another size get memory of their own.

    Returns:
        uint8 [F, H, W, 3], RGB; [0, 0, 0, 3] without pictures.

    Raises:
        ValueError: a picture is damaged, or the sizes differ.
    """
    if not jpegs:
        return np.zeros((0, 0, 0, 3), np.uint8)
    if out is not None and len(out) == len(jpegs):
        # One that is damaged or too large for its place is told by what follows.
        with contextlib.suppress(ValueError):
            shapes = {
                simplejpeg.decode_jpeg(jpeg, colorspace="RGB", buffer=place).shape
                for jpeg, place in zip(jpegs, out, strict=True)
            }
            if shapes == {out.shape[1:]}:
                return out
    return np.stack([simplejpeg.decode_jpeg(jpeg, colorspace="RGB") for jpeg in jpegs])


class ReadMemory:
    """Memory for the bytes of samples, given in turns: a sample is there until ``num_samples`` more were read.

    Pickles and forks as if it were new.
    """

    def __init__(self, num_samples: int):
        self._buffers = [bytearray() for _ in range(num_samples)]
        self._next = 0

    def take(self, size: int) -> memoryview:
        """Return room for ``size`` bytes."""
        place, self._next = self._next, (self._next + 1) % len(self._buffers)
        if len(self._buffers[place]) < size:
            self._buffers[place] = bytearray(size + size // 4)  # a new one: someone may look at the old one
        return memoryview(self._buffers[place])[:size]

    def __reduce__(self) -> tuple[type[ReadMemory], tuple[int]]:
        return ReadMemory, (len(self._buffers),)


class FrameMemory:
    """Memory for the frames of ``num_windows`` windows, which a batch takes over when they are all there.

    A window's place is given to the next one until :meth:`keep` is told that it is used. Batches are
    contiguous, so that :func:`imuvid.data.batch.collate` need not copy them. Pickles and forks as if it were new.
    """

    _KEPT = 3  # batches: what is trained on, what waits, and what is being made

    def __init__(self, num_windows: int):
        self._num_windows = num_windows
        self._batches: list[np.ndarray] = []
        self._used = 0

    def decode(self, jpegs: Sequence[bytes | memoryview]) -> np.ndarray:
        """As :func:`decode_frames`, into the next free place."""
        if not jpegs:
            return decode_frames(jpegs)
        if self._used == self._num_windows or not self._batches or self._batches[-1].shape[1] != len(jpegs):
            height, width = simplejpeg.decode_jpeg_header(jpegs[0])[:2]
            self._next_batch((self._num_windows, len(jpegs), height, width, 3))
        return decode_frames(jpegs, self._place())

    def keep(self, frames: np.ndarray) -> None:
        """Take note that these frames go into the batch: where they lie in the last place given, nothing else may."""
        if self._batches and self._used < self._num_windows and np.may_share_memory(frames, self._place()):
            self._used += 1

    def _place(self) -> np.ndarray:
        return self._batches[-1][self._used]

    def _next_batch(self, shape: tuple[int, ...]) -> None:
        self._used = 0
        for number in range(len(self._batches)):
            batch = self._batches[number]
            # Held by the list, by this line and by the call alone: no array and no tensor looks at it any more.
            if batch.shape == shape and sys.getrefcount(batch) <= 3:
                self._batches.append(self._batches.pop(number))
                return
        self._batches = [*self._batches[1 - self._KEPT :], np.empty(shape, np.uint8)]

    def __getstate__(self) -> dict:
        return {"_num_windows": self._num_windows, "_batches": [], "_used": 0}
