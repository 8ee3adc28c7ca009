"""Frames by decord: the decoding and the scaling run in native code, ahead of the reader."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import decord
import numpy as np

from shards.video import DecodingError

decord.logging.set_level(decord.logging.QUIET)


def pictures(path: Path, width: int, height: int, num_threads: int) -> Iterator[Callable[[], np.ndarray]]:
    """Yield, for each frame from the first on, what returns its picture, uint8 [height, width, 3] RGB.

    Raises:
        DecodingError: a frame cannot be decoded.
    """
    try:
        reader = decord.VideoReader(str(path), width=width, height=height, num_threads=num_threads)
        while True:
            yield functools.partial(_pixels, reader.next())
    except StopIteration:
        return
    except (decord.DECORDError, RuntimeError) as error:
        raise DecodingError(str(error)) from error


def _pixels(frame: decord.nd.NDArray) -> np.ndarray:
    """Return RGB [height, width, 3]: in narrow pictures decord counts the padding of each row as more channels."""
    raw = frame.asnumpy()
    height, width = raw.shape[:2]
    return raw.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)
