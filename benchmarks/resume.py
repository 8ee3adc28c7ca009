"""Resume after 90 % of an epoch of 10,000 shards of 1,000 samples: 2 s and 500 MB; a fresh run's first batch: 3 s.

The index is written in full, the shards are sparse files that hold only the samples which are read. Each figure is of a
process of its own that has nothing but Python and the imports of a training behind it; what these take alone, and
reading the index by pyarrow as it stands, is measured beside it.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import dataclasses
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg

from imuvid.data.dataset_json import DATASET_NAME, DatasetInfo
from imuvid.data.dataset_tables import INDEX_NAME, INDEX_SCHEMA, QUALITY
from imuvid.data.format import Sample, SampleMeta, encode_members
from imuvid.data.mixture import sample_order
from imuvid.data.order import SampleOrder
from imuvid.data.shard_dataset import ShardDataset
from imuvid.data.stream import DataConfig, training_stream
from shards.write import tar_members

BATCH = 64
READ_AHEAD = 4
WINDOWS_A_RECORDING = 200
BARS = {"resume_s": 2.0, "resume_mb": 500.0, "first_batch_s": 3.0}


def sample_of(number: int) -> Sample:
    """Return a window of 5 s at 50 Hz with two pictures."""
    rng = np.random.default_rng(0)
    return Sample(
        key=f"r{number // WINDOWS_A_RECORDING:012d}-{number % WINDOWS_A_RECORDING:06d}",
        imu=rng.standard_normal((250, 1, 6)).astype(np.float32),
        valid=np.ones((250, 1, 2), dtype=bool),
        frames=[simplejpeg.encode_jpeg(np.full((64, 64, 3), 99, np.uint8))] * 2,
        meta=SampleMeta(
            recording=f"r{number // WINDOWS_A_RECORDING:012d}",
            source="simulated",
            start_s=5.0 * (number % WINDOWS_A_RECORDING),
            duration_s=5.0,
            imu_rate_hz=50.0,
            positions=["head"],
            frame_times_s=[1.0, 3.0],
            frame_valid=[True, True],
        ),
    )


def write_dataset(folder: Path, num_shards: int, per_shard: int) -> None:
    """Write a dataset whose index is complete, and of whose samples those that are read are there."""
    size = len(tar_members(encode_members(sample_of(0))))
    rng = np.random.default_rng(1)
    schema = INDEX_SCHEMA
    needed = _needed(num_shards, per_shard)
    crc32 = {number: zlib.crc32(tar_members(encode_members(sample_of(number)))) for number in needed}
    with pq.ParquetWriter(folder / INDEX_NAME, schema) as writer:
        stretch = max(1, 1_000_000 // per_shard) * per_shard
        for start in range(0, num_shards * per_shard, stretch):
            numbers = np.arange(start, min(start + stretch, num_shards * per_shard))
            recordings = numbers // WINDOWS_A_RECORDING
            checks = rng.integers(0, 2**32, len(numbers))
            for number in needed:
                if start <= number < start + len(numbers):
                    checks[number - start] = crc32[number]
            columns = {
                "key": [f"r{r:012d}-{n % WINDOWS_A_RECORDING:06d}" for r, n in zip(recordings, numbers, strict=True)],
                "shard": [f"{n // per_shard:05d}.tar" for n in numbers],
                "offset": numbers % per_shard * size,
                "size": np.full(len(numbers), size),
                "crc32": checks,
                "recording": [f"r{r:012d}" for r in recordings],
                "subject": [f"s{r // 10:012d}" for r in recordings],
                "split": ["train"] * len(numbers),
                "label": pa.nulls(len(numbers), pa.string()),
                "start_s": 5.0 * (numbers % WINDOWS_A_RECORDING),
                "verdict": [""] * len(numbers),
                "weight": np.ones(len(numbers), np.float32),
            } | {name: rng.random(len(numbers), np.float32) for name in QUALITY}
            writer.write_table(pa.table(columns).cast(schema))
    for shard in range(num_shards):
        with (folder / f"{shard:05d}.tar").open("wb") as file:
            file.truncate(per_shard * size + 1024)
    for number in needed:
        with (folder / f"{number // per_shard:05d}.tar").open("r+b") as file:
            file.seek(number % per_shard * size)
            file.write(tar_members(encode_members(sample_of(number))))
    total = num_shards * per_shard
    info = DatasetInfo(
        name="large",
        counts={
            "samples": total,
            "recordings": total // WINDOWS_A_RECORDING,
            "subjects": total // WINDOWS_A_RECORDING // 10,
            "shards": num_shards,
        },
        hours=total * 5.0 / 3600,
        window_s=5.0,
        imu_rate_hz=50.0,
        positions=["head"],
        num_frames=2,
        frame_size=[64, 64],
        labels=[],
        sha256={f"{shard:05d}.tar": "0" * 64 for shard in range(num_shards)}
        | {INDEX_NAME: hashlib.sha256((folder / INDEX_NAME).read_bytes()).hexdigest()},
        config={},
    )
    (folder / DATASET_NAME).write_text(json.dumps(dataclasses.asdict(info)))


def _needed(num_shards: int, per_shard: int) -> list[int]:
    """Samples of the batches that the measurements read, and of those that the loader reads ahead."""
    order = SampleOrder([per_shard] * num_shards, seed=0)
    begins = [first * BATCH for first in (0, resumed_step(num_shards * per_shard))]
    return [sample for begin in begins for _, sample in order.take(begin, begin + READ_AHEAD * BATCH)]


def config_of(folder: Path) -> DataConfig:
    """Return what the measured runs read by."""
    return DataConfig(path=str(folder), batch_size=BATCH, num_workers=1)


def resumed_step(total: int) -> int:
    """Return the step at 90 % of the first epoch."""
    return int(0.9 * total / BATCH)


def child(what: str, folder: Path, total: int) -> dict[str, float]:
    """Measure one thing in this process: ``nothing``, ``index`` (pyarrow alone), ``resume`` or ``fresh``."""
    start = time.perf_counter()
    begun_cpu_s = time.process_time()
    opened_s = 0.0
    if what == "index":
        pq.read_table(folder / INDEX_NAME, schema=INDEX_SCHEMA)
    elif what != "nothing":
        dataset = ShardDataset(folder, "train")
        opened_s = time.perf_counter() - start
        if what == "resume":
            order = sample_order(dataset, config_of(folder), 0)
            order.rank_batch(resumed_step(total), BATCH, 0, 1)
        else:
            step = 0 if what == "fresh" else resumed_step(total)
            batch = next(training_stream(dataset, config_of(folder), 0, 0, 1, step, False))
            assert len(batch) == BATCH
    return {
        "s": time.perf_counter() - start,
        "cpu_s": time.process_time() - begun_cpu_s,
        "opened_s": opened_s,
        "mb": _peak_mb(),
    }


def _peak_mb() -> float:
    # Not getrusage: what that says of a child begins with the size of its parent.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def measure(num_shards: int, per_shard: int, repeats: int) -> dict[str, float]:
    """Return medians over ``repeats`` processes of each kind, taken in turn; seconds and MiB."""
    total = num_shards * per_shard
    with tempfile.TemporaryDirectory(prefix="imuvid-resume-") as name:
        write_dataset(Path(name), num_shards, per_shard)
        index_mb = (Path(name) / INDEX_NAME).stat().st_size / 2**20
        results: dict[str, list[dict[str, float]]] = {}
        for _ in range(repeats):
            for what in ("nothing", "resume", "resumed_batch", "fresh", "index"):
                command = [sys.executable, "-m", "benchmarks.resume", "--child", what, name, str(total)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                results.setdefault(what, []).append(json.loads(done.stdout.splitlines()[-1]))

    def median(what: str, key: str) -> float:
        return statistics.median(result[key] for result in results[what])

    return {
        "samples": total,
        "index_mb": index_mb,
        "resume_s": median("resume", "s"),
        "resume_cpu_s": median("resume", "cpu_s"),
        "resume_mb": median("resume", "mb"),
        "imports_mb": median("nothing", "mb"),
        "open_s": median("resume", "opened_s"),
        "resumed_batch_s": median("resumed_batch", "s"),
        "first_batch_s": median("fresh", "s"),
        "first_batch_mb": median("fresh", "mb"),
        "pyarrow_reads_index_s": median("index", "s"),
        "pyarrow_reads_index_mb": median("index", "mb"),
    }


def main() -> int:
    """Measure, print one JSON line, return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1,000 shards, once")
    parser.add_argument("--child", nargs=3, metavar=("WHAT", "FOLDER", "SAMPLES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        what, folder, total = arguments.child
        print(json.dumps(child(what, Path(folder), int(total))))
        return 0
    figures = measure(1000, 1000, 1) if arguments.quick else measure(10_000, 1000, 3)
    bars = {name: {"value": figures[name], "bar": bar, "holds": figures[name] <= bar} for name, bar in BARS.items()}
    print(json.dumps({"benchmark": "resume", "figures": figures, "bars": bars}))
    return 0 if all(bar["holds"] for bar in bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
