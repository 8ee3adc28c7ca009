"""Shard format 1: what one sample is, how it lies in a tar, and what stands beside the tars.

A dataset is a folder::

    NAME/00000.tar 00001.tar ...   plain WebDataset tars, members of a sample adjacent
    NAME/index.parquet             one row a sample: INDEX_SCHEMA
    NAME/recordings.parquet        one row a recording, used or not: RECORDINGS_SCHEMA
    NAME/dataset.json              DatasetInfo, written last: without it there is no dataset

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
import hashlib
import io
import json
import math
import re
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imuvid.data.storage import Store
from imuvid.errors import UserError

FORMAT_VERSION = 1
INDEX_NAME = "index.parquet"
RECORDINGS_NAME = "recordings.parquet"
DATASET_NAME = "dataset.json"
BLOCK = 512
KEY_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,120}")
_ZEROS = bytes(BLOCK)
_NPY_1_0 = b"\x93NUMPY\x01\x00"
_OCTAL = re.compile(rb" *([0-7]+)[\0 ]*")
SPLITS = ("train", "val", "test")

QUALITY = (
    "imu_share",  # share of the window in which any sensor is valid, 0 to 1
    "frame_share",  # share of the frames that are valid, 0 to 1
    "covered_share",  # share of the window that the recording covers, 0 to 1
    "flat_share",  # share of the sensors' readings that are stuck at one value, 0 to 1
    "saturated_share",  # share of the sensors' readings at the end of their range, 0 to 1
    "acc_std",  # largest standard deviation of |acc| of a sensor, m/s^2; null without accelerometer
    "gyro_rms",  # largest root mean square of |gyro| of a sensor, rad/s; null without gyroscope
    "black_share",  # share of the valid frames that are black, 0 to 1; null without frames
    "frozen_share",  # share of the steps between valid frames in which nothing changes, 0 to 1; null below 2 frames
    "frame_change",  # mean difference to the frames of the window before, grey levels of 255; null in the first
    "sync_offset_s",  # estimated shift of the IMU clock at this window, less what was applied; null where not known
    "sync_confidence",  # of that estimate, 0 to 1; null where synchrony was not looked at
)
"""Measurements of a window: columns of the index, and the keys of ``SampleMeta.quality`` (left out where null)."""

INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),  # file name of the tar
        ("offset", pa.int64()),  # of the sample's first tar header, bytes
        ("size", pa.int64()),  # from there to the end of its last member, padding included, bytes
        ("crc32", pa.int64()),  # of these bytes (ISO 3309, as zlib.crc32)
        ("recording", pa.string()),
        ("subject", pa.string()),  # salted hash; null where unknown
        ("split", pa.string()),  # train, val or test
        ("label", pa.string()),  # null where unlabelled
        ("start_s", pa.float64()),  # of the window, on the recording's clock
        ("verdict", pa.string()),  # names of the quality gates that it fails, joined by ','; empty = good
        ("weight", pa.float32()),  # how often it is used relative to others, 0 to 1
    ]
    + [(name, pa.float32()) for name in QUALITY]
)

RECORDINGS_SCHEMA = pa.schema(
    [
        ("recording", pa.string()),
        ("subject", pa.string()),  # salted hash; null where unknown
        ("split", pa.string()),  # train, val or test; null where the recording is not used
        ("source", pa.string()),  # kind of source
        ("status", pa.string()),  # 'used', or the reason why it is not
        ("duration_s", pa.float64()),  # null where it could not be opened
        ("num_windows", pa.int64()),
        ("positions", pa.list_(pa.string())),  # of the sensors that it has
        ("marked", pa.list_(pa.string())),  # kinds of what was marked or left out: gap, not_a_number, ...
        ("sync_verdict", pa.string()),  # see shards.sync; null where synchrony was not looked at
        ("sync_offset_s", pa.float64()),  # estimated shift of the IMU clock onto the video's at the recording's start
        ("sync_drift_ppm", pa.float64()),  # estimated drift of the IMU clock; null where it is not known
        ("sync_confidence", pa.float64()),  # 0 to 1
        # Of each channel over all its windows, positions as in dataset.json, P * 6 numbers in m/s^2 and rad/s: 0 and 1
        # where there is no sensor. Null in datasets that were not built with them.
        ("imu_mean", pa.list_(pa.float64())),
        ("imu_deviation", pa.list_(pa.float64())),  # 1 where the channel is constant
        ("digest", pa.string()),  # of all that its samples follow from
    ]
)


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


@dataclass
class DatasetInfo:
    """``dataset.json``."""

    name: str
    counts: dict[str, int]
    """samples, recordings, subjects, shards."""
    hours: float
    """Sum of the windows' durations without padding, hours."""
    window_s: float
    imu_rate_hz: float
    positions: list[str]
    num_frames: int
    """Frames of a window, stored or embedded; 0 without video."""
    frame_size: list[int]
    """Height and width of the stored frames, pixels; empty without pictures."""
    labels: list[str]
    """Sorted names of the labels that occur."""
    sha256: dict[str, str]
    """Of each shard and of the index, by file name."""
    config: dict[str, Any]
    """The resolved build config, without paths, subject names or salt."""
    video_embedding: dict[str, Any] | None = None
    """What stands in the samples instead of frames: ``dim`` (its length), ``num_frames`` and ``frame_size`` (of what
    was embedded), ``tower`` and ``sha256`` of the weights (of the frozen tower that did it); None = the frames."""
    format: int = FORMAT_VERSION

    @property
    def embedding_dim(self) -> int | None:
        """Length of the samples' video embedding; None in a dataset without embeddings."""
        return None if self.video_embedding is None else int(self.video_embedding["dim"])

    @property
    def fingerprint(self) -> str:
        """Hash that changes whenever the content of the dataset does; 64 hex digits."""
        listing = json.dumps(self.sha256, sort_keys=True).encode()
        return hashlib.sha256(listing).hexdigest()


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
        if not _is_number(meta.start_s):
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


