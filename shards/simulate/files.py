"""A simulated recording on disk: made once, in a folder that exists only when it is complete."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from shards.simulate.record import SimulatedConfig, SimulatedRecording, frame_times, frames, recording_name, simulate

VERSION = 1
"""Of what the simulation gives: raised with every change to it, so that no older recording is found again."""
VIDEO_NAME, IMU_NAME, TRUTH_NAME, POSES_NAME = "video.mp4", "imu.npz", "truth.json", "truth.npz"
POSE_RATE_HZ = 50.0


def recording_folder(config: SimulatedConfig, index: int) -> Path:
    """Folder of a recording; it depends on everything that shapes the recording."""
    shaping = dataclasses.asdict(config)
    for name in ("work_dir", "num_subjects"):
        del shaping[name]
    digest = hashlib.sha256(json.dumps([VERSION, shaping], sort_keys=True).encode()).hexdigest()[:16]
    return Path(config.work_dir) / digest / recording_name(config, index)


def ensure_recording(config: SimulatedConfig, index: int) -> Path:
    """Return the folder of a complete recording; make it where it is missing.

    Holds ``imu.npz`` (per position P: P_times_s [N], P_acc and P_gyro [N, 3], SI), ``truth.json`` (subject, labels,
    clock offset, sensor errors), ``truth.npz`` (poses of camera and sensors: position [N, 3] m, unit quaternion
    w, x, y, z [N, 4]) and, where the config renders, ``video.mp4``.
    """
    folder = recording_folder(config, index)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder.parent))
    try:
        recording = simulate(config, index)
        _write_imu(unfinished / IMU_NAME, recording)
        _write_truth(unfinished, config, recording)
        if config.render:
            write_video(unfinished / VIDEO_NAME, frames(config, recording, index), config.fps, config.video_size)
        unfinished.chmod(0o755)
        try:
            os.rename(unfinished, folder)
        except OSError:
            # Another process was first: what it made is the same.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def write_video(path: Path, pictures: Iterable[np.ndarray], fps: int, size: int) -> None:
    """Encode pictures, uint8 [size, size, 3] RGB, as H.264 at a constant rate: no B-frames, a key frame each second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        # One thread: the bytes do not depend on the machine's number of cores.
        stream.codec_context.thread_count = 1
        stream.options = {"preset": "superfast", "crf": "23", "bf": "0", "g": str(fps)}
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _write_imu(path: Path, recording: SimulatedRecording) -> None:
    arrays = {}
    for position, readings in recording.streams.items():
        arrays[f"{position}_times_s"] = readings.times_s
        arrays[f"{position}_acc"] = readings.acc
        arrays[f"{position}_gyro"] = readings.gyro
    np.savez(path, **arrays)  # type: ignore[arg-type]


def _write_truth(folder: Path, config: SimulatedConfig, recording: SimulatedRecording) -> None:
    truth = {
        "name": recording.name,
        "subject_name": recording.subject_name,
        "subject": dataclasses.asdict(recording.subject),
        "duration_s": recording.duration_s,
        "segments": [dataclasses.asdict(segment) for segment in recording.segments],
        "clock_offset_s": recording.clock_offset_s,
        "sensors": {name: dataclasses.asdict(sensor) for name, sensor in recording.parameters.items()},
        "config": {k: v for k, v in dataclasses.asdict(config).items() if k != "work_dir"},
    }
    (folder / TRUTH_NAME).write_text(json.dumps(truth, indent=1))
    times = np.arange(0.0, recording.duration_s, 1.0 / POSE_RATE_HZ)
    video_times = frame_times(config)
    arrays = {
        "times_s": times,
        "frame_times_s": video_times,
        "camera_position_m": recording.camera.position(video_times),
        "camera_quaternion_wxyz": recording.camera.quaternion(video_times),
    }
    for name, trajectory in recording.sensors.items():
        arrays[f"{name}_position_m"] = trajectory.position(times)
        arrays[f"{name}_quaternion_wxyz"] = trajectory.quaternion(times)
    np.savez(folder / POSES_NAME, **arrays)  # type: ignore[arg-type]
