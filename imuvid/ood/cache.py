"""Arrays kept on disk under the hash of what they were made from: a second protocol does not embed anything again.

Any number of jobs may use one folder at the same time, and any of them may be killed at any instant: a file appears
under its name only when it is whole, and one that was damaged later counts as absent. The folder stays below a size;
what was not used for longest goes first. Files are safetensors: reading one executes nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from imuvid.errors import UserError

logger = logging.getLogger(__name__)

FOLDER_VARIABLE = "IMUVID_CACHE"
SUFFIX, PARTIAL = ".safetensors", ".partial"
ABANDONED_S = 3600.0
"""A file that has been half written for so long was left by a job that was killed."""


@dataclass
class CacheConfig:
    """Where embeddings are kept between evaluations."""

    folder: str | None = None
    """None: $IMUVID_CACHE, or ~/.cache/imuvid; it may be shared by machines."""
    max_gb: float = 10.0
    """Size of the folder, GB (10^9 bytes), above which what was not used for longest is deleted; 0 keeps nothing."""


class ArrayCache:
    """Named arrays in a folder.

    Args:
        folder: made when the first array is put there.
        max_bytes: of all files together.
    """

    def __init__(self, folder: Path, max_bytes: int):
        self._folder, self._max_bytes = folder, max_bytes

    def fetch(self, key: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Return the arrays of a key; where there are none (whole ones), make them and keep them.

        A folder that cannot be written costs a warning and the time to make the arrays again, nothing else.

        Args:
            key: of :func:`content_key`.
            make: returns the arrays, by name.
        """
        if self._max_bytes <= 0:
            return make()
        found = self._get(key)
        if found is None:
            found = make()
            try:
                self._put(key, found)
            except OSError as error:
                logger.warning("%s: nothing is kept there (%s): give another cache.folder", self._folder, error)
        return found

    def _get(self, key: str) -> dict[str, np.ndarray] | None:
        path = self._folder / f"{key}{SUFFIX}"
        try:
            content = path.read_bytes()
            digest, payload = content[:64].decode(), memoryview(content)[64:]
            if hashlib.sha256(payload).hexdigest() != digest:
                raise ValueError("its content has changed")
            arrays = load_tensors(bytes(payload))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, SafetensorError) as error:
            logger.warning("%s: not used, made again (%s)", path, error)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # used now: the last to go
        return arrays

    def _put(self, key: str, arrays: dict[str, np.ndarray]) -> None:
        payload = save_tensors({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        if 64 + len(payload) > self._max_bytes:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._folder / f"{key}.{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}"
        try:
            with partial.open("xb") as file:
                file.write(hashlib.sha256(payload).hexdigest().encode())
                file.write(payload)
            os.replace(partial, self._folder / f"{key}{SUFFIX}")
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        self._prune()

    def _prune(self) -> None:
        files, abandoned = [], time.time() - ABANDONED_S
        for entry in os.scandir(self._folder):
            # Another job may delete any of them at the same time.
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat()
                if entry.name.endswith(SUFFIX):
                    files.append((status.st_mtime_ns, status.st_size, entry.path))
                elif entry.name.endswith(PARTIAL) and status.st_mtime < abandoned:
                    os.unlink(entry.path)
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self._max_bytes:
                return
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            total -= size


def open_cache(config: CacheConfig) -> ArrayCache:
    """Return the cache that a config means.

    Raises:
        UserError: its size is negative.
    """
    if config.max_gb < 0:
        raise UserError(f"cache.max_gb={config.max_gb:g}: must be at least 0 (0 keeps nothing)")
    folder = config.folder or os.environ.get(FOLDER_VARIABLE) or Path.home() / ".cache" / "imuvid"
    return ArrayCache(Path(folder) / "arrays", int(1e9 * config.max_gb))


def content_key(*parts: object) -> str:
    """Return a hash, 64 hex digits, of arrays (their type, shape and values) and of what JSON knows, in their order."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray) and part.dtype.kind in "biuf":
            digest.update(f"array {part.dtype.str} {part.shape}\n".encode())
            if part.size:  # an empty one has no bytes to look at
                digest.update(np.ascontiguousarray(part).data.cast("B"))
        else:
            text = json.dumps(part.tolist() if isinstance(part, np.ndarray) else part, sort_keys=True)
            digest.update(f"json {len(text)} {text}\n".encode())
    return digest.hexdigest()


def code_sha256(*paths: Path) -> str:
    """Return a hash of Python files, and of those in folders: what code made is void when the code changes."""
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
