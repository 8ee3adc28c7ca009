"""Building from recordings that are damaged, wrong or too slow: each costs itself and one line."""

from __future__ import annotations

import numpy as np
import pytest

from imuvid.errors import UserError
from shards.build import build
from shards.verify import verify
from tests.shards.recordings import build_config, imu_columns, make_recordings, write_csv, write_manifest, write_video
from tests.shards.test_build import DURATIONS_S, samples_of


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return make_recordings(tmp_path_factory.mktemp("recordings"), DURATIONS_S)


def bad_recordings(folder):
    """A manifest with one good recording and one of each kind of mistake; return it and the expected reasons."""
    rows, reasons = [], {}

    def add(name, reason, columns=None, video=True, **cells):
        if video is True:
            write_video(folder / f"{name}.mp4", 60)
        elif video is not None:
            (folder / f"{name}.mp4").write_bytes(video)
        write_csv(folder / f"{name}.csv", imu_columns(2.4) if columns is None else columns)
        rows.append({"recording": name, "video": f"{name}.mp4", "imu": f"{name}.csv", "position": "wrist"} | cells)
        if reason:
            reasons[name] = reason

    columns = imu_columns(2.4)
    whole = write_video(folder / "whole.mp4", 60, options={"movflags": "faststart"}).read_bytes()
    nan, backwards, gap = (dict(columns) for _ in range(3))
    nan["acc_x"] = np.full(240, np.nan)
    backwards["time"] = columns["time"].copy()
    backwards["time"][100] = 0.5
    gap = {name: np.delete(column, slice(80, 120)) for name, column in columns.items()}
    some_nan = {name: column.copy() for name, column in columns.items()}
    some_nan["acc_y"][50:60] = np.nan
    add("a-good", None)
    add("b-missing-video", "missing", video=None)
    add("c-missing-imu", "missing", imu="nowhere.csv")
    add("d-empty-video", "empty", video=b"")
    add("e-truncated-video", "truncated", video=whole[: len(whole) // 2])
    add("f-words-for-video", "not_a_video", video=b"words" * 500)
    add("g-all-nan", "all_nan", columns=nan)
    add("h-unit", "bad_unit", acc_unit="lbs")
    add("i-backwards", "time_backwards", columns=backwards)
    add("j-short-imu", "imu_too_short", columns={name: column[:40] for name, column in columns.items()})
    add("k-no-overlap", "no_overlap", offset_s="100")
    add("l-no-video-named", "no_video")
    rows[-1]["video"] = ""
    add("m-same-video", "duplicate")
    rows[-1]["video"] = "a-good.mp4"
    add("n-gap", None, columns=gap)
    add("o-some-nan", None, columns=some_nan)
    add("p-wrong-scale", None, columns=columns, acc_unit="mg")
    rows.append(dict(rows[0]))
    return write_manifest(folder / "recordings.csv", rows), reasons


def test_bad_recordings_are_skipped_counted_and_named_in_one_line_each(tmp_path, caplog):
    manifest, reasons = bad_recordings(tmp_path)
    summary = build(build_config(manifest, tmp_path / "out", "build.max_failed_share=1"))
    found = {name: reason for name, reason, _ in summary.skipped if name != "a-good"}
    assert found == reasons
    assert ("a-good", "duplicate") in [(name, reason) for name, reason, _ in summary.skipped]
    assert sorted(summary.identifiers) == ["a-good", "n-gap", "o-some-nan", "p-wrong-scale"]
    assert summary.marked == {"gap": 2, "implausible_acc": 1, "not_a_number": 1}
    assert summary.reasons["missing"] == 2
    assert f"skipped {len(reasons) + 1} recordings: all_nan 1, bad_unit 1, duplicate 2, empty 1" in str(summary)
    for name, reason, message in summary.skipped:
        lines = [
            record.getMessage() for record in caplog.records if f"skipped {name} ({reason})" in record.getMessage()
        ]
        assert lines == [f"skipped {name} ({reason}): {message}"]
        assert "\n" not in message
    samples = samples_of(tmp_path / "out")
    gap = samples[f"{summary.identifiers['n-gap']}-000000"]
    assert gap["valid.npy"].sum(axis=0).tolist() == [[40, 40]]
    assert samples[f"{summary.identifiers['n-gap']}-000001"]["valid.npy"][11:].all()
    assert verify(tmp_path / "out").ok


def test_build_that_goes_wrong_stops(tmp_path):
    manifest, _ = bad_recordings(tmp_path)
    with pytest.raises(UserError, match=r"of 16 recordings cannot be used \(build.max_failed_share=0.3\); the first:"):
        build(build_config(manifest, tmp_path / "out", "build.max_failed_share=0.3"))


def test_recordings_that_take_too_long_are_given_up(manifest, tmp_path):
    config = build_config(manifest, tmp_path / "out", "build.recording_timeout_s=0.001", "build.max_failed_share=1")
    with pytest.raises(UserError, match=r"5 of 5 recordings cannot be used.*\(timeout\): took longer than 0.001 s"):
        build(config)
