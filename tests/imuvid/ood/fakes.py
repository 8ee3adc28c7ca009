"""Small data sets in the published formats, and small encoders, that the tests of the evaluation share."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from imuvid.data.dataset_json import DatasetInfo
from imuvid.data.dataset_tables import INDEX_NAME, INDEX_SCHEMA
from imuvid.data.format import Sample, SampleMeta, encode_members
from imuvid.models.encoder import EncoderConfig, random_encoder, save_encoder
from imuvid.models.towers import ImuTowerConfig

SEGMENT = 400
"""Samples of a segment of the fake HAPT, 8 s."""


def write_hapt(folder: Path, num_subjects: int = 6, packed: bool = False) -> Path:
    """Write a HAPT of one recording a subject, 6 activities told apart by tilt and by the rate of a swing."""
    raw = folder / "RawData"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    t = np.arange(SEGMENT) / 50
    labels = []
    for user in range(1, num_subjects + 1):
        acc, gyro = [], []
        for activity in range(1, 7):
            tilt = 0.5 * (activity % 3) + 0.1 * rng.standard_normal()
            swing = np.sin(2 * np.pi * (1 + (activity > 3)) * t + rng.uniform(0, 6))[:, None]
            gravity = np.array([np.cos(tilt), np.sin(tilt), 0.0])
            acc.append(gravity + 0.2 * swing + 0.02 * rng.standard_normal((SEGMENT, 3)))
            gyro.append(0.5 * swing + 0.05 * rng.standard_normal((SEGMENT, 3)))
            labels.append((user, user, activity, (activity - 1) * SEGMENT + 1, activity * SEGMENT))
        for kind, parts in (("acc", acc), ("gyro", gyro)):
            text = "".join(f"{x:.6f} {y:.6f} {z:.6f}\n" for x, y, z in np.concatenate(parts))
            path = raw / f"{kind}_exp{user:02d}_user{user:02d}.txt"
            if packed:
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(text.encode()))
            else:
                path.write_text(text)
    (raw / "labels.txt").write_text("".join(" ".join(map(str, row)) + "\n" for row in labels))
    return folder


def write_daphnet(folder: Path, num_subjects: int = 3, num_samples: int = 64 * 60) -> Path:
    """Write a Daphnet of one file a subject: 5 s outside the experiment, then 10 s without and 5 s with freeze."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    t = np.arange(num_samples) / 64
    phase = np.maximum(t - 5, 0) % 15
    label = np.where(t < 5, 0, np.where(phase < 10, 1, 2))
    for user in range(1, num_subjects + 1):
        acc = rng.normal(0, 20, (num_samples, 9)) + np.array([0, -1000, 0] * 3)
        acc += (label == 2)[:, None] * 400 * np.sin(2 * np.pi * 6 * t)[:, None]
        table = np.column_stack([np.round(t * 1000) + 15, acc.round(), label]).astype(int)
        np.savetxt(folder / f"S{user:02d}R01.txt", table, fmt="%d")
    return folder


def write_shards(folder: Path, samples: list[tuple[Sample, str]], rate_hz: float = 50.0, window_s: float = 4.0) -> Path:
    """Write (sample, split) pairs without frames as a dataset of one shard."""
    folder.mkdir(parents=True)
    buffer, rows = io.BytesIO(), []
    for sample, split in samples:
        start = buffer.tell()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for name, content in encode_members(sample):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            size = tar.offset
        buffer.seek(start + size)
        buffer.truncate()
        meta = sample.meta
        rows.append(
            {
                "key": sample.key,
                "shard": "00000.tar",
                "offset": start,
                "size": size,
                "recording": meta.recording,
                "subject": meta.subject,
                "split": split,
                "label": meta.label,
                "start_s": meta.start_s,
                "imu_share": 1.0,
                "frame_share": 0.0,
            }
        )
    (folder / "00000.tar").write_bytes(buffer.getvalue() + bytes(1024))
    pq.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), folder / INDEX_NAME)
    positions = samples[0][0].meta.positions
    labels = sorted({row["label"] for row in rows if row["label"]})
    sha256 = {"00000.tar": "0" * 64, INDEX_NAME: hashlib.sha256((folder / INDEX_NAME).read_bytes()).hexdigest()}
    counts = {"samples": len(rows), "recordings": 1, "subjects": 1, "shards": 1}
    info = DatasetInfo("population", counts, 0.0, window_s, rate_hz, positions, 0, [], labels, sha256, {})
    (folder / "dataset.json").write_text(json.dumps(dataclasses.asdict(info)))
    return folder


def make_sample(
    key: str, subject: str | None, label: str | None, start_s: float = 0.0, rate_hz: float = 50.0, window_s: float = 4.0
) -> Sample:
    """Return a sample whose acceleration says when it was taken: x is the time on the recording's clock."""
    steps = round(rate_hz * window_s)
    imu = np.zeros((steps, 1, 6), np.float32)
    imu[:, 0, 0] = start_s + np.arange(steps) / rate_hz
    imu[:, 0, 2] = 9.81 if label == "walk" else -9.81
    meta = SampleMeta(f"rec-{subject or key}", "simulated", start_s, window_s, rate_hz, ["waist"])
    meta.subject, meta.label = subject, label
    return Sample(key, imu, np.ones((steps, 1, 2), bool), [], meta)


def write_encoder(run: Path, step: int = 100, **provenance: object) -> Path:
    """Write a checkpoint folder with a randomly initialised encoder, in a run folder; return the checkpoint."""
    facts = {"run": "tiny", "step": step, "dataset": "somewhere", "fingerprint": "f", "train_subjects": []} | provenance
    config = EncoderConfig(ImuTowerConfig(), imu_rate_hz=50.0, window_s=2.0, positions=["wrist"], provenance=facts)
    checkpoint = run / "checkpoints" / f"step-{step:08d}"
    save_encoder(checkpoint / "encoder", config, random_encoder(config, seed=1234).tower.state_dict())
    return checkpoint
