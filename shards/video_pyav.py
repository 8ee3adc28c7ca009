"""Frames by PyAV, whose wheels hold FFmpeg for every platform."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from shards.video import DecodingError


def pictures(path: Path, width: int, height: int, num_threads: int) -> Iterator[Callable[[], np.ndarray]]:
    """Yield, for each frame from the first on, what returns its picture, uint8 [height, width, 3] RGB.

    Raises:
        DecodingError: a frame cannot be decoded.
    """
    scaler = VideoReformatter()
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = container.streams.best("video")
            assert isinstance(stream, av.VideoStream)
            stream.codec_context.thread_count = num_threads
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                yield functools.partial(scaled, scaler, frame, width, height, round(frame.rotation / 90))
    except av.error.FFmpegError as error:
        raise DecodingError(str(error)) from error


def scaled(scaler: VideoReformatter, frame: av.VideoFrame, width: int, height: int, quarters: int) -> np.ndarray:
    """Return RGB uint8 [height, width, 3] of a frame turned counter-clockwise by quarters of a circle."""
    before = (height, width) if quarters % 2 else (width, height)
    # Bilinear, as decord scales: both then give nearly the same pictures.
    small = scaler.reformat(frame, *before, format="rgb24", interpolation=Interpolation.BILINEAR)
    return np.ascontiguousarray(np.rot90(small.to_ndarray(), quarters))
