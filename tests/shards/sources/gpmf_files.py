"""Writes telemetry and MP4 files as a GoPro camera does, with contents that a test chooses."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def klv(key: str, kind: str, size: int, data: bytes, repeat: int | None = None) -> bytes:
    count = len(data) // max(size, 1) if repeat is None else repeat
    header = key.encode() + (kind.encode() or b"\0") + struct.pack(">BH", size, count)
    return header + data + bytes(-len(data) % 4)


def stream(key: str, channels: Sequence[Sequence[int]], unit: str, scale: int = 100, **extra: bytes) -> bytes:
    """A STRM of 16-bit integers; ``extra`` are further items (whole key-length-values) in front of the data."""
    data = np.asarray(channels, ">i2")
    items = b"".join(extra.values())
    items += klv("SIUN", "c", len(unit.encode("latin-1")), unit.encode("latin-1"))
    items += klv("SCAL", "s", 2, struct.pack(">h", scale))
    items += klv(key, "s", 2 * data.shape[1], data.tobytes())
    return klv("STRM", "", 1, items)


def shutter(stamp_us: int) -> bytes:
    return klv("STRM", "", 1, stamp(stamp_us) + klv("SHUT", "f", 4, struct.pack(">f", 0.001)))


def stamp(stamp_us: int) -> bytes:
    return klv("STMP", "J", 8, struct.pack(">Q", stamp_us))


def device(*streams: bytes, number: int = 1, model: str = "Camera") -> bytes:
    described = klv("DVID", "L", 4, struct.pack(">L", number)) + klv("DVNM", "c", 1, model.encode())
    return klv("DEVC", "", 1, described + b"".join(streams))


def resting_payload(num_acc: int = 200, num_gyro: int = 400, stamp_us: int | None = None) -> bytes:
    """One second of a camera at rest, 200 and 400 Hz, in the axis order Z, X, Y."""
    extra = {} if stamp_us is None else {"stmp": stamp(stamp_us)}
    return device(
        stream("ACCL", [[981, 0, 0]] * num_acc, "m/s\u00b2", **extra),
        stream("GYRO", [[1, 2, 3]] * num_gyro, "rad/s", **extra),
    )


def write_mp4(
    path: Path,
    payloads: Sequence[bytes],
    seconds: int | None = None,
    other_ms: int | None = None,
    side: int = 32,
    grey: int = 0,
) -> Path:
    """A square video of 10 frames/s, each lighter than the one before, with one payload a second.

    With ``other_ms``, a data track that is no telemetry comes first and has its one packet at that time.
    """
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width = video.height = side
        video.pix_fmt = "yuv420p"
        tracks: list[list[tuple[int, bytes]]] = [] if other_ms is None else [[(other_ms, b"timecode")]]
        if payloads:
            tracks.append([(1000 * i, payload) for i, payload in enumerate(payloads)])
        streams = [container.add_data_stream("bin_data") for _ in tracks]
        for data in streams:
            data.time_base = Fraction(1, 1000)
        for i in range(10 * (len(payloads) if seconds is None else seconds)):
            picture = np.full((side, side, 3), grey + 2 * i, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(video.encode())
        packets = [(pts, content, data) for track, data in zip(tracks, streams, strict=True) for pts, content in track]
        for pts, content, data in sorted(packets, key=lambda found: found[0]):
            packet = av.Packet(content)
            packet.pts = packet.dts = pts
            packet.duration = 1000
            packet.time_base = Fraction(1, 1000)
            packet.stream = data
            container.mux(packet)
    return path
