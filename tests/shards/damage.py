"""Damage to files, drawn at random: of any bytes, and of MP4, CSV and VRS files where it hurts most.

Each function takes the content of a valid file, that of another valid one, and a generator, and returns a damaged
copy. What is drawn follows from the generator alone.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import numpy as np

EXTREMES = (0, 1, 2, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
"""Numbers that sizes, counts and times are set to."""
Damage = Callable[[bytes, bytes, np.random.Generator], bytes]


def _cut(size: int, rng: np.random.Generator, longest: int = 20_000) -> tuple[int, int]:
    """Return the ends of a stretch of 1 to ``longest`` bytes."""
    start = int(rng.integers(max(size, 1)))
    return start, min(size, start + 1 + int(rng.integers(longest)))


def _truncated(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    return content[: rng.integers(len(content))]


def _beheaded(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    return content[rng.integers(len(content)) :]


def _overwritten(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    start, stop = _cut(len(content), rng)
    filler = (bytes(stop - start), b"\xff" * (stop - start), rng.bytes(stop - start))[rng.integers(3)]
    return content[:start] + filler + content[stop:]


def _flipped(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    damaged = bytearray(content)
    # Half of the time all hits lie close together: in a header, a table or one picture.
    low, high = (0, len(content)) if rng.random() < 0.5 else _cut(len(content), rng, 500)
    for _ in range(2 ** int(rng.integers(8))):
        damaged[rng.integers(low, high)] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def _spliced(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    return content[: rng.integers(len(content))] + other[rng.integers(len(other)) :]


def _repeated(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    start, stop = _cut(len(content), rng)
    return content[:stop] + content[start:]


def _dropped(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    start, stop = _cut(len(content), rng)
    return content[:start] + content[stop:]


def _moved(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    start, stop = _cut(len(content), rng)
    rest = content[:start] + content[stop:]
    at = int(rng.integers(len(rest) + 1))
    return rest[:at] + content[start:stop] + rest[at:]


def _inserted(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(len(content)))
    return content[:at] + rng.bytes(1 + int(rng.integers(2000))) + content[at:]


BYTES: tuple[Damage, ...] = (
    *(_truncated, _beheaded, _overwritten, _flipped, _spliced, _repeated, _dropped, _moved, _inserted),
)


def damaged_bytes(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Damage that knows nothing of the format."""
    return BYTES[rng.integers(len(BYTES))](content, other, rng)