def parse_tar(raw: bytes | memoryview) -> dict[str, bytes]:
    """Return the members (name to content) of the bytes of a tar archive, or of a whole-member slice of one.

    The names are only compared, never used as paths. ``tarfile`` reads the same at a fraction of the speed.

    Raises:
        ValueError: as :func:`tar_entries`, or there is no member.
    """
    raw = memoryview(raw)
    members = {name: bytes(raw[start : start + size]) for name, _, start, size in tar_entries(raw)}
    if not members:
        raise ValueError("no tar member in these bytes")
    return members


def views_of_tar(raw: bytes | memoryview) -> Mapping[str, bytes | memoryview]:
    """As :func:`parse_tar`, of bytes that are known to be those that were once read so, by a checksum of them all.

    Headers as the format's writer leaves them are not summed once more, and the contents stay where they are, which
    together takes a quarter of the time. Whatever looks different is left to :func:`parse_tar`.
    """
    view, members, position, end = memoryview(raw), {}, 0, len(raw)
    while position < end:
        header = bytes(view[position : position + BLOCK])
        try:
            name, size = header[:100].partition(b"\0")[0].decode(), int(header[124:135], 8)
        except ValueError:
            return parse_tar(raw)
        start = position + BLOCK
        # Of another kind than a plain file, its name continued elsewhere, or not all here.
        if not name or size < 0 or start + size > end or header[156] != ord("0") or header[345]:
            return parse_tar(raw)
        members[name] = view[start : start + size]
        position = start + -(-size // BLOCK) * BLOCK
    return members


def tar_entries(raw: bytes | memoryview) -> Iterator[tuple[str, int, int, int]]:
    """Yield (name, first byte of its headers, first byte of its content, size of that) of each file of a tar archive.

    USTAR, and what Python's ``tarfile`` and GNU tar write beside it: extended headers (POSIX.1-2001) and long names.

    Raises:
        ValueError: a header's checksum is wrong, a member runs past the end of the bytes or is no plain file.
    """
    raw = memoryview(raw)
    position = begin = 0
    end = len(raw)
    long_name: str | None = None
    while position + BLOCK <= end:
        header = bytes(raw[position : position + BLOCK])
        if not header[0] and header == _ZEROS:
            break
        # Digits alone: a size below zero would send us back to where we were, for ever.
        size_field, sum_field = _OCTAL.fullmatch(header, 124, 136), _OCTAL.fullmatch(header, 148, 156)
        if size_field is None or sum_field is None:
            raise ValueError(f"damaged tar header at byte {position}")
        # Adler-32 has the sum of the bytes plus 1, modulo 65521, in its lower half, at a tenth of the time of sum().
        summed = (zlib.adler32(header) & 0xFFFF) - 1 - sum(header[148:156]) + 8 * 32
        if (summed - int(sum_field[1], 8)) % 65521:
            raise ValueError(f"damaged tar header at byte {position} (checksum)")
        start, size = position + BLOCK, int(size_field[1], 8)
        kind, name = header[156:157], header[:100].partition(b"\0")[0].decode("utf-8", "replace")
        if header[257:263] == b"ustar\0" and header[345]:
            name = header[345:500].partition(b"\0")[0].decode("utf-8", "replace") + "/" + name
        if start + size > end:
            raise ValueError(f"member '{name}' runs {start + size - end} bytes past the end")
        position = start + -(-size // BLOCK) * BLOCK
        if kind in (b"x", b"L"):
            content = bytes(raw[start : start + size])
            long_name = (
                _pax_path(content) or long_name if kind == b"x" else content.rstrip(b"\0").decode("utf-8", "replace")
            )
            continue
        if kind in (b"0", b"\0"):
            yield long_name or name, begin, start, size
        elif kind not in (b"g", b"5"):  # a global header, a folder: nothing of a sample
            raise ValueError(f"member '{name}' is no plain file")
        begin, long_name = position, None


def _pax_path(records: bytes) -> str | None:
    """Return the path that the records of an extended header give their file: "LENGTH KEYWORD=VALUE\\n" each."""
    position, path = 0, None
    while position < len(records):
        length, space, _ = records[position : position + 20].partition(b" ")
        if not space or not length.isdigit() or int(length) <= len(length) + 2:
            raise ValueError("damaged extended header of a tar member")
        keyword, _, value = records[position + len(length) + 1 : position + int(length) - 1].partition(b"=")
        if keyword == b"size":
            raise ValueError("a member of 8 GiB or more")
        path = value.decode("utf-8", "replace") if keyword == b"path" else path
        position += int(length)
    return path


def read_dataset_info(location: str | Path) -> DatasetInfo:
    """Read ``dataset.json`` of a dataset in a folder or at a URL.

    Raises:
        UserError: there is no complete dataset, or one of another format version.
    """
    path = f"{location}/{DATASET_NAME}"
    try:
        content = Store(location).read(DATASET_NAME)
    except FileNotFoundError as error:
        raise UserError(
            f"{location}: no {DATASET_NAME} there, so no complete dataset: run 'imuvid shards build' first, or"
            " 'imuvid shards index' for tars that were made elsewhere"
        ) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    try:
        fields = json.loads(content)
        if fields.get("format") != FORMAT_VERSION:
            raise UserError(f"{path}: shard format {fields.get('format')}, this program reads {FORMAT_VERSION}")
        info = DatasetInfo(**fields)
        _check_info(info)
        return info
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: damaged: {error}") from error


def _check_info(info: DatasetInfo) -> None:
    """Raise ValueError unless the entries have the types and ranges that their readers rely on."""
    counts, embedding, gates = info.counts, info.video_embedding, info.config.get("gates", {})
    demands = {
        "name": isinstance(info.name, str),
        "counts": counts.keys() == {"samples", "recordings", "subjects", "shards"}
        and all(_is_count(number) for number in counts.values()),
        "hours": _is_number(info.hours) and info.hours >= 0,
        "window_s": _is_number(info.window_s) and info.window_s > 0,
        "imu_rate_hz": _is_number(info.imu_rate_hz) and info.imu_rate_hz > 0,
        "positions": _are_texts(info.positions),
        "num_frames": _is_count(info.num_frames),
        "frame_size": isinstance(info.frame_size, list)
        and len(info.frame_size) in (0, 2)
        and all(_is_count(side) for side in info.frame_size),
        "labels": _are_texts(info.labels),
        "sha256": isinstance(info.sha256, dict) and _are_texts(list(info.sha256.values())),
        "config": all(_is_number(bound) for bound in gates.values())
        and isinstance(info.config.get("operations", []), list),
        "video_embedding": embedding is None or (_is_count(embedding.get("dim")) and embedding["dim"] > 0),
    }
    for name, holds in demands.items():
        if not holds:
            raise ValueError(f"{name} is {getattr(info, name)!r:.100}, which is not as the format says")
    json.dumps(dataclasses.asdict(info), ensure_ascii=False).encode()  # half a surrogate pair cannot be written out


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def read_index(location: str | Path, info: DatasetInfo | None = None) -> pa.Table:
    """Read ``index.parquet`` of a dataset in a folder or at a URL as a table of INDEX_SCHEMA.

    Args:
        location: of the dataset.
        info: if given, the index must be the one that it speaks of.

    Raises:
        UserError: it is missing, damaged, has other columns, or is not that of ``info``.
    """
    required = ("key", "shard", "offset", "size", "recording", "split")
    table = _read_table(location, INDEX_NAME, INDEX_SCHEMA, info, required)
    if not pc.all(pc.match_substring_regex(table["key"], f"^{KEY_PATTERN.pattern}$"), min_count=0).as_py():
        raise UserError(f"{location}/{INDEX_NAME}: damaged: a key holds more than letters, digits, '_' and '-'")
    return table


def read_recordings(location: str | Path, info: DatasetInfo | None = None) -> pa.Table:
    """Read ``recordings.parquet`` as a table of RECORDINGS_SCHEMA; arguments and errors as :func:`read_index`."""
    return _read_table(location, RECORDINGS_NAME, RECORDINGS_SCHEMA, info, ("recording", "status"))


def _read_table(
    location: str | Path, name: str, schema: pa.Schema, info: DatasetInfo | None, required: tuple[str, ...]
) -> pa.Table:
    path = f"{location}/{name}"
    try:
        content = Store(location).read(name)
    except FileNotFoundError as error:
        raise UserError(f"{path}: is missing: build the dataset again") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    if info is not None and hashlib.sha256(content).hexdigest() != info.sha256.get(name):
        raise UserError(
            f"{path}: is not that of {DATASET_NAME}: a change was interrupted (give its command again), "
            "or the file is damaged"
        )
    try:
        table = pq.read_table(pa.BufferReader(content), schema=schema)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: damaged: {str(error).splitlines()[0]}") from error
    # A column that is not in the file reads as nulls.
    empty = [column for column in required if table[column].null_count]
    if empty:
        raise UserError(f"{path}: damaged: no value for {', '.join(empty)} in some rows")
    return table


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
