"""A folder as the official ``ego4d`` tool downloads it (data set v2), with tiny videos and known IMU."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.sources.base import Recording
from shards.sources.ego4d import Ego4DConfig, Ego4DSource
from tests.shards.recordings import write_video

UID = "0a1b2c3d-0000-4000-8000-000000000001"
AXES = [f"{sensor}_{axis}" for sensor in ("gyro", "accl") for axis in "xyz"]
COLUMNS = ("component_idx", "component_timestamp_ms", "canonical_timestamp_ms", *AXES)
RATE_HZ = 201.0  # the sample in the data set's documentation has steps of 4.975 ms


@dataclass
class VideoSpec:
    """One video of the folder; ``None`` for a file that is not there."""

    uid: str
    participant: int | None = None
    university: str = "cmu"
    duration_s: float = 3.0
    has_imu: bool = True
    stereo: bool = False
    video: bool = True
    imu: bool = True


def imu_rows(duration_s: float, rate_hz: float = RATE_HZ, seed: int = 0) -> np.ndarray:
    """Return float64 [N, 9], columns as COLUMNS: gravity on y (m/s^2), nodding about x (rad/s), noise."""
    times_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    rows = np.zeros((times_s.size, len(COLUMNS)))
    rows[:, 1] = rows[:, 2] = 1000 * times_s
    rows[:, 3:] = np.random.default_rng(seed).normal(0, 0.05, (times_s.size, 6))
    rows[:, 3] += np.sin(2 * np.pi * 0.7 * times_s)
    rows[:, 7] += 9.81
    return rows


def write_imu(path: Path, rows: np.ndarray, empty: str = "") -> Path:
    """Write a CSV as pandas does; ``empty`` stands for NaN."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows.tolist():
            writer.writerow([int(row[0]), *(empty if np.isnan(cell) else cell for cell in row[1:])])
    return path


def entry(spec: VideoSpec, fps: int) -> dict[str, Any]:
    """Return what ego4d.json says of a video."""
    num_frames = round(spec.duration_s * fps)
    return {
        "video_uid": spec.uid,
        "duration_sec": spec.duration_s,
        "scenarios": ["Cooking"],
        "video_metadata": {
            "fps": float(fps),
            "num_frames": num_frames,
            "video_codec": "h264",
            "display_resolution_width": 160,
            "display_resolution_height": 96,
            "video_start_sec": 0.0,
            "video_duration_sec": spec.duration_s,
            "audio_start_sec": None,
        },
        "split_em": "train",
        "split_av": None,
        "split_fho": None,
        "s3_path": f"s3://ego4d-consortium-sharing/public/v2/full_scale/{spec.uid}.mp4",
        "origin_video_id": f"origin-{spec.uid}",
        "video_source": spec.university,
        "device": "GoPro Hero 8",
        "physical_setting_name": None,
        "fb_participant_id": spec.participant,
        "is_stereo": spec.stereo,
        "has_imu": spec.has_imu,
        "has_gaze": False,
        "video_components": [
            {
                "video_component_uid": f"component-{spec.uid}",
                "component_idx": 0,
                "canonical_video_start_sec": 0.0,
                "canonical_video_end_sec": spec.duration_s,
            }
        ],
        "concurrent_sets": [],
        "has_redacted_regions": False,
        "redacted_intervals": [],
    }


def write_ego4d(root: Path, specs: list[VideoSpec], folder: str = "video_540ss", version: str = "v2") -> Path:
    """Write ego4d.json, VERSION/FOLDER/UID.mp4 and VERSION/imu/UID.csv, with the manifests of the tool."""
    fps = 25
    base = root / version
    for part in (folder, "imu"):
        (base / part).mkdir(parents=True, exist_ok=True)
        (base / part / "manifest.csv").write_text("video_uid,type\n")
    for number, spec in enumerate(specs):
        if spec.video:
            write_video(base / folder / f"{spec.uid}.mp4", round(spec.duration_s * fps), fps)
        if spec.imu:
            write_imu(base / "imu" / f"{spec.uid}.csv", imu_rows(spec.duration_s, seed=number))
    content = {"date": "230208", "version": version, "videos": [entry(spec, fps) for spec in specs], "clips": []}
    (root / "ego4d.json").write_text(json.dumps(content))
    return root


def read(root: Path, rows: np.ndarray | None = None, empty: str = "", **config: object) -> Recording:
    """Read the only recording of a folder, which is ``UID`` where its IMU is written anew."""
    if rows is not None:
        write_imu(root / "v2" / "imu" / f"{UID}.csv", rows, empty)
    source = Ego4DSource(Ego4DConfig(root=str(root), **config))
    (ref,) = source.list()
    return source.open(ref)


def listed(root: Path, **config: object) -> dict[str, str | None]:
    """Return the names and splits of the recordings that are listed."""
    return {ref.name: ref.payload["split"] for ref in Ego4DSource(Ego4DConfig(root=str(root), **config)).list()}


def uid(number: int) -> str:
    """Return the name of a video."""
    return f"{number:08x}-0000-4000-8000-000000000000"


def split_files(folder: Path, **contents: object) -> dict[str, str]:
    """Write JSON files; return the path of each by its name."""
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return {name: str(folder / f"{name}.json") for name in contents}


def annotations(*uids: str) -> dict[str, object]:
    """An annotation file as nlq_train.json and moments_train.json are."""
    clips = [{"clip_uid": "c", "annotations": [{"language_queries": []}]}]
    return {"version": "v2", "videos": [{"video_uid": name, "split": "train", "clips": clips} for name in uids]}