def damaged_mp4(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Damage to the boxes of an MP4 file and the telemetry in it, or to any bytes; mostly once."""
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        damage = (*_MP4, damaged_bytes)[rng.integers(len(_MP4) + 1)]
        content = damage(content, other, rng) or content
    return content


def _boxes(content: bytes, start: int, stop: int, outer: tuple = ()) -> Iterator[tuple[int, int, bytes, tuple]]:
    """Yield (start, stop, kind, starts of the boxes around it) of all boxes (ISO/IEC 14496-12, 4.2)."""
    while start + 8 <= stop:
        length = int.from_bytes(content[start : start + 4], "big") or stop - start
        if length < 8 or start + length > stop:
            return
        kind = content[start + 4 : start + 8]
        yield start, start + length, kind, outer
        if kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf", b"udta"):
            yield from _boxes(content, start + 8, start + length, (*outer, start))
        start += length


def _resized(content: bytes, outer: tuple[int, ...], by: int) -> bytes:
    """Add to the sizes of the boxes around a change, so that the file stays one that can be read."""
    damaged = bytearray(content)
    for start in outer:
        struct.pack_into(">I", damaged, start, (struct.unpack_from(">I", damaged, start)[0] + by) % 2**32)
    return bytes(damaged)


def _box_field(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Set a number of a header or table: size, count, time scale, duration, edit, offset, width, rotation, ..."""
    found = [box for box in _boxes(content, 0, len(content)) if box[2] != b"mdat"]
    if not found:
        return content
    start, stop, _, _ = found[rng.integers(len(found))]
    at = start + 4 * int(rng.integers((stop - start) // 4))
    width = (4, 4, 4, 2, 1, 8)[rng.integers(6)]
    value = int(rng.choice(np.array(EXTREMES, dtype=object))) % 2 ** (8 * width)
    return (content[:at] + value.to_bytes(width, "big") + content[at + width :])[: len(content)]


def _table_entries(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Set many numbers of one table of samples (times, sizes, chunks) at once, as far as it goes."""
    tables = (b"stts", b"ctts", b"stsz", b"stsc", b"stco", b"stss", b"elst", b"mdhd", b"mvhd")
    found = [box for box in _boxes(content, 0, len(content)) if box[2] in tables]
    if not found:
        return content
    start, stop, _, _ = found[rng.integers(len(found))]
    damaged = bytearray(content)
    step, value = 4 * int(rng.integers(1, 3)), int(rng.choice(np.array(EXTREMES, dtype=object))) % 2**32
    for at in range(start + 16, stop - 3, step):
        struct.pack_into(">I", damaged, at, value if rng.random() < 0.7 else int(rng.integers(2**32)))
    return bytes(damaged)


def _box_dropped(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    found = list(_boxes(content, 0, len(content)))
    if not found:
        return content
    start, stop, _, outer = found[rng.integers(len(found))]
    damaged = content[:start] + content[stop:]
    return _resized(damaged, outer, start - stop) if rng.random() < 0.7 else damaged


def _box_repeated(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    found = [box for box in _boxes(content, 0, len(content)) if box[2] != b"mdat"]
    if not found:
        return content
    start, stop, _, outer = found[rng.integers(len(found))]
    damaged = content[:stop] + content[start:]
    return _resized(damaged, outer, stop - start) if rng.random() < 0.7 else damaged


def _box_from_other(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Replace a box by that of the other file, such as a table of its samples."""
    ours = [box for box in _boxes(content, 0, len(content)) if box[2] != b"mdat"]
    if not ours:
        return content
    start, stop, kind, outer = ours[rng.integers(len(ours))]
    theirs = [box for box in _boxes(other, 0, len(other)) if box[2] == kind]
    if not theirs:
        return content
    first, last, _, _ = theirs[rng.integers(len(theirs))]
    damaged = content[:start] + other[first:last] + content[stop:]
    return _resized(damaged, outer, last - first - (stop - start))


def _kind_changed(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    found = list(_boxes(content, 0, len(content)))
    if not found:
        return content
    at = found[rng.integers(len(found))][0] + 4
    kind = (b"free", b"moov", b"trak", b"mdat", b"edts", b"hvc1", b"tx3g", b"\0\0\0\0")[rng.integers(8)]
    return content[:at] + kind + content[at + 4 :]


def _telemetry(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Change type, size, count or data of an item of a GoPro's telemetry, or its key."""
    keys = (b"DEVC", b"STRM", b"ACCL", b"GYRO", b"SCAL", b"SIUN", b"STMP", b"DVID", b"SHUT")
    places = []
    for key in keys:
        at = content.find(key)
        while at >= 0:
            places.append(at)
            at = content.find(key, at + 1)
    if not places:
        return content
    at = places[rng.integers(len(places))]
    damaged = bytearray(content)
    what = rng.integers(5)
    if what == 0:
        damaged[at : at + 4] = keys[rng.integers(len(keys))]
    elif what == 1:
        damaged[at + 4] = b"\0bBcdfFGjJlLqQsSU#?\xff"[rng.integers(19)]
    elif what == 2:
        damaged[at + 5] = int(rng.choice([0, 1, 2, 3, 5, 8, 255]))
    elif what == 3:
        damaged[at + 6 : at + 8] = struct.pack(">H", int(rng.choice([0, 1, 2, 7, 399, 65535])))
    else:
        size = int(rng.choice([4, 8, 64, 600]))
        fillers = (bytes(size), b"\xff" * size, b"\x7f\xc0\0\0" * (size // 4), b"\x80\0" * (size // 2), rng.bytes(size))
        damaged[at + 8 : at + 8 + size] = fillers[rng.integers(len(fillers))]
    return bytes(damaged)[: len(content)]


_MP4: tuple[Damage, ...] = (
    *(_box_field, _box_field, _box_field, _table_entries, _box_dropped, _box_repeated),
    *(_box_from_other, _kind_changed, _telemetry, _telemetry),
)


def damaged_csv(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Damage to the cells, lines, columns and encoding of a CSV file with a header, or to any bytes; mostly once."""
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        damage = (*_CSV, damaged_bytes)[rng.integers(len(_CSV) + 1)]
        try:
            content = damage(content, other, rng) or content
        except (ValueError, IndexError, UnicodeDecodeError):  # no table any more
            content = damaged_bytes(content, other, rng)
    return content


_CELLS = (
    *("", "NaN", "nan", "inf", "-inf", "None", "null", "text", "0", "-0", "-1", "1e308", "-1e308", "1e-308", "1e400"),
    *(str(2**31 - 1), str(2**63 - 1), str(2**63), str(-(2**63)), str(2**70), "0x1f", "1,5", "1.5.2", "--1", "1e", "+"),
    *('"', '"a', '"a\nb"', "'", "#", "%", "\0", "\ufeff", "\u0661\u0662", "\u22129.81", "true", "2024-05-17T10:30:00"),
    *("10:30:00", "9" * 400, "0." + "0" * 400 + "1", " 1 ", "\t", ";", "1_000"),
)


def _table(content: bytes) -> list[list[str]]:
    return [line.split(",") for line in content.decode().splitlines()]


def _text(rows: list[list[str]], end: str = "\n") -> bytes:
    return (end.join(",".join(row) for row in rows) + end).encode()


def _cells(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    rows = _table(content)
    first = 0 if rng.random() < 0.2 else 1
    for _ in range(int(rng.choice([1, 1, 3, 20, 200]))):
        row = rows[rng.integers(first, len(rows))]
        row[rng.integers(len(row))] = _CELLS[rng.integers(len(_CELLS))]
    return _text(rows)


def _column(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Set, scale, shift or drop a whole column."""
    rows = _table(content)
    at, what = int(rng.integers(len(rows[0]))), rng.integers(6)
    cell, factor, shift = _CELLS[rng.integers(len(_CELLS))], 10.0 ** rng.integers(-30, 30), 10.0 ** rng.integers(0, 30)
    for number, row in enumerate(rows[1:]):
        if what == 0:
            row[at] = cell
        elif what == 1:
            row[at] = repr(float(row[at]) * factor)
        elif what == 2:
            row[at] = repr(float(row[at]) + shift)
        elif what == 3:
            row[at] = str(number)
        elif what == 4:
            row[at] = repr(float(row[at]) ** 9 if number % 2 else float(row[at]))
        else:
            del row[at]
    if what == 5 and rng.random() < 0.5:
        del rows[0][at]
    return _text(rows)


def _lines(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Shuffle, reverse, repeat, drop or break lines."""
    rows, what = _table(content), rng.integers(8)
    start = 1 + int(rng.integers(len(rows)))
    stop = start + 1 + int(rng.integers(len(rows)))
    if what == 0:
        order = 1 + rng.permutation(len(rows) - 1)
        rows = [rows[0], *(rows[i] for i in order)]
    elif what == 1:
        rows = [rows[0], *rows[:0:-1]]
    elif what == 2:
        rows = rows[:stop] + rows[start:]
    elif what == 3:
        rows = rows[:start] + rows[stop:]
    elif what == 4:
        rows = rows[1:] if rng.random() < 0.5 else [rows[0], *rows]
    elif what == 5:
        rows = rows[: 1 + int(rng.integers(4))]
    elif what == 6:
        rows[start - 1] = rows[start - 1][: rng.integers(8)] * int(rng.choice([1, 2, 3]))
    else:
        rows[start - 1] = [cell * int(rng.choice([2, 50_000])) for cell in rows[start - 1]]
    return _text(rows)


def _dialect(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Change delimiter, line ends, quotes or encoding of the whole or a part."""
    text, what = content.decode(), rng.integers(9)
    if what == 0:
        return text.replace(",", "\t;| :\0"[rng.integers(6)]).encode()
    if what == 1:
        middle = len(text) // 2
        return (text[:middle].replace(",", ";") + text[middle:]).encode()
    if what == 2:
        return text.replace("\n", ("\r\n", "\r", "\n\n", "\n\r", "\v", "\0")[rng.integers(6)]).encode()
    if what == 3:
        return text.replace(".", ",").encode()
    if what == 4:
        return text.encode(("utf-16", "utf-16-be", "utf-32", "utf-7", "cp037")[rng.integers(5)])
    if what == 5:
        return text.replace("acc", "b\xe9schl", 1).encode("latin-1")
    if what == 6:
        return "\n".join(f'"{line}"' for line in text.splitlines()).encode()
    if what == 7:
        return text.replace("1", "\0").encode()
    return b"# " + content.replace(b"\n", b"", 100)


_CSV: tuple[Damage, ...] = (_cells, _cells, _column, _column, _lines, _dialect)


def damaged_vrs(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Damage to the records of a VRS file, their headers and their order, or to any bytes; mostly once."""
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        damage = (*_VRS, damaged_bytes)[rng.integers(len(_VRS) + 1)]
        content = damage(content, other, rng)
    return content


def vrs_records(content: bytes) -> list[tuple[int, int]]:
    """Return (start, length) of the records, without the file's header (FileFormat.h of the vrs library)."""
    found, position = [], struct.unpack_from("<I", content.ljust(24, b"\0"), 16)[0]
    while 0 < position < len(content) - 32:
        (length,) = struct.unpack_from("<I", content, position)
        if length < 32:
            break
        found.append((position, length))
        position += length
    return found or [(0, len(content))]


def _record_header(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Set length, stream, time, version, kind or compression of a record, or a field of the file's header."""
    records = vrs_records(content)
    start = 0 if rng.random() < 0.3 else records[rng.integers(len(records))][0]
    damaged = bytearray(content)
    if rng.random() < 0.3 and start:
        stamp = (float("nan"), float("inf"), -1.0, 0.0, 1e300, 1e9)[rng.integers(6)]
        struct.pack_into("<d", damaged, start + 16, stamp)
    else:
        value = int(rng.choice(np.array(EXTREMES, dtype=object))) % 2**32
        at = start + 4 * int(rng.integers(20 if start == 0 else 8))
        struct.pack_into("<I", damaged, min(at, len(damaged) - 4), value)
    return bytes(damaged)


def _record_content(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Overwrite the beginning of a record's content: the configuration, a time stamp, a size, a picture's header."""
    records = vrs_records(content)
    start, length = records[rng.integers(len(records))]
    damaged = bytearray(content)
    for _ in range(int(rng.choice([1, 4, 30]))):
        at = start + 32 + int(rng.integers(min(max(length - 32, 1), 400)))
        size = min(int(rng.choice([1, 4, 8])), len(damaged) - at)
        damaged[at : at + size] = (bytes(size), b"\xff" * size, rng.bytes(size))[rng.integers(3)]
    return bytes(damaged)


def _record_order(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Drop, repeat or exchange whole records; the index of the file then is that of another."""
    records = vrs_records(content)
    start, length = records[rng.integers(len(records))]
    second, width = records[rng.integers(len(records))]
    what = rng.integers(3)
    if what == 0:
        return content[:start] + content[start + length :]
    if what == 1:
        return content[:second] + content[start : start + length] + content[second:]
    return content[:second] + content[start : start + length] + content[second + width :]


_VRS: tuple[Damage, ...] = (_record_header, _record_header, _record_content, _record_content, _record_order)
