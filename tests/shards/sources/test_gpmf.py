"""The telemetry parser: values, units and axes, and nothing but a clean error for damaged bytes."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.sources.gpmf import GpmfError, Imu, parse_items, read_payload
from tests.shards.sources.gpmf_files import device, klv, resting_payload, shutter, stamp, stream
from tests.soak import times

FLIP = klv("MTRX", "f", 36, struct.pack(">9f", 0, -1, 0, 1, 0, 0, 0, 0, 1))


def read_camera(data: bytes) -> Imu:
    return read_payload(data)[0, 0]


def read_acc(*items: bytes, channels=((100, 200, 300),), unit: str = "m/s\u00b2", model: str = "Camera") -> np.ndarray:
    extra = {str(i): item for i, item in enumerate(items)}
    block = read_camera(device(stream("ACCL", channels, unit, **extra), model=model)).acc
    assert block is not None
    return block.values


def test_a_payload_gives_si_values_in_x_y_z():
    payload = read_camera(resting_payload(stamp_us=12) + bytes(8))
    assert payload.acc is not None
    assert payload.gyro is not None
    assert payload.acc.values.shape == (200, 3)
    np.testing.assert_allclose(payload.acc.values[0], [0, 0, 9.81])
    np.testing.assert_allclose(payload.gyro.values[0], [0.02, 0.03, 0.01])
    assert payload.gyro.stamp_us == 12
    assert payload.shutter_us is None


def test_the_stamp_of_the_frames_is_read():
    assert read_camera(device(stream("ACCL", [(1, 1, 1)], "g"), shutter(85608))).shutter_us == 85608


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ((), [2, 3, 1]),
        ((klv("ORIN", "c", 1, b"XYZ"),), [1, 2, 3]),
        ((klv("ORIN", "c", 1, b"YxZ"),), [-2, 1, 3]),
        # HERO MAX: stored X, -Z, Y, and the matrix gives Z, X, Y. The two descriptions must agree.
        ((klv("ORIN", "c", 3, b"XzY"), klv("ORIO", "c", 1, b"ZXY"), FLIP), [1, 3, -2]),
        ((klv("ORIN", "c", 3, b"XzY"),), [1, 3, -2]),
        # HERO8
        ((klv("ORIN", "c", 3, b"zxY"),), [-2, 3, -1]),
    ],
)
def test_orientation_is_applied(items, expected):
    np.testing.assert_allclose(read_acc(*items)[0], expected)


def test_a_model_that_does_not_say_its_orientation_has_the_documented_one():
    np.testing.assert_allclose(read_acc(model="Fusion")[0], [2, -1, 3])
    np.testing.assert_allclose(read_acc(klv("ORIN", "c", 1, b"XYZ"), model="Fusion")[0], [1, 2, 3])


def test_sixteen_bit_counts_have_a_full_scale():
    imu = read_camera(device(stream("ACCL", [(1, 2, 3)], "m/s\u00b2", 418), stream("GYRO", [(1, 2, 3)], "rad/s", 939)))
    assert imu.acc is not None
    assert imu.gyro is not None
    # The divisors are the sensors' sensitivities at +-8 g and +-2000 deg/s.
    assert imu.acc.full_scale == pytest.approx(8 * 9.80665, rel=1e-2)
    assert imu.gyro.full_scale == pytest.approx(math.radians(2000), rel=1e-2)
    assert read_camera(device(stream("ACCL", [(1, 2, 3)], "g", 4096))).acc.full_scale == pytest.approx(
        8 * 9.807, rel=1e-3
    )


@pytest.mark.parametrize("turn", [(0.6, -0.8, 0, 0.8, 0.6, 0, 0, 0, 1)])
def test_a_matrix_that_mixes_channels_is_applied_and_leaves_no_full_scale(turn):
    block = read_camera(
        device(stream("ACCL", [(100, 0, 0)], "m/s\u00b2", a=klv("MTRX", "f", 36, struct.pack(">9f", *turn))))
    ).acc
    assert block is not None
    np.testing.assert_allclose(block.values[0], [0.8, 0, 0.6], atol=1e-6)
    assert block.full_scale is None


def test_g_and_degrees_are_converted():
    np.testing.assert_allclose(read_acc(unit="g")[0], np.array([2, 3, 1]) * 9.80665)
    gyro = read_camera(device(stream("GYRO", [(18000, 0, 0)], "deg/s"))).gyro
    assert gyro is not None
    np.testing.assert_allclose(gyro.values[0], [0, 0, math.pi])


def test_a_float_that_is_not_finite_is_missing_and_spoils_no_other_axis():
    data = struct.pack(">3f", math.inf, 1.0, 2.0)
    items = klv("SIUN", "c", 4, "m/s\u00b2".encode("latin-1")) + klv("SCAL", "s", 2, b"\0\1")
    acc = read_camera(device(klv("STRM", "", 1, FLIP + items + klv("ACCL", "f", 12, data)))).acc
    assert acc is not None
    assert acc.full_scale is None
    np.testing.assert_array_equal(acc.values, [[np.nan, 2.0, -1.0]])


def test_every_device_and_every_sensor_of_a_kind_is_an_imu_of_its_own():
    acc = [stream("ACCL", [(n, n, n)] * n, "m/s\u00b2") for n in range(1, 5)]
    gyro = stream("GYRO", [(7, 7, 7)], "rad/s")
    camera = device(acc[0], gyro, acc[1], shutter(5), number=1)
    payload = read_payload(camera + device(acc[2], number=77) + device(acc[3], number=1))
    assert {name: len(imu.acc.values) for name, imu in payload.items()} == {(0, 0): 1, (0, 1): 2, (77, 0): 3}
    assert [imu.gyro is not None for imu in payload.values()] == [True, False, False]
    assert [imu.shutter_us for imu in payload.values()] == [5, 5, None]
    assert list(read_payload(device(number=1) + device(acc[0], number=9))) == [(9, 0)], "the camera is the first"


def test_a_payload_without_sensors_is_no_error():
    assert read_payload(b"") == {}
    assert read_payload(device(stream("ACCL", np.zeros((0, 3)), "m/s\u00b2"))) == {}


@pytest.mark.parametrize(
    ("data", "reason", "words"),
    [
        (device(stream("ACCL", [(1, 2, 3)], "furlong")), "bad_unit", "'furlong'"),
        (device(stream("GYRO", [(1, 2, 3)], "m/s\u00b2")), "bad_unit", "GYRO"),
        (device(klv("STRM", "", 1, klv("ACCL", "s", 6, bytes(6)))), "damaged_telemetry", "divisor"),
        (device(stream("ACCL", [(1, 2, 3)], "g", scale=0)), "damaged_telemetry", "divisor"),
        (device(stream("ACCL", [(1, 2)], "g")), "damaged_telemetry", "2 channels"),
        (device(stream("ACCL", [(1, 2, 3)], "g", x=klv("ORIN", "c", 1, b"XXY"))), "damaged_telemetry", "axes 'XXY'"),
        (device(stream("ACCL", [(1, 2, 3)], "g", x=klv("MTRX", "f", 4, bytes(36)))), "damaged_telemetry", "rotation"),
        (device(stream("ACCL", [(1, 2, 3)], "g", x=klv("ORIN", "c", 1, b"XZY"))), "damaged_telemetry", "left-handed"),
        (device(stream("ACCL", [(1, 2, 3)], "g", x=klv("STMP", "J", 4, bytes(4)))), "damaged_telemetry", "STMP"),
        (device(klv("STRM", "", 1, klv("ACCL", "#", 6, bytes(6)))), "unsupported_telemetry", "compressed"),
        (resting_payload()[:-50], "damaged_telemetry", "bytes past its end"),
        (b"\1\2\3\4" + bytes(12), "damaged_telemetry", "no key"),
        (klv("DEVC", "", 255, b"", repeat=65535), "damaged_telemetry", "bytes past its end"),
        (device(klv("STRM", "", 1, klv("ACCL", "s", 0, b"", repeat=65535))), "damaged_telemetry", "of 0 bytes"),
    ],
)
def test_what_cannot_be_used_is_named(data, reason, words):
    with pytest.raises(GpmfError) as caught:
        read_payload(data)
    assert caught.value.reason == reason
    assert words in str(caught.value)


VALID = device(
    stream("ACCL", [(981, 0, 0)] * 5, "m/s\u00b2", a=stamp(7), b=FLIP, c=klv("ORIO", "c", 1, b"ZXY")),
    stream("GYRO", [(1, 2, 3)] * 9, "rad/s", a=klv("ORIN", "c", 1, b"YxZ")),
    shutter(9),
)


def check_read_or_refused(data: bytes) -> None:
    try:
        payload = read_payload(data)
    except GpmfError:
        return
    for block in (block for imu in payload.values() for block in (imu.acc, imu.gyro)):
        if block is not None:
            assert block.values.ndim == 2
            assert block.values.shape[1] == 3
            assert not np.isinf(block.values).any()


@settings(max_examples=times(400, 20000), deadline=2000)
@given(st.lists(st.integers(0, len(VALID) * 8 - 1), min_size=1, max_size=6))
def test_flipped_bits_give_values_or_a_clean_error(flips):
    data = bytearray(VALID)
    for bit in flips:
        data[bit // 8] ^= 1 << bit % 8
    check_read_or_refused(bytes(data))


@settings(max_examples=times(200, 10000), deadline=2000)
@given(st.integers(0, len(VALID)), st.binary(max_size=64))
def test_cut_and_foreign_bytes_give_values_or_a_clean_error(cut, rest):
    check_read_or_refused(VALID[:cut] + rest)
    check_read_or_refused(b"DEVC\0\1" + rest)


def test_every_cut_of_a_payload_is_noticed():
    for cut in range(8, len(VALID) - 1):
        with pytest.raises(GpmfError):
            parse_items(VALID[:cut])


@pytest.mark.parametrize("name", ["hero5", "hero6", "hero6+ble", "hero7", "karma", "Fusion"])
def test_values_equal_those_of_the_maker_s_parser(realdata: Path, name: str):
    gpmf_parser = pytest.importorskip("gpmf_parser")
    data = (realdata / "gopro_gpmf" / f"{name}.raw").read_bytes()
    payload = read_camera(data)
    assert payload.acc is not None
    for key, block in (("ACCL", payload.acc), ("GYRO", payload.gyro)):
        words = np.frombuffer(data + bytes(-len(data) % 4), np.uint32)
        _, found = gpmf_parser.GPMF_Init(words, len(data))
        levels = gpmf_parser.GPMF_LEVELS.GPMF_RECURSE_LEVELS_AND_TOLERANT
        assert gpmf_parser.GPMF_FindNext(found, gpmf_parser.Str2FourCC(key), levels) == gpmf_parser.GPMF_ERROR.GPMF_OK
        count = gpmf_parser.GPMF_Repeat(found)
        _, scaled = gpmf_parser.GPMF_ScaledData(found, count * 24, 0, count, gpmf_parser.GPMF_SampleType.DOUBLE)
        stored = np.asarray(scaled)[: count * 3].reshape(count, 3)
        assert block is not None
        # The maker's parser turns by MTRX alone, and its documentation has -Y, X, Z for Fusion, else Z, X, Y.
        expected = stored[:, [1, 0, 2]] * [1, -1, 1] if name == "Fusion" else stored[:, [1, 2, 0]]
        np.testing.assert_allclose(block.values, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["hero5", "hero6", "hero6+ble", "karma", "Fusion"])
def test_gravity_lies_along_z_of_every_model_that_stands_upright(realdata: Path, name: str):
    acc = read_camera((realdata / "gopro_gpmf" / f"{name}.raw").read_bytes()).acc
    assert acc is not None
    mean = acc.values.mean(axis=0)
    assert mean[2] > 0.95 * np.linalg.norm(mean)
