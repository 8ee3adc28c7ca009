"""Reader of GPMF, the telemetry format of GoPro cameras: the accelerometers and gyroscopes of one payload.

Written from the public format description (https://github.com/gopro/gpmf-parser, README). A payload is a list of
key-length-value items: a four-character key, one character for the type, one byte for the size of a structure, two
bytes (big-endian) for how many there are, then the data padded to four bytes. Type 0 means that the data are items
themselves: a device (``DEVC``) holds streams (``STRM``), and in a stream the items before the data describe it
(``SCAL`` divisor, ``SIUN`` unit, ``STMP`` time stamp in microseconds, ``MTRX``/``ORIN``/``ORIO`` orientation).

Axes are the same for all models: X to the left, Y backwards (towards whoever films), Z up, as seen from behind a camera
that stands upright. The frame is right-handed, and a camera at rest reads +9.81 m/s^2 along Z. How a sensor sits in
the housing differs by model, so the channels are turned by what the stream says (``MTRX``, ``ORIN``, ``ORIO``), and
where it says nothing by the documented order of the model: Z, X, Y for HERO5, Session, Karma and the first firmware of
HERO6, -Y, X, Z for Fusion.

Devices beside the camera (Karma, Bluetooth sensors) have a ``DEVC`` of their own, and those that record ``ACCL`` or
``GYRO`` are IMUs of their own. The attitude of a Karma drone (``SIMU``, ``CSEN``; 4 Hz) is not read: it is no signal
of human movement at any usable rate.
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
_DEFAULT_AXES = "ZXY"  # of HERO5, which ORIO names where a stream has it
_MODEL_AXES = {"Fusion": "yXZ"}  # by DVNM; its stream names still speak of HERO5's order
_INT16_MAX = 32767


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
    """Time of the first value on the device's own clock, microseconds; None where the device writes none."""
    full_scale: float | None
    """Largest reading of each axis, m/s^2 or rad/s, where the file has the sensor's own 16-bit counts; else None."""


@dataclass(frozen=True)
class Imu:
    """What one payload (usually one second) holds of one IMU."""

    acc: Block | None
    gyro: Block | None
    shutter_us: int | None
    """Time of the payload's first video frame on the device's own clock, microseconds; None where it films nothing."""


ImuId = tuple[int, int]
"""Number of the device (0 for the camera, else its ``DVID``) and of the IMU in it, from 0."""


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


def read_payload(data: bytes) -> dict[ImuId, Imu]:
    """Return the IMUs of a payload by device and place in it, converted to SI units and the axes X, Y, Z.

    The camera is the first device. The n-th ``ACCL`` and the n-th ``GYRO`` of a device are one IMU. A device that is
    there twice counts once.

    Raises:
        GpmfError: the payload is damaged, or its unit or type is not one that is known here.
    """
    sensors: dict[tuple[int, str, int], Block] = {}
    shutters: dict[int, int | None] = {}
    camera = None
    for device in parse_items(data):
        if device.key != "DEVC" or device.kind:
            continue
        streams = parse_items(device.data)
        described = {item.key: item for item in streams}
        identifier = int.from_bytes(described["DVID"].data, "big") if "DVID" in described else 0
        camera = identifier if camera is None else camera
        identifier = 0 if identifier == camera else identifier
        axes = _MODEL_AXES.get(_text(described["DVNM"]) if "DVNM" in described else "", _DEFAULT_AXES)
        found = dict.fromkeys(_UNITS, 0)
        for stream in streams:
            if stream.key != "STRM" or stream.kind:
                continue
            items = {item.key: item for item in parse_items(stream.data)}
            for key in _UNITS:
                if key in items and items[key].repeat:
                    name = (identifier, key, found[key])
                    if name not in sensors:
                        sensors[name] = _block(key, items, axes)
                    found[key] += 1
            if "SHUT" in items:
                shutters.setdefault(identifier, _stamp(items))
    return {
        (identifier, number): Imu(
            sensors.get((identifier, "ACCL", number)),
            sensors.get((identifier, "GYRO", number)),
            shutters.get(identifier),
        )
        for identifier, number in sorted({(identifier, number) for identifier, _, number in sensors})
    }


