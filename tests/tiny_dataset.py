"""A tiny dataset in shard format 1, written with the standard library's tarfile: independent of the builder."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg

from imuvid.data.dataset_json import DATASET_NAME, DatasetInfo
from imuvid.data.dataset_tables import INDEX_NAME, INDEX_SCHEMA, RECORDINGS_NAME, RECORDINGS_SCHEMA
from imuvid.data.format import Sample, SampleMeta, encode_members

QUALITY = {"imu_share": 1.0, "frame_share": 1.0, "covered_share": 1.0, "flat_share": 0.0, "saturated_share": 0.0}
RATE_HZ, WINDOW_S, NUM_FRAMES, SIZE = 20.0, 1.0, 4, 16


def tiny_sample(number: int, recording: str, subject: str) -> Sample:
    """A window whose IMU and pictures share one random amplitude, so that the pairing can be learned.

    The label says whether it is above or below the middle.
    """
    rng = np.random.default_rng(number)
    steps = round(RATE_HZ * WINDOW_S)
    amplitude = rng.uniform(0.2, 3.0)
    imu = (rng.standard_normal((steps, 1, 6)) * amplitude + [0, 0, 9.8, 0, 0, 0]).astype(np.float32)
    brightness = 40 + 60 * amplitude + rng.uniform(-5, 5)
    frames = np.clip(brightness + rng.standard_normal((NUM_FRAMES, SIZE, SIZE, 3)) * 10 * amplitude, 0, 255)
    times = [(i + 0.5) * WINDOW_S / NUM_FRAMES for i in range(NUM_FRAMES)]
    return Sample(
        key=f"{recording}-{number:06d}",
        imu=imu,
        valid=np.ones((steps, 1, 2), dtype=bool),
        frames=[simplejpeg.encode_jpeg(np.ascontiguousarray(f.astype(np.uint8)), quality=95) for f in frames],
        meta=SampleMeta(
            recording=recording,
            source="simulated",
            start_s=0.0,
            duration_s=WINDOW_S,
            imu_rate_hz=RATE_HZ,
            positions=["wrist"],
            frame_times_s=times,
            frame_valid=[True] * NUM_FRAMES,
            subject=subject,
            label="strong" if amplitude > 1.6 else "weak",
            quality=dict(QUALITY),
        ),
    )


def imu_statistics(windows: list[np.ndarray]) -> dict[str, list[float]]:
    """Mean and deviation of each channel over windows [T, P, 6] that are valid throughout."""
    readings = np.concatenate(windows).astype(np.float64)
    return {"imu_mean": readings.mean(axis=0).ravel().tolist(), "imu_deviation": readings.std(axis=0).ravel().tolist()}


def write_tiny_dataset(
    folder: Path,
    num_train: int = 44,
    num_val: int = 12,
    per_shard: int = 13,
    people: str = "s",
    narrated: bool = False,
    with_video: bool = True,
) -> Path:
    """Write a dataset of two windows a recording, subjects apart by split, and return its folder.

    Subjects are named ``people`` + split + number. Where it is ``narrated``, three of four windows say in a sentence
    what their label is.
    """
    folder.mkdir(parents=True)
    splits = ["train"] * num_train + ["val"] * num_val
    samples = [
        tiny_sample(i, f"r{i // 2:03d}", f"{people}{split}{i // 2 % 3 if split == 'train' else 9}")
        for i, split in enumerate(splits)
    ]
    for i, sample in enumerate(samples):
        sample.meta.text = f"A {sample.meta.label} movement." if narrated and i % 4 else None
        if not with_video:
            sample.frames, sample.meta.frame_times_s, sample.meta.frame_valid = [], [], []
    rows: list[dict[str, Any]] = []
    for start in range(0, len(samples), per_shard):
        name = f"{start // per_shard:05d}.tar"
        with tarfile.open(folder / name, "w", format=tarfile.USTAR_FORMAT) as tar:
            for i, sample in enumerate(samples[start : start + per_shard], start):
                offset = tar.offset
                raw = []
                for member, content in encode_members(sample):
                    info = tarfile.TarInfo(member)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
                    raw += [info.tobuf(tarfile.USTAR_FORMAT), content, bytes(-len(content) % 512)]
                rows.append(
                    {
                        "key": sample.key,
                        "shard": name,
                        "offset": offset,
                        "size": tar.offset - offset,
                        "crc32": zlib.crc32(b"".join(raw)),
                        "recording": sample.meta.recording,
                        "subject": sample.meta.subject,
                        "split": splits[i],
                        "label": sample.meta.label,
                        "start_s": 0.0,
                        "verdict": "",
                        "weight": 1.0,
                    }
                    | QUALITY
                )
    pq.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), folder / INDEX_NAME)
    recordings = {row["recording"]: row for row in rows}
    listing = [
        {name: row[name] for name in ("recording", "subject", "split")}
        | {"source": "simulated", "status": "used", "duration_s": WINDOW_S, "positions": ["wrist"], "marked": []}
        | {"num_windows": sum(other["recording"] == row["recording"] for other in rows), "digest": "0" * 64}
        | imu_statistics([sample.imu for sample in samples if sample.meta.recording == row["recording"]])
        for row in recordings.values()
    ]
    pq.write_table(pa.Table.from_pylist(listing, schema=RECORDINGS_SCHEMA), folder / RECORDINGS_NAME)
    info = DatasetInfo(
        name="tiny",
        counts={
            "samples": len(samples),
            "recordings": len(samples) // 2,
            "subjects": 4,
            "shards": -(-len(samples) // per_shard),
        },
        hours=len(samples) * WINDOW_S / 3600,
        window_s=WINDOW_S,
        imu_rate_hz=RATE_HZ,
        positions=["wrist"],
        num_frames=NUM_FRAMES if with_video else 0,
        frame_size=[SIZE, SIZE] if with_video else [],
        labels=["strong", "weak"],
        sha256={p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())},
        config={},
    )
    (folder / DATASET_NAME).write_text(json.dumps(asdict(info)))
    return folder


def rewrite_index(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Give a dataset another index, and ``dataset.json`` its checksum."""
    _rewrite(folder, INDEX_NAME, pa.Table.from_pylist(rows, schema=INDEX_SCHEMA))


def rewrite_recordings(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Give a dataset another ``recordings.parquet``, and ``dataset.json`` its checksum."""
    _rewrite(folder, RECORDINGS_NAME, pa.Table.from_pylist(rows, schema=RECORDINGS_SCHEMA))


def _rewrite(folder: Path, name: str, table: pa.Table) -> None:
    pq.write_table(table, folder / name)
    info = json.loads((folder / DATASET_NAME).read_text())
    info["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / DATASET_NAME).write_text(json.dumps(info))


def tar_of(members: list[tuple[str, bytes]]) -> bytes:
    """The same members by the standard library."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
