"""The same operations on folders and on object stores; whatever is wrong ends in one line, in bounded time."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
import time

import pytest

from imuvid.data import object_store
from imuvid.data.object_store import StorageError
from imuvid.data.storage import Store
from imuvid.errors import UserError
from tests.object_store import Proxy, s3_server

CONTENT = bytes(range(256)) * 20


@pytest.fixture(scope="module")
def server():
    with s3_server() as server:
        yield server


@pytest.fixture(scope="module")
def bucket(server):
    return server.make_bucket("data")


@pytest.fixture(params=["folder", "file", "s3", "memory"])
def store(request, tmp_path):
    if request.param == "s3":
        return Store(f"{request.getfixturevalue('bucket')}/{tmp_path.name}/")
    return Store(
        {"folder": tmp_path / "new", "file": f"file://{tmp_path}/new", "memory": "memory://new"}[request.param]
    )


@pytest.fixture
def quick(monkeypatch):
    """Retries without the waits."""
    monkeypatch.setattr(object_store, "FIRST_WAIT_S", 0.01)


def test_operations_do_the_same_everywhere(store, tmp_path):
    assert store.names() == []
    assert not store.exists("a.tar")
    store.write("a.tar", CONTENT)
    store.write("b.json", b"")
    local = tmp_path / "local"
    local.write_bytes(CONTENT * 2)
    store.put("a.tar", local)
    assert store.names() == ["a.tar", "b.json"]
    assert store.size("a.tar") == 2 * len(CONTENT)
    assert store.read("a.tar") == CONTENT * 2
    assert store.read("b.json") == b""
    assert store.read_range("a.tar", 100, 30) == CONTENT[100:130]
    assert store.read_range("a.tar", 2 * len(CONTENT) - 5, 30) == CONTENT[-5:]
    assert store.read_range("a.tar", 2 * len(CONTENT), 30) == b""
    assert store.read_range("a.tar", 5 * len(CONTENT), 30) == b""
    store.fetch("a.tar", tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == CONTENT * 2
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["fetched", "local"]
    store.delete("a.tar")
    store.delete("a.tar")
    assert store.names() == ["b.json"]
    for read in (store.read, store.size, lambda name: store.read_range(name, 0, 5)):
        with pytest.raises(FileNotFoundError, match=r"a\.tar"):
            read("a.tar")
    with pytest.raises(FileNotFoundError):
        store.fetch("a.tar", tmp_path / "other")
    assert pickle.loads(pickle.dumps(store)).names() == ["b.json"]


def test_names_that_lead_out_of_the_folder_are_refused(store):
    for name in ("", ".", "..", "../a", "a/b", "/etc/passwd", "a\\b", "a\0b", "a\nb"):
        for operation in (store.read, store.exists, store.delete, lambda name: store.write(name, b"")):
            with pytest.raises(UserError, match="no plain file name"):
                operation(name)


def test_write_replaces_at_once_and_leaves_readers_what_they_read(tmp_path):
    store = Store(tmp_path)
    store.write("a", b"old")
    with (tmp_path / "a").open("rb") as reader:
        store.write("a", b"new")
        (tmp_path / "c").write_bytes(b"newest")
        store.put("a", tmp_path / "c")
        assert reader.read() == b"old"
    assert store.read("a") == b"newest"
    assert store.names() == ["a", "c"]


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("pipe:cat /etc/passwd", "'pipe' is no protocol"),
        ("PIPE://ls", "'pipe' is no protocol"),
        ("simplecache::s3://bucket/name", "chained URLs"),
        ("zip://a.zip::s3://bucket", "chained URLs"),
        ("zip://a", "'zip' is no protocol"),
        ("reference://x", "'reference' is no protocol"),
        ("s4://bucket/name", "'s4' is no protocol"),
        ("s3://", "expected the URL of a folder"),
        ("s3://bucket/../other", "expected the URL of a folder"),
        ("https://host/name?signature=hidden", "expected the URL of a folder"),
        ("ftp://ann:hidden@host/name", "a password does not belong in a URL"),
        ("file://relative", "expected an absolute path"),
    ],
)
def test_locations_that_cannot_be_used(location, message):
    with pytest.raises(UserError, match=message) as caught:
        Store(location)
    assert "hidden" not in str(caught.value)


def test_missing_driver_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(UserError, match=r"pip install 'imuvid\[s3\]'"):
        Store("s3://bucket/name")


def test_files_of_others_are_seen_at_once(server, bucket):
    ours = Store(f"{bucket}/seen")
    assert ours.names() == []
    assert not ours.exists("late")
    server.client().put_object(Bucket="data", Key="seen/late", Body=b"1")
    assert ours.names() == ["late"]
    assert ours.read("late") == b"1"
    server.client().put_object(Bucket="data", Key="seen/late", Body=b"longer")
    assert ours.read("late") == b"longer"


@pytest.mark.slow
def test_large_files_go_in_parts(bucket, tmp_path):
    store = Store(f"{bucket}/large")
    path = tmp_path / "large"
    path.write_bytes(os.urandom(1 << 20) * 101)
    store.put("large", path)
    store.fetch("large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == path.read_bytes()


def _read_in_child(store, queue):
    queue.put(store.read("a"))


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_processes_read_with_a_store_that_was_used_before(bucket, method):
    store = Store(f"{bucket}/processes")
    store.write("a", CONTENT)
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    children = [context.Process(target=_read_in_child, args=(store, queue)) for _ in range(2)]
    for child in children:
        child.start()
    assert [queue.get(timeout=60) for _ in children] == [CONTENT, CONTENT]
    for child in children:
        child.join(20)
        assert child.exitcode == 0
    assert store.read("a") == CONTENT


def test_bucket_that_is_not_there(server, tmp_path):
    store = Store("s3://not-there/name")
    assert store.names() == []
    with pytest.raises(FileNotFoundError, match=r"s3://not-there/name/a: .*bucket does not exist"):
        store.read("a")
    with pytest.raises(UserError, match=r"s3://not-there/name/a: cannot be written: .*bucket does not exist"):
        store.write("a", b"1")


@pytest.mark.parametrize("after", [0, 300, 3000])
def test_broken_connections_are_tried_again(server, bucket, quick, monkeypatch, tmp_path, after):
    Store(f"{bucket}/broken").write("a", CONTENT)
    line = Proxy(server.port, bad=3, after=after)
    monkeypatch.setenv("AWS_ENDPOINT_URL", line.endpoint)
    store = Store(f"{bucket}/broken")
    assert store.read("a") == CONTENT
    assert store.read_range("a", 10, 100) == CONTENT[10:110]
    store.write("b", CONTENT[::-1])
    line.close()
    line = Proxy(server.port, bad=2, after=after)
    monkeypatch.setenv("AWS_ENDPOINT_URL", line.endpoint)
    Store(f"{bucket}/broken").fetch("b", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == CONTENT[::-1]
    assert line.connections > 2
    line.close()


def test_server_that_never_answers_costs_bounded_time(server, bucket, quick, monkeypatch):
    line = Proxy(server.port, bad=10**6, after=None)
    monkeypatch.setenv("AWS_ENDPOINT_URL", line.endpoint)
    monkeypatch.setattr(object_store, "LIMIT_S", 0.4)
    started = time.monotonic()
    with pytest.raises(StorageError, match=r"^s3://data/x/a: cannot be read, 5 tries in \d s: no answer within"):
        Store(f"{bucket}/x").read_range("a", 0, 10)
    assert time.monotonic() - started < 10
    line.close()


@pytest.mark.slow
def test_server_that_ends_while_it_is_used(quick):
    with s3_server() as own:
        store = Store(own.make_bucket("own"))
        store.write("a", CONTENT)
        own.stop()
        started = time.monotonic()
        for operation, done in (
            (lambda: store.read("a"), "looked up"),
            (lambda: store.read_range("a", 0, 5), "read"),
            (lambda: store.write("b", b"1"), "written"),
            (store.names, "listed"),
            (lambda: store.exists("a"), "looked up"),
        ):
            with pytest.raises(StorageError, match=rf"^s3://own[/ab]*: cannot be {done}, 5 tries in") as caught:
                operation()
            assert "\n" not in str(caught.value)
        assert time.monotonic() - started < 20


def test_waits_between_tries_grow(monkeypatch):
    waits = []
    monkeypatch.setattr(object_store.time, "sleep", waits.append)
    with pytest.raises(StorageError):
        object_store.ObjectStore("memory://x")._try("read", "memory://x/a", lambda: 1 / 0)
    assert waits == [1.0, 2.0, 4.0, 8.0]


def test_secrets_are_not_in_messages(server, bucket, quick, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://ann:hidden@127.0.0.1:{server.port}")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    with pytest.raises(OSError, match="s3://data/x/a: cannot be") as caught:
        Store(f"{bucket}/x").read("a")
    assert "hidden" not in str(caught.value)
    said = "Could not connect to 'http://ann:hidden@host:9/data/a?signature=hidden' or ftp://ann@host"
    assert object_store.without_secrets(said) == "Could not connect to 'http://host:9/data/a' or ftp://host"


@pytest.mark.parametrize(
    ("damage", "message"), [(lambda data: data[:-1], "9 of 10 bytes arrived"), (lambda data: data[::-1], "other bytes")]
)
def test_other_bytes_than_were_sent_are_noticed(bucket, quick, monkeypatch, damage, message):
    import s3fs

    send = s3fs.S3FileSystem._pipe_file

    async def damaged(self, path, data, *args, **kwargs):
        return await send(self, path, damage(data), *args, **kwargs)

    monkeypatch.setattr(s3fs.S3FileSystem, "_pipe_file", damaged)
    monkeypatch.setattr(object_store, "_drivers", {})
    with pytest.raises(StorageError, match=message):
        Store(f"{bucket}/damaged").write("a", b"0123456789")
