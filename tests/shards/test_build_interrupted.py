"""Builds that are killed, split among several processes, and extended: the same bytes, nothing twice, nothing lost."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from imuvid.config import to_yaml
from imuvid.data.dataset_json import read_dataset_info
from imuvid.data.dataset_tables import read_index, read_recordings
from imuvid.errors import UserError
from shards.build import Part, build
from shards.verify import verify
from tests.shards.recordings import build_config, imu_columns, make_recordings, write_csv, write_manifest, write_video
from tests.shards.test_build import contents, samples_of
from tests.soak import times

DURATIONS_S = {"ada-1": 3.0, "ada-2": 2.6, "eva-1": 2.2, "ida-1": 1.4, "uta-1": 2.0}
WORDS = ["samples_per_shard=4", "split.test_subjects=[eva]"]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return make_recordings(tmp_path_factory.mktemp("recordings"), DURATIONS_S)


@pytest.fixture(scope="module")
def undisturbed(manifest, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "small"
    return out, build(build_config(manifest, out, *WORDS))


def start(config, folder):
    """Start a build as a process group of its own."""
    (folder / "config.yaml").write_text(to_yaml(config))
    program = (
        "from imuvid.config import load; from shards.config import BuildConfig; from shards.build import build\n"
        f"build(load(BuildConfig, {str(folder / 'config.yaml')!r}))"
    )
    return subprocess.Popen([sys.executable, "-c", program], start_new_session=True)


def kill(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("num_fragments", [1, 3])
def test_what_is_done_is_not_done_again_after_a_kill(undisturbed, manifest, tmp_path, caplog, num_fragments):
    out = tmp_path / "out"
    config = build_config(manifest, out, *WORDS, "build.workers=1")
    process = start(config, tmp_path)
    deadline = time.monotonic() + 60
    while len(list((out / ".build").glob("*.json"))) < num_fragments and time.monotonic() < deadline:
        time.sleep(0.002)
    kill(process)
    assert not (out / "dataset.json").exists()
    with caplog.at_level("INFO"):
        build(config)
    assert "are there from an interrupted build" in caplog.text
    assert contents(out) == contents(undisturbed[0])


@pytest.mark.slow
def test_kills_at_random_instants_change_no_byte(tmp_path):
    folder = tmp_path / "recordings"
    folder.mkdir()
    manifest = make_recordings(folder, {f"p{i % 7}-{i:02d}": 1.2 + 0.1 * (i % 9) for i in range(60)})
    config = build_config(manifest, tmp_path / "reference", "samples_per_shard=10")
    started = time.monotonic()
    process = start(config, tmp_path)
    assert process.wait() == 0
    duration_s = time.monotonic() - started
    reference = contents(tmp_path / "reference")
    assert verify(tmp_path / "reference").samples > 90
    rng = random.Random(0)
    out, killed, finished = tmp_path / "out", 0, 0
    while killed < times(4, 20):
        process = start(build_config(manifest, out, "samples_per_shard=10"), tmp_path)
        try:
            process.wait(timeout=rng.uniform(0.2, 1.0) * duration_s)
        except subprocess.TimeoutExpired:
            kill(process)
            killed += 1
        if (out / "dataset.json").exists():
            # Whenever a dataset can be seen it is the whole one; the next kills are of a build from the start.
            process = start(build_config(manifest, out, "samples_per_shard=10"), tmp_path)
            assert process.wait() == 0
            assert contents(out) == reference
            shutil.rmtree(out)
            finished += 1
    build(build_config(manifest, out, "samples_per_shard=10"))
    assert contents(out) == reference


@pytest.mark.parametrize("names", [["index.parquet"], ["index.parquet", "recordings.parquet"]])
def test_kill_between_the_files_of_an_extended_dataset_is_seen_and_mended(manifest, tmp_path, names):
    out = tmp_path / "out"
    shutil.copytree(manifest.parent, tmp_path / "recordings")
    grown = tmp_path / "recordings" / "recordings.csv"
    build(build_config(manifest, out, *WORDS))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    add_recording(grown, "zoe-1")
    build(build_config(grown, out, *WORDS))
    after = contents(out)
    # As a kill between two renames leaves it.
    final = out / ".build" / "final"
    final.mkdir(parents=True)
    for name in ("index.parquet", "recordings.parquet", "dataset.json"):
        (final / name).write_bytes(after[name])
        (out / name).write_bytes(after[name] if name in names else before[name])
    with pytest.raises(UserError, match="a change was interrupted"):
        read_index(out, read_dataset_info(out))
    assert not verify(out).ok
    build(build_config(grown, out, *WORDS))
    assert contents(out) == after


def test_two_builds_do_not_write_to_one_folder(manifest, tmp_path):
    (tmp_path / ".build").mkdir()
    with (tmp_path / ".build" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another command is writing there"):
            build(build_config(manifest, tmp_path))


def test_recording_whose_file_changed_after_the_kill_is_read_again(manifest, tmp_path):
    folder = tmp_path / "recordings"
    shutil.copytree(manifest.parent, folder)
    out = tmp_path / "out"
    config = build_config(folder / "recordings.csv", out, "build.max_failed_share=0")
    good = (folder / "uta-1.csv").read_text()
    (folder / "uta-1.csv").write_text("time,acc_x\n")
    with pytest.raises(UserError, match=r"1 of 5 recordings cannot be used \(build.max_failed_share=0\)"):
        build(config)
    stale = sorted(path.name for path in (out / ".build").glob("*.tar"))
    (folder / "uta-1.csv").write_text(good)
    write_csv(folder / "ada-1.csv", imu_columns(1.2))
    summary = build(config)
    assert stale
    sample = samples_of(out)[f"{summary.identifiers['ada-1']}-000000"]
    assert sample["valid.npy"].all()
    assert f"{summary.identifiers['ada-1']}-000002" not in samples_of(out)


def add_recording(manifest, name, seed=50):
    """Add a recording of two seconds to a manifest of make_recordings."""
    folder = manifest.parent
    write_video(folder / f"{name}.mp4", 50)
    write_csv(folder / f"{name}.csv", imu_columns(2.0, seed=seed))
    with manifest.open("a") as file:
        file.write(f"{name},{name}.mp4,{name}.csv,wrist,{name.split('-')[0]},label1\n")


def test_new_recordings_extend_a_dataset_without_rewriting_it(manifest, tmp_path):
    shutil.copytree(manifest.parent, tmp_path / "recordings")
    grown, out = tmp_path / "recordings" / "recordings.csv", tmp_path / "out"
    build(build_config(manifest, out, *WORDS))
    old = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.glob("*.tar")}
    old_rows = read_index(out).to_pylist()
    add_recording(grown, "aaa-0")
    (grown.parent / "bad.csv").write_text("time,acc_x\n")
    with grown.open("a") as file:
        file.write("bad,aaa-0.mp4,bad.csv,wrist,bad,label1\n")
    summary = build(build_config(grown, out, *WORDS))
    assert list(summary.identifiers) == ["aaa-0"]
    assert summary.reasons == {"duplicate": 1}
    assert {name: ((out / name).read_bytes(), (out / name).stat().st_mtime_ns) for name in old} == old
    assert read_index(out).to_pylist()[: len(old_rows)] == old_rows
    info = read_dataset_info(out)
    assert info.counts == {"samples": 13, "recordings": 6, "subjects": 5, "shards": 4}
    assert info.hours == pytest.approx(12.6 / 3600, rel=1e-3)
    assert f"{summary.identifiers['aaa-0']}-000001" in samples_of(out)
    assert verify(out).problems == []
    listing = {row["recording"]: row["status"] for row in read_recordings(out, info).to_pylist()}
    assert sorted(listing.values()) == ["duplicate"] + ["used"] * 6

    # What could not be used is not tried again as long as it is as it was; then it is.
    before = contents(out)
    assert build(build_config(grown, out, *WORDS)).existed
    assert contents(out) == before
    write_csv(grown.parent / "bad.csv", imu_columns(1.5))
    write_video(grown.parent / "bad.mp4", 40)
    manifest_text = grown.read_text().replace("bad,aaa-0.mp4", "bad,bad.mp4")
    grown.write_text(manifest_text)
    assert list(build(build_config(grown, out, *WORDS)).identifiers) == ["bad"]
    assert sorted(row["status"] for row in read_recordings(out).to_pylist()) == ["used"] * 7
    assert verify(out).problems == []


def test_sensors_that_a_dataset_does_not_have_are_left_out_of_what_extends_it(tmp_path):
    write_video(tmp_path / "a.mp4", 50)
    write_csv(tmp_path / "a.csv", imu_columns(2.0))
    row = {"recording": "a", "video": "a.mp4", "imu": "a.csv", "position": "wrist"}
    build(build_config(write_manifest(tmp_path / "m.csv", [row]), tmp_path / "out"))
    write_video(tmp_path / "b.mp4", 50)
    more = [row | {"recording": "b", "video": "b.mp4", "position": position} for position in ("wrist", "ankle")]
    write_manifest(tmp_path / "m.csv", [row, *more])
    build(build_config(tmp_path / "m.csv", tmp_path / "out"))
    assert read_dataset_info(tmp_path / "out").positions == ["wrist"]
    assert len(samples_of(tmp_path / "out")) == 4
    assert verify(tmp_path / "out").problems == []


def test_gates_change_without_a_rebuild(undisturbed, manifest, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(undisturbed[0], out)
    times_ns = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert set(read_index(out)["verdict"].to_pylist()) == {""}
    summary = build(build_config(manifest, out, *WORDS, "gates.max_frozen=0", "gates.static_gyro_rms=1"))
    assert summary.existed
    assert summary.regated
    assert "has other gates now" in str(summary)
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")} == times_ns
    assert read_dataset_info(out).config["gates"]["max_frozen"] == 0
    assert verify(out).problems == []
    build(build_config(manifest, out, *WORDS))
    assert contents(out) == contents(undisturbed[0])


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_parts_in_any_order_give_the_same_bytes(undisturbed, manifest, tmp_path, order):
    out = tmp_path / "out"
    config = build_config(manifest, out, *WORDS, "build.workers=1")
    summaries = [build(config, part=Part(number, 3)) for number in order]
    assert [summary.waiting for summary in summaries] == [True, True, False]
    assert contents(out) == contents(undisturbed[0])
    assert build(config, part=Part(1, 3)).existed


@pytest.mark.slow
def test_parts_at_the_same_time_assemble_once(undisturbed, manifest, tmp_path):
    out = tmp_path / "out"
    config = build_config(manifest, out, *WORDS, "build.workers=1")
    results = []
    threads = [
        threading.Thread(target=lambda number=number: results.append(build(config, part=Part(number, 2))))
        for number in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert len(results) == 2
    assert not all(summary.waiting for summary in results)
    assert contents(out) == contents(undisturbed[0])
    assert not (out / ".build").exists()


def test_unfinished_build_can_lie_elsewhere(undisturbed, manifest, tmp_path):
    out, work = tmp_path / "out", tmp_path / "work"
    build(build_config(manifest, out, *WORDS, f"build.work_dir={work}"))
    assert contents(out) == contents(undisturbed[0])
    assert list(work.iterdir()) == []
