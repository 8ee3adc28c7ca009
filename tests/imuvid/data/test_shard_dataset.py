"""Random access: the example that comes out is the window that went in, or an error that names shard and key."""

from __future__ import annotations

import dataclasses
import pickle
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import simplejpeg

from imuvid.data.dataset_tables import INDEX_NAME
from imuvid.data.shard_dataset import ShardDataset, retrieval_windows
from imuvid.errors import UserError
from tests.tiny_dataset import rewrite_index, tiny_sample


@pytest.fixture
def copied(tiny_dataset, tmp_path):
    return shutil.copytree(tiny_dataset, tmp_path / "copy")


def reindex(folder, change) -> None:
    """Write the index again after change(rows)."""
    rows = pq.read_table(folder / INDEX_NAME).to_pylist()
    rewrite_index(folder, change(rows))


def test_examples_are_what_was_written(tiny_dataset):
    whole = ShardDataset(tiny_dataset, None)
    assert len(whole) == 56
    for number in (0, 12, 13, 55):  # both ends of a shard
        expected = tiny_sample(number, f"r{number // 2:03d}", "s")
        example = whole.example(number)
        np.testing.assert_array_equal(example.imu, expected.imu)
        np.testing.assert_array_equal(example.valid, expected.valid)
        pictures = [simplejpeg.decode_jpeg(frame, colorspace="RGB") for frame in expected.frames]
        np.testing.assert_array_equal(example.frames, np.stack(pictures))
        assert example.frame_valid.tolist() == [True] * 4
        stored = whole.read(number)
        later = dataclasses.replace(stored, meta=dataclasses.replace(stored.meta, start_s=1.5 * number))
        assert whole.decode(number, later).start_s == 1.5 * number
        assert example.sample == number
    assert whole.example(0).recording == whole.example(1).recording != whole.example(2).recording


def test_a_split_holds_its_own_samples_alone(tiny_dataset):
    train, val = ShardDataset(tiny_dataset, "train"), ShardDataset(tiny_dataset, "val")
    assert (len(train), len(val)) == (44, 12)
    assert not set(train.recordings) & set(val.recordings)
    assert sum(train.shard_sizes) == 44
    assert val.keys[0] == "r022-000044"
    assert val.example(0).imu.tolist() == tiny_sample(44, "r022", "s").imu.tolist()


def test_retrieval_is_judged_on_windows_that_do_not_overlap(copied):
    # Windows of 1 s: three that overlap by half, then two of another recording that touch.
    starts = {0: 0.5, 1: 0.0, 2: 1.0, 3: 0.0, 4: 1.0}

    def change(rows):
        five = rows[44:49]
        for i, row in enumerate(five):
            row |= {"start_s": starts[i], "recording": "a" if i < 3 else "b"}
        return rows[:44] + five

    reindex(copied, change)
    val = ShardDataset(copied, "val")
    assert retrieval_windows(val, "non_overlapping") == [1, 2, 3, 4]
    assert retrieval_windows(val, "one_per_recording") == [1, 4]
    with pytest.raises(UserError, match=r"'all'.*non_overlapping or one_per_recording"):
        retrieval_windows(val, "all")


def test_it_can_be_sent_to_another_process_after_it_was_read(tiny_dataset):
    dataset = ShardDataset(tiny_dataset, "train")
    dataset.example(0)
    copy = pickle.loads(pickle.dumps(dataset))
    assert not copy._files  # descriptors of another process mean nothing
    np.testing.assert_array_equal(copy.example(3).imu, dataset.example(3).imu)


