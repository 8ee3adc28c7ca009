"""The cache of shards: never too large, never without what is in use, whole or nothing, whatever is killed."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from imuvid.data.cache import ShardCache, WrongContent, is_digest
from imuvid.errors import UserError

SIZE = 1000


def content(number: int) -> bytes:
    return bytes([number]) * SIZE


def digest(number: int) -> str:
    return hashlib.sha256(content(number)).hexdigest()


def fetch(cache: ShardCache, number: int) -> bool:
    return cache.fetch(digest(number), SIZE, lambda path: path.write_bytes(content(number)))


def held(cache: ShardCache) -> set[int]:
    return {number for number in range(20) if (cache.folder / f"{digest(number)}.shard").exists()}


@pytest.fixture
def cache(tmp_path) -> ShardCache:
    return ShardCache(tmp_path / "new" / "cache", 3 * SIZE)


def test_what_was_used_longest_ago_goes_first(cache):
    for number in range(3):
        assert fetch(cache, number)
        os.utime(cache.folder / f"{digest(number)}.shard", (number, number))
    assert fetch(cache, 1)  # is there
    os.close(cache.open(digest(0)))
    assert fetch(cache, 3)
    assert held(cache) == {0, 2, 3}
    assert fetch(cache, 4)
    assert held(cache) == {0, 3, 4}
    assert cache.open(digest(1)) is None


def test_what_is_in_use_stays_even_if_there_is_no_room(cache):
    files = []
    for number in range(3):
        fetch(cache, number)
        files.append(cache.open(digest(number)))
    other = ShardCache(cache.folder, 3 * SIZE)
    assert not fetch(other, 3)
    assert held(cache) == {0, 1, 2}
    os.close(files[1])
    assert fetch(other, 3)
    assert held(cache) == {0, 2, 3}
    assert os.pread(files[0], SIZE, 0) == content(0)
    assert not cache.fetch(digest(4), 4 * SIZE, lambda path: pytest.fail("there can be no room"))


def test_other_content_is_refused_and_nothing_is_left(cache):
    with pytest.raises(WrongContent):
        cache.fetch(digest(1), SIZE, lambda path: path.write_bytes(content(2)))
    with pytest.raises(OSError, match="line"):
        cache.fetch(digest(1), SIZE, lambda path: (_ for _ in ()).throw(OSError("line")))
    assert [path.name for path in cache.folder.iterdir()] == ["lock"]
    assert fetch(cache, 1)


def test_a_shard_comes_once_for_many_threads_and_room_is_taken_while_it_comes(cache):
    came, go = threading.Event(), threading.Event()
    downloads = []

    def slow(path):
        downloads.append(path)
        came.set()
        go.wait(10)
        path.write_bytes(content(1))

    thread = threading.Thread(target=cache.fetch, args=(digest(1), SIZE, slow))
    thread.start()
    came.wait(10)
    assert not fetch(cache, 1)
    assert all(fetch(cache, number) for number in (2, 3, 4))
    assert len(held(cache)) == 2  # and one that is on its way
    go.set()
    thread.join()
    assert len(downloads) == 1
    assert 1 in held(cache)


KILLED = """
import sys, time
from pathlib import Path
from imuvid.data.cache import ShardCache

def download(path):
    path.write_bytes(b"a" * 500)
    path.with_name(path.name + ".17-4.tmp").write_bytes(b"a" * 500)
    print("came", flush=True)
    time.sleep(1000)

ShardCache(sys.argv[1], 3000).fetch(sys.argv[2], 1000, download)
"""


def test_what_a_killed_process_had_begun_is_cleaned_and_fetched_again(cache):
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(cache.folder), digest(1)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "came\n"
    assert not fetch(cache, 1)  # it is alive, and so is what it does
    assert fetch(cache, 2)
    assert len(list(cache.folder.glob(f"{digest(1)}.*"))) == 3
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert fetch(cache, 3)
    assert not list(cache.folder.glob(f"{digest(1)}.*"))
    assert fetch(cache, 1)
    assert held(cache) == {1, 2, 3}


def _use(folder, seed, queue):
    import random

    random.seed(seed)
    cache, problems, files = ShardCache(folder, 5 * SIZE), [], {}
    until = time.monotonic() + 2
    while time.monotonic() < until:
        number = random.randrange(12)
        if random.random() < 0.5 and files:
            number, file = files.popitem()
            if os.pread(file, SIZE, 0) != content(number) or os.fstat(file).st_nlink == 0:
                problems.append(f"{number} went while it was in use")
            os.close(file)
        fetch(cache, number)
        if len(files) < 2 and (file := cache.open(digest(number))) is not None:
            if number in files:
                os.close(file)
            else:
                files[number] = file
        taken = 0
        for path in cache.folder.glob("*.shard"):
            with contextlib.suppress(FileNotFoundError):
                taken += path.stat().st_size
        if taken > 6 * SIZE:  # one may have come and another gone while we looked
            problems.append(f"{taken} bytes")
    queue.put(problems)


def test_processes_that_share_it_do_not_disturb_each_other(cache):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=_use, args=(cache.folder, seed, queue)) for seed in range(3)]
    for child in children:
        child.start()
    assert [queue.get(timeout=60) for _ in children] == [[], [], []]
    for child in children:
        child.join()
    assert sum(path.stat().st_size for path in cache.folder.iterdir()) <= 5 * SIZE


def test_files_of_others_are_left_alone(tmp_path):
    strange = ["notes.txt", "a.shard", "a.part", f"{'g' * 64}.data", f"{'0' * 63}.shard"]
    for name in strange:
        (tmp_path / name).write_bytes(bytes(5 * SIZE))
    cache = ShardCache(tmp_path, 2 * SIZE)
    assert all(fetch(cache, number) for number in range(4))
    assert all((tmp_path / name).stat().st_size == 5 * SIZE for name in strange)
    assert not any(map(is_digest, [None, "", "../" + "0" * 61, "0" * 63, "A" * 64]))


def test_a_folder_that_cannot_be_one_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="file: cannot be a cache of shards: "):
        ShardCache(tmp_path / "file", SIZE)
    with pytest.raises(UserError, match="cannot be a cache of shards: "):
        ShardCache("/proc/nowhere", SIZE)
