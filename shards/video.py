"""Pictures of a recording: when each frame is shown, and the frames themselves, scaled while they are decoded.

The time axis is that of the player: 0 is the first frame that is shown. PyAV reads the presentation times from the
packets, without decoding; packets that an edit list hides (as after a cut without re-encoding) are not shown and
have no time here. Decord decodes, from the first frame on and without ever seeking: seeking by index gives other
frames where an edit list or reordered frames are involved, while the n-th frame of one pass is the n-th that is
shown. Decord also turns the picture as the file's rotation says.

A file that lies about its number of frames can hold decord in native code for ever, so this belongs in a process
that has a time limit (:mod:`shards.workers`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import decord
import numpy as np

from shards.mp4 import outer_boxes
from shards.sources.base import RecordingError

decord.logging.set_level(decord.logging.QUIET)


@dataclass(frozen=True, eq=False)
class VideoInfo:
    """What is known of a video before it is decoded."""

    width: int
    """Of the picture as it is shown (turned, with square pixels), pixels."""
    height: int
    times_s: np.ndarray
    """float64 [N], in order: when each frame is shown, seconds after the first."""
    start_s: float
    """When the first frame is shown on the clock of the container, seconds."""
    duration_s: float
    """From the first frame to the end of the last, seconds."""


@functools.lru_cache(maxsize=2)
def probe(path: Path) -> VideoInfo:
    """Read when the frames of a video are shown; costs a pass over the file and the decoding of one frame.

    Raises:
        RecordingError: ``missing``, ``empty``, ``truncated`` or ``not_a_video``.
    """
    if not path.is_file():
        raise RecordingError("missing", f"{path}: there is no such video")
    if path.stat().st_size == 0:
        raise RecordingError("empty", f"{path}: is empty: copy it again")
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = container.streams.best("video")
            if not isinstance(stream, av.VideoStream):
                raise RecordingError("not_a_video", f"{path}: holds no video")
            if "mp4" in container.format.name and not outer_boxes(path)[1]:
                raise RecordingError("truncated", f"{path}: is not complete: copy it again")
            # Only the numbers are kept: the packets together are as large as the file.
            shown = [(p.pts, p.duration or 0) for p in container.demux(stream) if p.size and not p.is_discard]
            if not shown or stream.time_base is None or any(pts is None for pts, _ in shown):
                raise RecordingError("not_a_video", f"{path}: its frames have no time stamps: wrap it into an MP4 file")
            stamps, lengths = np.array(sorted(shown), dtype=np.int64).T
            usual = float(np.median(np.diff(stamps))) if len(stamps) > 1 else 0.0
            unit_s = float(stream.time_base)
            times_s = (stamps - stamps[0]) * unit_s
            start_s = float(stamps[0]) * unit_s
            duration_s = float(times_s[-1] + (lengths[-1] or usual) * unit_s)
            aspect = float(stream.sample_aspect_ratio or 1)
        with av.open(str(path), metadata_errors="replace") as container:
            frame = next(container.decode(container.streams.best("video")))
            assert isinstance(frame, av.VideoFrame)
    except (av.error.FFmpegError, StopIteration) as error:
        problem = getattr(error, "strerror", None) or "no frame can be decoded"
        raise RecordingError("not_a_video", f"{path}: cannot be read as a video: {problem}") from error
    size = (round(frame.width * aspect), frame.height)
    width, height = size[::-1] if frame.rotation % 180 else size
    return VideoInfo(width, height, times_s, start_s, duration_s)


def read_frames(
    path: Path, indices: Sequence[int], size: int, fit: str, num_threads: int = 1
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (index, uint8 [size, size, 3] RGB) of the wanted frames in one pass from the first frame on.

    Args:
        path: the video.
        indices: frames wanted, increasing, as positions in ``VideoInfo.times_s``.
        size: height and width, pixels.
        fit: crop, pad or squash; see :class:`shards.config.FramesConfig`.
        num_threads: of the decoder.

    Raises:
        RecordingError: ``damaged_video``: decoding fails or ends early; what :func:`probe` raises.
    """
    info = probe(path)
    width, height = _scaled(info, size, fit)
    index = -1
    try:
        reader = decord.VideoReader(str(path), width=width, height=height, num_threads=num_threads)
        for wanted in indices:
            while index < wanted:
                picture = reader.next()
                index += 1
            yield wanted, _fitted(_pixels(picture.asnumpy()), size)
    except (decord.DECORDError, RuntimeError, StopIteration) as error:
        raise RecordingError(
            "damaged_video", f"{path}: decoding fails after {index + 1} of {len(info.times_s)} frames: encode it again"
        ) from error


def _scaled(info: VideoInfo, size: int, fit: str) -> tuple[int, int]:
    """Return the width and height to decode at."""
    if fit == "squash":
        return size, size
    side = min(info.width, info.height) if fit == "crop" else max(info.width, info.height)
    return max(1, round(info.width * size / side)), max(1, round(info.height * size / side))


def _pixels(raw: np.ndarray) -> np.ndarray:
    """Return RGB [height, width, 3]: in narrow pictures decord counts the padding of each row as more channels."""
    height, width = raw.shape[:2]
    return raw.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)


def _fitted(picture: np.ndarray, size: int) -> np.ndarray:
    """Return the picture cut to its middle, or with black borders, [size, size, 3]."""
    height, width = picture.shape[:2]
    top, left = max(height - size, 0) // 2, max(width - size, 0) // 2
    cut = picture[top : top + size, left : left + size]
    if cut.shape[:2] == (size, size):
        return np.ascontiguousarray(cut)
    result = np.zeros((size, size, 3), dtype=np.uint8)
    top, left = (size - cut.shape[0]) // 2, (size - cut.shape[1]) // 2
    result[top : top + cut.shape[0], left : left + cut.shape[1]] = cut
    return result
