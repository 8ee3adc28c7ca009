"""Frames by PyAV, whose wheels hold FFmpeg for every platform."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from shards.video import GREY_SIDE, DecodingError, Frame


def pictures(
    path: Path, width: int, height: int, num_threads: int, indices: Sequence[int]
) -> Iterator[tuple[int, Frame]]:
    """Yield (index, frame) of the frames that are due; as :func:`shards.video_decord.pictures`."""
    scaler = Scaler(width, height)
    due = iter(indices)
    wanted = next(due, None)
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = container.streams.best("video")
            assert isinstance(stream, av.VideoStream)
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
    """

    def __init__(self, width: int, height: int):
        self.size = (width, height)
        scale = min(1.0, GREY_SIDE / min(self.size))
        self.grey_size = (round(scale * width), round(scale * height))
        self._rgb, self._grey = VideoReformatter(), VideoReformatter()

    def frame(self, frame: av.VideoFrame, quarters: int) -> Frame:
        """Return a frame turned counter-clockwise by quarters of a circle."""

        def rgb() -> np.ndarray:
            # Bilinear, as decord scales: both then give nearly the same pictures.
            return _scaled(self._rgb, frame, self.size, "rgb24", quarters)

        def grey() -> np.ndarray:
            return _scaled(self._grey, frame, self.grey_size, "gray", quarters)

        return Frame(rgb, grey)


def _scaled(
    scaler: VideoReformatter, frame: av.VideoFrame, size: tuple[int, int], pixels: str, quarters: int
) -> np.ndarray:
    before = size[::-1] if quarters % 2 else size
    small = scaler.reformat(frame, *before, format=pixels, interpolation=Interpolation.BILINEAR)
    return np.ascontiguousarray(np.rot90(small.to_ndarray(), quarters))
