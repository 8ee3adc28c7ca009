"""Pictures as they lie in a VRS file: found by stream and time, small, and None where they cannot be read."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import simplejpeg

from shards.vrs_file import StoredPictures

FIELDS = bytes(range(84))


def record(content: bytes, time_s: float, stream: int = 214, instance: int = 1, kind: int = 3, packed: bool = False):
    unpacked = len(content) if packed else 0
    content = pa.compress(content, codec="zstd", asbytes=True) if packed else content
    header = (32 + len(content), 0, stream, 1, time_s, instance, kind, 2 if packed else 0, unpacked)
    return struct.pack("<IIiIdHBBI", *header) + content


def write(path: Path, *records: bytes) -> Path:
    path.write_bytes(b"VisionRe" + bytes(8) + struct.pack("<II", 80, 32) + bytes(56) + b"".join(records))
    return path


def picture(seed: int) -> np.ndarray:
    """A smooth picture [160, 240, 3]."""
    coarse = np.random.default_rng(seed).uniform(40, 210, (21, 31))
    rows = [np.interp(np.arange(240) / 8, np.arange(31), row) for row in coarse]
    grey = np.stack([np.interp(np.arange(160) / 8, np.arange(21), column) for column in np.transpose(rows)], axis=1)
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)


def jpeg(seed: int) -> bytes:
    return simplejpeg.encode_jpeg(picture(seed), quality=95)


@pytest.mark.parametrize("packed", [False, True])
def test_pictures_are_small_and_in_the_order_of_their_times(tmp_path: Path, packed: bool):
    path = write(
        tmp_path / "a.vrs",
        record(b"words", 0.0, kind=2),
        record(FIELDS + jpeg(2), 0.2, packed=packed),
        record(FIELDS + jpeg(9), 0.15, stream=1201),
        record(FIELDS + jpeg(8), 0.15, instance=2),
        record(FIELDS + jpeg(1), 0.1, packed=packed),
    )
    stored = StoredPictures(path, 214)
    assert len(stored) == 2
    for index, seed in enumerate((1, 2)):
        luma = stored.luma(index, 16)
        assert luma.shape == (20, 30)
        expected = picture(seed)[..., 0].reshape(20, 8, 30, 8).mean(axis=(1, 3))
        assert luma == pytest.approx(expected, abs=2)
    assert stored.luma(0, 60).shape[0] >= 60


def test_what_is_no_jpeg_is_none(tmp_path: Path):
    whole = FIELDS + jpeg(1)
    packed = bytearray(record(whole, 0.4, packed=True))
    packed[40:400] = bytes(360)
    huge = bytearray(record(whole, 0.5, packed=True))
    huge[28:32] = b"\xff" * 4
    contents = [b"", FIELDS, FIELDS + bytes(5000), whole[:1500]]
    records = [record(content, 0.1 * i) for i, content in enumerate(contents)]
    stored = StoredPictures(write(tmp_path / "a.vrs", *records, bytes(packed), bytes(huge)), 214)
    assert [stored.luma(index, 16) for index in range(len(stored))] == [None] * 6
