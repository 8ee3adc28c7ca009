"""Tar archives are read as the standard library reads them, and anything else is refused."""

from __future__ import annotations

import io
import os
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imuvid.data.format import encode_members
from imuvid.data.tar import parse_tar, views_of_tar
from tests.soak import times
from tests.tiny_dataset import tar_of, tiny_sample

MEMBERS = encode_members(tiny_sample(7, "r7", "s7"))
RAW = tar_of(MEMBERS)


def test_tar_is_read_as_the_standard_library_reads_it():
    with tarfile.open(fileobj=io.BytesIO(RAW)) as tar:
        expected = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}
    assert parse_tar(RAW) == expected
    sizes = [0, 1, 511, 512, 513, 1024]
    odd = [(f"k.{size}", os.urandom(size)) for size in sizes]
    assert parse_tar(tar_of(odd)) == dict(odd)


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_bytes_that_passed_their_checksum_are_read_alike(kind):
    long = "n" * (140 if kind != tarfile.USTAR_FORMAT else 60)
    odd = [("k.0", b""), ("k.1", os.urandom(511)), (f"{long}/k.2", b"2" * 512), ("k.ä", b"3" * 1025)]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
        for name, content in odd:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    for members, raw in ((odd, buffer.getvalue()), (odd[:2] + odd[3:], tar_of(odd[:2] + odd[3:])), (MEMBERS, RAW)):
        found = views_of_tar(raw)
        assert found == parse_tar(raw) == dict(members)
        assert list(found) == [name for name, _ in members]
    with pytest.raises(ValueError, match="bytes past the end"):
        views_of_tar(RAW[: 512 + 10])
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with pytest.raises(ValueError, match="no plain file"):
        views_of_tar(link.tobuf() + RAW)


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
    for read in (parse_tar, views_of_tar):
        with pytest.raises(ValueError, match="damaged tar header"):
            read(bytes(header) + bytes(1024))
