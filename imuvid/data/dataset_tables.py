"""The tables of a dataset: ``index.parquet``, one row a sample, and ``recordings.parquet``, one row a recording."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imuvid.data.dataset_json import DATASET_NAME, DatasetInfo
from imuvid.data.format import KEY_PATTERN
from imuvid.data.storage import Store
from imuvid.errors import UserError

INDEX_NAME = "index.parquet"
RECORDINGS_NAME = "recordings.parquet"
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
