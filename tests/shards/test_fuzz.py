"""Builds of recordings that are damaged in all ways that a generator thinks of, beside some that are whole.

Whatever the damage: the build ends in time, the whole recordings give the samples that they give alone, what is not
used is told in one line each, and the dataset has no problem.
"""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io

from imuvid.config import load
from shards.build import build
from shards.config import BuildConfig
from shards.verify import verify
from tests.shards.damage import damaged_bytes, damaged_csv, damaged_mp4, damaged_vrs, vrs_records
from tests.shards.datasets import samples_in
from tests.shards.recordings import imu_columns, write_csv, write_manifest, write_video
from tests.shards.sources.gpmf_files import device, resting_payload, stream, write_mp4
from tests.soak import times

pytestmark = pytest.mark.slow
TIMEOUT_S = 15.0
SECONDS_A_CASE = 1.0
"""Of two processes, on a machine that is busy with other things; the slowest kind takes a fifth of it."""
both_backends = pytest.mark.parametrize("backend", ["decord", "pyav"])


def config_of(kind: str, out: Path, words: list[str]) -> BuildConfig:
    settings = [
        *("name=fuzz", f"out={out}", f"source.kind={kind}", "window.length_s=1.0", "frames.num=3", "frames.size=32"),
        *("subjects.salt=test", "samples_per_shard=100", "build.workers=2", "build.max_failed_share=1"),
        f"build.recording_timeout_s={TIMEOUT_S}",
    ]
    return load(BuildConfig, None, [*settings, *words])


def check(alone: BuildConfig, together: BuildConfig, num_whole: int, num_damaged: int) -> None:
    """Build a dataset that has the damaged recordings beside those of the dataset ``alone``, and compare."""
    expected = samples_in(Path(alone.out))
    started = time.monotonic()
    summary = build(together)
    assert time.monotonic() - started < 60 + SECONDS_A_CASE * num_damaged
    found = samples_in(Path(together.out))
    assert {name: found[name] for name in expected} == expected
    assert len(summary.identifiers) + len(summary.skipped) == num_whole + num_damaged
    for name, reason, message in summary.skipped:
        assert reason.isidentifier(), (name, reason)
        assert message.strip() == message != "", (name, message)
        assert len(message.splitlines()) == 1, (name, message)
        assert "Traceback" not in message, (name, message)
    assert verify(together.out).problems == []
    # What no reader foresaw.
    assert summary.reasons.get("failed", 0) <= 0.02 * num_damaged
    # Damage that nothing notices, and damage that nothing survives, would test nothing.
    assert 0.1 * num_damaged < len(summary.skipped) < num_damaged


def write_gopro(folder: Path) -> list[Path]:
    """Write recordings with and without time stamps, with a second device, and with a track of another kind."""
    folder.mkdir()
    stamped = [resting_payload(stamp_us=1_000_000 * (i + 1)) for i in range(2)]
    second = device(stream("ACCL", [[981, 0, 0]] * 100, "m/s\u00b2"), number=7, model="Sensor")
    return [
        write_mp4(folder / "stamped.mp4", stamped, side=64),
        write_mp4(folder / "plain.mp4", [resting_payload()] * 3, side=48),
        write_mp4(folder / "devices.mp4", [resting_payload() + second] * 2, other_ms=0, side=64, grey=90),
    ]


@both_backends
def test_damaged_gopro_files(tmp_path, backend):
    folder, rng, count = tmp_path / "files", np.random.default_rng(0), times(40, 600)
    whole = write_gopro(folder)
    words = [f"source.gopro.paths=[{folder}]", "positions=[head]", f"frames.backend={backend}"]
    alone = config_of("gopro", tmp_path / "alone", words)
    build(alone)
    contents = [path.read_bytes() for path in whole]
    for i in range(count):
        first, second = rng.choice(len(contents), 2)
        (folder / f"bad{i:04d}.mp4").write_bytes(damaged_mp4(contents[first], contents[second], rng))
    check(alone, config_of("gopro", tmp_path / "out", words), len(whole), count)


def paired_words(manifest: Path, backend: str) -> list[str]:
    return [
        *(f"source.paired.manifest={manifest}", "source.paired.time_column=time", "positions=[head]"),
        f"frames.backend={backend}",
    ]


def row_of(folder: Path, name: str, video: Path, imu: Path) -> dict[str, object]:
    """Return a row of a manifest in ``folder``; the video gets a name of its own there."""
    os.link(video, folder / f"{name}.mp4")
    return {"recording": name, "video": f"{name}.mp4", "imu": imu.name, "position": "head", "camera": "yes"}


