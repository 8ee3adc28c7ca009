"""Small finished datasets, written with the standard library's tarfile from what the format says."""

from __future__ import annotations

import dataclasses
import hashlib
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

from imuvid.data.dataset_json import DatasetInfo
from imuvid.data.dataset_tables import INDEX_SCHEMA, RECORDINGS_SCHEMA
from imuvid.data.format import Sample, SampleMeta, encode_members
from tests.tiny_dataset import imu_statistics

RATE_HZ, WINDOW_S, NUM_FRAMES, SIZE = 20.0, 1.0, 2, 16
GATES = {"max_black": 0.5}


@dataclasses.dataclass
class Person:
    """A recording of a subject, in a split."""

    recording: str
    subject: str | None
    split: str
    num_windows: int
    label: str = "walk"


PEOPLE = (
    Person("ra1", "sann", "train", 3),
    Person("ra2", "sann", "train", 2, "sit"),
    Person("rb1", "sbob", "val", 2),
    Person("rc1", None, "test", 1, "sit"),
)


def write_dataset(
    folder: Path,
    people: tuple[Person, ...] = PEOPLE,
    per_shard: int = 3,
    rate_hz: float = RATE_HZ,
    config: dict[str, Any] | None = None,
) -> Path:
    """Write a dataset and return its folder; window i of a recording has black_share i / 10."""
    folder.mkdir(parents=True)
    samples = [(person, _sample(person, i, rate_hz)) for person in people for i in range(person.num_windows)]
    rows = []
    for start in range(0, len(samples), per_shard):
        name = f"{start // per_shard:05d}.tar"
        with tarfile.open(folder / name, "w", format=tarfile.USTAR_FORMAT) as tar:
            for person, sample in samples[start : start + per_shard]:
                offset = tar.offset
                for member, content in encode_members(sample):
                    header = tarfile.TarInfo(member)
                    header.size = len(content)
                    tar.addfile(header, io.BytesIO(content))
                rows.append(
                    {"key": sample.key, "shard": name, "offset": offset, "size": tar.offset - offset}
                    | {"recording": person.recording, "subject": person.subject, "split": person.split}
                    | {"label": person.label, "start_s": sample.meta.start_s, "verdict": "", "weight": 1.0}
                    | sample.meta.quality
                )
        content = (folder / name).read_bytes()
        for row in rows:
            if row["shard"] == name:
                row["crc32"] = zlib.crc32(content[row["offset"] : row["offset"] + row["size"]])
    listing = [
        {"recording": person.recording, "subject": person.subject, "split": person.split, "source": "simulated"}
        | {"status": "used", "duration_s": float(person.num_windows), "num_windows": person.num_windows}
        | {"positions": ["wrist"], "marked": [], "digest": "0" * 64}
        | imu_statistics([sample.imu for other, sample in samples if other is person])
        for person in people
    ]
    listing.append({"recording": "rz9", "source": "simulated", "status": "no_imu", "num_windows": 0, "marked": []})
    pq.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), folder / "index.parquet")
    pq.write_table(pa.Table.from_pylist(listing, schema=RECORDINGS_SCHEMA), folder / "recordings.parquet")
    info = DatasetInfo(
        name=folder.name,
        counts={
            "samples": len(samples),
            "recordings": len(people),
            "subjects": len({person.subject for person in people} - {None}),
            "shards": -(-len(samples) // per_shard),
        },
        hours=len(samples) * WINDOW_S / 3600,
        window_s=WINDOW_S,
        imu_rate_hz=rate_hz,
        positions=["wrist"],
        num_frames=NUM_FRAMES,
        frame_size=[SIZE, SIZE],
        labels=sorted({person.label for person in people}),
        sha256={path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())},
        config={"gates": GATES, "digest": "1" * 64} if config is None else config,
    )
    (folder / "dataset.json").write_text(json.dumps(dataclasses.asdict(info)))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def samples_in(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every tar member of a dataset by name, as the standard library reads them."""
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                assert member.name not in found
                found[member.name] = file.read()
    return found


def _sample(person: Person, number: int, rate_hz: float) -> Sample:
    rng = np.random.default_rng([zlib.crc32(person.recording.encode()), number])
    steps = round(rate_hz * WINDOW_S)
    pictures = rng.integers(0, 255, (NUM_FRAMES, SIZE, SIZE, 3), dtype=np.uint8)
    return Sample(
        key=f"{person.recording}-{number:06d}",
        imu=rng.standard_normal((steps, 1, 6)).astype(np.float32),
        valid=np.ones((steps, 1, 2), dtype=bool),
        frames=[simplejpeg.encode_jpeg(picture) for picture in pictures],
        meta=SampleMeta(
            recording=person.recording,
            source="simulated",
            start_s=float(number),
            duration_s=WINDOW_S,
            imu_rate_hz=rate_hz,
            positions=["wrist"],
            frame_times_s=[(i + 0.5) * WINDOW_S / NUM_FRAMES for i in range(NUM_FRAMES)],
            frame_valid=[True] * NUM_FRAMES,
            subject=person.subject,
            label=person.label,
            quality={"imu_share": 1.0, "frame_share": 1.0, "covered_share": 1.0, "flat_share": 0.0}
            | {"saturated_share": 0.0, "acc_std": 1.0, "gyro_rms": 1.0, "black_share": number / 10}
            | {"frozen_share": 0.0},
        ),
    )
