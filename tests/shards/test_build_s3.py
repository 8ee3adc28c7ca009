"""Building to an object store, a real S3 server on loopback: the bytes of the disk, extended, interrupted, refused."""

from __future__ import annotations

import pytest

from imuvid.data.shard_dataset import ShardDataset
from imuvid.data.storage import Store
from imuvid.errors import UserError
from shards.build import build
from shards.verify import verify
from shards.work import work_path
from tests.object_store import s3_server
from tests.shards.recordings import build_config, make_recordings
from tests.shards.test_build import contents
from tests.shards.test_build_interrupted import add_recording

pytestmark = pytest.mark.slow
WORDS = ["samples_per_shard=2", "split.test_subjects=[eva]"]


@pytest.fixture(scope="module")
def server():
    with s3_server() as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment().items():
            patch.setenv(name, value)
        yield running


@pytest.fixture
def bucket(server, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return server.make_bucket(f"b{abs(hash(str(tmp_path)))}")


def stored(server, url):
    """What is in a bucket, by Amazon's own client."""
    client, name = server.client(), url.removeprefix("s3://").split("/")[0]
    keys = [entry["Key"] for entry in client.list_objects_v2(Bucket=name).get("Contents", [])]
    return {key.rpartition("/")[2]: client.get_object(Bucket=name, Key=key)["Body"].read() for key in keys}


def test_a_dataset_in_an_object_store_has_the_bytes_of_one_on_disk(server, bucket, tmp_path):
    manifest = make_recordings(tmp_path, {"ada-1": 2.0, "eva-1": 1.4, "ida-1": 1.2})
    url = f"{bucket}/sets/small"
    summary = build(build_config(manifest, url, *WORDS))
    build(build_config(manifest, tmp_path / "disk", *WORDS))
    assert stored(server, url) == contents(tmp_path / "disk")
    assert summary.out == url
    assert verify(url).problems == []
    assert not list((tmp_path / "cache" / "imuvid").iterdir())
    assert len(ShardDataset(url, "test").example(0).frames) == 4
    assert build(build_config(manifest, url, *WORDS)).existed

    add_recording(manifest, "zoe-1")
    assert list(build(build_config(manifest, url, *WORDS)).identifiers) == ["zoe-1"]
    build(build_config(manifest, tmp_path / "disk", *WORDS))
    assert stored(server, url) == contents(tmp_path / "disk")


def test_an_interrupted_build_goes_on_and_what_it_left_is_cleared(server, bucket, tmp_path):
    manifest = make_recordings(tmp_path, {"ada-1": 2.0, "eva-1": 1.4})
    url = f"{bucket}/small"
    config = build_config(manifest, url, *WORDS, f"build.work_dir={tmp_path / 'work'}")
    build(config)
    whole = stored(server, url)
    # As a kill leaves it: shards that no dataset.json speaks of, one of them of a longer build, and a work folder.
    name = bucket.removeprefix("s3://")
    for key in ("dataset.json", "index.parquet"):
        server.client().delete_object(Bucket=name, Key=f"small/{key}")
    server.client().put_object(Bucket=name, Key="small/00007.tar", Body=b"left over")
    with pytest.raises(UserError, match=r"holds '00000\.tar' but neither a dataset nor an unfinished build"):
        build(config)
    work_path(Store(url), str(tmp_path / "work")).mkdir(parents=True)
    build(config)
    assert stored(server, url) == whole


def test_mistakes_are_one_line(server, tmp_path):
    manifest = make_recordings(tmp_path, {"ada-1": 1.2})
    with pytest.raises(UserError, match="is no protocol that datasets are kept at"):
        build(build_config(manifest, "pipe:cat > /tmp/x"))
    with pytest.raises(UserError, match="no-such-bucket") as caught:
        build(build_config(manifest, "s3://no-such-bucket/x", f"build.work_dir={tmp_path / 'work'}"))
    assert len(str(caught.value).splitlines()) == 1
