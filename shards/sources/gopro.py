"""Recordings of GoPro cameras: MP4 files whose telemetry track holds the camera's own IMU."""

from __future__ import annotations

import glob
import os
import re
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from omegaconf import MISSING

from imuvid.errors import UserError
from shards.mp4 import outer_boxes
from shards.sources.base import Recording, RecordingError, RecordingRef, Signal, Stream
from shards.sources.gpmf import Block, GpmfError, Payload, read_payload
from shards.video import probe

_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"}


@dataclass
class GoProConfig:
    """Which files are read and where the camera was worn."""

    paths: list[str] = MISSING
    """Files, folders (searched for ``*.mp4`` through all levels) and globs (``**`` spans levels)."""
    position: str = "head"
    """Body position of the camera."""
    subject_from_folder: bool = False
    """Whether the name of the folder that holds a file is the subject; otherwise no subject is known."""


class GoProSource:
    """The recordings of a :class:`GoProConfig`; see :class:`shards.sources.base.Source`."""

    def __init__(self, config: GoProConfig):
        self.config = config

    def list(self) -> list[RecordingRef]:
        """Return one reference a file, sorted by name: the path below the folder (or glob) that it was found by.

        Raises:
            UserError: a path does not exist, nothing matches, or two files would have the same name.
        """
        found: dict[Path, str] = {}
        for entry in self.config.paths:
            for path, root in _expand(entry):
                name = re.sub(r"[^A-Za-z0-9_-]+", "-", str(path.relative_to(root).with_suffix("")))
                found.setdefault(path.resolve(), name)
        if not found:
            raise UserError("gopro.paths: names no MP4 file: list files, folders or globs of GoPro recordings")
        by_name: dict[str, Path] = {}
        for path, name in found.items():
            if name in by_name:
                raise UserError(
                    f"gopro.paths: {by_name[name]} and {path} would both be recording '{name}': "
                    "name the folder that holds both, or rename one"
                )
            by_name[name] = path
        return [RecordingRef(name, {"path": str(by_name[name])}) for name in sorted(by_name)]

    def open(self, ref: RecordingRef) -> Recording:
        """Read the telemetry of one file; the clock's 0 is the first video frame.

        Raises:
            RecordingError: ``missing``, ``empty``, ``truncated``, ``not_a_video``, ``no_telemetry``,
                ``damaged_telemetry``, ``unsupported_telemetry``, ``bad_unit`` or ``bad_clock``.
        """
        path = Path(ref.payload["path"])
        _check_file(path)
        pieces = _demux(path)
        video = probe(path)
        try:
            payloads = [read_payload(data) for _, _, data in pieces]
        except GpmfError as error:
            raise RecordingError(error.reason, f"{path}: {error}") from error
        spans = [(start_s - video.start_s, length_s) for start_s, length_s, _ in pieces]
        try:
            acc = _signal(spans, payloads, [payload.acc for payload in payloads])
            gyro = _signal(spans, payloads, [payload.gyro for payload in payloads])
        except ValueError as error:
            raise RecordingError("bad_clock", f"{path}: {error}") from error
        if acc is None and gyro is None:
            raise RecordingError("no_telemetry", f"{path}: the telemetry holds neither accelerometer nor gyroscope")
        return Recording(
            name=ref.name,
            source="gopro",
            streams=[Stream(self.config.position, acc, gyro)],
            duration_s=video.duration_s,
            video=path,
            subject=path.parent.name if self.config.subject_from_folder else None,
        )


def _expand(entry: str) -> list[tuple[Path, Path]]:
    """Return (file, folder that its name is relative to) for an entry of ``paths``."""
    path = Path(entry).expanduser()
    if path.is_file():
        return [(path, path.parent)]
    if path.is_dir():
        root, matches = path, path.rglob("*")
    elif glob.has_magic(entry):
        parts = path.parts
        fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
        root = Path(*parts[:fixed])
        matches = (Path(match) for match in glob.iglob(str(path), recursive=True))
    else:
        raise UserError(f"gopro.paths: there is no file or folder {path}")
    # SD cards that a Mac has touched hold a "._NAME.MP4" without video beside each file.
    files = [
        match
        for match in matches
        if match.suffix.lower() == ".mp4" and not match.name.startswith(".") and match.is_file()
    ]
    if not files:
        raise UserError(f"gopro.paths: there is no MP4 file in {path}")
    return [(file, root) for file in files]


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


def _signal(spans: list[tuple[float, float]], payloads: list[Payload], blocks: list[Block | None]) -> Signal | None:
    """Return the blocks of one sensor, in seconds on the video's clock.

    The values of a block lie evenly over its payload. Where the camera stamps its sensors, a block is shifted by
    its own stamp less the stamp of the payload's first frame. A block much shorter than the others (the last, or
    one with a drop-out) has the rate of the others instead of being stretched.
    """
    kept = [i for i, block in enumerate(blocks) if block is not None]
    if not kept:
        return None
    data = [block for block in blocks if block is not None]
    starts_s = np.array([spans[i][0] for i in kept])
    lengths_s = np.array([spans[i][1] for i in kept])
    counts = np.array([len(block.values) for block in data])
    if not (lengths_s > 0).all() or not (np.diff(starts_s) > 0).all():
        raise ValueError("the times of the telemetry payloads do not increase")
    adjoining = np.abs(starts_s[:-1] + lengths_s[:-1] - starts_s[1:]) < 0.1 * lengths_s[:-1]
    shifts_s = _shifts(starts_s, lengths_s, data, [payloads[i].shutter_us for i in kept])
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
