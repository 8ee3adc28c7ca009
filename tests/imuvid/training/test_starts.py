"""A run that crashes at every start is not started for ever."""

from __future__ import annotations

import json

import pytest

from imuvid.training.starts import CrashLoop, count_start, forget_starts


def test_the_fourth_start_from_the_same_checkpoint_is_refused(tmp_path):
    for _ in range(3):
        count_start(tmp_path, "step-00000010")
    for _ in range(2):
        with pytest.raises(CrashLoop, match=r"3 starts .* no new checkpoint after step-00000010: .*starts\.json"):
            count_start(tmp_path, "step-00000010")
    count_start(tmp_path, "step-00000020")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"checkpoint": null, "starts": "x"}'])
def test_a_damaged_count_does_not_stop_a_run(tmp_path, content):
    (tmp_path / "starts.json").write_text(content)
    count_start(tmp_path, None)
    assert json.loads((tmp_path / "starts.json").read_text()) == {"checkpoint": None, "starts": 1, "start": None}


def test_starts_that_end_in_order_do_not_count(tmp_path):
    for _ in range(9):
        count_start(tmp_path, None)
        forget_starts(tmp_path)
    forget_starts(tmp_path)
    assert not (tmp_path / "starts.json").exists()


def test_a_start_that_has_a_name_counts_once(tmp_path, monkeypatch):
    for number in range(3):
        monkeypatch.setenv("IMUVID_START", f"7.{number}")
        for _ in range(5):  # by a rank, by the job
            count_start(tmp_path, None)
    count_start(tmp_path, "step-00000010")  # a checkpoint that this start made, and crashed
    monkeypatch.setenv("IMUVID_START", "7.3")
    with pytest.raises(CrashLoop, match="3 starts"):
        count_start(tmp_path, None)
