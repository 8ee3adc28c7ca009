"""Small recordings for tests: videos whose frames show their own number, and IMU files whose values are known."""

from __future__ import annotations

import csv
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from imuvid.config import load
from shards.config import BuildConfig

BITS = 10
WIDTH, HEIGHT = 160, 96


def write_video(
    path: Path,
    num_frames: int = 75,
    fps: int = 25,
    options: dict[str, str] | None = None,
    times_ms: list[int] | None = None,
) -> Path:
    """Write an H.264 video with reordered frames; frame i shows the bits of i as bars, lowest at the left.

    Frames follow each other at ``fps``, or are shown at ``times_ms`` (as many as ``num_frames``).
    """
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"bf": "2", "g": "30", "crf": "18", "preset": "ultrafast"}
        if times_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i in range(num_frames):
            bits = np.array([i >> bit & 1 for bit in range(BITS)], dtype=np.uint8)
            picture = np.repeat(bits * 255, WIDTH // BITS)[None, :, None].repeat(HEIGHT, axis=0).repeat(3, axis=2)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            if times_ms is not None:
                frame.pts, frame.time_base = times_ms[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def number_of(picture: np.ndarray) -> int:
    """Read the number off a frame of :func:`write_video` that was not cropped."""
    row = picture[picture.shape[0] // 2].mean(axis=-1)
    centres = ((np.arange(BITS) + 0.5) * picture.shape[1] / BITS).astype(int)
    return sum(1 << bit for bit in range(BITS) if row[centres[bit]] > 127)


def copy_from(source: Path, target: Path, shift_s: float, seek: bool = True) -> Path:
    """Copy the packets with their times moved by ``shift_s``: below 0 this leaves hidden frames and an edit list."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = old.streams.video[0]
        copied = new.add_stream_from_template(stream)
        shift = round(shift_s / stream.time_base)
        if seek:
            old.seek(max(-shift, 0), stream=stream)
        for packet in old.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, copied
                new.mux(packet)
    return target


def rotated(source: Path, target: Path) -> Path:
    """Copy an MP4 file with a display matrix that turns it by a quarter (ISO/IEC 14496-12, 8.3.2)."""
    content = bytearray(source.read_bytes())
    matrix = content.find(b"tkhd") + 4 + 40
    struct.pack_into(">9i", content, matrix, 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    target.write_bytes(content)
    return target


def trimmed(source: Path, target: Path, num_frames: int, fps: int = 25) -> Path:
    """Copy an MP4 file with an edit list that ends after some frames (ISO/IEC 14496-12, 8.6.6; time scale 1000)."""
    content = bytearray(source.read_bytes())
    struct.pack_into(">I", content, content.find(b"elst") + 12, num_frames * 1000 // fps)
    target.write_bytes(content)
    return target


def imu_columns(duration_s: float, rate_hz: float = 100.0, seed: int = 0) -> dict[str, np.ndarray]:
    """Return time and six columns: gravity on z (m/s^2) and slow turns (rad/s)."""
    times_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    noise = np.random.default_rng(seed).normal(0, 0.05, (6, times_s.size))
    values = np.zeros((6, times_s.size)) + noise
    values[2] += 9.81
    values[3] += np.sin(2 * np.pi * 0.5 * times_s)
    names = ("acc_x", "acc_y", "acc_z", "gyro_x", "gyro_y", "gyro_z")
    return {"time": times_s} | dict(zip(names, values, strict=True))


def write_csv(path: Path, columns: dict[str, np.ndarray], delimiter: str = ",") -> Path:
    """Write columns with a header; cells as Python prints them."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(columns)
        writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
    return path


def write_manifest(path: Path, rows: list[dict[str, object]]) -> Path:
    """Write a manifest; absent cells are empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def make_recordings(folder: Path, durations_s: dict[str, float], position: str = "wrist") -> Path:
    """Write a video and a CSV of each duration, and a manifest; the subject is the name up to '-'."""
    rows: list[dict[str, object]] = []
    for number, (name, duration_s) in enumerate(durations_s.items()):
        write_video(folder / f"{name}.mp4", round(25 * duration_s))
        write_csv(folder / f"{name}.csv", imu_columns(duration_s, seed=number))
        rows.append(
            {
                "recording": name,
                "video": f"{name}.mp4",
                "imu": f"{name}.csv",
                "position": position,
                "subject": name.split("-")[0],
                "label": f"label{number % 2}",
            }
        )
    return write_manifest(folder / "recordings.csv", rows)


def build_config(manifest: Path, out: Path, *words: str) -> BuildConfig:
    """Return the config of a small build of a manifest."""
    defaults = [
        "name=small",
        f"out={out}",
        "source.kind=paired",
        f"source.paired.manifest={manifest}",
        "source.paired.time_column=time",
        "window.length_s=1.0",
        "frames.num=4",
        "frames.size=48",
        "frames.fit=squash",
        "subjects.salt=test",
        "build.workers=2",
    ]
    return load(BuildConfig, None, [*defaults, *words])
