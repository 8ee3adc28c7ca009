"""Reading ahead of the stream, where every read is a request over a network.

Two windows slide along the order of samples. The samples of the near one are being read by threads, each by one request
for its bytes. The shards of the far one are being fetched whole into the cache, if there is one, and a sample whose
shard has come is read from there. Nothing waits for a shard to come, so that a cache that is full, slow or broken
costs requests, never a batch.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any

from imuvid.data.cache import ShardCache, is_digest
from imuvid.data.mixture import AnyDataset
from imuvid.data.progress import Progress

_NUM_READERS = 16
"""Most requests for samples at a time, of a process."""
_NUM_FETCHERS = 2
"""Shards that a process fetches at a time."""
_FAR_SAMPLES = 16384
"""Longest far window."""
_FAR_SHARDS = 256
"""Most shards in it: each is an open file."""
_PAUSE_S = 0.5
"""Between looks at what other processes have fetched."""
_MOST_WARNINGS = 5
"""Of a process, about its cache."""

_log = logging.getLogger(__name__)
Item = tuple[int, int]
Read = tuple[Item, "bytes | memoryview | ValueError | None"]


class ReadAhead:
    """Stage of the stream: (epoch, sample) -> ((epoch, sample), its bytes, or the error that reading gave).

    Samples of a local folder pass through with None, to be read by who decodes them. Threads are started where it is
    iterated, so that it may be inherited by a fork.

    Args:
        dataset: that the samples are of.
        num_samples: in the near window.
        cache: of whole shards; None reads samples only.
        progress: is told which sample is waited for.
    """

    def __init__(
        self, dataset: AnyDataset, num_samples: int, cache: ShardCache | None = None, progress: Progress | None = None
    ):
        self._dataset, self._num_samples, self._cache, self._progress = dataset, num_samples, cache, progress

    def __call__(self, items: Iterable[Item]) -> Iterator[Read]:
        """Yield the items in their order with what was read of them."""
        if all(part.store.local is not None for part in self._dataset.parts):
            for item in items:
                yield item, None
            return
        shards = None if self._cache is None else _Shards(self._dataset, self._cache)
        readers = _Readers(min(_NUM_READERS, max(1, self._num_samples)))
        reading: deque[tuple[Item, Future]] = deque()
        try:
            for item in items if shards is None else shards.ahead(items):
                reading.append((item, readers.submit(self._read, item[1], shards)))
                if len(reading) > self._num_samples:
                    yield self._came(*reading.popleft(), shards)
            while reading:
                yield self._came(*reading.popleft(), shards)
        finally:
            readers.stop()
            if shards is not None:
                shards.stop()

    def _read(self, sample: int, shards: _Shards | None) -> bytes | memoryview | None:
        if self._dataset.at_shard(self._dataset.shard_of(sample))[0].store.local is not None:
            return None
        raw = None if shards is None else shards.read(sample)
        return self._dataset.raw(sample) if raw is None else raw

    def _came(self, item: Item, future: Future, shards: _Shards | None) -> Read:
        if self._progress is not None:
            self._progress.reads(item[1])
        try:
            return item, future.result()
        except ValueError as error:
            return item, error
        finally:
            if shards is not None:
                shards.passed(item[1])


class _Shards:
    """The shards of the far window: those that are in the cache are kept open, the others are fetched.

    Args:
        dataset: at a URL; of a mixture, the shards that are.
        cache: that is filled.
    """

    def __init__(self, dataset: AnyDataset, cache: ShardCache):
        self._dataset, self._cache = dataset, cache
        self._wanted: OrderedDict[int, int] = OrderedDict()  # samples of each shard in the window; first needed first
        self._files: dict[int, int] = {}
        self._stale: list[int] = []  # open files that are in the cache no more, but may be being read
        self._left_out: set[int] = set()  # not to be fetched: being fetched by a thread here, or not as it should be
        self._warnings = 0
        self._bytes = 0
        # Half of the cache, so that the other half can hold what other processes are not done with; or everything.
        total = sum(map(self._size, range(len(dataset.shard_sizes))))
        self._room = max(cache.max_bytes // 2, total if total <= cache.max_bytes else 0)
        self._changed = threading.Condition()
        self._stopped = False
        for _ in range(_NUM_FETCHERS):
            threading.Thread(target=self._fetch, daemon=True).start()

    def ahead(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items, each when the window has gone on so far that it leaves it."""
        window: deque[Item] = deque()
        for item in items:
            shard = self._dataset.shard_of(item[1])
            while window and (len(window) >= _FAR_SAMPLES or not self._has_room(shard)):
                yield window.popleft()
            window.append(item)
            with self._changed:
                if shard not in self._wanted:
                    self._bytes += self._size(shard)
                    self._changed.notify_all()
                self._wanted[shard] = self._wanted.get(shard, 0) + 1
        yield from window

    def passed(self, sample: int) -> None:
        """Call when a sample has been read: its shard is let go with the last of its samples in the window."""
        shard = self._dataset.shard_of(sample)
        with self._changed:
            self._wanted[shard] -= 1
            if not self._wanted[shard]:
                del self._wanted[shard]
                self._bytes -= self._size(shard)
                self._left_out.discard(shard)
                self._close(shard)

    def read(self, sample: int) -> bytes | memoryview | None:
        """Return a sample's bytes from the cache, None where it does not hold them, or not any more as they were."""
        shard = self._dataset.shard_of(sample)
        with self._changed:
            file = self._open(shard)
        if file is None:
            return None
        offset, size = self._dataset.span(sample)
        # A sample in the window keeps its shard open.
        raw = os.pread(file, size, offset)
        if self._dataset.intact(sample, raw):
            return raw
        stored = self._dataset.raw(sample)
        if stored != raw:
            self._warn(f"{self._dataset.where(sample)}: its copy in the cache was damaged and is fetched again")
            with self._changed:
                if self._files.get(shard) == file:
                    self._stale.append(self._files.pop(shard))
                    self._cache.drop(self._digest(shard))
        return stored

    def stop(self) -> None:
        """Let everything go; threads end with what they are doing."""
        with self._changed:
            self._stopped = True
            for shard in list(self._files):
                self._close(shard)
            for file in self._stale:
                os.close(file)
            self._stale.clear()
            self._changed.notify_all()

    def _has_room(self, shard: int) -> bool:
        if shard in self._wanted:
            return True
        size = self._bytes + self._size(shard)
        return len(self._wanted) < _FAR_SHARDS and size <= self._room

    def _size(self, shard: int) -> int:
        """Bytes that a shard takes of the cache."""
        local = self._dataset.at_shard(shard)[0].store.local
        return self._dataset.least_size(shard) if local is None else 0

    def _digest(self, shard: int) -> str:
        """Of a shard that may be kept; empty for others."""
        part, name = self._dataset.at_shard(shard)
        return part.info.sha256.get(name, "") if part.store.local is None else ""

    def _open(self, shard: int) -> int | None:
        if shard not in self._files and is_digest(self._digest(shard)):
            file = self._cache.open(self._digest(shard))
            if file is not None:
                self._files[shard] = file
        return self._files.get(shard)

    def _close(self, shard: int) -> None:
        file = self._files.pop(shard, None)
        if file is not None:
            os.close(file)

    def _warn(self, text: str) -> None:
        self._warnings += 1
        if self._warnings <= _MOST_WARNINGS:
            _log.warning("%s", text)

    def _fetch(self) -> None:
        while not self._stopped:
            with self._changed:
                missing = [s for s in self._wanted if s not in self._left_out and self._open(s) is None]
            if not any(self._fetch_one(shard) for shard in missing):
                with self._changed:
                    if not self._stopped:
                        self._changed.wait(_PAUSE_S)

    def _fetch_one(self, shard: int) -> bool:
        """Fetch a shard; False where there is nothing to be done about it now."""
        with self._changed:
            if self._stopped or shard in self._left_out or shard not in self._wanted:
                return False
            self._left_out.add(shard)
        part, name = self._dataset.at_shard(shard)
        store = part.store
        try:
            if not is_digest(self._digest(shard)):
                return False
            size = store.size(name)
            # One that is too short is read by its samples, which say so.
            if size < self._dataset.least_size(shard):
                return False
            fetched = self._cache.fetch(self._digest(shard), size, lambda path: store.fetch(name, path))
        except Exception as error:  # whatever it is, samples are read without the cache, and tell what is wrong
            self._warn(f"{store.where(name)}: is not kept in the cache: {error}")
            return False
        with self._changed:
            self._left_out.discard(shard)
            if fetched and shard in self._wanted:
                self._open(shard)
        return fetched


class _Readers:
    """Threads that read. Unlike those of a pool, nothing waits for them at the end of the process."""

    def __init__(self, num_threads: int):
        self._queue: queue.SimpleQueue[tuple[Future, Callable[..., Any], tuple] | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(num_threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future:
        """Have a thread call the function."""
        future: Future = Future()
        self._queue.put((future, function, arguments))
        return future

    def stop(self) -> None:
        """End the threads when they have done what they are at."""
        for _ in self._threads:
            self._queue.put(None)

    def _run(self) -> None:
        while (task := self._queue.get()) is not None:
            future, function, arguments = task
            try:
                future.set_result(function(*arguments))
            except BaseException as error:
                future.set_exception(error)