@both_backends
def test_damaged_videos_beside_whole_sensors(tmp_path, backend):
    """Videos with reordered frames, an edit list, and a fragmented index; no telemetry decides before the decoder."""
    rng, count = np.random.default_rng(1), times(40, 500)
    originals = [
        write_video(tmp_path / "plain.mp4", 50),
        write_video(tmp_path / "parts.mp4", 40, options={"movflags": "frag_keyframe+empty_moov"}),
        write_video(tmp_path / "uneven.mp4", 30, times_ms=[40 * i + i % 3 for i in range(30)]),
    ]
    imu = write_csv(tmp_path / "imu.csv", imu_columns(2.0))
    rows = [row_of(tmp_path, f"whole{i}", path, imu) for i, path in enumerate(originals)]
    manifest = write_manifest(tmp_path / "whole.csv", rows)
    alone = config_of("paired", tmp_path / "alone", paired_words(manifest, backend))
    build(alone)
    contents = [path.read_bytes() for path in originals]
    for i in range(count):
        first, second = rng.choice(len(contents), 2)
        path = tmp_path / f"damaged{i:04d}.mp4"
        path.write_bytes(damaged_mp4(contents[first], contents[second], rng))
        rows.append(row_of(tmp_path, f"bad{i:04d}", path, imu))
    manifest = write_manifest(tmp_path / "all.csv", rows)
    together = config_of("paired", tmp_path / "out", paired_words(manifest, backend))
    check(alone, together, len(originals), count)


def write_imu_files(folder: Path) -> list[Path]:
    """Write the same readings in all formats."""
    columns = imu_columns(2.0)
    array = np.stack(list(columns.values()), axis=1)
    np.save(folder / "whole.npy", np.rec.fromarrays(array.T, names=",".join(columns)))
    np.savez_compressed(folder / "whole.npz", imu=np.rec.fromarrays(array.T, names=",".join(columns)))
    pq.write_table(pa.table(columns), folder / "whole.parquet")
    scipy.io.savemat(folder / "whole.mat", {"imu": array})
    write_csv(folder / "whole.tsv", columns, "\t")
    return [folder / f"whole.{suffix}" for suffix in ("npy", "npz", "parquet", "mat", "tsv")]


def test_damaged_sensor_files(tmp_path):
    """CSV above all; half of the recordings have no other clock than a rate."""
    rng, count = np.random.default_rng(2), times(80, 1200)
    video = write_video(tmp_path / "video.mp4", 50)
    csv = write_csv(tmp_path / "whole.csv", imu_columns(2.0))
    jittered = imu_columns(2.5, seed=1)
    jittered["time"] = np.round(jittered["time"] + np.random.default_rng(0).uniform(0, 0.004, 250), 4)
    other = write_csv(tmp_path / "jittered.csv", jittered)
    files = [csv, other, *write_imu_files(tmp_path)]
    named = {"time_column": "0", "acc_columns": "1 2 3", "gyro_columns": "4 5 6"}  # MAT files name no columns
    rows = [
        row_of(tmp_path, f"whole{i}", video, path) | (named if path.suffix == ".mat" else {})
        for i, path in enumerate(files)
    ]
    manifest = write_manifest(tmp_path / "good.csv", rows)
    alone = config_of("paired", tmp_path / "alone", paired_words(manifest, "pyav"))
    build(alone)
    contents = {path: path.read_bytes() for path in files}
    for i in range(count):
        path = files[rng.choice([0, 0, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6])]
        damage = damaged_csv if path.suffix == ".csv" else damaged_bytes
        damaged = tmp_path / f"damaged{i:04d}{path.suffix}"
        damaged.write_bytes(damage(contents[path], contents[csv if path is other else other], rng))
        row = row_of(tmp_path, f"bad{i:04d}", video, damaged) | (named if path.suffix == ".mat" else {})
        rows.append(row | ({"rate_hz": 100} if rng.random() < 0.3 and path.suffix != ".mat" else {}))
    manifest = write_manifest(tmp_path / "all.csv", rows)
    together = config_of("paired", tmp_path / "out", paired_words(manifest, "pyav"))
    check(alone, together, len(files), count)


def shrunk(content: bytes, num_frames: int) -> bytes:
    """Return a VRS file with the data of its IMUs and first RGB frames alone, and without its index."""
    kept, before, frames = bytearray(content[:80]), 0, 0
    starts = []
    for start, length in vrs_records(content):
        stream_type, kind = struct.unpack_from("<i", content, start + 8)[0], content[start + 30]
        frames += (stream_type, kind) == (214, 3)
        if kind != 3 or stream_type in (2, 1202) or (stream_type == 214 and frames <= num_frames):
            starts.append(len(kept))
            kept += content[start : start + length]
            struct.pack_into("<I", kept, starts[-1] + 4, before)
            before = length
    struct.pack_into("<qqq", kept, 24, 0, 80, starts[1])
    return bytes(kept)


def test_damaged_vrs_files(tmp_path, realdata):
    pytest.importorskip("projectaria_tools", reason="projectaria-tools (the extra 'aria') is not installed")
    rng, count = np.random.default_rng(3), times(12, 300)
    originals = [(realdata / "aria_vrs" / f"{name}.vrs").read_bytes() for name in ("aea_recording", "gen2_unit_test")]
    contents = [*originals, *(shrunk(content, 3) for content in originals)]
    folder = tmp_path / "files"
    folder.mkdir()
    for i, content in enumerate(contents):
        (folder / f"whole{i}.vrs").write_bytes(content)
    words = [f"source.aria.paths=[{folder}]", "positions=[head_left,head_right]", "window.length_s=0.1", "frames.num=2"]
    alone = config_of("aria", tmp_path / "alone", words)
    build(alone)
    for i in range(count):
        at = rng.choice([0, 1, 2, 2, 2, 3, 3, 3])
        (folder / f"bad{i:04d}.vrs").write_bytes(damaged_vrs(contents[at], contents[at ^ 1], rng))
    check(alone, config_of("aria", tmp_path / "out", words), len(contents), count)
