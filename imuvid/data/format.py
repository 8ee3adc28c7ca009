"""Shard format 1: what one sample is, how it lies in a tar, and what stands beside the tars.

A dataset is a folder::

    NAME/00000.tar 00001.tar ...   plain WebDataset tars, members of a sample adjacent
    NAME/index.parquet             one row a sample: imuvid.data.dataset_tables
    NAME/recordings.parquet        one row a recording, used or not: the same
    NAME/dataset.json              imuvid.data.dataset_json, written last: without it there is no dataset

and the members of one sample are, in this order::

    KEY.json        SampleMeta
    KEY.imu.npy     float32 [T, P, 6]: acc x y z in m/s^2, then gyro x y z in rad/s; 0 where not valid
    KEY.valid.npy   bool [T, P, 2]: is the accelerometer, is the gyroscope, present at this instant
    KEY.00.jpg ...  one JPEG a frame, black where ``frame_valid`` is false
    KEY.video.npy   float16 [D], what a frozen video tower made of the frames: instead of them, in a dataset without
                    pictures (DatasetInfo.video_embedding)

T samples, P sensor positions (the same list in every sample of a dataset). KEY has no dot. Nothing here is
pickled, and no name read from a tar is ever used as a path.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

FORMAT_VERSION = 1
KEY_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,120}")
_NPY_1_0 = b"\x93NUMPY\x01\x00"


@dataclass
class SampleMeta:
    """The JSON member of a sample."""

    recording: str
    """Identifier of the recording within the dataset."""
    source: str
    """Kind of source that it was read from: gopro, aria, ego4d, paired, simulated."""
    start_s: float
    """Start of the window on the recording's clock (0 = first video frame), seconds."""
    duration_s: float
    """Length of the window, padding included, seconds."""
    imu_rate_hz: float
    """Rate of the stored IMU samples; sample i lies at ``start_s + i / imu_rate_hz``."""
    positions: list[str]
    """Body position of each of the P sensors, as in the array."""
    frame_times_s: list[float] = field(default_factory=list)
    """Presentation time of each frame, seconds after ``start_s``."""
    frame_valid: list[bool] = field(default_factory=list)
    """False where the recording had no picture and a black one stands in."""
    subject: str | None = None
    """Salted hash of the subject's name."""
    label: str | None = None
    """Activity or event, where the recording is labelled."""
    text: str | None = None
    """Narration, where there is one."""
    sync_offset_s: float = 0.0
    """Shift that was applied to the IMU clock to bring it onto the video's, seconds."""
    sync_confidence: float | None = None
    """Confidence of that shift, 0 to 1; None where it was not estimated."""
    quality: dict[str, float] = field(default_factory=dict)
    """Named measurements of the window (shares are 0 to 1)."""
    format: int = FORMAT_VERSION


@dataclass
class Sample:
    """One window, as stored: arrays in SI units, frames still encoded."""

    key: str
    imu: np.ndarray
    """float32 [T, P, 6], m/s^2 and rad/s."""
    valid: np.ndarray
    """bool [T, P, 2]: acc, gyro present."""
    frames: Sequence[bytes | memoryview]
    """F JPEG pictures; empty in a dataset without pictures."""
    meta: SampleMeta
    embedding: np.ndarray | None = None
    """float16 [D]: the frames as a frozen video tower sees them; None unless it stands in for them."""


def encode_members(sample: Sample) -> list[tuple[str, bytes]]:
    """Return the tar members (name, content) of a sample, in the order of the format.

    Raises:
        ValueError: the key, a shape or a dtype is not as the format says.
    """
    if not KEY_PATTERN.fullmatch(sample.key):
        raise ValueError(f"sample key '{sample.key}' may hold only letters, digits, '_' and '-'")
    check_arrays(sample.imu, sample.valid, sample.meta)
    if sample.embedding is not None:
        if sample.frames:
            raise ValueError(f"{sample.key}: has frames and an embedding of them: one of the two")
        _check_embedding(sample.embedding)
    elif len(sample.frames) != len(sample.meta.frame_times_s):
        raise ValueError(f"{sample.key}: {len(sample.frames)} frames but {len(sample.meta.frame_times_s)} times")
    meta = json.dumps(dataclasses.asdict(sample.meta), sort_keys=True, separators=(",", ":"))
    members = [
        (f"{sample.key}.json", meta.encode()),
        (f"{sample.key}.imu.npy", _npy(sample.imu)),
        (f"{sample.key}.valid.npy", _npy(sample.valid)),
    ]
    members += [(f"{sample.key}.{i:02d}.jpg", bytes(frame)) for i, frame in enumerate(sample.frames)]
    if sample.embedding is not None:
        members.append((f"{sample.key}.video.npy", _npy(sample.embedding)))
    return members


