"""The outermost boxes of an MP4 file: what tells a file that breaks off from one that is merely short.

Decoders read a file that was cut off as if it had ended there; the number of frames in its header cannot tell either,
as an edit list that trims the end leaves out frames too.
"""

from __future__ import annotations

from pathlib import Path


def outer_boxes(path: Path) -> tuple[list[bytes], bool]:
    """Return (kinds of the outermost boxes in order, whether they fill the file exactly).

    ISO/IEC 14496-12, 4.2: each box begins with its length and its kind, four bytes each; length 1 means that eight
    bytes of length follow, length 0 that the box goes on to the end of the file.

    Raises:
        OSError: the file cannot be read.
    """
    size, position = path.stat().st_size, 0
    kinds: list[bytes] = []
    with path.open("rb") as file:
        while position + 8 <= size:
            file.seek(position)
            header = file.read(16)
            length = int.from_bytes(header[:4], "big")
            if length == 1:
                length = int.from_bytes(header[8:16], "big")
            elif length == 0:
                length = size - position
            kinds.append(header[4:8])
            if length < 8 or position + length > size:
                return kinds, False
            position += length
    return kinds, position == size
