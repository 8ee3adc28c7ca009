"""Reader of GPMF, the telemetry format of GoPro cameras: the accelerometer and gyroscope of one payload.

Written from the public format description (https://github.com/gopro/gpmf-parser, README). A payload is a list of
key-length-value items: a four-character key, one character for the type, one byte for the size of a structure, two
bytes (big-endian) for how many there are, then the data padded to four bytes. Type 0 means that the data are items
themselves: a device (``DEVC``) holds streams (``STRM``), and in a stream the items before the data describe it
(``SCAL`` divisor, ``SIUN`` unit, ``STMP`` time stamp in microseconds, ``MTRX``/``ORIN``/``ORIO`` orientation).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_HEADER = 8
_DTYPES = {
    "b": ">i1",
    "B": ">u1",
    "s": ">i2",
    "S": ">u2",
    "l": ">i4",
    "L": ">u4",
    "j": ">i8",
    "J": ">u8",
    "f": ">f4",
    "d": ">f8",
}
_UNITS = {
    "ACCL": {"m/s\u00b2": 1.0, "m/s2": 1.0, "m/s^2": 1.0, "g": 9.80665},
    "GYRO": {"rad/s": 1.0, "deg/s": math.pi / 180, "dps": math.pi / 180},
}
_DEFAULT_AXES = "ZXY"  # what cameras older than ORIN and ORIO write


class GpmfError(ValueError):
    """A payload cannot be used.

    Args:
        reason: ``damaged_telemetry``, ``bad_unit`` or ``unsupported_telemetry``.
        message: what is wrong, without the name of the file.
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Item:
    """One key-length-value item."""

    key: str
    """Four characters."""
    kind: str
    """Type character; empty where the data are items themselves."""
    size: int
    """Bytes of one structure."""
    repeat: int
    """Number of structures."""
    data: bytes
    """``size * repeat`` bytes, without the padding."""


@dataclass(frozen=True)
class Block:
    """What one payload holds of one sensor."""

    values: np.ndarray
    """float64 [N, 3], X, Y, Z of the camera in m/s^2 or rad/s; NaN where the file holds no finite number."""
    stamp_us: int | None
    """Time of the first value on the camera's own clock, microseconds; None where the camera writes none."""


@dataclass(frozen=True)
class Payload:
    """The sensors of one payload (usually one second)."""

    acc: Block | None
    gyro: Block | None
    shutter_us: int | None
    """Time of the payload's first video frame on the camera's own clock, microseconds."""


