"""Verify finds what can go wrong with a dataset after it was built, each with one line that says where."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imuvid.data.dataset_tables import INDEX_SCHEMA, RECORDINGS_SCHEMA, read_index, read_recordings
from imuvid.data.tar import parse_tar
from imuvid.errors import UserError
from shards.build import build
from shards.verify import verify
from shards.write import tar_members
from tests.shards.datasets import Person, write_dataset
from tests.shards.recordings import build_config, make_recordings


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("verify") / "out")


@pytest.fixture
def dataset(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "out")


def problems_of(folder):
    return verify(folder, workers=1).problems


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


def change_rows(folder, name, change, resign=True):
    read, schema = {
        "index.parquet": (read_index, INDEX_SCHEMA),
        "recordings.parquet": (read_recordings, RECORDINGS_SCHEMA),
    }[name]
    rows = read(folder).to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / name)
    if resign:
        resign_file(folder, name)


def resign_file(folder, name):
    """Make the checksum fit, as one would who changes a dataset on purpose."""
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    change_info(folder, lambda info: info["sha256"].__setitem__(name, digest))


def change_info(folder, change):
    info = json.loads((folder / "dataset.json").read_text())
    change(info)
    (folder / "dataset.json").write_text(json.dumps(info))


def change_sample(folder, member, change):
    """Change a member of the first sample, of the same length, and make all checksums fit."""
    row = read_index(folder).to_pylist()[0]
    path = folder / row["shard"]
    content = path.read_bytes()
    members = parse_tar(content[: row["size"]])
    name = f"{row['key']}.{member}"
    changed = change(members[name])
    # JSON may end in spaces: the sample keeps its size.
    members[name] = changed.ljust(len(members[name])) if member == "json" else changed
    raw = tar_members(list(members.items()))
    assert len(raw) == row["size"]
    path.write_bytes(raw + content[row["size"] :])
    change_rows(folder, "index.parquet", lambda rows: rows[0].__setitem__("crc32", zlib.crc32(raw)))
    resign_file(folder, row["shard"])


def test_whole_dataset_has_no_problem(dataset):
    report = verify(dataset)
    assert report.problems == []
    assert (report.samples, report.shards) == (8, 3)
    assert str(report) == f"{dataset}: 8 samples in 3 shards, no problem"


def test_dataset_of_a_build_has_no_problem(tmp_path):
    manifest = make_recordings(tmp_path, {"ada-1": 2.0, "eva-1": 1.0})
    build(build_config(manifest, tmp_path / "out", "samples_per_shard=2"))
    assert verify(tmp_path / "out").problems == []


def test_any_flipped_bit_is_found(dataset):
    for name in ("00001.tar", "index.parquet", "recordings.parquet"):
        path = dataset / name
        size = path.stat().st_size
        for position in (0, size // 2, size - 1):
            flip(path, position)
            assert any(line.startswith(f"{name}: ") for line in problems_of(dataset)), (name, position)
            flip(path, position)
    assert problems_of(dataset) == []


def test_damage_is_located(dataset):
    row = read_index(dataset).to_pylist()[1]
    content = (dataset / "00000.tar").read_bytes()
    members = parse_tar(content[row["offset"] : row["offset"] + row["size"]])
    flip(dataset / "00000.tar", content.find(members[f"{row['key']}.imu.npy"]) + 3)
    report = verify(dataset)
    assert any(f"00000.tar: {row['key']} at byte {row['offset']}" in line for line in report.problems)
    assert report.samples == 7


def test_truncated_shard_is_found(dataset):
    path = dataset / "00000.tar"
    at = read_index(dataset).to_pylist()[2]["offset"]
    os.truncate(path, at + 1000)
    problems = problems_of(dataset)
    assert any("00000.tar: sha256" in line for line in problems)
    assert any(f"00000.tar: ra1-000002 at byte {at}: " in line for line in problems)
    path.write_bytes(b"")
    assert any("00000.tar: is empty" in line for line in problems_of(dataset))


def test_missing_and_extra_files_are_found(dataset):
    shutil.copy(dataset / "00001.tar", dataset / "00007.tar")
    (dataset / "00001.tar.tmp").write_bytes(b"left by a kill")
    (dataset / "00000.tar").unlink()
    (dataset / "recordings.parquet").unlink()
    problems = problems_of(dataset)
    assert "00000.tar: missing shard" in problems
    assert "00007.tar: extra file, dataset.json does not list it" in problems
    assert "00001.tar.tmp: extra file, dataset.json does not list it" in problems
    assert any(line.startswith("recordings.parquet: cannot be read:") for line in problems)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("label", "sit", "label is 'walk' in the shard but 'sit'"),
        ("subject", "s000000000000", "subject is"),
        ("key", "r000000000000-000000", "key is"),
        ("start_s", 77.0, "start_s is 0.0 in the shard but 77.0"),
        ("imu_share", 0.25, "imu_share is 1.0 in the shard but 0.25"),
        ("black_share", 0.001, "black_share is 0.0 in the shard but 0.001"),
        ("gyro_rms", None, "gyro_rms is 1.0 in the shard but None"),
        ("sync_confidence", 0.5, "sync_confidence is None in the shard but 0.5"),
        ("crc32", 5, "but 5 in the index"),
        ("size", 512, "expected"),
        ("shard", "00009.tar", "names the shard 00009.tar"),
        ("shard", "../00000.tar", "names the shard ../00000.tar"),
        ("split", "holdout", "unknown split 'holdout'"),
        ("split", "val", "recording ra1 is in the splits train, val"),
        ("verdict", "video_black", "verdict is 'video_black', but '' by the gates"),
        ("weight", 0.5, "weight is 0.5, but 1.0 by the gates"),
        ("covered_share", 0.5, "hours"),
    ],
)
def test_altered_row_of_the_index_is_found_even_with_a_fitting_checksum(dataset, column, value, message):
    change_rows(dataset, "index.parquet", lambda rows: rows[0].__setitem__(column, value), resign=False)
    assert any("index.parquet: sha256" in line for line in problems_of(dataset))
    resign_file(dataset, "index.parquet")
    assert any(message in line for line in problems_of(dataset)), problems_of(dataset)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("num_windows", 7, "recording ra1 has 7 windows, but 3 in the index"),
        ("split", "val", "recording ra1: split is val, but train in the index"),
        ("subject", "sx", "recording ra1: subject is sx, but sann in the index"),
        ("status", "no_imu", "recording ra1 is 'no_imu', but the index has windows of it"),
        ("recording", "rother", "recording ra1 of the index is missing"),
        ("recording", "ra2", "recording ra2 is there twice"),
        ("marked", ["/home/ann/1.mp4"], "names a place on a disk"),
        ("imu_mean", None, "recording ra1: imu_mean has 0 numbers, expected 6"),
        ("imu_mean", [0.0, None, 0.0, 0.0, 0.0, 0.0], "recording ra1: imu_mean holds a value that is not finite"),
        ("imu_deviation", [1.0] * 5, "recording ra1: imu_deviation has 5 numbers, expected 6"),
        ("imu_deviation", [float("inf")] * 6, "recording ra1: imu_deviation holds a value that is not finite"),
        ("imu_deviation", [1.0] * 5 + [0.0], "recording ra1: imu_deviation holds 0.0, expected numbers above 0"),
    ],
)
def test_altered_recording_is_found(dataset, column, value, message):
    change_rows(dataset, "recordings.parquet", lambda rows: rows[0].__setitem__(column, value))
    assert any(line.startswith("recordings.parquet: ") and message in line for line in problems_of(dataset))


def test_dataset_without_statistics_of_its_recordings_has_no_problem(dataset):
    change_rows(
        dataset, "recordings.parquet", lambda rows: [row.update(imu_mean=None, imu_deviation=None) for row in rows]
    )
    assert problems_of(dataset) == []


@pytest.mark.parametrize(
    ("member", "change", "message"),
    [
        ("json", lambda raw: raw.replace(b'"text":null', b'"text":"/a"'), "text names a place on a disk"),
        ("json", lambda raw: raw.replace(b'"simulated"', b'"../ann.mp4"'), "source names a place on a disk"),
        ("json", lambda raw: raw.replace(b'"simulated"', b"[1, 2, 3]"), "source is"),
        ("json", lambda raw: raw.replace(b'"flat_share"', b'"ann_share"'), "quality is"),
        ("json", lambda raw: raw.replace(b"[0.25,0.75]", b"[0.75,0.25]"), "frame_times_s is"),
        ("json", lambda raw: raw.replace(b'"wrist"', b'"waist"'), "positions is"),
        ("json", lambda raw: raw.replace(b'"format":1', b'"format":2'), "shard format 2"),
        ("valid.npy", lambda raw: raw[:128] + bytes(len(raw) - 128), "imu is not 0 where it is marked as missing"),
        ("00.jpg", lambda raw: raw[:300] + bytes(len(raw) - 300), "frame 0 does not decode"),
    ],
)
def test_altered_sample_is_found_even_with_fitting_checksums(dataset, member, change, message):
    change_sample(dataset, member, change)
    problems = problems_of(dataset)
    assert len(problems) == 1
    assert message in problems[0]
    assert problems[0].startswith("00000.tar: ra1-000000 at byte 0: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda info: info["config"].update(source={"root": "/data/ann"}), "source.root names a place on a disk"),
        (lambda info: info["config"].update(note=f"in {Path.home()}/clinic"), "note names a place on a disk"),
        (lambda info: info["config"]["gates"].update(max_black=0.15), "verdict is '', but 'video_black' by the gates"),
        (lambda info: info["config"]["gates"].update(max_blue=0.15), "its gates cannot be read"),
        (lambda info: info.update(labels=["walk"]), "the labels are not those of the index"),
        (lambda info: info["counts"].update(subjects=9), "counts"),
        (lambda info: info["sha256"].update({"../x.tar": "0" * 64}), "../x.tar: missing shard"),
        (lambda info: info.update(num_frames=3), "2 frames, expected 3"),
    ],
)
def test_altered_dataset_json_is_found(dataset, change, message):
    change_info(dataset, change)
    assert any(message in line for line in problems_of(dataset)), problems_of(dataset)


def test_missing_and_repeated_rows_are_found(dataset):
    change_rows(dataset, "index.parquet", lambda rows: rows.pop())
    assert any("dataset.json: counts" in line for line in problems_of(dataset))
    change_rows(dataset, "index.parquet", lambda rows: rows.append(dict(rows[0])))
    assert any("is there 2 times" in line for line in problems_of(dataset))


def test_other_columns_are_found(dataset):
    table = pq.read_table(dataset / "index.parquet")
    pq.write_table(table.append_column("name", pa.array(["ann"] * table.num_rows)), dataset / "index.parquet")
    resign_file(dataset, "index.parquet")
    assert problems_of(dataset) == [
        "index.parquet: other columns than in the format, or in another order: pyarrow.Field<name: string>"
    ]
    pq.write_table(table.drop_columns(["gyro_rms"]), dataset / "index.parquet")
    resign_file(dataset, "index.parquet")
    assert any("other columns" in line and "gyro_rms" in line for line in problems_of(dataset))


def test_subject_in_two_splits_is_found(tmp_path):
    people = (Person("r1", "sann", "train", 1), Person("r2", "sann", "test", 1), Person("r3", "sbob", "val", 1))
    folder = write_dataset(tmp_path / "parted", people)
    assert problems_of(folder) == ["index.parquet: subject sann is in the splits test, train"]


def test_many_problems_are_counted(tmp_path):
    folder = write_dataset(tmp_path / "many", (Person("r1", "sann", "train", 90),), per_shard=45)
    change_rows(folder, "index.parquet", lambda rows: [row.update(label="x", verdict="imu_flat") for row in rows])
    problems = problems_of(folder)
    assert len(problems) < 70
    assert "00000.tar: and 25 problems more" in problems
    assert "index.parquet: and 70 problems more" in problems
    assert problems == sorted(problems)


def test_folder_that_is_no_dataset(tmp_path):
    with pytest.raises(UserError, match=r"no dataset\.json there"):
        verify(tmp_path)
