"""Files of labelled stretches: in order, disjoint, and one clear line for each mistake."""

from __future__ import annotations

import pytest

from shards.sources.base import RecordingError
from shards.sources.segments import read_segments


def test_stretches_are_sorted_and_other_columns_ignored(tmp_path):
    (tmp_path / "s.csv").write_text("\ufeffby,start_s,end_s,label\nme,1.0,1.5,sit\nme,0,1.0, walk \n", encoding="utf-8")
    found = read_segments(tmp_path / "s.csv", 1.2)
    assert [(s.start_s, s.end_s, s.label) for s in found] == [(0, 1, "walk"), (1, 1.5, "sit")]


@pytest.mark.parametrize(
    ("text", "reason", "message"),
    [
        ("", "empty", "lists no segment"),
        ("start_s,end_s,label\n", "empty", "lists no segment"),
        ("start,end,label\n0,1,a\n", "bad_segments", "line 2 has not all of start_s,end_s,label"),
        ("start_s,end_s,label\n0,1,a\n1,2\n", "bad_segments", "line 3 has not all of"),
        ("start_s,end_s,label\nnan,1,a\n", "bad_segments", "line 2: from nan to 1 s, label 'a' is no segment"),
        ("start_s,end_s,label\n1,0,a\n", "bad_segments", "from 1 to 0 s"),
        ("start_s,end_s,label\n0,1, \n", "bad_segments", "label '' is no segment"),
        ("start_s,end_s,label\n0:01,1,a\n", "bad_segments", "line 2: could not convert"),
        ("start_s,end_s,label\n0,1,a\n0.5,2,b\n", "bad_segments", "'a' and 'b' overlap from 0.5 s"),
        ("start_s,end_s,label\n1000,1500,a\n", "bad_segments", "after the end of the recording at 2.0 s"),
        ('start_s,end_s,label\n0,1,"a\n', "unreadable", "cannot be read as CSV"),
    ],
)
def test_segments_that_cannot_be_used(tmp_path, text, reason, message):
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(RecordingError) as error:
        read_segments(tmp_path / "s.csv", 2.0)
    assert error.value.reason == reason
    assert message in str(error.value)
    assert str(tmp_path / "s.csv") in str(error.value)
