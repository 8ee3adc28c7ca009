"""Samples into tars: the same bytes for the same samples, complete under their final name or not there."""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg

from imuvid.data.format import Sample, decode_members, encode_members
from imuvid.data.storage import Store, replacing
from imuvid.data.tar import BLOCK, parse_tar

END_OF_ARCHIVE = bytes(2 * BLOCK)
"""POSIX.1-1988 (USTAR): two blocks of zeros end an archive."""


@dataclass(frozen=True)
class Piece:
    """One sample as it lies in a fragment."""

    fragment: Path
    offset: int
    """Bytes from the start of the fragment."""
    size: int
    """Bytes, padding included."""


@dataclass(frozen=True)
class WrittenShard:
    """A shard under its final name, read back."""

    name: str
    sha256: str
    spans: list[tuple[int, int, int]]
    """Offset and size (bytes) and CRC-32 of each sample, in order."""


def tar_members(members: list[tuple[str, bytes]]) -> bytes:
    """Return the bytes of tar members (name, content): USTAR headers that hold nothing but name and size."""
    parts = []
    for name, content in members:
        header = tarfile.TarInfo(name)
        header.size, header.mode = len(content), 0o644
        parts += [header.tobuf(tarfile.USTAR_FORMAT), content, bytes(-len(content) % BLOCK)]
    return b"".join(parts)


def write_shard(
    location: str,
    name: str,
    scratch: Path,
    pieces: list[Piece],
    positions: list[str],
    num_frames: int,
    size: int,
    embedding_dim: int | None = None,
) -> WrittenShard:
    """Write the samples as one tar under a temporary name, sync it, read it back, give it its name.

    Args:
        location: folder or URL of the dataset.
        name: of the shard.
        scratch: folder where the shard is made that goes to a URL.
        pieces: the samples, in order.
        positions: of every sample of the dataset; a sample has absent sensors for those that it lacks.
        num_frames: frames a sample must have.
        size: their height and width, pixels.
        embedding_dim: length of the embedding that a sample must have instead of them; None = the frames.

    Raises:
        ValueError: what was read back is not what was written, or a sample does not decode.
        OSError: the disk is full, or the object store does not answer.
    """
    store = Store(location)
    spans: list[tuple[int, int, int]] = []
    digest = hashlib.sha256()

    def check(temporary: Path) -> None:
        content = temporary.read_bytes()
        if hashlib.sha256(content).digest() != digest.digest():
            raise ValueError(f"{temporary}: what was read back is not what was written: is the disk failing?")
        for start, length, _ in spans:
            sample = decode_members(parse_tar(memoryview(content)[start : start + length]))
            check_frames(sample, num_frames, size, embedding_dim)

    offset = 0
    path = (store.local or scratch) / name
    with replacing(path, check=check) as file:
        for piece in pieces:
            with piece.fragment.open("rb") as fragment:
                fragment.seek(piece.offset)
                raw = _with_positions(fragment.read(piece.size), positions)
            spans.append((offset, len(raw), zlib.crc32(raw)))
            offset += len(raw)
            digest.update(raw)
            file.write(raw)
        digest.update(END_OF_ARCHIVE)
        file.write(END_OF_ARCHIVE)
    if store.local is None:
        store.put(name, path)
        path.unlink()
    return WrittenShard(name, digest.hexdigest(), spans)


def check_frames(sample: Sample, num_frames: int, size: int, embedding_dim: int | None = None) -> None:
    """Raise ValueError unless a sample has that many JPEGs of that height and width (pixels), all of which decode.

    With ``embedding_dim``, it must have an embedding of that length, of that many frames, and no picture.
    """
    found = None if sample.embedding is None else len(sample.embedding)
    if found != embedding_dim:
        raise ValueError(f"{sample.key}: the video embedding has {found} numbers, expected {embedding_dim}")
    if found is not None:
        if len(sample.meta.frame_times_s) != num_frames:
            raise ValueError(f"{sample.key}: {len(sample.meta.frame_times_s)} frame times, expected {num_frames}")
        return
    if len(sample.frames) != num_frames:
        raise ValueError(f"{sample.key}: {len(sample.frames)} frames, expected {num_frames}")
    for i, frame in enumerate(sample.frames):
        try:
            shape = simplejpeg.decode_jpeg(frame, colorspace="RGB", strict=True).shape
        except ValueError as error:
            raise ValueError(f"{sample.key}: frame {i} does not decode: {error}") from error
        if shape != (size, size, 3):
            raise ValueError(f"{sample.key}: frame {i} is {shape[0]}x{shape[1]}, expected {size}x{size}")


def _with_positions(raw: bytes, positions: list[str]) -> bytes:
    sample = decode_members(parse_tar(raw))
    if sample.meta.positions == positions:
        return raw
    at = [positions.index(position) for position in sample.meta.positions]
    imu = np.zeros((len(sample.imu), len(positions), 6), dtype=np.float32)
    valid = np.zeros((len(sample.valid), len(positions), 2), dtype=bool)
    imu[:, at], valid[:, at] = sample.imu, sample.valid
    sample.imu, sample.valid, sample.meta.positions = imu, valid, list(positions)
    return tar_members(encode_members(sample))
