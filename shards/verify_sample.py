"""Is one sample what the format, the index and ``dataset.json`` say?"""

from __future__ import annotations

import json
import math
import zlib
from typing import Any

from imuvid.data.dataset_json import DatasetInfo
from imuvid.data.dataset_tables import QUALITY
from imuvid.data.format import Sample, decode_members, encode_members
from imuvid.data.tar import parse_tar
from shards.places import names_of_places
from shards.write import check_frames

FLOAT32 = 1e-5
"""Relative and absolute difference between a number in JSON and the same as float32 in the index."""


def check_sample(raw: bytes, row: dict[str, Any], info: DatasetInfo) -> None:
    """Raise ValueError unless the sample decodes and is what the index and ``dataset.json`` say.

    Args:
        raw: its tar members.
        row: its row of the index.
        info: of its dataset.
    """
    members = parse_tar(raw)
    sample = decode_members(members)
    check_frames(sample, info.num_frames, info.frame_size[0] if info.frame_size else 0, info.embedding_dim)
    unknown = sorted(set(members) - {name for name, _ in encode_members(sample)})
    if unknown:
        raise ValueError(f"holds the member {unknown[0]}, which the format does not know")
    _check_meta(sample)
    for place in names_of_places(json.loads(members[f"{sample.key}.json"])):
        raise ValueError(place)
    meta = sample.meta
    expected = {
        "key": (sample.key, row["key"]),
        "recording": (meta.recording, row["recording"]),
        "subject": (meta.subject, row["subject"]),
        "label": (meta.label, row["label"]),
        "start_s": (meta.start_s, row["start_s"]),
        "positions": (meta.positions, info.positions),
        "duration_s": (meta.duration_s, info.window_s),
        "imu_rate_hz": (meta.imu_rate_hz, info.imu_rate_hz),
    }
    for name, (found, stated) in expected.items():
        if found != stated:
            raise ValueError(f"{name} is {found!r} in the shard but {stated!r} in the index or dataset.json")
    for name in QUALITY:
        measured, stated = meta.quality.get(name), row[name]
        if (measured is None) != (stated is None) or not math.isclose(
            measured or 0.0, stated or 0.0, rel_tol=FLOAT32, abs_tol=FLOAT32
        ):
            raise ValueError(f"{name} is {measured} in the shard but {stated} in the index")
    if sample.imu[..., :3][~sample.valid[..., 0]].any() or sample.imu[..., 3:][~sample.valid[..., 1]].any():
        raise ValueError("imu is not 0 where it is marked as missing")
    # Last: whatever else is found says more.
    if row["crc32"] != zlib.crc32(raw):
        raise ValueError(f"crc32 is {zlib.crc32(raw)}, but {row['crc32']} in the index")


def _check_meta(sample: Sample) -> None:
    meta = sample.meta
    demands = {
        "source": isinstance(meta.source, str),
        "text": meta.text is None or isinstance(meta.text, str),
        "frame_times_s": all(_is_number(time_s) for time_s in meta.frame_times_s)
        and meta.frame_times_s == sorted(meta.frame_times_s),
        "frame_valid": all(isinstance(valid, bool) for valid in meta.frame_valid),
        "sync_offset_s": _is_number(meta.sync_offset_s),
        "sync_confidence": meta.sync_confidence is None or _is_number(meta.sync_confidence),
        "quality": isinstance(meta.quality, dict)
        and all(name in QUALITY and _is_number(value) for name, value in meta.quality.items()),
    }
    for name, holds in demands.items():
        if not holds:
            raise ValueError(f"{name} is {str(getattr(meta, name))[:60]}, which is not as the format says")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
