"""The files of a dataset in an object store that fsspec has a driver for: every operation ends, well or with one line.

Credentials and end points are those of the driver: its usual environment variables and files (``AWS_ACCESS_KEY_ID``,
``AWS_ENDPOINT_URL``, ``~/.aws``, ...) or fsspec's own config.
"""

from __future__ import annotations

import base64
import hashlib
import os
import queue
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.registry import known_implementations

from imuvid.errors import UserError

TRIES = 5
"""Times that an operation is tried."""
FIRST_WAIT_S = 1.0
"""Wait before the second try, seconds; it doubles from try to try."""
LIMIT_S = 30.0
"""Time limit of one try, seconds, to which is added the time that its bytes take at SLOWEST."""
SLOWEST = 1e6
"""Least rate that bytes have to come or go at, bytes a second."""

# Of fsspec's protocols, those that wrap another location, which the checks here would not see.
_WRAPPERS = (
    *("async_wrapper", "asyncwrapper", "asynclocal", "blockcache", "cached", "dask", "data", "dir", "filecache"),
    *("generic", "git", "libarchive", "reference", "simplecache", "tar", "zip"),
)
# Protocols with folders, which have to be there before a file can be; object stores know names alone.
_WITH_FOLDERS = ("arrow_hdfs", "dbfs", "ftp", "hdfs", "memory", "sftp", "smb", "ssh", "webdav", "webhdfs")
_EXTRAS = {"s3": "imuvid[s3]", "s3a": "imuvid[s3]"}
# Errors that another try does not mend.
_FINAL = (FileNotFoundError, IsADirectoryError, NotADirectoryError, NotImplementedError, PermissionError, ValueError)
_drivers: dict[tuple[int, str, int], Any] = {}
_connecting = [threading.Lock()]
# A thread that holds it is not there any more after a fork.
os.register_at_fork(after_in_child=lambda: _connecting.__setitem__(0, threading.Lock()))
T = TypeVar("T")


class StorageError(OSError):
    """An object store did not do what was asked, after all tries; one line that names the URL and the operation."""


class ObjectStore:
    """Files by their names at the URL of a folder, as ``s3://bucket/name``; the operations of ``storage.Store``.

    Every operation has a time limit and is tried :data:`TRIES` times with growing waits in between. Each process makes
    its own connections, so that instances may be inherited by a fork.

    Raises:
        UserError: the URL cannot be used, or the driver of its protocol is not installed.
    """

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        protocol, _, rest = self.url.partition(":")
        self._protocol = protocol.lower()
        shown = without_secrets(url)
        if "::" in url:
            raise UserError(f"{shown}: chained URLs ('::') are not read: give the URL of the folder itself")
        if self._protocol in _WRAPPERS or self._protocol not in fsspec.available_protocols():
            raise UserError(
                f"{shown}: '{self._protocol}' is no protocol that datasets are kept at: "
                "give a folder or a URL like s3://bucket/name"
            )
        rest = rest.lstrip("/")
        if ":" in rest.rpartition("@")[0]:
            raise UserError(
                f"{shown}: a password does not belong in a URL: set it in the environment or in fsspec's config"
            )
        if not rest or re.search(r"[?#*\[\]\s]", rest) or ".." in rest.split("/"):
            raise UserError(f"{shown}: expected the URL of a folder, as s3://bucket/name")
        try:
            fsspec.get_filesystem_class(self._protocol)
        except (ImportError, ValueError) as error:
            extra = _EXTRAS.get(self._protocol)
            hint = known_implementations.get(self._protocol, {}).get("err", str(error))
            how = f"pip install '{extra}'" if extra else hint
            raise UserError(f"{shown}: the driver of '{self._protocol}' is not installed: {how}") from error

    def names(self) -> list[str]:
        """Return the sorted names of the files that are there now; none where there is no folder."""

        def listing() -> list[str]:
            driver, folder = self._connect()
            entries = driver.ls(folder, detail=True)
            return sorted(entry["name"].rpartition("/")[2] for entry in entries if entry["type"] == "file")

        try:
            # A marker of the folder itself has no name.
            return [name for name in self._try("listed", self.url, listing) if name]
        except FileNotFoundError:
            return []

    def size(self, name: str) -> int:
        """Return the size of a file, bytes; FileNotFoundError, StorageError."""
        return self._try("looked up", self._where(name), lambda: int(self._info(name)["size"]))

    def read(self, name: str) -> bytes:
        """Return the content of a file; FileNotFoundError, StorageError."""
        size = self.size(name)
        return self._try("read", self._where(name), lambda: self._cat(name, 0, size), size)

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset`` on, fewer where the file ends; FileNotFoundError, StorageError."""
        return self._try("read", self._where(name), lambda: self._cat(name, offset, size), size)

    def fetch(self, name: str, path: Path) -> None:
        """Make the file a local one at ``path``, complete or not there; FileNotFoundError, StorageError."""
        size = self.size(name)

        def download() -> None:
            driver, folder = self._connect()
            # A try that was given up may go on writing, to a file of its own.
            temporary = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
            try:
                driver.get_file(f"{folder}/{name}", str(temporary))
                _expect(temporary.stat().st_size, size, "came")
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)

        self._try("read", self._where(name), download, size)

    def put(self, name: str, path: Path) -> None:
        """Store a local file under ``name``; UserError, StorageError."""
        self._store(name, path.stat().st_size, lambda driver, target: driver.put_file(str(path), target), path)

    def write(self, name: str, content: bytes) -> None:
        """Store bytes under ``name``; UserError, StorageError."""
        self._store(name, len(content), lambda driver, target: driver.pipe_file(target, content), content)

    def delete(self, name: str) -> None:
        """Remove a file, if it is there; UserError, StorageError."""

        def remove() -> None:
            driver, folder = self._connect()
            try:
                driver.rm_file(f"{folder}/{name}")
            except FileNotFoundError:
                return

        self._try("deleted", self._where(name), remove)

    def _where(self, name: str) -> str:
        return f"{self.url}/{name}"

    def _connect(self) -> tuple[Any, str]:
        """Return this process's driver, and the folder as it names it."""
        # Another environment may hold other credentials. A forked child keeps its parent's driver, unused: closing it
        # would wait for a thread that is not there.
        key = (os.getpid(), self._protocol, hash(frozenset(os.environ.items())))
        with _connecting[0]:  # threads that begin at the same time would each load the driver, which takes long
            if key not in _drivers:
                _drivers[key] = _driver(self._protocol)
            driver = _drivers[key]
        return driver, driver._strip_protocol(self.url).rstrip("/")

    def _info(self, name: str) -> dict[str, Any]:
        driver, folder = self._connect()
        found = driver.info(f"{folder}/{name}")
        if found["type"] != "file":
            raise FileNotFoundError("is no file")
        return found

    def _cat(self, name: str, offset: int, size: int) -> bytes:
        if size <= 0:
            return b""
        driver, folder = self._connect()
        try:
            content = driver.cat_file(f"{folder}/{name}", start=offset, end=offset + size)
        except _FINAL:
            raise
        except OSError:
            # Object stores refuse a range that begins at the end or beyond.
            if offset < int(self._info(name)["size"]):
                raise
            return b""
        if len(content) != size:
            _expect(len(content), min(size, max(int(self._info(name)["size"]) - offset, 0)), "came")
        return content

    def _store(self, name: str, size: int, upload: Callable[[Any, str], Any], source: Path | bytes) -> None:
        def store() -> None:
            driver, folder = self._connect()
            if self._protocol in _WITH_FOLDERS:
                driver.makedirs(folder, exist_ok=True)
            upload(driver, f"{folder}/{name}")
            found = self._info(name)
            _expect(int(found["size"]), size, "arrived")
            stated = _stated_md5(found)
            # What looks like an MD5 is something else where the store encrypts: then only the bytes themselves tell.
            if stated not in (None, _md5(source)) and _md5(self._cat(name, 0, size)) != _md5(source):
                raise OSError("other bytes arrived than were sent")

        self._try("written", self._where(name), store, size)

    def _try(self, done: str, url: str, operation: Callable[[], T], size: int = 0) -> T:
        """Return what the operation returns, trying again where that may help.

        Args:
            done: what should be done with the file, as 'read'.
            url: of the file.
            operation: what to do.
            size: bytes that come or go.
        """
        limit_s = LIMIT_S + size / SLOWEST
        started = time.monotonic()
        last: BaseException | None = None
        for attempt in range(TRIES):
            if attempt:
                time.sleep(FIRST_WAIT_S * 2 ** (attempt - 1))
            try:
                return within(limit_s, operation)
            except _FINAL as error:
                line = f"{url}: cannot be {done}: {_reason(error)}"
                if isinstance(error, FileNotFoundError) and done not in ("written", "deleted"):
                    raise FileNotFoundError(f"{line} (is not there)") from error
                raise UserError(f"{line}: check the URL, the credentials and their rights") from error
            except Exception as error:
                last = error
        assert last is not None
        waited_s = time.monotonic() - started
        raise StorageError(f"{url}: cannot be {done}, {TRIES} tries in {waited_s:.0f} s: {_reason(last)}") from last


