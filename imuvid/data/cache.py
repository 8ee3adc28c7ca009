"""Whole shards of a dataset at a URL, kept on this machine's disk and shared by all processes that read there.

A shard is kept under its SHA-256 as ``dataset.json`` states it: it is checked once, when it comes, and never stale::

    SHA256.shard        a complete shard; who reads it holds a shared lock on it; its mtime says when it was used last
    SHA256.part         as large as the shard will be, so that its room is taken; locked by the process that fetches it
    SHA256.data, ...    what has come of it so far
    lock                held while room is made

Locks (flock) end with their process, so that a killed one leaves nothing behind that others would wait for; what it had
fetched in part is deleted when room is made next. The folder must be on a disk of this machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from imuvid.errors import UserError

_DIGEST = re.compile(r"[0-9a-f]{64}")
_OWN_FILE = re.compile(r"([0-9a-f]{64})\.(shard|part|data.*)")


class WrongContent(ValueError):
    """A file came whole, but it is not the one that was asked for."""


class ShardCache:
    """Shards by their SHA-256 (64 hex digits). May be inherited by a fork before it is used.

    Args:
        folder: on a local disk; made where it is not there. Other files in it are left alone.
        max_bytes: room that shards may take together, those that are just being fetched included.

    Raises:
        UserError: the folder cannot be made or written to.
    """

    def __init__(self, folder: str | Path, max_bytes: int):
        self.folder, self.max_bytes = Path(folder).expanduser(), max_bytes
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            os.close(self._open_lock())
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be a cache of shards: {error.strerror or error}") from error

    def open(self, digest: str) -> int | None:
        """Return a descriptor of a shard, None where it is not there. Until it is closed, the shard stays."""
        path = self._path(digest, "shard")
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            gone = not os.path.samestat(os.fstat(file), path.stat())
        except (BlockingIOError, FileNotFoundError):
            gone = True  # it is being removed, or looked at for that; or it was removed before it was locked
        if gone:
            os.close(file)
            return None
        with contextlib.suppress(PermissionError):  # another user's
            os.utime(file)
        return file

    def fetch(self, digest: str, size: int, download: Callable[[Path], None]) -> bool:
        """Fetch a shard, unless it is there; return whether it is there now.

        It is not where another process or thread fetches it at this moment, or there is no room that could be made.

        Args:
            digest: SHA-256 of the shard.
            size: of it, bytes.
            download: writes it to the path that it is given.

        Raises:
            WrongContent: its SHA-256 is another one.
            OSError: from ``download``, or the disk is full.
        """
        path, part, data = (self._path(digest, kind) for kind in ("shard", "part", "data"))
        with self._making_room():
            if path.exists():
                return True
            if not self._make_room(digest, size):
                return False
            lock = os.open(part, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(lock, size)
        try:
            download(data)
            with data.open("rb") as file:
                if _sha256(file.fileno()) != digest:
                    raise WrongContent("its SHA-256 is not that of dataset.json")
                os.fsync(file.fileno())
            os.replace(data, path)
        finally:
            data.unlink(missing_ok=True)
            part.unlink(missing_ok=True)
            os.close(lock)
        return True

    def drop(self, digest: str) -> None:
        """Remove a shard, whoever reads it."""
        self._path(digest, "shard").unlink(missing_ok=True)

    def _path(self, digest: str, kind: str) -> Path:
        assert _DIGEST.fullmatch(digest), digest
        return self.folder / f"{digest}.{kind}"

    def _open_lock(self) -> int:
        return os.open(self.folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)

    @contextlib.contextmanager
    def _making_room(self) -> Iterator[None]:
        lock = self._open_lock()
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _make_room(self, digest: str, size: int) -> bool:
        """Clean up, and remove what was used longest ago and by nobody now, until there is room for another shard."""
        taken, shards, fetched = 0, [], set()
        files = [found for found in map(_OWN_FILE.fullmatch, os.listdir(self.folder)) if found]
        for found in sorted(files, key=lambda found: found[2], reverse=True):  # shards and parts before data
            path = self.folder / found[0]
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            if found[2] == "shard":
                shards.append((stat.st_mtime_ns, stat.st_size, path))
                taken += stat.st_size
            elif found[2] == "part" and not _remove_unused(path):
                fetched.add(found[1])
                taken += stat.st_size
            elif found[1] not in fetched:
                path.unlink(missing_ok=True)
        if digest in fetched:
            return False
        for _, freed, path in sorted(shards):
            if taken + size <= self.max_bytes:
                break
            if _remove_unused(path):
                taken -= freed
        return taken + size <= self.max_bytes


def is_digest(text: str | None) -> bool:
    """Return whether a text is a SHA-256 as a cache takes it."""
    return text is not None and _DIGEST.fullmatch(text) is not None


def _remove_unused(path: Path) -> bool:
    """Remove a file, if no process holds a lock on it; return whether it is gone."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    return True


def _sha256(file: int) -> str:
    digest, offset = hashlib.sha256(), 0
    while block := os.pread(file, 1 << 20, offset):
        digest.update(block)
        offset += len(block)
    return digest.hexdigest()
