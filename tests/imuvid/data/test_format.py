"""Shard format 1: what is written is read, anything reads it, and what is damaged is refused in one line."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pickle

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from imuvid.data.dataset_tables import read_index
from imuvid.data.format import Sample, decode_members, encode_members
from imuvid.data.tar import parse_tar
from tests.soak import times
from tests.tiny_dataset import tar_of, tiny_sample


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def decoded(raw: bytes) -> Sample | None:
    """The sample in these bytes, None where they are refused, as they must be, in one line."""
    try:
        return decode_members(parse_tar(raw))
    except ValueError as error:
        if "\n" in str(error):
            pytest.fail(f"not one line: {error}")
        return None


def same(a: Sample, b: Sample) -> bool:
    return (
        a.key == b.key
        and a.frames == b.frames
        and a.meta == b.meta
        and np.array_equal(a.imu, b.imu)
        and np.array_equal(a.valid, b.valid)
        and (a.imu.dtype, a.valid.dtype) == (b.imu.dtype, b.valid.dtype)
    )


SAMPLE = tiny_sample(7, "r7", "s7")
MEMBERS = encode_members(SAMPLE)
RAW = tar_of(MEMBERS)


def refused(members: dict[str, bytes]) -> str:
    with pytest.raises(ValueError) as caught:
        decode_members(members)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def changed(**fields) -> dict[str, bytes]:
    """The sample's members with other values in its JSON."""
    meta = json.loads(dict(MEMBERS)[f"{SAMPLE.key}.json"])
    return {**dict(MEMBERS), f"{SAMPLE.key}.json": json.dumps({**meta, **fields}).encode()}


def test_what_is_encoded_decodes_to_the_same():
    assert same(decode_members(parse_tar(RAW)), SAMPLE)


def test_a_plain_webdataset_loop_reads_the_dataset(tiny_dataset):
    table = read_index(tiny_dataset)
    urls = sorted(str(path) for path in tiny_dataset.glob("*.tar"))
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in samples] == table["key"].to_pylist()
    first = samples[0]
    expected = tiny_sample(0, "r000", "strain0")
    np.testing.assert_array_equal(first["imu.npy"], expected.imu)
    assert first["json"]["recording"] == "r000"
    assert first["00.jpg"].shape == (16, 16, 3)


def test_damaged_samples_are_refused_in_one_line():
    key = SAMPLE.key
    members = dict(MEMBERS)
    for name in members:
        rest = {n: c for n, c in members.items() if n != name}
        assert name in refused(rest) or "one sample" in refused(rest)
    assert "one sample" in refused({**members, "other.json": b"{}"})
    assert "one sample" in refused({})
    assert "finite" in refused({**members, f"{key}.imu.npy": npy(np.full((20, 1, 6), np.nan, np.float32))})
    assert "float64" in refused({**members, f"{key}.imu.npy": npy(SAMPLE.imu.astype(np.float64))})
    assert "expected float32" in refused({**members, f"{key}.imu.npy": npy(SAMPLE.imu[:19])})
    assert "expected bool" in refused({**members, f"{key}.valid.npy": npy(SAMPLE.valid.astype(np.uint8))})
    assert "frame_valid" in refused(changed(frame_valid=[True]))
    assert "format 2" in refused(changed(format=2))
    for name in members:
        if not name.endswith(".jpg"):
            assert key in refused({**members, name: b""})
            assert key in refused({**members, name: members[name][:-7]})


@pytest.mark.parametrize(
    "fields",
    [
        *({"duration_s": 1e999}, {"duration_s": None}, {"recording": 3}, {"positions": 1}, {"frame_times_s": 4}),
        *({"start_s": "1"}, {"start_s": None}, {"start_s": float("nan")}, {"new": 1}),
    ],
)
def test_metadata_of_another_kind_is_refused(fields):
    assert SAMPLE.key in refused(changed(**fields))


@pytest.mark.parametrize("text", [b"[]", b"3", b"null", b"{", b"\xff", b"[" * 100_000], ids=repr)
def test_json_that_is_no_metadata_is_refused(text):
    assert SAMPLE.key in refused({**dict(MEMBERS), f"{SAMPLE.key}.json": text})


class Trap:
    def __reduce__(self):
        return os.mkdir, (os.environ["IMUVID_TRAP"],)


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    trap = tmp_path / "trap"
    monkeypatch.setenv("IMUVID_TRAP", str(trap))
    array = np.empty((20, 1, 6), dtype=object)
    array[:] = Trap()
    for content in (npy(array), pickle.dumps(Trap())):
        assert SAMPLE.key in refused({**dict(MEMBERS), f"{SAMPLE.key}.imu.npy": content})
    assert not trap.exists()
    pickle.loads(pickle.dumps(Trap()))
    assert trap.exists()  # the trap works