def fails(dataset: ShardDataset, sample: int) -> str:
    with pytest.raises(ValueError) as caught:
        dataset.example(sample)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_damage_names_shard_and_key(copied):
    dataset = ShardDataset(copied, None)
    path = copied / "00001.tar"
    raw = path.read_bytes()

    path.write_bytes(raw[: len(raw) // 2])
    message = fails(dataset, 25)
    assert "00001.tar" in message
    assert "r012-000025" in message
    assert "truncated" in message

    path.write_bytes(raw)
    damaged = bytearray(raw)
    damaged[dataset.index.span(14)[0] + 3] ^= 4
    path.write_bytes(damaged)
    message = fails(dataset, 14)
    assert "00001.tar" in message
    assert "r007-000014" in message
    assert dataset.example(15).sample == 15  # its neighbours are still read

    # A flipped bit of a reading or of a picture still decodes: only the checksum tells.
    for place in (
        raw.index(b"NUMPY", dataset.index.span(14)[0]) + 400,
        sum(dataset.index.span(14)) - 600,
    ):
        damaged = bytearray(raw)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        message = fails(dataset, 14)
        assert "checksum differs" in message
        assert "r007-000014" in message

    # Datasets without checksums: what does not decode is named all the same.
    reindex(copied, lambda rows: [{**row, "crc32": None} for row in rows])
    picture = raw.index(b"\xff\xd8\xff", dataset.index.span(14)[0])
    path.write_bytes(raw[:picture] + bytes(200) + raw[picture + 200 :])
    message = fails(ShardDataset(copied, None), 14)
    assert "JPEG" in message
    assert "r007-000014" in message


def test_a_missing_shard_is_named(copied):
    (copied / "00002.tar").unlink()
    assert "00002.tar" in fails(ShardDataset(copied, None), 26)


def test_an_index_that_tells_of_another_sample_than_the_shard_holds(copied):
    # As after a shard was swapped for another whose samples have the same sizes, in a dataset without checksums.
    reindex(copied, lambda rows: [*rows[:13], {**rows[13], "key": "other-000013", "crc32": None}, *rows[14:]])
    message = fails(ShardDataset(copied, None), 13)
    assert "00001.tar" in message
    assert "holds r006-000013 where the index says other-000013" in message


@pytest.mark.parametrize("name", ["../x.tar", "/etc/passwd", "a/../../x", "sub/00000.tar", "", "..", "."])
def test_a_shard_name_that_leaves_the_folder_is_refused(copied, name):
    reindex(copied, lambda rows: [{**row, "shard": name} for row in rows])
    with pytest.raises(UserError, match="no plain file name") as caught:
        ShardDataset(copied, None)
    assert f"'{name}'" in str(caught.value)


def test_an_index_out_of_order_or_without_the_split_is_refused(copied, tiny_dataset):
    with pytest.raises(UserError, match="no sample in split 'test'"):
        ShardDataset(tiny_dataset, "test")
    reindex(copied, lambda rows: rows[::2] + rows[1::2])
    with pytest.raises(UserError, match="order of the shards"):
        ShardDataset(copied, None)


def test_offsets_outside_the_shard_are_errors(copied):
    for change in ({"offset": -512}, {"size": -1}, {"offset": 1 << 40}):
        reindex(copied, lambda rows, change=change: [{**rows[0], **change}, *rows[1:]])
        assert "00000.tar" in fails(ShardDataset(copied, None), 0)


@pytest.mark.parametrize("rows_at_once", [1, 3, 1 << 16])
@pytest.mark.parametrize(
    ("offset", "size"),
    [(512, 1024), (512 << 17, 512 << 17), (1 << 50, 1 << 45), (513, 1025), (5, 1 << 33), (-512, -1), (3, 512)],
)
def test_where_samples_lie_is_kept_exactly_whatever_the_numbers(copied, monkeypatch, rows_at_once, offset, size):
    rows = pq.read_table(copied / INDEX_NAME).to_pylist()
    for number in (2, 7):
        rows[number] |= {"offset": offset, "size": size, "crc32": None if number == 7 else (1 << 32) - 1}
    rewrite_index(copied, rows)
    monkeypatch.setattr("imuvid.data.index._ROWS", rows_at_once)
    index = ShardDataset(copied, None).index
    assert [index.span(i) for i in range(len(rows))] == [(row["offset"], row["size"]) for row in rows]
    assert [index.crc32(i) for i in range(len(rows))] == [row["crc32"] for row in rows]


def test_windows_that_fail_a_quality_gate_are_left_out(copied):
    before = set(ShardDataset(copied, "train").keys)
    rows = pq.read_table(copied / INDEX_NAME).to_pylist()
    for row in rows[3:6]:
        row["verdict"] = "video_black"
    rewrite_index(copied, rows)
    dataset = ShardDataset(copied, "train")
    assert dataset.num_gated == 3
    assert before - set(dataset.keys) == {row["key"] for row in rows[3:6]}
    for row in rows:
        row["verdict"] = "video_black"
    rewrite_index(copied, rows)
    with pytest.raises(UserError, match="all 44 windows fail a quality gate"):
        ShardDataset(copied, "train")


def test_an_index_of_another_dataset_is_refused(copied):
    (copied / INDEX_NAME).write_bytes((copied / INDEX_NAME).read_bytes() + b"\0")
    with pytest.raises(UserError, match=r"index\.parquet: is not that of dataset\.json"):
        ShardDataset(copied, "train")


def test_a_damaged_sample_is_named_by_its_number_where_the_index_has_been_replaced_meanwhile(copied):
    dataset = ShardDataset(copied, None)
    reindex(copied, lambda rows: [{**row, "weight": 0.5} for row in rows])
    (copied / "00001.tar").write_bytes(b"")
    assert "sample number 14" in fails(dataset, 14)
