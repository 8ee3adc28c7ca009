"""Building: what is stored, that it does not depend on how it was built, and that bad recordings do no harm."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import webdataset

from imuvid.config import load
from imuvid.data.dataset_json import read_dataset_info
from imuvid.data.dataset_tables import read_index, read_recordings
from imuvid.errors import UserError
from shards.build import build
from shards.config import BuildConfig
from shards.verify import verify
from tests.shards.recordings import (
    build_config,
    imu_columns,
    make_recordings,
    number_of,
    write_csv,
    write_manifest,
    write_video,
)

DURATIONS_S = {"ada-1": 3.0, "ada-2": 2.6, "eva-1": 2.2, "ida-1": 1.4, "uta-1": 2.0}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return make_recordings(tmp_path_factory.mktemp("recordings"), DURATIONS_S)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def samples_of(folder):
    """Read all samples as any WebDataset user would."""
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    return {sample["__key__"]: sample for sample in webdataset.WebDataset(urls, shardshuffle=False).decode()}


@pytest.fixture(scope="module")
def built(manifest, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "small"
    summary = build(build_config(manifest, out, "samples_per_shard=4", "split.test_subjects=[eva]"))
    return out, summary


def test_windows_hold_the_imu_and_the_frames_of_their_time(built):
    out, summary = built
    samples = samples_of(out)
    assert len(samples) == summary.counts["samples"] == 3 + 3 + 2 + 1 + 2
    identity = summary.identifiers["ada-1"]
    for number in range(3):
        sample = samples[f"{identity}-{number:06d}"]
        meta = sample["json"]
        assert meta["start_s"] == number
        assert sample["imu.npy"].shape == (50, 1, 6)
        assert sample["valid.npy"].all()
        times_s = number + np.arange(50) / 50
        assert sample["imu.npy"][:, 0, 2].mean() == pytest.approx(9.81, abs=0.03)
        assert sample["imu.npy"][:, 0, 3] == pytest.approx(np.sin(np.pi * times_s), abs=0.2)
        assert meta["quality"]["acc_std"] == pytest.approx(0.05, abs=0.03)
        assert meta["quality"]["gyro_rms"] == pytest.approx(np.sqrt(0.5), abs=0.05)
        for i, frame_time_s in enumerate(meta["frame_times_s"]):
            assert frame_time_s == pytest.approx((i + 0.5) / 4, abs=0.021)
            picture = simplejpeg.decode_jpeg(sample[f"{i:02d}.jpg"])
            assert picture.shape == (48, 48, 3)
            assert number_of(picture) == round((number + frame_time_s) * 25)


def test_partly_covered_windows_are_padded_and_marked(built):
    out, summary = built
    sample = samples_of(out)[f"{summary.identifiers['ada-2']}-000002"]
    assert sample["valid.npy"][:30].all()
    assert not sample["valid.npy"][31:].any()
    assert not sample["imu.npy"][31:].any()
    assert sample["json"]["frame_valid"] == [True, True, True, False]
    assert not simplejpeg.decode_jpeg(sample["03.jpg"]).any()
    assert sample["json"]["quality"]["covered_share"] == pytest.approx(0.6)
    assert sample["json"]["quality"]["imu_share"] == pytest.approx(0.6, abs=0.021)
    assert sample["json"]["quality"]["frame_share"] == 0.75
    assert summary.num_padded == 1
    assert "padded 1 windows" in str(summary)


def test_imu_after_the_end_of_the_video_is_padding(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "a.mp4", 40)
    write_csv(tmp_path / "a.csv", imu_columns(5.0))
    write_manifest(tmp_path / "m.csv", [{"recording": "a", "imu": "a.csv", "video": "a.mp4", "position": "wrist"}])
    summary = build(build_config(Path("m.csv"), Path("out")))
    samples = samples_of(tmp_path / "out")
    assert len(samples) == 2
    tail = samples[f"{summary.identifiers['a']}-000001"]
    assert tail["valid.npy"].sum(axis=0).tolist() == [[31, 31]]
    assert not tail["imu.npy"][31:].any()


def test_windows_begin_where_the_imu_does(tmp_path):
    write_video(tmp_path / "a.mp4", 75)
    write_csv(tmp_path / "a.csv", imu_columns(3.0))
    row = {"recording": "a", "imu": "a.csv", "video": "a.mp4", "position": "wrist", "offset_s": 0.8}
    summary = build(build_config(write_manifest(tmp_path / "m.csv", [row]), tmp_path / "out"))
    sample = samples_of(tmp_path / "out")[f"{summary.identifiers['a']}-000000"]
    assert sample["json"]["start_s"] == 0.8
    assert sample["json"]["sync_offset_s"] == 0.8
    assert sample["imu.npy"][:, 0, 3] == pytest.approx(np.sin(np.pi * np.arange(50) / 50), abs=0.2)
    picture = simplejpeg.decode_jpeg(sample["00.jpg"])
    assert number_of(picture) == round((0.8 + sample["json"]["frame_times_s"][0]) * 25) == 23


def test_recording_shorter_than_a_window_is_padded(manifest, tmp_path):
    summary = build(build_config(manifest, tmp_path / "out", "window.length_s=4", "window.min_share=0.3"))
    sample = samples_of(tmp_path / "out")[f"{summary.identifiers['ida-1']}-000000"]
    assert sample["imu.npy"].shape == (200, 1, 6)
    assert sample["valid.npy"].sum(axis=0).tolist() == [[70, 70]]
    assert sample["json"]["frame_valid"] == [True, True, False, False]


def test_index_and_dataset_json_say_what_is_there(built):
    out, summary = built
    info, index = read_dataset_info(out), read_index(out).to_pylist()
    assert info.counts == {"samples": 11, "recordings": 5, "subjects": 4, "shards": 3}
    assert info.hours == pytest.approx(10.6 / 3600, rel=1e-3)
    assert info.positions == ["wrist"]
    assert info.labels == ["label0", "label1"]
    assert [row["shard"] for row in index] == ["00000.tar"] * 4 + ["00001.tar"] * 4 + ["00002.tar"] * 3
    test = {row["recording"] for row in index if row["split"] == "test"}
    assert test == {summary.identifiers["eva-1"]}
    by_split = {split: {row["subject"] for row in index if row["split"] == split} for split in ("train", "test")}
    assert not by_split["train"] & by_split["test"]
    assert verify(out).problems == []
    assert sorted(path.name for path in out.iterdir()) == [
        "00000.tar",
        "00001.tar",
        "00002.tar",
        "dataset.json",
        "index.parquet",
        "recordings.parquet",
    ]


def test_recordings_hold_the_statistics_of_their_valid_readings(built):
    out, _ = built
    samples = samples_of(out).values()
    for row in read_recordings(out).to_pylist():
        own = [sample for sample in samples if sample["json"]["recording"] == row["recording"]]
        assert len(own) == row["num_windows"]
        for channel in range(6):
            valid = [sample["valid.npy"][:, 0, channel // 3] for sample in own]
            values = np.concatenate([sample["imu.npy"][v, 0, channel] for sample, v in zip(own, valid, strict=True)])
            assert row["imu_mean"][channel] == pytest.approx(values.mean(dtype=np.float64), abs=1e-9)
            assert row["imu_deviation"][channel] == pytest.approx(values.std(dtype=np.float64), abs=1e-9)


def test_no_plain_name_and_no_place_is_stored(built, manifest):
    out, _ = built
    for name, content in contents(out).items():
        for secret in (b"ada", b"eva", str(manifest.parent).encode(), b"tmp"):
            assert secret not in content, (name, secret)


def test_bytes_do_not_depend_on_the_number_of_workers(built, manifest, tmp_path):
    out, _ = built
    for workers in (1, 3):
        other = tmp_path / str(workers)
        words = ["samples_per_shard=4", "split.test_subjects=[eva]", f"build.workers={workers}"]
        build(build_config(manifest, other, *words))
        assert contents(other) == contents(out)


def test_building_again_does_nothing_and_another_config_is_refused(built, manifest):
    out, _ = built
    words = ["samples_per_shard=4", "split.test_subjects=[eva]"]
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    summary = build(build_config(manifest, out, *words))
    assert summary.existed
    assert summary.lines() == [f"{out}: the dataset 'small' is complete already, with the same config: nothing to do"]
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    with pytest.raises(UserError, match="holds a dataset of another config"):
        build(build_config(manifest, out, *words, "window.hop_s=0.5"))


def test_folder_with_other_files_is_left_alone(manifest, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"holds 'thesis\.txt' but neither a dataset nor an unfinished build"):
        build(build_config(manifest, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_positions_are_the_same_for_every_sample_and_absent_sensors_are_marked(tmp_path):
    rows = []
    for name, positions in {"a": ["wrist"], "b": ["ankle", "head"]}.items():
        write_video(tmp_path / f"{name}.mp4", 50)
        for position in positions:
            write_csv(tmp_path / f"{position}.csv", imu_columns(2.0))
            rows.append(
                {
                    "recording": name,
                    "video": f"{name}.mp4",
                    "imu": f"{position}.csv",
                    "position": position,
                    "rate_hz": 100,
                }
            )
    manifest = write_manifest(tmp_path / "m.csv", rows)
    summary = build(build_config(manifest, tmp_path / "all"))
    assert read_dataset_info(tmp_path / "all").positions == ["ankle", "head", "wrist"]
    samples = samples_of(tmp_path / "all")
    assert samples[f"{summary.identifiers['a']}-000000"]["valid.npy"].all(axis=(0, 2)).tolist() == [False, False, True]
    assert samples[f"{summary.identifiers['b']}-000000"]["valid.npy"].all(axis=(0, 2)).tolist() == [True, True, False]
    assert all(sample["json"]["positions"] == ["ankle", "head", "wrist"] for sample in samples.values())
    listed = {row["recording"]: row for row in read_recordings(tmp_path / "all").to_pylist()}
    for name, present in {"a": [False, False, True], "b": [True, True, False]}.items():
        row = listed[summary.identifiers[name]]
        assert np.reshape(row["imu_mean"], (3, 6))[:, 2] == pytest.approx(np.where(present, 9.81, 0.0), abs=0.05)
        deviation = np.reshape(row["imu_deviation"], (3, 6))
        assert (deviation[~np.array(present)] == 1).all()
        assert deviation[present][:, 3] == pytest.approx(np.sqrt(0.5), abs=0.05)
    assert verify(tmp_path / "all").ok
    chosen = build(build_config(manifest, tmp_path / "some", "positions=[head]", "build.max_failed_share=1"))
    assert [(name, reason) for name, reason, _ in chosen.skipped] == [("a", "no_imu")]
    assert read_dataset_info(tmp_path / "some").positions == ["head"]


def test_dataset_without_frames_needs_no_video(tmp_path):
    write_csv(tmp_path / "a.csv", imu_columns(3.0))
    manifest = write_manifest(tmp_path / "m.csv", [{"recording": "a", "imu": "a.csv", "position": "wrist"}])
    build(build_config(manifest, tmp_path / "out", "frames.num=0"))
    samples = samples_of(tmp_path / "out")
    assert len(samples) == 3
    assert all(sample["json"]["frame_times_s"] == [] and "00.jpg" not in sample for sample in samples.values())
    assert verify(tmp_path / "out").ok


def test_overlapping_windows_share_frames(manifest, tmp_path):
    summary = build(build_config(manifest, tmp_path / "out", "window.hop_s=0.5"))
    samples = samples_of(tmp_path / "out")
    first, second = (samples[f"{summary.identifiers['ada-1']}-{number:06d}"] for number in (0, 1))
    assert second["json"]["start_s"] == 0.5
    assert (first["imu.npy"][25:] == second["imu.npy"][:25]).all()
    assert first["02.jpg"] == second["00.jpg"]


def test_npy_members_need_no_pickle(built):
    out, _ = built
    for sample in webdataset.WebDataset(str(out / "00000.tar"), shardshuffle=False):
        np.load(io.BytesIO(sample["imu.npy"]), allow_pickle=False)
        assert json.loads(sample["json"])["format"] == 1


@pytest.mark.slow
def test_gopro_recordings_build_into_whole_shards(realdata, tmp_path):
    words = ["name=gopro", f"out={tmp_path / 'out'}", "source.kind=gopro", "subjects.salt=test", "build.workers=2"]
    summary = build(load(BuildConfig, None, [*words, f"source.gopro.paths=[{realdata / 'gopro_gpmf'}]"]))
    assert not summary.skipped
    assert summary.counts["samples"] == 4  # 10.5 s and 12.1 s in windows of 5 s, tails under a half
    assert verify(tmp_path / "out").ok
    for sample in samples_of(tmp_path / "out").values():
        assert sample["json"]["imu_rate_hz"] == 50
        assert sample["imu.npy"].shape == (250, 1, 6)
        assert np.linalg.norm(sample["imu.npy"][:, 0, :3], axis=1).mean() == pytest.approx(9.8, abs=0.3)
        assert simplejpeg.decode_jpeg(sample["09.jpg"]).shape == (224, 224, 3)