def test_an_archive_of_arrays_is_refused():
    buffer = io.BytesIO()
    np.savez(buffer, SAMPLE.imu)
    for content in (buffer.getvalue(), b"PK\x03\x04 no archive"):
        assert SAMPLE.key in refused({**dict(MEMBERS), f"{SAMPLE.key}.imu.npy": content})


def headers() -> list[int]:
    """Byte positions of everything that is no content of an array or picture: tar headers, JSON, npy headers."""
    positions, start = [], 0
    for name, content in MEMBERS:
        positions += range(start, start + 512)
        known = len(content) if name.endswith(".json") else 128 if name.endswith(".npy") else 0
        positions += range(start + 512, start + 512 + known)
        start += 512 + -(-len(content) // 512) * 512
    return positions


@settings(max_examples=times(400, 8000), deadline=None)
@given(position=st.sampled_from(headers()), bit=st.integers(0, 7))
def test_a_flipped_bit_in_any_header_is_an_error_or_harmless(position, bit):
    raw = bytearray(RAW)
    raw[position] ^= 1 << bit
    sample = decoded(bytes(raw))
    if sample is not None:
        # The JSON has no checksum of its own: a changed digit or letter of it is noticed by `shards verify` alone.
        assert sample.frames == SAMPLE.frames
        assert sample.imu.shape == SAMPLE.imu.shape


@settings(max_examples=times(200, 5000), deadline=None)
@given(position=st.integers(0, 511), bit=st.integers(0, 7), member=st.integers(0, len(MEMBERS) - 1))
def test_a_flipped_bit_in_a_tar_header_never_changes_the_content(position, bit, member):
    start = sum(512 + -(-len(content) // 512) * 512 for _, content in MEMBERS[:member])
    raw = bytearray(RAW)
    raw[start + position] ^= 1 << bit
    sample = decoded(bytes(raw))
    assert sample is None or same(sample, SAMPLE)


@settings(max_examples=times(200, 5000), deadline=None)
@given(st.integers(0, len(RAW)))
def test_a_truncated_sample_is_refused_or_whole(length):
    sample = decoded(RAW[:length])
    assert sample is None or same(sample, SAMPLE)


@pytest.mark.parametrize(
    "sample",
    [
        dataclasses.replace(SAMPLE, key="a.b"),
        dataclasses.replace(SAMPLE, key="../a"),
        dataclasses.replace(SAMPLE, key=""),
        dataclasses.replace(SAMPLE, imu=SAMPLE.imu.astype(np.float64)),
        dataclasses.replace(SAMPLE, imu=np.full_like(SAMPLE.imu, np.inf)),
        dataclasses.replace(SAMPLE, frames=SAMPLE.frames[:-1]),
    ],
    ids=["dot", "path", "empty", "float64", "infinite", "frames"],
)
def test_what_is_not_as_the_format_says_is_not_written(sample):
    with pytest.raises(ValueError):
        encode_members(sample)


EMBEDDED = dataclasses.replace(SAMPLE, frames=[], embedding=np.linspace(-3, 3, 5).astype(np.float16))


def test_an_embedding_stands_in_for_the_frames():
    members = encode_members(EMBEDDED)
    assert [name.partition(".")[2] for name, _ in members] == ["json", "imu.npy", "valid.npy", "video.npy"]
    found = decode_members(parse_tar(tar_of(members)))
    assert found.frames == []
    assert found.embedding.dtype == np.float16
    np.testing.assert_array_equal(found.embedding, EMBEDDED.embedding)
    assert found.meta == SAMPLE.meta
    np.testing.assert_array_equal(np.load(io.BytesIO(members[-1][1]), allow_pickle=False), EMBEDDED.embedding)


@pytest.mark.parametrize(
    ("embedding", "message"),
    [
        (np.zeros(5, np.float32), "float32"),
        (np.zeros((1, 5), np.float16), r"\[1, 5\]"),
        (np.zeros(0, np.float16), r"\[0\]"),
        (np.array([1, np.nan], np.float16), "finite"),
        (np.array([1, np.inf], np.float16), "finite"),
        (np.array([None]), "object"),
    ],
)
def test_an_embedding_of_another_kind_is_refused(embedding, message):
    with pytest.raises(ValueError, match=message):
        encode_members(dataclasses.replace(EMBEDDED, embedding=embedding))
    if embedding.dtype != object:
        name = f"{SAMPLE.key}.video.npy"
        assert SAMPLE.key in refused({**dict(encode_members(EMBEDDED)), name: npy(embedding)})
        assert SAMPLE.key in refused({**dict(encode_members(EMBEDDED)), name: npy(embedding)[:-1]})
    with pytest.raises(ValueError, match="one of the two"):
        encode_members(dataclasses.replace(SAMPLE, embedding=EMBEDDED.embedding))
