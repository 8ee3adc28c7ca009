"""Frames by PyAV, whose wheels hold FFmpeg for every platform."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from shards.video import GREY_SIDE, DecodingError, Frame

_LUMA_FIRST = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "nv12", "gray")
"""Pixel formats whose first plane is the brightness, one byte a pixel."""


def pictures(
    path: Path, width: int, height: int, num_threads: int, indices: Sequence[int]
) -> Iterator[tuple[int, Frame]]:
    """Yield (index, frame) of the frames that are due; as :func:`shards.video_decord.pictures`."""
    due = iter(indices)
    wanted = next(due, None)
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = container.streams.best("video")
            assert isinstance(stream, av.VideoStream)
            scaler = Scaler(width, height, float(stream.sample_aspect_ratio or 1))
            stream.codec_context.thread_count = num_threads
            stream.thread_type = "AUTO"
            for index, frame in enumerate(container.decode(stream)):
                if wanted is None:
                    return
                if index == wanted:
                    yield index, scaler.frame(frame, round(frame.rotation / 90))
                    wanted = next(due, None)
    except av.error.FFmpegError as error:
        raise DecodingError(str(error)) from error


class Scaler:
    """Scales frames of one video.

    Args:
        width: of the RGB pictures, as they are shown, pixels.
        height: of the RGB pictures, pixels.
        aspect: width of a pixel over its height, as the video is stored.
    """

    def __init__(self, width: int, height: int, aspect: float = 1.0):
        self.size = (width, height)
        self._square = abs(aspect - 1.0) < 0.02
        scale = min(1.0, GREY_SIDE / min(self.size))
        self.grey_size = (round(scale * width), round(scale * height))
        self._rgb, self._grey = VideoReformatter(), VideoReformatter()

    def frame(self, frame: av.VideoFrame, quarters: int) -> Frame:
        """Return a frame turned counter-clockwise by quarters of a circle."""

        def rgb() -> np.ndarray:
            # Bilinear, as decord scales: both then give nearly the same pictures.
            return _scaled(self._rgb, frame, self.size, "rgb24", quarters)

        def grey() -> np.ndarray:
            if self._square and frame.format.name in _LUMA_FIRST:
                return np.rot90(_luma(frame), quarters)
            return _scaled(self._grey, frame, self.grey_size, "gray", quarters)

        return Frame(rgb, grey)


def _luma(frame: av.VideoFrame) -> np.ndarray:
    """Return the brightness as it is stored, uint8 [height, width], without a copy."""
    plane = frame.planes[0]
    return np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width]


def _scaled(
    scaler: VideoReformatter, frame: av.VideoFrame, size: tuple[int, int], pixels: str, quarters: int
) -> np.ndarray:
    before = size[::-1] if quarters % 2 else size
    small = scaler.reformat(frame, *before, format=pixels, interpolation=Interpolation.BILINEAR)
    return np.ascontiguousarray(np.rot90(small.to_ndarray(), quarters))
