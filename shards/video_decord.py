"""Frames by decord: the decoding and the scaling run in native code, ahead of the reader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import decord
import numpy as np

from shards.video import DecodingError, Frame

decord.logging.set_level(decord.logging.QUIET)


def pictures(
    path: Path, width: int, height: int, num_threads: int, indices: Sequence[int]
) -> Iterator[tuple[int, Frame]]:
    """Yield (index, frame) of the frames that are due, counted from the first on.

    Args:
        path: the video.
        width: of the pictures, pixels.
        height: of the pictures, pixels.
        num_threads: of the decoder.
        indices: due frames, increasing; where the video has fewer, the iterator ends.

    Raises:
        DecodingError: a frame cannot be decoded.
    """
    try:
        reader = decord.VideoReader(str(path), width=width, height=height, num_threads=num_threads)
        following = 0
        for index in indices:
            # Its own way to skip frames would not scale them, but miscounts where an edit list hides some.
            while following < index:
                reader.next()
                following += 1
            yield index, _frame(reader.next())
            following = index + 1
    except StopIteration:
        return
    except (decord.DECORDError, RuntimeError) as error:
        raise DecodingError(str(error)) from error


def _frame(decoded: decord.nd.NDArray) -> Frame:
    """Return what is scaled already; green stands for grey."""
    pixels = _pixels(decoded)
    return Frame(lambda: pixels, lambda: pixels[..., 1])


def _pixels(frame: decord.nd.NDArray) -> np.ndarray:
    """Return RGB [height, width, 3]: in narrow pictures decord counts the padding of each row as more channels."""
    raw = frame.asnumpy()
    height, width = raw.shape[:2]
    return raw.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)
