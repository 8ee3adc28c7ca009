"""Datasets for the page about a dataset."""

from __future__ import annotations

import dataclasses
import io
import json
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg

from imuvid.data.dataset_json import DATASET_NAME, DatasetInfo
from imuvid.data.dataset_tables import INDEX_NAME, INDEX_SCHEMA, RECORDINGS_NAME, RECORDINGS_SCHEMA, read_index
from imuvid.data.format import Sample, SampleMeta, encode_members
from shards.gates import GatesConfig, regate

RATE_HZ, WINDOW_S, NUM_FRAMES, SIZE = 50.0, 5.0, 10, 96
STEPS = round(RATE_HZ * WINDOW_S)
SCRIPT = "<script>document.title='broken in'</script>"


def make_sample(number: int, frames: list[bytes], positions: tuple[str, ...] = ("head", "wrist")) -> Sample:
    """A window of movement; the accelerometer at the first position is missing from 1.0 to 2.0 s of it."""
    rng = np.random.default_rng(number)
    times_s = np.arange(STEPS) / RATE_HZ
    imu = rng.standard_normal((STEPS, len(positions), 6)).astype(np.float32)
    imu[..., :3] += 3 * np.sin(2 * np.pi * times_s)[:, None, None] + [0, 0, 9.8]
    valid = np.ones((STEPS, len(positions), 2), dtype=bool)
    valid[(times_s >= 1.0) & (times_s < 2.0), 0, 0] = False
    valid[:, 1:, 1] = False
    imu[~np.repeat(valid, 3, axis=2)] = 0
    recording = f"r{number // 3:03d}"
    return Sample(
        f"{recording}-{number:06d}",
        imu,
        valid,
        frames,
        SampleMeta(
            recording=recording,
            source="gopro",
            start_s=WINDOW_S * (number % 3),
            duration_s=WINDOW_S,
            imu_rate_hz=RATE_HZ,
            positions=list(positions),
            frame_times_s=[(i + 0.5) * WINDOW_S / max(len(frames), 1) for i in range(len(frames))],
            frame_valid=[i != 7 for i in range(len(frames))],
            subject=f"s{number // 9:03d}",
            label=(None, "walking", SCRIPT)[number % 3],
            text=f"someone walks & says {SCRIPT}",
        ),
    )


def jpegs(num: int, size: int = SIZE) -> list[bytes]:
    """Pictures whose brightness rises."""
    return [simplejpeg.encode_jpeg(np.full((size, size, 3), 250 * (i + 1) // num, dtype=np.uint8)) for i in range(num)]


def write_dataset(folder: Path, samples: list[Sample], quality: dict[str, list[Any]], **info: Any) -> Path:
    """Write samples as one shard with an index of these columns, and gates by default."""
    folder.mkdir(parents=True)
    rows = []
    with tarfile.open(folder / "00000.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for i, sample in enumerate(samples):
            offset = tar.offset
            for name, content in encode_members(sample):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            meta = sample.meta
            row = {"key": sample.key, "shard": "00000.tar", "offset": offset, "size": tar.offset - offset}
            row |= {name: getattr(meta, name) for name in ("recording", "subject", "label", "start_s")}
            row |= {"split": ("train", "train", "val", "test")[i // 9 % 4], "imu_share": 1.0, "covered_share": 1.0}
            row |= {name: values[i] for name, values in quality.items()}
            rows.append(row)
    content = (folder / "00000.tar").read_bytes()
    for row in rows:
        row["crc32"] = zlib.crc32(content[row["offset"] : row["offset"] + row["size"]])
    regate(rows, GatesConfig())
    pq.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), folder / INDEX_NAME)
    meta = samples[0].meta
    stated = DatasetInfo(
        name="mixed",
        counts={"samples": len(rows), "recordings": -(-len(rows) // 3), "subjects": -(-len(rows) // 9), "shards": 1},
        hours=len(rows) * WINDOW_S / 3600,
        window_s=WINDOW_S,
        imu_rate_hz=RATE_HZ,
        positions=meta.positions,
        num_frames=len(samples[0].frames),
        frame_size=[SIZE, SIZE] if samples[0].frames else [],
        labels=sorted({row["label"] for row in rows} - {None}),
        sha256={"00000.tar": "0" * 64},
        config={"gates": dataclasses.asdict(GatesConfig()), "source": {"kind": "paired"}},
    )
    (folder / DATASET_NAME).write_text(json.dumps(dataclasses.asdict(stated) | info))
    return folder


def write_mixed(folder: Path) -> Path:
    """Write a dataset of 45 windows, some bad in several ways, with recordings that are not used."""
    num = 45
    rng = np.random.default_rng(7)
    quality: dict[str, list[Any]] = {
        "frame_share": [0.9] * num,
        "flat_share": rng.beta(0.4, 3, num).tolist(),
        "saturated_share": rng.beta(0.2, 6, num).tolist(),
        "acc_std": rng.gamma(2, 1, num).tolist(),
        "gyro_rms": [None if i % 5 == 0 else float(rng.gamma(2, 0.4)) for i in range(num)],
        "black_share": [0.0] * num,
        "frozen_share": rng.beta(0.3, 5, num).tolist(),
        "frame_change": [None if i % 3 == 0 else float(rng.gamma(2, 6)) for i in range(num)],
        "sync_offset_s": rng.normal(0, 0.04, num).tolist(),
        "sync_confidence": rng.beta(4, 1, num).tolist(),
        "covered_share": [0.6 if i % 3 == 2 else 1.0 for i in range(num)],
    }
    quality["imu_share"] = list(quality["covered_share"])
    quality["black_share"][20], quality["sync_offset_s"][20] = 1.0, 0.4
    quality["saturated_share"][20] = 0.0
    quality["black_share"][31] = 0.8
    quality["saturated_share"][40] = 0.5
    for i in (6, 7, 8):
        quality["black_share"][i] = 0.7 + i / 1000
    frames = jpegs(NUM_FRAMES)
    write_dataset(folder, [make_sample(i, frames) for i in range(num)], quality)
    rows = [
        {
            "recording": f"r{i:03d}",
            "source": "gopro" if i % 2 else "paired",
            "status": "used",
            "duration_s": 13.0 + i,
            "marked": ["gap"] if i % 2 else ["gap", "not_a_number"],
            "sync_verdict": ("in_sync", "unknown")[i % 2],
            "sync_offset_s": 0.01 * i,
            "sync_confidence": 0.9,
        }
        for i in range(15)
    ]
    rows += [{"recording": f"x{i}", "status": ("too_short", "no_telemetry")[i % 2], "marked": []} for i in range(5)]
    pq.write_table(pa.Table.from_pylist(rows, schema=RECORDINGS_SCHEMA), folder / RECORDINGS_NAME)
    return folder


def damaged_copy(source: Path, folder: Path) -> Path:
    """Return a copy of a dataset in which every second sample is damaged, each in another way."""
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    content = bytearray((folder / "00000.tar").read_bytes())
    table = read_index(folder)
    rows = table.to_pylist()
    for i, row in enumerate(rows):
        if i % 4 == 1:
            content[row["offset"] + row["size"] // 2] ^= 0xFF
        elif i % 8 == 3:
            row["size"], row["crc32"] = 2**60, None
        elif i % 8 == 7:
            row["shard"] = "00009.tar"
    (folder / "00000.tar").write_bytes(content)
    pq.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), folder / INDEX_NAME)
    return folder
