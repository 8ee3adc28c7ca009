"""The files of a dataset, a flat set with plain names: in a local folder, or at the URL of an object store."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from imuvid.data.object_store import ObjectStore
from imuvid.errors import UserError


@contextmanager
def replacing(path: Path, *, check: Callable[[Path], None] | None = None) -> Iterator[BinaryIO]:
    """Open a file that gets its name ``path`` only once it is complete, synced and, with ``check``, found good."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if check is not None:
            check(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sync_path(path: Path) -> None:
    """Have the disk hold a file, or the names in a folder: a rename may otherwise outlive the content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_file_name(name: str) -> None:
    """Raise UserError unless a name is that of a file, and no way out of a folder."""
    if not 0 < len(name) < 256 or name in (".", "..") or re.search(r"[/\\\x00-\x1f]", name):
        raise UserError(f"'{name:.80}' is no plain file name")


class Store:
    """Reads and writes the files of one dataset by their names.

    A write makes the whole file visible at once, or nothing, and is durable when it returns. Operations on an object
    store have a time limit and are tried several times; see :mod:`imuvid.data.object_store`. Pickles and forks.

    Args:
        location: a folder (path or ``file://``), or the URL of a folder in an object store, as ``s3://bucket/name``.

    Attributes:
        location: path or URL, without a slash at its end.
        local: the folder; None where the files are in an object store.

    Raises:
        UserError: the URL cannot be used, the driver of its protocol is not installed, or (from the operations) a name
            is no plain file name.
    """

    def __init__(self, location: str | Path):
        text = str(location)
        self.local: Path | None = None
        if isinstance(location, str) and text.startswith("file://"):
            self.local = Path(text[len("file://") :])
            if not self.local.is_absolute():
                raise UserError(f"{text}: expected an absolute path, as in file:///data/name")
        elif isinstance(location, Path) or not re.match(r"pipe:|[^/]*(://|::)", text, re.IGNORECASE):
            self.local = Path(text).expanduser()
        self._remote = ObjectStore(text) if self.local is None else None
        self.location = self._remote.url if self._remote else str(self.local)

    def __reduce__(self) -> tuple[type[Store], tuple[str | Path]]:
        return Store, (self.local or self.location,)

    def __str__(self) -> str:
        return self.location

    def where(self, name: str) -> str:
        """Return the path or URL of a file, for messages."""
        return f"{self.location}/{name}"

    def names(self) -> list[str]:
        """Return the sorted names of the files that are there now; none where there is no such folder."""
        if self._remote:
            return self._remote.names()
        folder = self._folder
        return sorted(path.name for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []

    def exists(self, name: str) -> bool:
        """Return whether a file is there now."""
        try:
            self.size(name)
        except FileNotFoundError:
            return False
        return True

    def size(self, name: str) -> int:
        """Return the size of a file, bytes.

        Raises:
            FileNotFoundError: it is not there.
            OSError: it cannot be reached; of an object store always as StorageError, here and below.
        """
        check_file_name(name)
        if self._remote:
            return self._remote.size(name)
        path = self._folder / name
        if not path.is_file():
            raise FileNotFoundError(f"{path}: is not there")
        return path.stat().st_size

    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Raises:
            FileNotFoundError: it is not there.
            OSError: it cannot be read.
        """
        check_file_name(name)
        return self._remote.read(name) if self._remote else (self._folder / name).read_bytes()

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from byte ``offset`` on; fewer where the file ends before.

        Raises:
            FileNotFoundError: it is not there.
            OSError: it cannot be read.
        """
        check_file_name(name)
        if self._remote:
            return self._remote.read_range(name, offset, size)
        with (self._folder / name).open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def fetch(self, name: str, path: Path) -> None:
        """Make the file a local one at ``path`` as well, complete or not there. It must not be changed in place.

        Raises:
            FileNotFoundError: it is not there.
            OSError: it cannot be read, or ``path`` not be written.
        """
        check_file_name(name)
        if self._remote:
            self._remote.fetch(name, path)
        else:
            _link_or_copy(self._folder / name, path)

    def put(self, name: str, path: Path) -> None:
        """Make a complete local file visible under ``name`` as well, in place of what was there.

        The file at ``path`` must not be changed in place afterwards: on the same disk it is the same file.

        Raises:
            UserError: the bucket is not there, or may not be written to.
            OSError: it cannot be written, or other bytes are found than were sent.
        """
        check_file_name(name)
        if self._remote:
            self._remote.put(name, path)
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        _link_or_copy(path, self._folder / name)
        sync_path(self._folder)

    def write(self, name: str, content: bytes) -> None:
        """Make a file of this content visible under ``name``, in place of what was there.

        Raises:
            UserError: the bucket is not there, or may not be written to.
            OSError: it cannot be written, or other bytes are found than were sent.
        """
        check_file_name(name)
        if self._remote:
            self._remote.write(name, content)
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        with replacing(self._folder / name) as file:
            file.write(content)
        sync_path(self._folder)

    def delete(self, name: str) -> None:
        """Remove a file, if it is there.

        Raises:
            UserError: the bucket may not be written to.
            OSError: it cannot be removed.
        """
        check_file_name(name)
        if self._remote:
            self._remote.delete(name)
        elif self._folder.is_dir():
            (self._folder / name).unlink(missing_ok=True)
            sync_path(self._folder)

    @property
    def _folder(self) -> Path:
        assert self.local is not None
        return self.local


def _link_or_copy(source: Path, target: Path) -> None:
    """Give the content of ``source`` the name ``target`` as well, complete or not at all."""
    temporary = target.with_name(target.name + ".tmp")
    temporary.unlink(missing_ok=True)
    try:
        try:
            os.link(source.resolve(), temporary)
        except FileNotFoundError:
            raise
        except OSError:  # another disk, or one without links
            shutil.copyfile(source, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
