"""A video that a camera wrote as several files, read as if it were one.

Action cameras begin a new file every few gigabytes without losing a frame: the first frame of a chapter follows when
the last one of the chapter before has been shown for its full time.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shards import video as single
from shards.sources.base import RecordingError
from shards.video import VideoInfo, Watch


@dataclass(frozen=True)
class Chapters:
    """The files of one video, in order."""

    paths: tuple[Path, ...]

    def __str__(self) -> str:
        return f"{self.paths[0]} (and {len(self.paths) - 1} more)"


def probe(video: Path | Chapters) -> VideoInfo:
    """Return :func:`shards.video.probe` of a file, or of all chapters on the clock of the first.

    Raises:
        RecordingError: ``chapters_differ``: their pictures differ in size or rate; what :func:`shards.video.probe`
            raises.
    """
    return _probe_chapters(video) if isinstance(video, Chapters) else single.probe(video)


@functools.lru_cache(maxsize=2)
def chapter_infos(video: Chapters) -> tuple[VideoInfo, ...]:
    """Return :func:`shards.video.probe` of each chapter, on its own clock.

    Raises:
        RecordingError: as :func:`probe`.
    """
    infos = tuple(single.probe(path) for path in video.paths)
    first, step_s = infos[0], _usual_step(infos[0])
    for path, info in zip(video.paths[1:], infos[1:], strict=True):
        same_size = (info.width, info.height) == (first.width, first.height)
        if not same_size or abs(_usual_step(info) - step_s) > 0.01 * step_s:
            raise RecordingError(
                "chapters_differ",
                f"{path}: has {_picture(info)}, but {video.paths[0].name} has {_picture(first)}: "
                "move the files of different recordings to folders of their own",
            )
    return infos


def chapter_starts(video: Chapters) -> np.ndarray:
    """Return float64 [C]: when the first frame of each chapter is shown, seconds after that of the first chapter.

    Raises:
        RecordingError: as :func:`probe`.
    """
    lengths_s = [info.duration_s for info in chapter_infos(video)]
    return np.concatenate([[0.0], np.cumsum(lengths_s[:-1])])


def read_frames(
    video: Path | Chapters,
    indices: Sequence[int],
    size: int,
    fit: str,
    num_threads: int = 1,
    backend: str = "pyav",
    watch: Watch | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (index, uint8 [size, size, 3] RGB) of the wanted frames; see :func:`shards.video.read_frames`.

    Args:
        video: one file, or chapters that are read one after the other.
        indices: frames wanted, increasing, as positions in the ``times_s`` of :func:`probe`.
        size: height and width, pixels.
        fit: crop, pad or squash.
        num_threads: of the decoder.
        backend: decord or pyav.
        watch: who else is shown frames. Chapters of which no frame is wanted or watched are not opened.

    Raises:
        RecordingError: what :func:`probe` and :func:`shards.video.read_frames` raise.
    """
    if not isinstance(video, Chapters):
        yield from single.read_frames(video, indices, size, fit, num_threads, backend, watch)
        return
    first = 0
    for path, info in zip(video.paths, chapter_infos(video), strict=True):
        count = len(info.times_s)
        inside = _inside(indices, first, count)
        seen = None
        if watch is not None:
            seen = Watch(_inside(watch.indices, first, count), functools.partial(_take_shifted, watch, first))
        if inside or (seen is not None and seen.indices):
            frames = single.read_frames(path, inside, size, fit, num_threads, backend, seen)
            yield from ((first + index, picture) for index, picture in frames)
        first += count


def _inside(indices: Sequence[int], first: int, count: int) -> list[int]:
    return [index - first for index in indices if first <= index < first + count]


def _take_shifted(watch: Watch, first: int, index: int, picture: np.ndarray) -> None:
    watch.take(first + index, picture)


@functools.lru_cache(maxsize=2)
def _probe_chapters(video: Chapters) -> VideoInfo:
    infos, starts_s = chapter_infos(video), chapter_starts(video)
    times_s = np.concatenate([info.times_s + start_s for info, start_s in zip(infos, starts_s, strict=True)])
    return dataclasses.replace(infos[0], times_s=times_s, duration_s=float(starts_s[-1]) + infos[-1].duration_s)


def _usual_step(info: VideoInfo) -> float:
    return float(np.median(np.diff(info.times_s))) if len(info.times_s) > 1 else info.duration_s


def _picture(info: VideoInfo) -> str:
    return f"{info.width}x{info.height} pixels at {1 / _usual_step(info):.4g} frames/s"
