"""Synchrony within a build: what each policy does to recordings whose clocks are known to be off."""

from __future__ import annotations

import json

import numpy as np
import pytest

from imuvid.config import load
from imuvid.data.dataset_json import read_dataset_info
from imuvid.data.dataset_tables import read_index, read_recordings
from imuvid.data.shard_dataset import ShardDataset
from imuvid.errors import UserError
from shards.build import build
from shards.config import BuildConfig
from shards.simulate.files import TRUTH_NAME
from shards.verify import verify

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Two simulated recordings of 40 s whose IMU clocks are off by up to 2 s; made by the first build."""
    return tmp_path_factory.mktemp("simulated")


def built(recordings, out, *words):
    source = ["source.kind=simulated", "source.simulated.num_subjects=2", "source.simulated.duration_s=40"]
    source += [
        "source.simulated.clock_offset_s=2",
        "source.simulated.positions=[head,wrist]",
        "source.simulated.seed=4",
    ]
    more = [f"source.simulated.work_dir={recordings}", "name=s", f"out={out}", "subjects.salt=test", "frames.size=64"]
    return build(load(BuildConfig, None, [*source, *more, *words]))


def truth(recordings, summary):
    offsets = {}
    for path in recordings.rglob(TRUTH_NAME):
        stated = json.loads(path.read_text())
        offsets[summary.identifiers[stated["name"]]] = stated["clock_offset_s"]
    return offsets


def test_offsets_are_reported_corrected_or_the_recording_left_out(recordings, tmp_path):
    summary = built(recordings, tmp_path / "report")
    offsets = truth(recordings, summary)
    assert min(abs(offset) for offset in offsets.values()) > 0.2
    assert summary.sync == {"known": 2}
    rows = {row["recording"]: row for row in read_recordings(tmp_path / "report").to_pylist()}
    for recording, offset in offsets.items():
        assert rows[recording]["sync_offset_s"] == pytest.approx(-offset, abs=0.03)
    assert {row["verdict"] for row in read_index(tmp_path / "report").to_pylist()} == {"sync_offset"}
    assert "windows that fail a quality gate: sync_offset" in str(summary)
    with pytest.raises(UserError, match="fail a quality gate"):
        ShardDataset(tmp_path / "report", None)

    built(recordings, tmp_path / "correct", "sync.policy=correct")
    index = read_index(tmp_path / "correct").to_pylist()
    assert {row["verdict"] for row in index} == {""}
    corrected = ShardDataset(tmp_path / "correct", None)
    for sample in range(len(corrected)):
        stored = corrected.read(sample)
        assert stored.meta.sync_offset_s == pytest.approx(-offsets[stored.meta.recording], abs=0.03)
        assert stored.meta.sync_confidence > 0.99
    assert verify(tmp_path / "correct").problems == []

    # What is stored is what is stored of recordings whose clocks were right, up to the rest of the estimate.
    built(recordings, tmp_path / "ignore", "sync.policy=ignore")
    unmoved = ShardDataset(tmp_path / "ignore", None)
    by_key = {unmoved.keys[i]: i for i in range(len(unmoved))}
    checked = 0
    for sample in range(len(corrected)):
        stored = corrected.read(sample)
        if stored.key not in by_key or not stored.valid.all():
            continue
        offset = offsets[stored.meta.recording]
        other = unmoved.read(by_key[stored.key])
        shift = round(offset * 50)
        late, early = (stored.imu, other.imu) if shift > 0 else (other.imu, stored.imu)
        late, early = late[: len(late) - abs(shift), 0, 3:], early[abs(shift) :, 0, 3:]
        if np.linalg.norm(late) > 5:
            checked += 1
            assert np.corrcoef(late.ravel(), early.ravel())[0, 1] > 0.95
    assert checked > 3

    with pytest.raises(UserError, match=r"2 of 2 recordings cannot be used.*out_of_sync.*s off the video"):
        built(recordings, tmp_path / "reject", "sync.policy=reject")


def test_nothing_is_estimated_where_nobody_asks(recordings, tmp_path):
    summary = built(recordings, tmp_path / "ignore", "sync.policy=ignore")
    assert summary.sync == {}
    assert {row["sync_verdict"] for row in read_recordings(tmp_path / "ignore").to_pylist()} == {None}
    assert read_dataset_info(tmp_path / "ignore").config["sync"]["policy"] == "ignore"
    with pytest.raises(UserError, match=r"sync\.policy=off: must be one of ignore, report, correct, reject"):
        built(recordings, tmp_path / "x", "sync.policy='off'")
