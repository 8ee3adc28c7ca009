"""Tars that webdataset itself wrote become a dataset that is read and verified like any other."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import webdataset
from typer.testing import CliRunner

from imuvid.data.dataset_json import read_dataset_info
from imuvid.data.dataset_tables import read_index, read_recordings
from imuvid.data.format import Sample, encode_members
from imuvid.data.shard_dataset import ShardDataset
from imuvid.data.tar import parse_tar
from imuvid.errors import UserError
from launcher.cli import app
from shards.index import index_tars
from shards.verify import verify
from tests.tiny_dataset import tiny_sample

SAMPLES = [tiny_sample(i, f"r{i // 4:03d}", f"s{i // 8}") for i in range(24)]


def as_webdataset(sample: Sample) -> dict:
    """The sample as webdataset's writers take it; they encode JSON and arrays themselves."""
    frames = {f"{i:02d}.jpg": frame for i, frame in enumerate(sample.frames)}
    arrays = {"imu.npy": sample.imu, "valid.npy": sample.valid}
    return {"__key__": sample.key, "json": asdict(sample.meta), **arrays, **frames}


def write(folder: Path, samples=SAMPLES, per_shard: int = 7) -> Path:
    folder.mkdir(exist_ok=True)
    with webdataset.ShardWriter(str(folder / "part-%04d.tar"), maxcount=per_shard, verbose=0) as writer:
        for sample in samples:
            writer.write(as_webdataset(sample))
    return folder


def write_members(path: Path, members: list[tuple[str, bytes]], form: int = tarfile.GNU_FORMAT) -> None:
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        index_tars(folder, workers=1)
    assert "\n" not in str(caught.value)
    assert not (folder / "dataset.json").exists()
    return str(caught.value)


@pytest.fixture(scope="module")
def indexed(tmp_path_factory) -> Path:
    folder = write(tmp_path_factory.mktemp("tars") / "clinic")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    report = index_tars(folder, val=0.6, test=0.0, workers=1)
    assert report.counts == {"samples": 24, "recordings": 6, "subjects": 3, "shards": 4}
    assert all((folder / name).read_bytes() == content for name, content in before.items())
    return folder


def test_every_sample_is_read_as_it_was_written(indexed):
    dataset = ShardDataset(indexed, None)
    assert list(dataset.keys) == [sample.key for sample in SAMPLES]
    for number, expected in enumerate(SAMPLES):
        stored = dataset.read(number)
        assert (stored.imu == expected.imu).all()
        assert (stored.valid == expected.valid).all()
        assert stored.frames == expected.frames
        assert stored.meta == expected.meta


def test_the_dataset_is_a_whole_one(indexed):
    assert verify(indexed, workers=1).problems == []
    info = read_dataset_info(indexed)
    assert (info.name, info.window_s, info.imu_rate_hz) == ("clinic", 1.0, 20.0)
    assert (info.positions, info.num_frames, info.frame_size) == (["wrist"], 4, [16, 16])
    assert info.labels == ["strong", "weak"]
    assert not list(indexed.glob(".*"))


def test_subjects_stay_in_one_split(indexed):
    rows = read_index(indexed).to_pylist()
    assert {row["split"] for row in rows} == {"train", "val"}
    for subject in {row["subject"] for row in rows}:
        assert len({row["split"] for row in rows if row["subject"] == subject}) == 1


def test_statistics_of_recordings_are_those_of_all_their_windows(indexed):
    for row in read_recordings(indexed).to_pylist():
        imu = np.concatenate([s.imu for s in SAMPLES if s.meta.recording == row["recording"]]).astype(np.float64)
        np.testing.assert_allclose(row["imu_mean"], imu.mean(axis=0).ravel(), atol=1e-9)
        np.testing.assert_allclose(row["imu_deviation"], imu.std(axis=0).ravel(), rtol=1e-6)
        assert row["num_windows"] == 4


