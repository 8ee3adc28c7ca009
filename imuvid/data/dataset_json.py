"""``dataset.json``: what a dataset is, written last and read first."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imuvid.data.format import FORMAT_VERSION
from imuvid.data.storage import Store
from imuvid.errors import UserError

DATASET_NAME = "dataset.json"


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