def parse_items(data: bytes) -> list[Item]:
    """Return the items of one level; a key of four zero bytes ends them (padding).

    Raises:
        GpmfError: an item runs past the end of the data, or a key is no text.
    """
    items = []
    position = 0
    while position + _HEADER <= len(data):
        key = data[position : position + 4]
        if key == bytes(4):
            break
        if not all(32 <= byte < 127 for byte in key):
            raise GpmfError("damaged_telemetry", f"byte {position} holds no key but {key!r}")
        kind, size = data[position + 4], data[position + 5]
        repeat = int.from_bytes(data[position + 6 : position + 8], "big")
        start = position + _HEADER
        end = start + size * repeat
        if end > len(data):
            raise GpmfError("damaged_telemetry", f"item {key.decode()} runs {end - len(data)} bytes past its end")
        items.append(Item(key.decode(), chr(kind) if kind else "", size, repeat, data[start:end]))
        position = start + -(-size * repeat // 4) * 4
    return items


def read_payload(data: bytes) -> Payload:
    """Return the accelerometer and gyroscope of a payload, converted to SI units and the camera's X, Y, Z.

    Where several devices are attached, the first one that has the sensor counts.

    Raises:
        GpmfError: the payload is damaged, or its unit or type is not one that is known here.
    """
    sensors: dict[str, Block] = {}
    shutter_us = None
    for device in parse_items(data):
        if device.key != "DEVC" or device.kind:
            continue
        for stream in parse_items(device.data):
            if stream.key != "STRM" or stream.kind:
                continue
            items = {item.key: item for item in parse_items(stream.data)}
            for key in ("ACCL", "GYRO"):
                if key in items and items[key].repeat and key not in sensors:
                    sensors[key] = Block(_sensor_values(key, items), _stamp(items))
            if "SHUT" in items and shutter_us is None:
                shutter_us = _stamp(items)
    return Payload(sensors.get("ACCL"), sensors.get("GYRO"), shutter_us)


def _sensor_values(key: str, items: dict[str, Item]) -> np.ndarray:
    raw = _numbers(items[key])
    if raw.shape[1] != 3:
        raise GpmfError("damaged_telemetry", f"{key} has {raw.shape[1]} channels instead of 3")
    if "SCAL" not in items:
        raise GpmfError("damaged_telemetry", f"{key} comes without its divisor (SCAL)")
    divisor = _numbers(items["SCAL"]).ravel()
    if divisor.size not in (1, 3) or not np.isfinite(divisor).all() or not divisor.all():
        raise GpmfError("damaged_telemetry", f"{key} has the divisor (SCAL) {divisor.tolist()[:4]}")
    with np.errstate(over="ignore", invalid="ignore"):
        values = raw / divisor * _unit_factor(key, items)
        values[~np.isfinite(values)] = np.nan
        values = _canonical_axes(key, values, items)
        values[~np.isfinite(values)] = np.nan
    return values


def _unit_factor(key: str, items: dict[str, Item]) -> float:
    item = items.get("SIUN") or items.get("UNIT")
    if item is None:
        raise GpmfError("bad_unit", f"{key} comes without a unit")
    unit = _text(item)
    if unit not in _UNITS[key]:
        raise GpmfError("bad_unit", f"{key} is in '{unit}', which is none of {', '.join(_UNITS[key])}")
    return _UNITS[key][unit]


def _canonical_axes(key: str, values: np.ndarray, items: dict[str, Item]) -> np.ndarray:
    """Return the columns as X, Y, Z.

    ``MTRX`` maps the channels as stored (``ORIN``) to those named by ``ORIO``; without it the channels are as
    ``ORIN`` names them. A small letter is a channel that points against its axis.
    """
    if "MTRX" in items:
        entries = _numbers(items["MTRX"]).ravel()
        if entries.size != 9 or not np.isfinite(entries).all() or np.abs(entries).max() > 2:
            raise GpmfError("damaged_telemetry", f"{key} has an orientation matrix (MTRX) that is no rotation")
        matrix = entries.reshape(3, 3)
        if np.abs(matrix @ matrix.T - np.eye(3)).max() > 0.1:
            raise GpmfError("damaged_telemetry", f"{key} has an orientation matrix (MTRX) that is no rotation")
        # Not a product: 0 x NaN would spread a missing channel over the others.
        values = np.stack([(values[:, row != 0] * row[row != 0]).sum(axis=1) for row in matrix], axis=1)
        axes = _text(items["ORIO"]) if "ORIO" in items else _DEFAULT_AXES
    else:
        axes = _text(items["ORIN"]) if "ORIN" in items else _DEFAULT_AXES
    if sorted(axes.upper()) != ["X", "Y", "Z"]:
        raise GpmfError("damaged_telemetry", f"{key} has the axes '{axes}' (ORIN or ORIO)")
    columns = [axes.upper().index(axis) for axis in "XYZ"]
    signs = np.array([1.0 if axes[column].isupper() else -1.0 for column in columns])
    return values[:, columns] * signs


def _numbers(item: Item) -> np.ndarray:
    """Return the data of an item as float64 [repeat, numbers in a structure]."""
    if item.kind == "#":
        raise GpmfError("unsupported_telemetry", f"{item.key} is compressed, which is not supported")
    if item.kind not in _DTYPES:
        raise GpmfError("damaged_telemetry", f"{item.key} has the type '{item.kind}', which is no number")
    dtype = np.dtype(_DTYPES[item.kind])
    if item.size == 0 or item.size % dtype.itemsize or not item.repeat:
        raise GpmfError("damaged_telemetry", f"{item.key} has {item.repeat} structures of {item.size} bytes")
    return np.frombuffer(item.data, dtype).astype(np.float64).reshape(item.repeat, -1)


def _stamp(items: dict[str, Item]) -> int | None:
    item = items.get("STMP")
    if item is None:
        return None
    if item.kind != "J" or len(item.data) != 8:
        raise GpmfError("damaged_telemetry", "a time stamp (STMP) is not one 64-bit number")
    return int.from_bytes(item.data, "big")


def _text(item: Item) -> str:
    return item.data.decode("latin-1").rstrip("\0 ")
