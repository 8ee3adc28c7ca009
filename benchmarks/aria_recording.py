"""A Project Aria recording of any length, for timings: the records of a short real one, again and again."""

from __future__ import annotations

import struct
from pathlib import Path

import pyarrow as pa

STREAMS = (214, 1202)
"""Types of the streams that are repeated: RGB camera and IMUs. Of the others a build reads nothing."""
_HEADER = struct.Struct("<IIiIdHBBI")
_DATA, _ZSTD = 3, 2
_FIELDS = 128
_FILE_HEADER = 80
PERIOD_S = 0.4
"""How long ``aea_recording.vrs`` lasts: 8 pictures at 20 Hz, 319 and 400 readings of its IMUs."""


def write_aria(source: Path, target: Path, duration_s: float) -> None:
    """Write a recording of ``duration_s`` seconds whose pictures and readings are those of ``source``, repeated.

    The library that reads it makes a new index, as there is none.
    """
    content = source.read_bytes()
    first, repeated = [], []
    position = _FILE_HEADER
    while position < len(content):
        length, _, stream, _, _, _, kind, _, _ = _HEADER.unpack_from(content, position)
        record = content[position : position + length]
        if kind != _DATA or position == _FILE_HEADER:  # the first says what the streams are
            first.append(record)
        elif stream in STREAMS:
            repeated.append(record)
        position += length
    repeated.sort(key=lambda record: _HEADER.unpack_from(record)[4])
    header = bytearray(content[:_FILE_HEADER])
    struct.pack_into("<qqq", header, 24, 0, _FILE_HEADER, _FILE_HEADER + len(first[0]))
    with target.open("wb") as file:
        file.write(header)
        before = 0
        for turn in range(round(duration_s / PERIOD_S) + 1):
            for record in first if turn == 0 else repeated:
                moved = _moved(record, max(turn - 1, 0) * PERIOD_S)
                struct.pack_into("<I", moved, 4, before)
                file.write(moved)
                before = len(moved)


def _moved(record: bytes, by_s: float) -> bytearray:
    """Return a record with later stamps: in its header (s), and wherever its fields repeat that (ns)."""
    fields = list(_HEADER.unpack_from(record))
    content, unpacked = record[_HEADER.size :], fields[8]
    if fields[6] != _DATA or not by_s:
        return bytearray(record)
    if fields[7] == _ZSTD:
        content = pa.decompress(content, decompressed_size=unpacked, codec="zstd", asbytes=True)
    moved = bytearray(content)
    for offset in range(min(len(content), _FIELDS) - 7):
        (stamp_ns,) = struct.unpack_from("<q", content, offset)
        if abs(stamp_ns - fields[4] * 1e9) < 1e6:
            struct.pack_into("<q", moved, offset, stamp_ns + round(by_s * 1e9))
    if fields[7] == _ZSTD:
        moved = bytearray(pa.compress(bytes(moved), codec="zstd", asbytes=True))
    fields[0], fields[4] = _HEADER.size + len(moved), fields[4] + by_s
    return bytearray(_HEADER.pack(*fields)) + moved