def without_secrets(text: str) -> str:
    """Return the text with user names, passwords and query strings of its URLs taken out."""
    return re.sub(r"\?[^\s\"']*", "", re.sub(r"//[^/\s]*@", "//", text))


def _driver(protocol: str) -> Any:
    if protocol not in ("s3", "s3a"):
        return fsspec.filesystem(protocol, skip_instance_cache=True, use_listings_cache=False)
    # Tries are counted in one place, above, for all object stores alike.
    stated = fsspec.config.conf.get(protocol, {}).get("config_kwargs", {})
    driver = fsspec.filesystem(
        protocol,
        skip_instance_cache=True,
        use_listings_cache=False,
        config_kwargs={"retries": {"total_max_attempts": 1}} | stated,
    )
    driver.retries = 1
    return driver


def within(limit_s: float, operation: Callable[[], T]) -> T:
    """Return what the operation returns; TimeoutError where it takes longer, whatever it waits for."""
    outcome: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put((True, operation()))
        except BaseException as error:
            outcome.put((False, error))

    # A daemon, which nothing waits for at exit; a pool's threads would be joined.
    threading.Thread(target=run, daemon=True).start()
    try:
        succeeded, value = outcome.get(timeout=limit_s)
    except queue.Empty:
        raise TimeoutError(f"no answer within {limit_s:.0f} s") from None
    if not succeeded:
        raise value
    return value


def _expect(found: int, size: int, verb: str) -> None:
    if found != size:
        raise OSError(f"{found} of {size} bytes {verb}")


def _md5(source: Path | bytes) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    if isinstance(source, bytes):
        digest.update(source)
        return digest.hexdigest()
    with source.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _stated_md5(info: dict[str, Any]) -> str | None:
    """Return the hex digits of the MD5 that an object store states of a file (S3: ETag, GCS: md5Hash), if it does."""
    tag = str(info.get("ETag", "")).strip('"')
    if re.fullmatch(r"[0-9a-f]{32}", tag):
        return tag
    return base64.b64decode(info["md5Hash"]).hex() if info.get("md5Hash") else None


def _reason(error: BaseException) -> str:
    return without_secrets(" ".join(str(error).split()) or type(error).__name__)