def decode_members(members: Mapping[str, bytes | memoryview]) -> Sample:
    """Return the sample whose tar members (name to content) are given; the frames stay JPEG, in the same memory.

    Raises:
        ValueError: a member is missing, damaged, or of another format version. One line, naming the key.
    """
    keys = {name.partition(".")[0] for name in members}
    if len(keys) != 1:
        raise ValueError(f"expected the members of one sample, got {sorted(keys)[:4]}")
    key = keys.pop()
    try:
        fields = json.loads(bytes(members[f"{key}.json"]))
        if fields.get("format") != FORMAT_VERSION:
            raise ValueError(f"shard format {fields.get('format')}, this program reads {FORMAT_VERSION}")
        meta = SampleMeta(**fields)
        if not isinstance(meta.recording, str):
            raise ValueError("recording is no string")
        if not isinstance(meta.start_s, int | float) or not math.isfinite(meta.start_s):
            raise ValueError("start_s is no number")
        imu, valid = (_from_npy(members[f"{key}.{name}.npy"]) for name in ("imu", "valid"))
        check_arrays(imu, valid, meta)
        embedding, frames = None, []
        if f"{key}.video.npy" in members:
            embedding = _from_npy(members[f"{key}.video.npy"])
            _check_embedding(embedding)
        else:
            frames = [members[f"{key}.{i:02d}.jpg"] for i in range(len(meta.frame_times_s))]
    except KeyError as error:
        raise ValueError(f"{key}: member {error.args[0]} is missing") from error
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{key}: {str(error).splitlines()[0]}") from error
    return Sample(key, imu, valid, frames, meta, embedding)


def check_arrays(imu: np.ndarray, valid: np.ndarray, meta: SampleMeta) -> None:
    """Raise ValueError unless the arrays have the format's dtypes and shapes and no value that is not finite."""
    steps, positions = round(meta.duration_s * meta.imu_rate_hz), len(meta.positions)
    if imu.dtype != np.float32 or imu.shape != (steps, positions, 6):
        raise ValueError(f"imu is {imu.dtype} {list(imu.shape)}, expected float32 {[steps, positions, 6]}")
    if valid.dtype != np.bool_ or valid.shape != (steps, positions, 2):
        raise ValueError(f"valid is {valid.dtype} {list(valid.shape)}, expected bool {[steps, positions, 2]}")
    if not np.isfinite(imu).all():
        raise ValueError("imu holds a value that is not finite")
    if len(meta.frame_valid) != len(meta.frame_times_s):
        raise ValueError(f"{len(meta.frame_valid)} frame_valid but {len(meta.frame_times_s)} frame_times_s")


def _check_embedding(embedding: np.ndarray) -> None:
    if embedding.dtype != np.float16 or embedding.ndim != 1 or not embedding.size:
        raise ValueError(f"video is {embedding.dtype} {list(embedding.shape)}, expected float16 [D]")
    if not np.isfinite(embedding).all():
        raise ValueError("video holds a value that is not finite")


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


@functools.lru_cache(maxsize=16)
def _npy_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    # All samples have the same few, and reading one takes longer than the array.
    return np.lib.format.read_array_header_1_0(io.BytesIO(header[8:]))


def _from_npy(data: bytes | memoryview) -> np.ndarray:
    try:
        begin = bytes(data[:10])
        if begin.startswith(_NPY_1_0):
            start = 10 + int.from_bytes(begin[8:], "little")
            shape, fortran_order, dtype = _npy_header(bytes(data[:start]))
            if not fortran_order and not dtype.hasobject and 0 not in shape:
                return np.frombuffer(data, dtype, math.prod(shape), start).reshape(shape).copy()
        return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # numpy's parser of a damaged header lets SyntaxError, TokenError, MemoryError through
        raise ValueError(f"damaged npy member: {(str(error) or type(error).__name__).splitlines()[0]}") from error