def _block(key: str, items: dict[str, Item], default_axes: str) -> Block:
    raw = _numbers(items[key])
    if raw.shape[1] != 3:
        raise GpmfError("damaged_telemetry", f"{key} has {raw.shape[1]} channels instead of 3")
    if "SCAL" not in items:
        raise GpmfError("damaged_telemetry", f"{key} comes without its divisor (SCAL)")
    divisor = _numbers(items["SCAL"]).ravel()
    if divisor.size not in (1, 3) or not np.isfinite(divisor).all() or not divisor.all():
        raise GpmfError("damaged_telemetry", f"{key} has the divisor (SCAL) {divisor.tolist()[:4]}")
    unit = _unit_size(key, items)
    rotation = _rotation(key, items, default_axes)
    with np.errstate(over="ignore", invalid="ignore"):
        values = raw / divisor * unit
        values[~np.isfinite(values)] = np.nan
        # Not a product: 0 x NaN would spread a missing channel over the others.
        values = np.stack([(values[:, row != 0] * row[row != 0]).sum(axis=1) for row in rotation], axis=1)
        values[~np.isfinite(values)] = np.nan
    full_scale = None
    # Only where each axis is one channel does a channel at its limit show in one axis.
    if items[key].kind == "s" and divisor.size == 1 and np.isin(np.abs(rotation), (0, 1)).all():
        full_scale = _INT16_MAX / abs(float(divisor[0])) * unit
    return Block(values, _stamp(items), full_scale)


def _unit_size(key: str, items: dict[str, Item]) -> float:
    item = items.get("SIUN") or items.get("UNIT")
    if item is None:
        raise GpmfError("bad_unit", f"{key} comes without a unit")
    unit = _text(item)
    if unit not in _UNITS[key]:
        raise GpmfError("bad_unit", f"{key} is in '{unit}', which is none of {', '.join(_UNITS[key])}")
    return _UNITS[key][unit]


def _rotation(key: str, items: dict[str, Item], default_axes: str) -> np.ndarray:
    """Return the rotation matrix [3, 3] from the channels as stored to X, Y, Z.

    ``MTRX`` maps the channels as stored (``ORIN``) to those named by ``ORIO``; without it the channels are as
    ``ORIN`` names them. A small letter is a channel that points against its axis.
    """
    matrix = np.eye(3)
    if "MTRX" in items:
        entries = _numbers(items["MTRX"]).ravel()
        if entries.size != 9 or not np.isfinite(entries).all() or np.abs(entries).max() > 2:
            raise GpmfError("damaged_telemetry", f"{key} has an orientation matrix (MTRX) that is no rotation")
        matrix = entries.reshape(3, 3)
        if np.abs(matrix @ matrix.T - np.eye(3)).max() > 0.1:
            raise GpmfError("damaged_telemetry", f"{key} has an orientation matrix (MTRX) that is no rotation")
        axes = _text(items["ORIO"]) if "ORIO" in items else _DEFAULT_AXES
    else:
        axes = _text(items["ORIN"]) if "ORIN" in items else default_axes
    if sorted(axes.upper()) != ["X", "Y", "Z"]:
        raise GpmfError("damaged_telemetry", f"{key} has the axes '{axes}' (ORIN or ORIO)")
    columns = [axes.upper().index(axis) for axis in "XYZ"]
    signs = np.array([1.0 if axes[column].isupper() else -1.0 for column in columns])
    rotation = matrix[columns] * signs[:, None]
    if np.linalg.det(rotation) < 0:
        raise GpmfError("damaged_telemetry", f"{key} has left-handed axes (ORIN, ORIO or MTRX)")
    return rotation


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
