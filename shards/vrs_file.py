"""The records of a VRS file, as far as its own reader does not give them: is the file whole, where is each picture.

A VRS file is a header that holds its own length (at byte 16) and that of a record's header (at byte 20), then records
to the end of the file. A record's header is its length, that of the record before, the type of its stream, the version
of its content, its time stamp (seconds), the instance of its stream, its kind, how its content is packed and how long
that is unpacked (FileFormat.h of the vrs library).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import simplejpeg

from shards.sources.base import RecordingError

_MAGIC = b"VisionRe"
_RECORD = struct.Struct("<IIiIdHBBI")
_DATA = 3
_PACKED_MOST = 64
"""Nothing that a camera writes is packed into less than this part of its length."""
_FIELDS = 4096
"""The fields that precede a picture in its record take less than this, bytes."""


def check_records(path: Path) -> None:
    """Refuse what is no VRS file, or breaks off: its own reader takes the latter as if it had ended there.

    Raises:
        RecordingError: ``missing``, ``empty``, ``not_a_video``, ``truncated`` or ``damaged_video``.
    """
    for _ in _records(path, -1):
        pass


class StoredPictures:
    """The pictures of one camera as they lie in the file.

    Args:
        path: the file.
        stream: type of the camera's stream, of which the first instance is meant.

    Raises:
        RecordingError: as :func:`check_records`.
    """

    def __init__(self, path: Path, stream: int):
        self._path = path
        found = sorted(
            (time_s, start, size, unpacked if packing else 0)
            for start, size, time_s, instance, kind, packing, unpacked in _records(path, stream)
            if (instance, kind) == (1, _DATA)
        )
        self._places = [place for _, *place in found]

    def __len__(self) -> int:
        return len(self._places)

    def luma(self, index: int, least_side: int) -> np.ndarray | None:
        """Return the brightness of a JPEG, scaled down by up to eight: each pixel is then the mean of 8 x 8.

        That takes less than half of the time of the whole picture, as nothing is transformed back but the mean.

        Args:
            index: of the picture, in the order of their time stamps.
            least_side: height and width are not scaled to less than this, pixels.

        Returns:
            uint8 [height, width]; None where the picture is no JPEG, or cannot be read.
        """
        start, size, unpacked = self._places[index]
        try:
            with self._path.open("rb") as file:
                file.seek(start)
                raw = file.read(size)
            if 0 < unpacked < _PACKED_MOST * size:
                raw = pa.decompress(raw, decompressed_size=unpacked, codec="zstd", asbytes=True)
            begin = max(raw.find(b"\xff\xd8\xff", 0, _FIELDS), 0)
            found = simplejpeg.decode_jpeg(raw[begin:], "GRAY", min_height=least_side, min_width=least_side)
        except (OSError, ValueError):
            return None
        return found[..., 0]


def _records(path: Path, stream: int) -> Iterator[tuple[int, int, float, int, int, int, int]]:
    """Go through all records; yield of those of a type of stream where the content starts, its size (bytes), the time
    stamp, the instance of the stream, the kind, the packing and the size of the content unpacked (bytes)."""
    try:
        size = path.stat().st_size
        if size == 0:
            raise RecordingError("empty", f"{path}: is empty: copy it again")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content[: len(_MAGIC)] != _MAGIC:
                raise RecordingError("not_a_video", f"{path}: is no VRS file")
            position, header = struct.unpack("<II", content[16:24].ljust(8, b"\0"))
            while _RECORD.size <= header <= position <= size - _RECORD.size:
                length, of_stream = struct.unpack_from("<I4xi", content, position)
                if length < header:
                    raise RecordingError("damaged_video", f"{path}: no record at byte {position}: copy it again")
                if of_stream == stream:
                    fields = _RECORD.unpack_from(content, position)
                    yield position + header, length - header, *fields[4:]
                position += length
    except FileNotFoundError as error:
        raise RecordingError("missing", f"{path}: there is no such file") from error
    except OSError as error:
        raise RecordingError("missing", f"{path}: cannot be read: {error.strerror}") from error
    if position != size:
        raise RecordingError("truncated", f"{path}: breaks off after {size} bytes: copy it again")
