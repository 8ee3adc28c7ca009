"""Verify finds what can go wrong with a dataset after it was built."""

from __future__ import annotations

import hashlib
import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imuvid.data.format import INDEX_SCHEMA, parse_tar, read_index
from imuvid.errors import UserError
from shards.build import build
from shards.verify import verify
from shards.write import tar_members
from tests.shards.recordings import build_config, make_recordings


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify")
    manifest = make_recordings(folder, {"ada-1": 2.0, "eva-1": 2.0, "eva-2": 1.0})
    build(build_config(manifest, folder / "out", "samples_per_shard=2"))
    return folder / "out"


@pytest.fixture
def dataset(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "out")


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


def change_index(folder, change, resign=False):
    rows = read_index(folder).to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), folder / "index.parquet")
    if resign:
        resign_file(folder, "index.parquet")


def resign_file(folder, name):
    """Make the checksum fit, as one would who changes a dataset on purpose."""
    info = json.loads((folder / "dataset.json").read_text())
    info["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "dataset.json").write_text(json.dumps(info))


def test_whole_dataset_has_no_problem(dataset):
    report = verify(dataset)
    assert report.ok
    assert (report.samples, report.shards) == (5, 3)
    assert str(report) == f"{dataset}: 5 samples in 3 shards, no problem"


def test_any_flipped_bit_is_found(dataset):
    path = dataset / "00001.tar"
    size = path.stat().st_size
    for position in (0, 600, size // 2, size - 1):
        flip(path, position)
        assert any("00001.tar: sha256" in line for line in verify(dataset, workers=1).problems)
        flip(path, position)
    assert verify(dataset).ok


def test_damage_is_located(dataset):
    row = read_index(dataset).to_pylist()[1]
    members = parse_tar((dataset / "00000.tar").read_bytes()[row["offset"] : row["offset"] + row["size"]])
    start = (dataset / "00000.tar").read_bytes().find(members[f"{row['key']}.imu.npy"])
    flip(dataset / "00000.tar", start + 3)
    report = verify(dataset)
    assert any(f"00000.tar: {row['key']} at byte {row['offset']}" in line for line in report.problems)
    assert report.samples == 4


def test_truncated_shard_is_found(dataset):
    path = dataset / "00000.tar"
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    problems = verify(dataset).problems
    assert any("00000.tar: sha256" in line for line in problems)
    assert any("past the end" in line for line in problems)
    path.write_bytes(b"")
    assert any("00000.tar: is empty" in line for line in verify(dataset).problems)


def test_missing_and_extra_shards_are_found(dataset):
    shutil.copy(dataset / "00001.tar", dataset / "00007.tar")
    (dataset / "00000.tar").unlink()
    problems = verify(dataset).problems
    assert "00000.tar: missing shard" in problems
    assert "00007.tar: extra shard, dataset.json does not list it" in problems


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("label", "other", "label is 'label0' in the shard but 'other'"),
        ("subject", "s000000000000", "subject is"),
        ("key", "r000000000000-000000", "key is"),
        ("start_s", 77.0, "start_s is 0.0 in the shard but 77.0"),
        ("imu_share", 0.25, "imu_share is 1.0 in the shard but 0.25"),
        ("size", 512, "expected"),
        ("shard", "00009.tar", "names the shard 00009.tar"),
        ("split", "holdout", "unknown split 'holdout'"),
    ],
)
def test_altered_row_of_the_index_is_found_even_with_a_fitting_checksum(dataset, column, value, message):
    change_index(dataset, lambda rows: rows[0].__setitem__(column, value))
    assert any("index.parquet: sha256" in line for line in verify(dataset).problems)
    resign_file(dataset, "index.parquet")
    assert any(message in line for line in verify(dataset).problems), verify(dataset).problems


def test_missing_and_repeated_rows_are_found(dataset):
    change_index(dataset, lambda rows: rows.pop(), resign=True)
    assert any("dataset.json: counts" in line for line in verify(dataset).problems)
    change_index(dataset, lambda rows: rows.append(dict(rows[0])), resign=True)
    assert any("is there 2 times" in line for line in verify(dataset).problems)


def test_subject_in_two_splits_is_found(dataset):
    rows = read_index(dataset).to_pylist()
    eva = max({row["subject"] for row in rows}, key=lambda s: len({r["recording"] for r in rows if r["subject"] == s}))

    def change(rows):
        for row, split in zip([row for row in rows if row["subject"] == eva], ("train", "val", "test"), strict=True):
            row["split"] = split

    change_index(dataset, change, resign=True)
    assert any(f"subject {eva} is in the splits test, train, val" in line for line in verify(dataset).problems)


def test_value_that_is_not_marked_as_missing_is_found(dataset):
    row = read_index(dataset).to_pylist()[0]
    content = (dataset / "00000.tar").read_bytes()
    members = parse_tar(content[: row["size"]])
    valid = members[f"{row['key']}.valid.npy"]
    members[f"{row['key']}.valid.npy"] = valid[:128] + bytes(len(valid) - 128)
    (dataset / "00000.tar").write_bytes(tar_members(list(members.items())) + content[row["size"] :])
    resign_file(dataset, "00000.tar")
    assert any("imu is not 0 where it is marked as missing" in line for line in verify(dataset).problems)


def test_folder_that_is_no_dataset(tmp_path):
    with pytest.raises(UserError, match=r"no dataset\.json there"):
        verify(tmp_path)
