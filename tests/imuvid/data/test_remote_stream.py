"""Shards in an object store: the same batches as from a folder, with few requests, and none for what is skipped."""

from __future__ import annotations

import itertools
import logging
import shutil
import time
from pathlib import Path

import pytest

from imuvid import config as configs
from imuvid.data import object_store
from imuvid.data.shard_dataset import ShardDataset
from imuvid.data.stream import DataConfig, evaluation_batches, training_stream
from imuvid.errors import UserError
from imuvid.imu.condition import ConditionConfig
from imuvid.training.config import PretrainConfig
from imuvid.training.start import check_start
from tests.imuvid.data.test_damage import flip
from tests.imuvid.data.test_stream import ALL, batches, same
from tests.object_store import Proxy, s3_server
from tests.tiny_dataset import write_tiny_dataset


@pytest.fixture(scope="module")
def server():
    with s3_server() as server:
        yield server


@pytest.fixture(scope="module")
def bucket(server):
    return server.make_bucket("stream")


def upload(server, folder: Path, name: str) -> str:
    for path in folder.iterdir():
        server.client().upload_file(str(path), "stream", f"{name}/{path.name}")
    return f"s3://stream/{name}"


@pytest.fixture(scope="module")
def url(server, bucket, tiny_dataset):
    return upload(server, tiny_dataset, "tiny")


@pytest.fixture
def line(server, monkeypatch):
    line = Proxy(server.port, bad=0, after=None)
    monkeypatch.setenv("AWS_ENDPOINT_URL", line.endpoint)
    yield line
    line.close()


def shards_in(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.glob("*.shard"))


def fill(url: str, cache: Path, num_shards: int, **data) -> None:
    """Go through the stream until so many shards are in the cache."""
    config = DataConfig(path=url, batch_size=8, num_workers=0, augment=ALL, cache_dir=str(cache), **data)
    stream = training_stream(ShardDataset(url, "train"), config, 5, 0, 1, 0, False)
    until = time.monotonic() + 30
    while len(shards_in(cache)) < num_shards and time.monotonic() < until:
        next(stream)
        time.sleep(0.05)
    stream.close()


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("cached", [False, True])
def test_batches_are_those_of_the_folder(tiny_dataset, url, tmp_path, num_workers, cached):
    data = {"cache_dir": str(tmp_path)} if cached else {}
    assert all(map(same, batches(url, num_workers=num_workers, **data), batches(tiny_dataset)))


def test_what_is_cached_is_not_asked_for_again(tiny_dataset, url, tmp_path, line):
    fill(url, tmp_path, 4)  # of five shards the fifth holds held-out windows only
    before = line.answered
    assert all(map(same, batches(url, num_workers=2, cache_dir=str(tmp_path)), batches(tiny_dataset)))
    metadata = sum((tiny_dataset / name).stat().st_size for name in ("index.parquet", "dataset.json"))
    assert line.answered - before < metadata + 20_000
    assert len(shards_in(tmp_path)) == 4


def test_a_start_in_the_middle_reads_no_payload_of_what_it_skips(server, bucket, tmp_path_factory, line):
    folder = write_tiny_dataset(tmp_path_factory.mktemp("longer") / "d", num_train=240, per_shard=40)
    url = upload(server, folder, "longer")
    dataset = ShardDataset(url, "train")
    size = sum(dataset.span(sample)[1] for sample in range(240)) / 240
    config = DataConfig(path=url, batch_size=8, num_workers=0, augment=ALL, read_ahead=8)
    before = line.answered
    stream = training_stream(dataset, config, 5, 0, 1, 27, False)  # of 30 steps an epoch
    later = list(itertools.islice(stream, 2))
    stream.close()
    read = (line.answered - before) / size
    assert all(map(same, later, batches(folder, 2, first_step=27)))
    # Two batches, eight that are read ahead, headers and the looks at six shards; 216 were skipped.
    assert 16 <= read < 45
    time.sleep(0.2)


def test_samples_are_read_ahead_at_the_same_time(url, monkeypatch):
    waiting = []

    class Far(ShardDataset):
        def raw(self, sample):
            waiting.append(sample)
            time.sleep(0.1)
            return super().raw(sample)

    config = DataConfig(path=url, batch_size=8, num_workers=0, augment=ALL, read_ahead=16)
    stream = training_stream(Far(url, "train"), config, 5, 0, 1, 0, False)
    next(stream)
    started = time.monotonic()
    for _ in range(4):
        next(stream)
    assert time.monotonic() - started < 32 * 0.1 * 0.6  # one after another they would take longer
    stream.close()


