"""Windows of data sets kept in the cache: reading and resampling hours of recordings is done once."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import imuvid.imu
from imuvid.ood.cache import ArrayCache, code_sha256, content_key
from imuvid.ood.datasets.base import Windows

_NUMBERS = ("imu", "valid", "label", "start_s")
_TEXTS = ("subject", "recording")


def read_kept(
    read: Callable[[], Windows],
    cache: ArrayCache,
    places: Sequence[Path],
    settings: dict[str, Any],
    rate_hz: float,
    window_s: float,
) -> Windows:
    """Return what ``read`` returns, from the cache if nothing that it depends on has changed.

    Files are told apart by name, size and time of change: hashing hours of recordings would take as long as reading.

    Args:
        read: the reader.
        cache: where windows are kept.
        places: folders and files that it reads.
        settings: of the reader, without those of the protocol.
        rate_hz: of the windows.
        window_s: their length, seconds.
    """
    key = content_key("windows 1", _code(), [_listing(place) for place in places], settings, rate_hz, window_s)
    return _unpack(cache.fetch(key, lambda: _pack(read())))


def _listing(place: Path) -> list[list[Any]]:
    files = [place] if place.is_file() else [Path(top) / name for top, _, names in os.walk(place) for name in names]
    entries = []
    for path in sorted(files):
        status = path.stat()
        entries.append([str(path), status.st_size, status.st_mtime_ns])
    return entries


def _pack(windows: Windows) -> dict[str, np.ndarray]:
    arrays = {name: getattr(windows, name) for name in _NUMBERS}
    rest = {
        field.name: getattr(windows, field.name) for field in dataclasses.fields(Windows) if field.name not in _NUMBERS
    }
    rest |= {name: rest[name].tolist() for name in _TEXTS}
    rest["domain"] = {name: values.tolist() for name, values in windows.domain.items()}
    return arrays | {"rest": np.frombuffer(json.dumps(rest).encode(), np.uint8)}


def _unpack(arrays: dict[str, np.ndarray]) -> Windows:
    rest = json.loads(arrays["rest"].tobytes())
    rest |= {name: np.array(rest[name]) for name in _TEXTS}
    rest["domain"] = {name: np.array(values) for name, values in rest["domain"].items()}
    return Windows(**(rest | {name: arrays[name] for name in _NUMBERS}))


@functools.cache
def _code() -> str:
    return code_sha256(Path(__file__).parent, Path(imuvid.imu.__path__[0]))
