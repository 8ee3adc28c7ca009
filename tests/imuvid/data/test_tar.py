"""Tar archives are read as the standard library reads them, and anything else is refused."""

from __future__ import annotations

import io
import os
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imuvid.data.format import encode_members
from imuvid.data.tar import parse_tar
from tests.soak import times
from tests.tiny_dataset import tar_of, tiny_sample

RAW = tar_of(encode_members(tiny_sample(7, "r7", "s7")))


def test_tar_is_read_as_the_standard_library_reads_it():
    with tarfile.open(fileobj=io.BytesIO(RAW)) as tar:
        expected = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}
    assert parse_tar(RAW) == expected
    sizes = [0, 1, 511, 512, 513, 1024]
    odd = [(f"k.{size}", os.urandom(size)) for size in sizes]
    assert parse_tar(tar_of(odd)) == dict(odd)


@settings(max_examples=times(200, 5000), deadline=None)
@given(st.binary(max_size=3000))
def test_any_bytes_are_refused_as_a_tar(raw):
    with pytest.raises(ValueError):
        parse_tar(raw)


def test_a_size_below_zero_does_not_send_the_reader_round_in_circles():
    header = bytearray(RAW[:512])
    header[124:136] = b"-0000001000\0"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(ValueError, match="damaged tar header"):
        parse_tar(bytes(header) + bytes(1024))