def test_a_copy_that_rots_in_the_cache_is_fetched_again(tiny_dataset, url, tmp_path, caplog):
    fill(url, tmp_path, 4)
    for name in shards_in(tmp_path):
        raw = bytearray((tmp_path / name).read_bytes())
        raw[600::512] = bytes(x ^ 1 for x in raw[600::512])
        (tmp_path / name).write_bytes(raw)
    with caplog.at_level(logging.WARNING):
        assert all(map(same, batches(url, cache_dir=str(tmp_path)), batches(tiny_dataset)))
    assert "its copy in the cache was damaged" in caplog.text
    assert 0 < len(caplog.records) <= 5


def test_a_corrupt_sample_is_replaced_as_it_is_from_a_folder(server, bucket, tiny_dataset, tmp_path):
    folder = shutil.copytree(tiny_dataset, tmp_path / "damaged")
    flip(folder, 14)
    with (folder / "00002.tar").open("r+b") as file:
        file.truncate(9000)
    url = upload(server, folder, "damaged")
    expected = batches(folder, max_corrupt=20)
    assert sum(int((batch.skipped[:, 0] >= 0).sum()) for batch in expected) > 13
    for data in ({}, {"cache_dir": str(tmp_path / "cache")}):
        assert all(map(same, batches(url, max_corrupt=20, **data), expected))
    assert len(shards_in(tmp_path / "cache")) <= 2  # neither of the two damaged ones


def test_a_cache_without_room_costs_requests_only(tiny_dataset, url, tmp_path):
    largest = max(path.stat().st_size for path in tiny_dataset.glob("*.tar"))
    data = {"cache_dir": str(tmp_path), "cache_gb": 1.5 * largest / 1e9}
    assert all(map(same, batches(url, num_workers=2, **data), batches(tiny_dataset)))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 1.5 * largest


def test_held_out_windows_are_those_of_the_folder(tiny_dataset, url):
    parts = [
        list(evaluation_batches(ShardDataset(place, "val"), list(range(12)), 5, ConditionConfig()))
        for place in (url, tiny_dataset)
    ]
    assert [len(part) for part in parts[0]] == [5, 5, 2]
    assert all(map(same, *parts))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_store_that_stops_answering_ends_the_stream_in_one_line(url, server, monkeypatch, num_workers):
    dataset = ShardDataset(url, "train")
    line = Proxy(server.port, bad=10**6, after=None)
    monkeypatch.setenv("AWS_ENDPOINT_URL", line.endpoint)
    monkeypatch.setattr(object_store, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(object_store, "LIMIT_S", 0.3)
    config = DataConfig(path=url, batch_size=8, num_workers=num_workers, augment=ALL)
    stream = training_stream(dataset, config, 5, 0, 1, 0, False)
    with pytest.raises(ValueError, match=r"s3://stream/tiny/0000\d\.tar: sample r0\S+: cannot be read: .*5 tries"):
        next(stream)
    # Where the time limit of a batch is the shorter one, it says what was waited for.
    config.timeout_s = 0.5
    stream = training_stream(dataset, config, 5, 1, 2, 0, False)
    with pytest.raises(
        RuntimeError, match=r"rank 1: no batch within 0\.5 s .*worker 0 has been reading s3://\S+: sample"
    ):
        next(stream)
    line.close()


def config_of(url: str, *words: str) -> PretrainConfig:
    return configs.load(PretrainConfig, None, ["name=a", f"data.path={url}", "data.batch_size=8", *words])


@pytest.mark.parametrize(
    "path", ["pipe:cat /etc/passwd", "pipe:curl -s host/{000..009}.tar", "simplecache::s3://a/b", "exec://rm"]
)
def test_a_training_refuses_what_would_run_a_command(path):
    with pytest.raises(UserError, match=r"is no protocol|chained URLs"):
        check_start(config_of("x", f"data.path='{path}'"), 1)


def test_a_cache_that_would_thrash_is_refused_before_the_start(url, tmp_path, tiny_dataset):
    one = max(path.stat().st_size for path in tiny_dataset.glob("*.tar")) / 1e9
    words = [f"data.cache_dir={tmp_path}", f"data.cache_gb={2.5 * one}"]
    with pytest.raises(UserError, match=r"data\.cache_gb=\S+ is less than the \S+ GB of a split that is one block"):
        check_start(config_of(url, *words), 1)
    with pytest.raises(UserError, match="two blocks of 2 shards"):
        check_start(config_of(url, *words, "data.block_shards=2"), 1)
    check_start(config_of(url, *words, "data.block_shards=1"), 1)
    check_start(config_of(str(tiny_dataset), *words), 1)  # nothing is cached of a folder
    with pytest.raises(UserError, match="cannot be a cache of shards"):
        check_start(config_of(url, "data.cache_dir=/proc/x"), 1)
