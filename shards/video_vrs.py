"""Project Aria recordings (VRS files): opening them, and the pictures of their RGB camera.

Read by Meta's ``projectaria-tools`` (the extra ``aria``), which decodes the JPEG or H.265 pictures. A frame's time is
its device time stamp: the middle of the exposure, for the rolling shutter of generation 1 that of its middle row
(https://facebookresearch.github.io/projectaria_tools/docs/tech_insights/device_timestamping). The camera of generation
1 sits sideways in the frame and its pictures are turned clockwise by a quarter here; those of generation 2 are upright.

The native code prints what it does, with file names; that is dropped here.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np

from imuvid.errors import UserError
from shards.sources.base import RecordingError
from shards.video import GREY_SIDE, DecodingError, Frame, VideoInfo
from shards.video_pyav import Scaler
from shards.vrs_file import StoredPictures, check_records

RGB_TYPE = 214
RGB_STREAM = f"{RGB_TYPE}-1"
"""Identifier of the RGB camera's stream in all Aria recordings."""


def check_projectaria() -> None:
    """Raise UserError where projectaria-tools is not installed."""
    try:
        import projectaria_tools.core.data_provider  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"VRS files need projectaria-tools, which cannot be imported ({error}): pip install 'imuvid[aria]'"
        ) from error


def open_vrs(path: Path) -> Any:
    """Return the ``VrsDataProvider`` of a complete VRS file.

    Raises:
        UserError: projectaria-tools is not installed.
        RecordingError: ``missing``, ``empty``, ``not_a_video`` (no VRS file), ``truncated`` or ``damaged_video``.
    """
    check_projectaria()
    from projectaria_tools.core import data_provider

    check_records(path)
    try:
        with quiet():
            provider = data_provider.create_vrs_data_provider(str(path))
    except (RuntimeError, ValueError) as error:
        raise RecordingError("damaged_video", f"{path}: cannot be read as an Aria recording: {error}") from error
    if provider is None:
        raise RecordingError("damaged_video", f"{path}: cannot be read as an Aria recording: copy it again")
    return provider


def has_rgb(provider: Any) -> bool:
    """Return whether a recording holds pictures of the RGB camera (Ego-Exo4D also has VRS files without)."""
    from projectaria_tools.core.stream_id import StreamId

    return any(str(stream) == RGB_STREAM for stream in provider.get_all_streams()) and (
        provider.get_num_data(StreamId(RGB_STREAM)) > 0
    )


def rgb_stamps(path: Path, provider: Any) -> np.ndarray:
    """Return int64 [N]: the device time stamp of each RGB frame, nanoseconds.

    Raises:
        RecordingError: ``no_video``: there is no RGB frame; ``bad_clock``: the stamps do not increase.
    """
    from projectaria_tools.core.sensor_data import TimeDomain
    from projectaria_tools.core.stream_id import StreamId

    if not has_rgb(provider):
        raise RecordingError(
            "no_video", f"{path}: holds no picture of the RGB camera: take the VRS file with image streams"
        )
    with quiet():
        stamps = np.array(provider.get_timestamps_ns(StreamId(RGB_STREAM), TimeDomain.DEVICE_TIME), dtype=np.int64)
    if not (np.diff(stamps) > 0).all():
        raise RecordingError("bad_clock", f"{path}: the time stamps of the RGB frames do not increase")
    return stamps


def probe_vrs(path: Path) -> VideoInfo:
    """Read when the RGB frames are shown, and their size as they are shown; ``start_s`` is on the device's clock.

    Raises:
        UserError: projectaria-tools is not installed.
        RecordingError: what :func:`open_vrs` and :func:`rgb_stamps` raise; ``damaged_video``: the first frame cannot
            be decoded.
    """
    provider = open_vrs(path)
    stamps = rgb_stamps(path, provider)
    try:
        first = _picture(provider, 0)
    except DecodingError as error:
        raise RecordingError("damaged_video", f"{path}: its first frame cannot be decoded: {error}") from error
    height, width = first.shape[:2][::-1] if _quarters(provider) % 2 else first.shape[:2]
    times_s = (stamps - stamps[0]) * 1e-9
    usual_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.0
    return VideoInfo(width, height, times_s, float(stamps[0]) * 1e-9, float(times_s[-1]) + usual_s, alone=True)


def pictures(
    path: Path, width: int, height: int, num_threads: int, indices: Sequence[int]
) -> Iterator[tuple[int, Frame]]:
    """Yield (index, frame) of the RGB frames that are due; as :func:`shards.video_decord.pictures`.

    Frames that are not due are not decoded, as each stands for itself; nor are those that are, before they are asked
    for. ``num_threads`` has no effect.

    Raises:
        RecordingError: what :func:`open_vrs` and :func:`rgb_stamps` raise.
        DecodingError: a frame that is asked for cannot be decoded.
    """
    provider = open_vrs(path)
    scaler, quarters = Scaler(width, height), _quarters(provider)
    total = len(rgb_stamps(path, provider))
    stored = functools.cache(lambda: StoredPictures(path, RGB_TYPE))

    def frame_of(index: int) -> Frame:
        whole = functools.cache(lambda: scaler.frame(av.VideoFrame.from_ndarray(_picture(provider, index)), quarters))

        def grey() -> np.ndarray:
            luma = stored().luma(index, GREY_SIDE) if len(stored()) == total else None
            return whole().grey() if luma is None else np.rot90(luma, quarters)

        return Frame(lambda: whole().rgb(), grey)

    for index in indices:
        if index < total:
            yield index, frame_of(index)


def _picture(provider: Any, index: int) -> np.ndarray:
    """Return a frame as it is stored, uint8 [height, width, 3] RGB."""
    from projectaria_tools.core.stream_id import StreamId

    try:
        with quiet():
            data, _ = provider.get_image_data_by_index(StreamId(RGB_STREAM), index)
            if not data.is_valid():
                raise DecodingError(f"frame {index} is not valid")
            raw = data.to_numpy_array()
    except (RuntimeError, ValueError) as error:
        raise DecodingError(f"frame {index}: {error}") from error
    if raw.dtype != np.uint8 or raw.ndim != 3 or raw.shape[2] != 3:
        raise DecodingError(f"frame {index} is {raw.dtype} {list(raw.shape)}, expected uint8 RGB")
    return np.ascontiguousarray(raw)


def _quarters(provider: Any) -> int:
    """Return by how many quarters, counter-clockwise, the stored pictures must be turned to be upright."""
    from projectaria_tools.core.calibration import DeviceVersion

    return -1 if provider.get_device_version() == DeviceVersion.Gen1 else 0


@contextmanager
def quiet() -> Iterator[None]:
    """Drop what native code writes to the standard output and error of the process meanwhile."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        yield
    finally:
        for number, descriptor in enumerate(kept, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.close(nothing)
