"""Pictures of a recording: when each frame is shown, and the frames themselves, scaled while they are decoded.

The time axis is that of the player: 0 is the first frame that is shown. PyAV reads the presentation times from the
packets, without decoding; packets that an edit list hides (as after a cut without re-encoding) are not shown and
have no time here. Frames are decoded from the first on, without ever seeking: seeking by index gives other frames
where an edit list or reordered frames are involved, while the n-th frame of one pass is the n-th that is shown.
The pictures are turned as the file's rotation says, and have square pixels.

Two decoders stand behind this, ``decord`` (:mod:`shards.video_decord`) and ``pyav`` (:mod:`shards.video_pyav`);
Project Aria's ``.vrs`` files have one of their own (:mod:`shards.video_vrs`). Each is a function ``pictures(path,
width, height, num_threads)`` that yields, for each frame in the order of their times, a function that returns its
picture: what is not wanted is not converted.

A file that lies about its number of frames can hold a decoder in native code for ever, so this belongs in a process
that has a time limit (:mod:`shards.workers`).
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from imuvid.errors import UserError
from shards.mp4 import outer_boxes
from shards.sources.base import RecordingError

BACKENDS = ("decord", "pyav")
GREY_SIDE = 96
"""Shorter side, pixels, of the pictures that are watched where they have to be scaled."""
WIDEST_PIXEL = 10.0
"""No camera's pixels are as many times as wide as high, or as high as wide."""


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
    alone: bool = False
    """Whether a frame is decoded without those before it: one that nobody asks for then costs nothing."""


def check_backend(backend: str) -> None:
    """Raise UserError where a decoder is not known or not installed; a build asks before it starts its workers."""
    if backend not in BACKENDS:
        raise UserError(f"frames.backend={backend}: must be one of {', '.join(BACKENDS)}")
    if backend == "decord":
        try:
            importlib.import_module("decord")
        except (ImportError, OSError, RuntimeError) as error:
            raise UserError(
                f"frames.backend=decord: decord cannot be imported ({error}; it has wheels for Linux on x86-64 alone): "
                "set frames.backend=pyav"
            ) from error


@functools.lru_cache(maxsize=2)
def probe(path: Path) -> VideoInfo:
    """Read when the frames of a video are shown; costs a pass over the file and the decoding of one frame.

    Raises:
        RecordingError: ``missing``, ``empty``, ``truncated`` or ``not_a_video``; of a ``.vrs`` file what
            :func:`shards.video_vrs.probe_vrs` raises.
    """
    if not path.is_file():
        raise RecordingError("missing", f"{path}: there is no such video")
    if path.stat().st_size == 0:
        raise RecordingError("empty", f"{path}: is empty: copy it again")
    if _is_vrs(path):
        from shards.video_vrs import probe_vrs

        return probe_vrs(path)
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
    if not 1 / WIDEST_PIXEL < aspect < WIDEST_PIXEL:
        raise RecordingError("not_a_video", f"{path}: has pixels {aspect:.3g} times as wide as high: encode it again")
    size = (round(frame.width * aspect), frame.height)
    width, height = size[::-1] if frame.rotation % 180 else size
    return VideoInfo(width, height, times_s, start_s, duration_s)


def read_frames(
    path: Path,
    indices: Sequence[int],
    size: int,
    fit: str,
    num_threads: int = 1,
    backend: str = "pyav",
    watch: Watch | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (index, uint8 [size, size, 3] RGB) of the wanted frames in one pass from the first frame on.

    The pass ends with the last frame that is wanted or watched. Frames that are neither are decoded, not scaled.

    Args:
        path: the video.
        indices: frames wanted, increasing, as positions in ``VideoInfo.times_s``.
        size: height and width, pixels.
        fit: crop, pad or squash; see :class:`shards.config.FramesConfig`.
        num_threads: of the decoder.
        backend: decord or pyav; the pictures of the two differ by little. ``.vrs`` files are read by neither.
        watch: who else is shown frames, as they come by.

    Raises:
        UserError: the decoder is not known or not installed.
        RecordingError: ``damaged_video``: decoding fails, or ends before the last wanted frame; what :func:`probe`
            raises. Decord decodes ahead, so that damage can show at an earlier frame.
    """
    decode = _decoder(path, backend)
    info = probe(path)
    total = len(info.times_s)
    width, height = _scaled(info, size, fit)
    wanted = set(indices)
    watched = set(watch.indices) if watch is not None else set()
    due = sorted(wanted | watched)
    done = 0
    pictures = decode(path, width, height, num_threads, due)
    try:
        for index, frame in pictures:
            if watch is not None and index in watched:
                watch.take(index, frame.grey())
            picture = _fitted(frame.rgb(), size) if index in wanted else None
            done = index + 1
            if picture is not None:
                yield index, picture
    except DecodingError as error:
        raise _damaged(path, done, total) from error
    finally:
        pictures.close()
    if due and done <= due[-1]:
        raise _damaged(path, done, total)


@dataclass(frozen=True)
class Watch:
    """One who looks at frames while they are decoded for another purpose."""

    indices: Sequence[int]
    """Frames to look at, as positions in ``VideoInfo.times_s``."""
    take: Callable[[int, np.ndarray], None]
    """Called with (index, uint8 [height, width] grey), in order: the whole picture, at whatever size costs least; not
    to be kept or changed, as it may be the decoder's own."""


@dataclass(frozen=True)
class Frame:
    """A frame, scaled when it is asked for; both may raise :class:`DecodingError`."""

    rgb: Callable[[], np.ndarray]
    """Returns uint8 [height, width, 3]."""
    grey: Callable[[], np.ndarray]
    """Returns uint8 [height, width] of any contrast, see :class:`Watch`."""


class DecodingError(Exception):
    """What a decoder raises where a frame cannot be decoded."""


def _decoder(path: Path, backend: str) -> Callable:
    if _is_vrs(path):
        from shards.video_vrs import pictures
    elif backend == "decord":
        check_backend(backend)
        from shards.video_decord import pictures
    else:
        check_backend(backend)
        from shards.video_pyav import pictures
    return pictures


def _is_vrs(path: Path) -> bool:
    return path.suffix.lower() == ".vrs"


def _damaged(path: Path, done: int, total: int) -> RecordingError:
    return RecordingError("damaged_video", f"{path}: decoding fails after {done} of {total} frames: encode it again")


def _scaled(info: VideoInfo, size: int, fit: str) -> tuple[int, int]:
    """Return the width and height to decode at."""
    if fit == "squash":
        return size, size
    side = min(info.width, info.height) if fit == "crop" else max(info.width, info.height)
    return max(1, round(info.width * size / side)), max(1, round(info.height * size / side))


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
