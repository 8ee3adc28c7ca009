"""The data that benchmarks/stream.py reads: shards of realistic pictures, and a recording.

The pictures are crops of textures whose spectrum falls as that of natural images does (Field, 1987), so that the JPEGs
have the sizes of real ones: frames of 13 real videos of everyday scenes, scaled to 224 px, have 6 to 17 kB at this
quality, 11 in the middle.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg

from imuvid.data.dataset_json import DATASET_NAME, DatasetInfo
from imuvid.data.dataset_tables import INDEX_NAME, INDEX_SCHEMA
from imuvid.data.format import Sample, SampleMeta, encode_members
from shards.write import END_OF_ARCHIVE, tar_members

NUM_FRAMES, SIDE, QUALITY = 10, 224, 90
NUM_STEPS, POSITIONS, WINDOW_S = 250, ["wrist", "waist", "ankle", "head"], 5.0
WORLD = 512


def write_dataset(folder: Path, num_samples: int, num_shards: int) -> Path:
    """Write a dataset of windows of 5 s at 50 Hz with 10 frames of 224 px, recordings of 32 windows each."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows, world = [], np.zeros(0)
    for shard in range(num_shards):
        name, parts, offset = f"{shard:05d}.tar", [], 0
        for number in range(shard * num_samples // num_shards, (shard + 1) * num_samples // num_shards):
            if number % 32 == 0 or not len(world):
                world = _texture(rng)
            sample = _sample(number, world, rng)
            raw = tar_members(encode_members(sample))
            rows.append(
                {"key": sample.key, "shard": name, "offset": offset, "size": len(raw), "crc32": zlib.crc32(raw)}
                | {"recording": sample.meta.recording, "split": "train", "start_s": sample.meta.start_s}
                | {"verdict": "", "weight": 1.0}
            )
            parts.append(raw)
            offset += len(raw)
        (folder / name).write_bytes(b"".join([*parts, END_OF_ARCHIVE]))
    pq.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), folder / INDEX_NAME)
    recordings = len({row["recording"] for row in rows})
    info = DatasetInfo(
        name=folder.name,
        counts={"samples": num_samples, "recordings": recordings, "subjects": 0, "shards": num_shards},
        hours=num_samples * WINDOW_S / 3600,
        window_s=WINDOW_S,
        imu_rate_hz=NUM_STEPS / WINDOW_S,
        positions=POSITIONS,
        num_frames=NUM_FRAMES,
        frame_size=[SIDE, SIDE],
        labels=[],
        sha256={path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())},
        config={},
    )
    (folder / DATASET_NAME).write_text(json.dumps(asdict(info)))
    return folder


def _texture(rng: np.random.Generator) -> np.ndarray:
    """A picture, uint8 [512, 512, 3]."""
    across, down = np.fft.rfftfreq(WORLD)[None], np.fft.fftfreq(WORLD)[:, None]
    radius = np.maximum(np.hypot(across, down), 1 / WORLD)

    def layer(slope: float) -> np.ndarray:
        field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((WORLD, WORLD))) / radius**slope)
        return field / field.std()

    light = layer(1.6)
    return np.clip(128 + 50 * np.stack([light + 0.3 * layer(2.0) for _ in range(3)], -1), 0, 255).astype(np.uint8)


def _sample(number: int, world: np.ndarray, rng: np.random.Generator) -> Sample:
    top, left = np.cumsum(np.vstack([rng.integers(0, 90, (1, 2)), rng.integers(0, 20, (NUM_FRAMES - 1, 2))]), axis=0).T
    frames = []
    for y, x in zip(top, left, strict=True):
        grain = rng.integers(-2, 3, (SIDE, SIDE, 1), dtype=np.int16)
        picture = np.clip(world[y : y + SIDE, x : x + SIDE] + grain, 0, 255).astype(np.uint8)
        frames.append(simplejpeg.encode_jpeg(picture, quality=QUALITY, colorspace="RGB", colorsubsampling="420"))
    meta = SampleMeta(
        recording=f"r{number // 32:05d}",
        source="simulated",
        start_s=number % 32 * WINDOW_S,
        duration_s=WINDOW_S,
        imu_rate_hz=NUM_STEPS / WINDOW_S,
        positions=POSITIONS,
        frame_times_s=[round(i * WINDOW_S / NUM_FRAMES, 3) for i in range(NUM_FRAMES)],
        frame_valid=[True] * NUM_FRAMES,
        quality={"imu_share": 1.0, "frame_share": 1.0, "covered_share": 1.0, "flat_share": 0.0, "acc_std": 1.5},
    )
    imu = rng.standard_normal((NUM_STEPS, len(POSITIONS), 6)).astype(np.float32)
    valid = np.ones((NUM_STEPS, len(POSITIONS), 2), dtype=bool)
    return Sample(f"{meta.recording}-{number:06d}", imu, valid, frames, meta)