def test_webdataset_reads_what_it_wrote_and_we_the_same_bytes(indexed):
    urls = sorted(str(path) for path in indexed.glob("*.tar"))
    theirs = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in theirs] == list(ShardDataset(indexed, None).keys)
    assert json.loads(theirs[5]["json"]) == asdict(SAMPLES[5].meta)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_of_any_length_in_any_form_of_tar(tmp_path, form):
    long = tiny_sample(0, "r" * 95, "s0")
    if form == tarfile.USTAR_FORMAT:
        long = tiny_sample(0, "r" * 70, "s0")
    write_members(tmp_path / "a.tar", encode_members(long), form)
    index_tars(tmp_path, workers=1)
    dataset = ShardDataset(tmp_path, None)
    assert dataset.keys[0] == long.key
    assert dataset.read(0).frames == long.frames


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_what_tarfile_says(tmp_path, form):
    members = [("a.json", b"x" * 700), ("folder/" * 9 + "b.npy", b""), ("ü" * 40 + ".jpg", bytes(512))]
    path = tmp_path / "a.tar"
    write_members(path, members, form)
    with tarfile.open(path) as tar:
        expected = {info.name: tar.extractfile(info).read() for info in tar}
    assert parse_tar(path.read_bytes()) == expected == dict(members)


def test_what_is_no_sample_of_ours_is_named(tmp_path):
    assert "no .tar file" in refused(tmp_path)
    members = encode_members(SAMPLES[0])
    write_members(tmp_path / "a.tar", [member for member in members if not member[0].endswith("imu.npy")])
    assert f"a.tar: {SAMPLES[0].key}: member {SAMPLES[0].key}.imu.npy is missing" in refused(tmp_path)
    write_members(tmp_path / "a.tar", [("pictures/" + name, content) for name, content in members])
    assert "sample key 'pictures/r000-000000' may hold only letters" in refused(tmp_path)
    write_members(tmp_path / "a.tar", [])
    assert "a.tar: holds no sample" in refused(tmp_path)
    (tmp_path / "a.tar").write_bytes(b"")
    assert "a.tar: is empty" in refused(tmp_path)


def test_members_of_a_sample_must_be_adjacent(tmp_path):
    a, b = encode_members(SAMPLES[0]), encode_members(SAMPLES[1])
    write_members(tmp_path / "a.tar", [*a[:3], *b, *a[3:]])
    assert "a.tar: r000-000000: member r000-000000.00.jpg is missing" in refused(tmp_path)
    write_members(tmp_path / "a.tar", [*a, *b, *a])
    assert "a.tar: the members of sample r000-000000 are not adjacent" in refused(tmp_path)


def test_samples_that_do_not_fit_together_are_named(tmp_path):
    write(tmp_path, SAMPLES[:8], per_shard=4)
    other = tiny_sample(50, "r050", "s9")
    other.meta.positions = ["waist"]
    write_members(tmp_path / "x.tar", encode_members(other))
    assert "x.tar: sample r050-000050 has positions ['waist'], sample r000-000000 ['wrist']" in refused(tmp_path)
    write_members(tmp_path / "x.tar", encode_members(SAMPLES[2]))
    assert "x.tar: sample r000-000002 is in part-0000.tar as well" in refused(tmp_path)
    two = tiny_sample(51, "r000", "someone")
    write_members(tmp_path / "x.tar", encode_members(two))
    assert "recording r000 has two subjects" in refused(tmp_path)


@pytest.mark.parametrize("cut", [0.3, 0.7])
def test_a_truncated_tar_is_refused(tmp_path, cut):
    folder = write(tmp_path / "t", SAMPLES[:7])
    [path] = folder.glob("*.tar")
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * cut)])
    message = refused(folder)
    assert "part-0000.tar" in message
    assert "past the end" in message or "missing" in message or "damaged" in message


def test_the_command(tmp_path):
    folder = write(tmp_path / "tars")
    done = CliRunner().invoke(app, ["shards", "index", str(folder), "--val", "0", "--test", "0"])
    assert done.exit_code == 0, done.output
    assert "24 windows" in done.output
    assert len(ShardDataset(folder, "train")) == 24
    with pytest.raises(UserError, match=r"has a dataset\.json already"):
        index_tars(folder)
    with pytest.raises(UserError, match="at most 1 in sum"):
        index_tars(folder, 0.9, 0.9)
