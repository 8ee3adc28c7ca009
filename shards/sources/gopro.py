"""Recordings of GoPro cameras: MP4 files whose telemetry track holds the camera's own IMU.

Axes and units are the same for all models (:mod:`shards.sources.gpmf`). Long recordings are written as chapters:

    GX010123.MP4 GX020123.MP4 ...    two letters (GH, GX; GS of MAX, also .360), chapter from 01, file number
    GOPR0123.MP4 GP010123.MP4 ...    HERO5 and earlier: the first has no chapter, the second is 01
    GPFR0123.MP4 GF010123.MP4 ...    Fusion, front (GPBK and GB: back, without an IMU)

Files of one folder that agree in letters, file number and suffix are one recording, on the clock of its first frame;
looping videos (GHAA0123.MP4) and renamed files stand alone. A chapter that is missing between others is an
error, not a second recording: it mostly means that a card is not copied to the end. Chapters after a gap can be used
from a folder of their own.

The camera's IMU has the position of the config. Further IMUs (a second one in the camera, or a device that the camera
records) have that position with ``_2``, ``_3`` and so on behind it, in the order of the device's numbers.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from omegaconf import MISSING

from shards.mp4 import outer_boxes
from shards.sources.base import Recording, RecordingError, RecordingRef, Signal, Stream
from shards.sources.gpmf import Block, GpmfError, Imu, ImuId, read_payload
from shards.sources.paths import find_files, sorted_by_name
from shards.video_chapters import Chapters, chapter_infos, chapter_starts

SUFFIXES = (".mp4", ".360")
_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"}
_FIRST_CHAPTERS = {"GOPR": "GP", "GPFR": "GF", "GPBK": "GB"}
_MAX_OVERLAP_S = 1.0


@dataclass
class GoProConfig:
    """Which files are read and where the camera was worn."""

    paths: list[str] = MISSING
    """Files, folders (searched for ``*.mp4`` and ``*.360`` through all levels) and globs (``**`` spans levels)."""
    position: str = "head"
    """Body position of the camera."""
    subject_from_folder: bool = False
    """Whether the name of the folder that holds a file is the subject; otherwise no subject is known."""


class GoProSource:
    """The recordings of a :class:`GoProConfig`; see :class:`shards.sources.base.Source`."""

    def __init__(self, config: GoProConfig):
        self.config = config

    def list(self) -> list[RecordingRef]:
        """Return one reference a recording, sorted by name: the path of its first chapter below the folder (or glob).

        Raises:
            UserError: a path does not exist, nothing matches, or two files would have the same name.
        """
        found = find_files("gopro.paths", self.config.paths, SUFFIXES, "MP4 file of a GoPro camera")
        groups: dict[tuple[Path, str, str], list[Path]] = {}
        for path in found:
            series, _ = _chapter_of(path)
            groups.setdefault((path.parent, series, path.suffix.lower()), []).append(path)
        chapters = [sorted(group, key=lambda path: (_chapter_of(path)[1], path.name)) for group in groups.values()]
        of_first = {paths[0]: paths for paths in chapters}
        return [
            RecordingRef(found[first], {"paths": [str(path) for path in of_first[first]]})
            for first in sorted_by_name("gopro.paths", of_first, found)
        ]

    def open(self, ref: RecordingRef) -> Recording:
        """Read the telemetry of a recording; the clock's 0 is the first video frame.

        Raises:
            RecordingError: ``missing``, ``empty``, ``truncated``, ``not_a_video``, ``missing_chapter``,
                ``chapters_differ``, ``no_telemetry``, ``damaged_telemetry``, ``unsupported_telemetry``, ``bad_unit``
                or ``bad_clock``.
        """
        paths = tuple(Path(path) for path in ref.payload["paths"])
        _check_chapters(paths)
        pieces = []
        for path in paths:
            _check_file(path)
            pieces.append(_demux(path))
        files = Chapters(paths)
        infos, starts_s = chapter_infos(files), chapter_starts(files).tolist()
        chapters = [
            _chapter_signals(path, found, info.start_s, start_s)
            for path, found, info, start_s in zip(paths, pieces, infos, starts_s, strict=True)
        ]
        imus = sorted({imu for signals in chapters for imu, _ in signals})
        if not imus:
            raise RecordingError("no_telemetry", f"{paths[0]}: the telemetry holds neither accelerometer nor gyroscope")
        others = [imu for imu in imus if imu != (0, 0)]
        streams = []
        for imu in imus:
            position = self.config.position if imu == (0, 0) else f"{self.config.position}_{others.index(imu) + 2}"
            acc, acc_range = _joined(paths, [signals.get((imu, "acc")) for signals in chapters])
            gyro, gyro_range = _joined(paths, [signals.get((imu, "gyro")) for signals in chapters])
            streams.append(Stream(position, acc, gyro, acc_range, gyro_range))
        return Recording(
            name=ref.name,
            source="gopro",
            streams=streams,
            duration_s=starts_s[-1] + infos[-1].duration_s,
            video=files if len(paths) > 1 else paths[0],
            subject=paths[0].parent.name if self.config.subject_from_folder else None,
            camera_position=self.config.position if (0, 0) in imus else None,
        )


def _chapter_of(path: Path) -> tuple[str, int]:
    """Return what the chapters of a recording have in common in their names, and the number of this one."""
    stem = path.stem.upper()
    if match := re.fullmatch(r"(GOPR|GPFR|GPBK)(\d{4})", stem):
        return _FIRST_CHAPTERS[match[1]] + match[2], 0
    if match := re.fullmatch(r"(G[A-Z])(\d\d)(\d{4})", stem):
        return match[1] + match[3], int(match[2])
    return path.name, 0


def _check_chapters(paths: tuple[Path, ...]) -> None:
    numbers = [_chapter_of(path)[1] for path in paths]
    for path, number, after in zip(paths[1:], numbers, numbers[1:], strict=False):
        if after != number + 1:
            raise RecordingError(
                "missing_chapter",
                f"{path}: is chapter {after}, but the one before it here is chapter {number}: copy what is missing "
                "from the camera, or move the chapters after the gap to a folder of their own",
            )


def _check_file(path: Path) -> None:
    """Refuse what is no MP4, breaks off, or has no index."""
    try:
        size = path.stat().st_size
        if size == 0:
            raise RecordingError("empty", f"{path}: is empty: copy it again from the camera")
        kinds, complete = outer_boxes(path)
    except FileNotFoundError as error:
        raise RecordingError("missing", f"{path}: there is no such file") from error
    except OSError as error:
        raise RecordingError("missing", f"{path}: cannot be read: {error.strerror}") from error
    if kinds and kinds[0] not in _BOXES:
        raise RecordingError("not_a_video", f"{path}: is no MP4 file as GoPro cameras write them")
    if not complete:
        raise RecordingError("truncated", f"{path}: breaks off after {size} bytes: copy it again from the camera")
    if b"moov" not in kinds:
        raise RecordingError("truncated", f"{path}: has no index (moov), as when the camera lost power: repair it")


def _demux(path: Path) -> list[tuple[float, float, bytes]]:
    """Return (start s, length s, bytes) of each telemetry payload, on the clock of the container."""
    try:
        with av.open(os.fspath(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise RecordingError("not_a_video", f"{path}: holds no video")
            for stream in container.streams.data:
                pieces: list[tuple[float, float, bytes]] = []
                container.seek(0)  # what the search of another track has read past is needed again
                for packet in container.demux(stream):
                    if not packet.size or packet.pts is None or packet.duration is None:
                        continue
                    data = bytes(packet)
                    if not pieces and data[:4] != b"DEVC":
                        break  # time code, or the camera's own messages
                    start_s, length_s = (float(ticks * packet.time_base) for ticks in (packet.pts, packet.duration))
                    pieces.append((start_s, length_s, data))
                if pieces:
                    return pieces
    except av.error.FFmpegError as error:
        raise RecordingError("not_a_video", f"{path}: cannot be read as a video: {error.strerror}") from error
    raise RecordingError(
        "no_telemetry", f"{path}: has no GoPro telemetry track: use the camera's original file, not an edited copy"
    )


def _chapter_signals(
    path: Path, pieces: list[tuple[float, float, bytes]], video_start_s: float, start_s: float
) -> dict[tuple[ImuId, str], tuple[Signal, float | None]]:
    """Return signal and full scale of each sensor in a file whose first frame is shown at ``start_s``."""
    try:
        payloads = [read_payload(data) for _, _, data in pieces]
    except GpmfError as error:
        raise RecordingError(error.reason, f"{path}: {error}") from error
    spans = [(piece_s - video_start_s + start_s, length_s) for piece_s, length_s, _ in pieces]
    signals: dict[tuple[ImuId, str], tuple[Signal, float | None]] = {}
    for identifier in sorted({identifier for payload in payloads for identifier in payload}):
        imus = [payload.get(identifier) for payload in payloads]
        for sensor in ("acc", "gyro"):
            blocks: list[Block | None] = [getattr(imu, sensor, None) for imu in imus]
            scales = {block.full_scale for block in blocks if block is not None}
            if not scales:
                continue
            try:
                signal = _signal(spans, imus, blocks)
            except ValueError as error:
                raise RecordingError("bad_clock", f"{path}: {error}") from error
            signals[identifier, sensor] = signal, scales.pop() if len(scales) == 1 else None
    return signals


def _joined(
    paths: tuple[Path, ...], parts: list[tuple[Signal, float | None] | None]
) -> tuple[Signal | None, float | None]:
    """Return one sensor of all chapters: signal and full scale.

    The samples around the end of a chapter may lie in either file; those of the later file that are not after the
    last one of the earlier are the same moments again.
    """
    times_s, values, scales = [], [], set()
    last_s = -np.inf
    for path, part in zip(paths, parts, strict=True):
        if part is None:
            continue
        signal, scale = part
        if last_s - signal.times_s[0] > _MAX_OVERLAP_S:
            raise RecordingError(
                "bad_clock",
                f"{path}: its IMU begins {last_s - signal.times_s[0]:.1f} s before that of the chapter before it ends",
            )
        new = signal.times_s > last_s
        times_s.append(signal.times_s[new])
        values.append(signal.values[new])
        scales.add(scale)
        last_s = max(last_s, float(signal.times_s[-1]))
    if not times_s:
        return None, None
    full_scale = scales.pop() if len(scales) == 1 else None
    return Signal(np.concatenate(times_s), np.concatenate(values)), full_scale


def _signal(spans: list[tuple[float, float]], imus: list[Imu | None], blocks: list[Block | None]) -> Signal:
    """Return the blocks of one sensor, in seconds on the clock of the spans (start s, length s).

    The values of a block lie evenly over its payload. Where the device stamps its sensors and frames, a block is
    shifted by its own stamp less the stamp of the payload's first frame. A block much shorter than the others (the
    last, or one with a drop-out) has the rate of the others instead of being stretched.
    """
    kept = [i for i, block in enumerate(blocks) if block is not None]
    data = [block for block in blocks if block is not None]
    starts_s = np.array([spans[i][0] for i in kept])
    lengths_s = np.array([spans[i][1] for i in kept])
    counts = np.array([len(block.values) for block in data])
    if not (lengths_s > 0).all() or not (np.diff(starts_s) > 0).all():
        raise ValueError("the times of the telemetry payloads do not increase")
    adjoining = np.abs(starts_s[:-1] + lengths_s[:-1] - starts_s[1:]) < 0.1 * lengths_s[:-1]
    shifts_s = _shifts(starts_s, lengths_s, data, [getattr(imus[i], "shutter_us", None) for i in kept])
    lengths_s[:-1] += np.where(adjoining, np.diff(shifts_s), 0.0)
    steps_s = lengths_s / counts
    usual_s = float(np.median(steps_s[:-1])) if len(steps_s) > 1 else float(steps_s[0])
    steps_s[steps_s > 1.1 * usual_s] = usual_s
    steps_s[-1] = usual_s
    times_s = np.concatenate(
        [
            start + step * np.arange(count)
            for start, step, count in zip(starts_s + shifts_s, steps_s, counts, strict=True)
        ]
    )
    if not (np.diff(times_s) > 0).all():
        raise ValueError("the time stamps of the telemetry go backwards")
    return Signal(times_s, np.concatenate([block.values for block in data]))


def _shifts(
    starts_s: np.ndarray, lengths_s: np.ndarray, blocks: list[Block], shutters_us: list[int | None]
) -> np.ndarray:
    """Return float64 [B]: seconds to add to the start of each block, 0 where the camera stamps nothing."""
    pairs = [
        (float(start), (block.stamp_us - shutter) * 1e-6, shutter * 1e-6)
        for start, block, shutter in zip(starts_s, blocks, shutters_us, strict=True)
        if block.stamp_us is not None and shutter is not None
    ]
    if not pairs:
        return np.zeros(len(starts_s))
    at_s, shifts_s, shutters_s = (np.array(column) for column in zip(*pairs, strict=True))
    if np.abs(shifts_s).max() > lengths_s.max():
        raise ValueError("the time stamps of the IMU and of the frames differ by more than a payload")
    if len(pairs) > 1:
        speed = (shutters_s[-1] - shutters_s[0]) / (at_s[-1] - at_s[0])
        if not 0.9 < speed < 1.1:
            raise ValueError(f"the video plays at {speed:.2f} times real speed (time lapse?): use real-time footage")
    return np.interp(starts_s, at_s, shifts_s)
