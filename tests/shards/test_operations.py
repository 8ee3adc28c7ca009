"""Merge, split and filter: samples stay byte for byte, the result verifies, and no interruption looks complete."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
from collections import Counter

import pyarrow.parquet as pq
import pytest

from imuvid.data.dataset_json import read_dataset_info
from imuvid.data.dataset_tables import read_index, read_recordings
from imuvid.data.storage import Store
from imuvid.errors import UserError
from shards.combine import merge
from shards.subset import filter_windows, split
from shards.verify import verify
from tests.object_store import s3_server
from tests.shards.datasets import PEOPLE, Person, contents, samples_in, write_dataset

OTHERS = (Person("rx1", "sxen", "train", 2), Person("ry1", "syan", "test", 4, "run"))


@pytest.fixture
def first(tmp_path):
    return write_dataset(tmp_path / "first")


@pytest.fixture
def second(tmp_path):
    return write_dataset(tmp_path / "second", OTHERS)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    with s3_server() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield server.make_bucket("data")


def upload(folder, location):
    store = Store(location)
    for path in folder.iterdir():
        store.put(path.name, path)
    return location


def stored(location):
    store = Store(location)
    return {name: store.read(name) for name in store.names()}


def rows_of(location):
    return read_index(location).to_pylist()


def statistics_of(location):
    rows = read_recordings(location).to_pylist()
    return {row["recording"]: (row["imu_mean"], row["imu_deviation"]) for row in rows}


def test_merge_keeps_every_sample_and_every_shard(first, second, tmp_path):
    report = merge([first, second], tmp_path / "out", name="both")
    assert verify(tmp_path / "out").problems == []
    assert samples_in(tmp_path / "out") == samples_in(first) | samples_in(second)
    made = contents(tmp_path / "out")
    assert [made[f"{i:05d}.tar"] for i in range(5)] == [
        content for folder in (first, second) for name, content in contents(folder).items() if name.endswith(".tar")
    ]
    assert report.counts == {"samples": 14, "recordings": 6, "subjects": 4, "shards": 5}
    assert read_dataset_info(tmp_path / "out").config["operations"][0]["merge"][1]["name"] == "second"
    assert statistics_of(tmp_path / "out") == statistics_of(first) | statistics_of(second)
    assert statistics_of(tmp_path / "out")["rz9"] == (None, None)
    assert len(statistics_of(first)["ra1"][0]) == 6
    merge([first, second], tmp_path / "again", name="both")
    assert contents(tmp_path / "again") == made


def test_merge_of_merged(first, second, tmp_path):
    third = write_dataset(tmp_path / "third", (Person("rw1", None, "val", 1),))
    merge([first, second], tmp_path / "two")
    merge([tmp_path / "two", third], tmp_path / "three")
    assert verify(tmp_path / "three").problems == []
    assert len(rows_of(tmp_path / "three")) == 15


@pytest.mark.parametrize(
    ("people", "settings", "message"),
    [
        (OTHERS, {"rate_hz": 25.0}, r"second: imu_rate_hz is 25\.0, but 20\.0 in .*first"),
        ((Person("ra2", "sann", "train", 4),), {}, "recording ra2 is in .*first and in .*second"),
        ((Person("rn1", "sann", "test", 1),), {}, "subject sann is in train in .*first but in test in .*second"),
        (OTHERS, {"config": {"gates": {"max_black": 0.4}}}, "its gates are not those of"),
        (PEOPLE, {}, "recording ra1 is in|the same dataset"),
    ],
)
def test_datasets_that_cannot_be_merged(first, tmp_path, people, settings, message):
    second = write_dataset(tmp_path / "second", people, **settings)
    with pytest.raises(UserError, match=message):
        merge([first, second], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_merge_refuses_what_is_no_dataset_twice_the_same_or_damaged(first, second, tmp_path):
    with pytest.raises(UserError, match="at least two"):
        merge([first], tmp_path / "out")
    with pytest.raises(UserError, match="is the same dataset as"):
        merge([first, first], tmp_path / "out")
    with pytest.raises(UserError, match=r"no dataset\.json there"):
        merge([first, tmp_path / "none"], tmp_path / "out")
    with pytest.raises(UserError, match="holds a dataset already"):
        merge([first, second], second)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds 'notes\.txt'"):
        merge([first, second], tmp_path / "notes")
    os.truncate(second / "00001.tar", 600)
    with pytest.raises(UserError, match=r"second/00001\.tar: has 600 bytes"):
        merge([first, second], tmp_path / "out")
    (second / "00001.tar").unlink()
    with pytest.raises(UserError, match=r"second/00001\.tar: is missing"):
        merge([first, second], tmp_path / "out")


def test_split_by_shares_keeps_people_together_and_samples_as_they_are(tmp_path):
    people = tuple(Person(f"r{i}", f"s{i // 2}", "train", 1) for i in range(60))
    folder = write_dataset(tmp_path / "people", people, per_shard=40)
    before = samples_in(folder)
    report = split(folder, tmp_path / "out", val=0.2, test=0.3)
    assert verify(tmp_path / "out").problems == []
    assert samples_in(tmp_path / "out") == before
    places = {row["subject"]: row["split"] for row in rows_of(tmp_path / "out")}
    shares = Counter(places.values())
    # 30 subjects by a hash: within about three standard deviations of a binomial
    assert 2 <= shares["val"] <= 13
    assert 3 <= shares["test"] <= 16
    assert sum(report.splits.values()) == 60
    with pytest.raises(UserError, match="at most 1 in sum"):
        split(folder, val=0.6, test=0.5)
    assert verify(folder).ok
    assert statistics_of(tmp_path / "out") == statistics_of(folder)
    assert {row["split"] for row in rows_of(folder)} == {"train"}
    split(folder, val=0.2, test=0.3)
    assert contents(folder) == contents(tmp_path / "out")
    assert not (folder / ".build").exists()
    assert "digest" not in read_dataset_info(folder).config


def test_split_by_list(first, tmp_path):
    listing = tmp_path / "list.csv"
    listing.write_text("subject,recording,split\nsann,,test\n,rc1,train\n")
    report = split(first, listed=listing)
    assert verify(first).problems == []
    places = {row["recording"]: row["split"] for row in rows_of(first)}
    assert places == {"ra1": "test", "ra2": "test", "rb1": "val", "rc1": "train"}
    assert report.notes == ["3 of 4 recordings are in another split now"]
    assert str(tmp_path) not in (first / "dataset.json").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recording,split\nra1,test\n", r"subject sann would be in .*list the subject, or all its recordings"),
        ("recording,split\nnobody,test\n", r"line 2: 'nobody' is no recording or subject"),
        ("recording,split\nra1,holdout\n", r"line 2: split is 'holdout'"),
        ("recording,split\nra1\n", r"line 2: split is ''"),
        ("recording,split\nra1,test\nra1,val\n", r"line 3: recording ra1 was given to test before"),
        ("name,split\nra1,test\n", "must have a column 'split' and a column 'recording' or 'subject'"),
        ("", "must have a column"),
        ("\udcff,split\n", "cannot be read as CSV"),
    ],
)
def test_lists_that_make_no_sense(first, tmp_path, text, message):
    (tmp_path / "list.csv").write_bytes(text.encode(errors="surrogateescape"))
    before = contents(first)
    with pytest.raises(UserError, match=message):
        split(first, listed=tmp_path / "list.csv")
    assert contents(first) == before


def test_filter_keeps_the_windows_asked_for(first, tmp_path):
    report = filter_windows(first, tmp_path / "out", ["gates.max_black=0.15"], "label == 'walk'")
    kept = [row["key"] for row in rows_of(first) if row["label"] == "walk" and row["black_share"] <= 0.15]
    assert (
        [row["key"] for row in rows_of(tmp_path / "out")]
        == kept
        == ["ra1-000000", "ra1-000001", "rb1-000000", "rb1-000001"]
    )
    assert verify(tmp_path / "out").problems == []
    whole = samples_in(first)
    assert samples_in(tmp_path / "out") == {name: raw for name, raw in whole.items() if name.split(".")[0] in kept}
    # Of the whole recording, although windows of it are left out.
    assert statistics_of(tmp_path / "out") == statistics_of(first)
    status = {row["recording"]: row["status"] for row in read_recordings(tmp_path / "out").to_pylist()}
    assert status == {"ra1": "used", "ra2": "filtered", "rb1": "used", "rc1": "filtered", "rz9": "no_imu"}
    assert report.notes == ["4 of 8 windows kept"]
    filter_windows(first, tmp_path / "again", ["gates.max_black=0.15"], "label == 'walk'", workers=1)
    assert contents(tmp_path / "again") == contents(tmp_path / "out")


def test_gates_change_in_place_without_touching_a_sample(first):
    before = contents(first)
    digest = read_dataset_info(first).config["digest"]
    report = filter_windows(first, words=["gates.max_black=0.05"])
    after = contents(first)
    assert verify(first).problems == []
    assert {name for name in before if before[name] != after[name]} == {"index.parquet", "dataset.json"}
    assert {row["key"]: row["verdict"] for row in rows_of(first)} == {
        row["key"]: "video_black" if row["black_share"] > 0.05 else "" for row in rows_of(first)
    }
    assert report.notes == ["good windows: 8 before, 4 now"]
    # The build that made it may still extend it.
    assert read_dataset_info(first).config["digest"] == digest
    filter_windows(first, words=["gates.max_black=0.5"])
    assert rows_of(first) == pq.read_table(io.BytesIO(before["index.parquet"])).to_pylist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"words": ["gates.max_blak=0.1"], "out": "out"}, "did you mean 'gates.max_black'"),
        ({"words": ["gates.max_black=2"], "out": "out"}, "must be 0 to 1"),
        ({"words": ["window.hop_s=2"], "out": "out"}, "is no gate"),
        ({"where": "label == 'walk'"}, "give --out"),
        ({}, "give gates that change"),
        ({"where": "label == 'swim'", "out": "out"}, "no window is left of 8"),
    ],
)
def test_filters_that_make_no_sense(first, tmp_path, arguments, message):
    arguments = {name: tmp_path / value if name == "out" else value for name, value in arguments.items()}
    with pytest.raises(UserError, match=message):
        filter_windows(first, **arguments)
    assert not (tmp_path / "out").exists()


def test_filter_finds_a_damaged_sample(first, tmp_path):
    row = rows_of(first)[1]
    content = bytearray((first / row["shard"]).read_bytes())
    at = content.find(b"NUMPY", row["offset"]) + 128
    content[at + 1] ^= 1
    (first / row["shard"]).write_bytes(content)
    with pytest.raises(UserError, match=r"ra1-000001 is damaged \(crc32\)"):
        filter_windows(first, tmp_path / "out", where="black_share < 9")
    assert not (tmp_path / "out" / "dataset.json").exists()


def _die_at_put(number, operation, *arguments, **settings):
    puts = 0
    put = Store.put

    def counting(*args):
        nonlocal puts
        puts += 1
        if puts == number:
            os.kill(os.getpid(), signal.SIGKILL)
        put(*args)

    Store.put = counting
    operation(*arguments, **settings)


def die_at_put(number, operation, *arguments, **settings):
    """Run an operation in a process that is killed just before its n-th file gets its name."""
    process = multiprocessing.get_context("fork").Process(
        target=_die_at_put, args=(number, operation, *arguments), kwargs=settings
    )
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("number", [1, 2, 3])
def test_change_in_place_that_was_killed_is_refused_or_old_and_completes(first, tmp_path, number):
    undisturbed = write_dataset(tmp_path / "other" / "first")
    split(undisturbed, val=0.5, test=0.2)
    before = rows_of(first)
    die_at_put(number, split, first, val=0.5, test=0.2)
    info = read_dataset_info(first)
    if number == 1:
        assert read_index(first, info).to_pylist() == before
    else:
        with pytest.raises(UserError, match="a change was interrupted"):
            read_index(first, info)
        assert not verify(first).ok
    split(first, val=0.5, test=0.2)
    assert contents(first) == contents(undisturbed)
    assert not (first / ".build").exists()


@pytest.mark.parametrize("number", [1, 4, 6, 7, 8])
def test_merge_that_was_killed_is_no_dataset_and_can_be_repeated(first, second, tmp_path, number):
    merge([first, second], tmp_path / "undisturbed", name="both", workers=1)
    die_at_put(number, merge, [first, second], tmp_path / "out", name="both", workers=1)
    with pytest.raises(UserError, match=r"no dataset\.json there"):
        verify(tmp_path / "out")
    with pytest.raises(UserError, match=r"unfinished work|holds '"):
        split(first, tmp_path / "out", val=0.5)
    merge([first, second], tmp_path / "out", name="both")
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_two_commands_do_not_change_a_dataset_at_once(first):
    from shards.work import work_folder, work_path

    store = Store(first)
    with work_folder(work_path(store), store), pytest.raises(UserError, match="another command is writing there"):
        split(first, val=0.5)
    split(first, val=0.5)


@pytest.mark.slow
def test_object_store_gives_the_same_as_a_folder(bucket, first, second, tmp_path):
    remote = upload(first, f"{bucket}/first")
    assert verify(remote).problems == []
    merge([first, second], tmp_path / "m", name="both")
    merge([remote, second], f"{bucket}/m", name="both")
    assert stored(f"{bucket}/m") == contents(tmp_path / "m")
    filter_windows(tmp_path / "m", tmp_path / "f", where="label != 'sit'")
    filter_windows(f"{bucket}/m", f"{bucket}/f", where="label != 'sit'")
    assert stored(f"{bucket}/f") == contents(tmp_path / "f")
    split(tmp_path / "f", val=0.4, test=0.4)
    split(f"{bucket}/f", val=0.4, test=0.4)
    assert stored(f"{bucket}/f") == contents(tmp_path / "f")
    assert verify(f"{bucket}/f").problems == []
    split(f"{bucket}/f", tmp_path / "back", val=0.0, test=0.0)
    assert samples_in(tmp_path / "back") == samples_in(tmp_path / "f")
    assert verify(tmp_path / "back").problems == []


@pytest.mark.slow
def test_damaged_shard_in_an_object_store_is_found(bucket, first, tmp_path):
    remote = upload(first, f"{bucket}/damaged")
    content = (first / "00001.tar").read_bytes()
    Store(remote).write("00001.tar", content[:-3000])
    assert any(line.startswith("00001.tar: sha256") for line in verify(remote).problems)
    Store(remote).write("00001.tar", content[:2000] + b"?" + content[2001:])
    with pytest.raises(UserError, match=r"s3://data/damaged/00001\.tar: is damaged"):
        split(remote, tmp_path / "out", val=0.5)
    Store(remote).write("00001.tar", content[:1000])
    with pytest.raises(UserError, match=r"s3://data/damaged/00001\.tar: has 1000 bytes"):
        split(remote, tmp_path / "out", val=0.5)
    Store(remote).delete("00001.tar")
    assert "00001.tar: missing shard" in verify(remote).problems
    with pytest.raises(UserError, match=r"s3://wrong/x: no dataset\.json there"):
        verify("s3://wrong/x")
    assert json.loads((first / "dataset.json").read_text())["counts"]["samples"] == 8
