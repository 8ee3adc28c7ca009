"""UTD-MHAD: its manifest, and a build of real clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.io
import webdataset

from imuvid.config import load
from imuvid.data.dataset_json import read_dataset_info
from imuvid.data.dataset_tables import read_index
from imuvid.errors import UserError
from shards.build import build
from shards.config import BuildConfig
from shards.sources.layouts.utd_mhad import ACTIONS, write_utd_mhad_manifest
from shards.sources.paired import PairedConfig, PairedSource
from shards.verify import verify

CONFIG = Path(__file__).parents[2] / "configs" / "shards" / "utd_mhad.yaml"


def test_folder_without_clips_is_refused(tmp_path):
    with pytest.raises(UserError, match="not the folder of UTD-MHAD"):
        write_utd_mhad_manifest(tmp_path, tmp_path / "m.csv")


def test_names_of_the_actions():
    assert len(set(ACTIONS)) == 27
    assert (ACTIONS[0], ACTIONS[21], ACTIONS[26]) == ("swipe_left", "jog", "squat")


def test_build_of_real_clips(realdata, tmp_path):
    root = realdata / "utd_mhad"
    assert write_utd_mhad_manifest(root, tmp_path / "all.csv") == 861
    header, *lines = (tmp_path / "all.csv").read_text().splitlines()
    clips = ("a1_s1_t1", "a1_s7_t1", "a22_s2_t3", "a27_s8_t2")
    chosen = [line for line in lines if line.startswith(tuple(f"{clip}," for clip in clips))]
    (tmp_path / "m.csv").write_text("\n".join([header, *chosen]))
    words = [f"source.paired.manifest={tmp_path / 'm.csv'}", f"out={tmp_path / 'out'}", "build.workers=1"]
    summary = build(load(BuildConfig, CONFIG, words))
    assert not summary.skipped
    assert verify(tmp_path / "out").ok
    info = read_dataset_info(tmp_path / "out")
    assert info.positions == ["right_thigh", "right_wrist"]
    assert info.labels == ["jog", "squat", "swipe_left"]
    rows = read_index(tmp_path / "out").to_pylist()
    assert {row["split"] for row in rows if row["label"] == "squat"} == {"val"}
    assert all(row["imu_share"] == row["frame_share"] == 1.0 for row in rows)
    samples = {
        sample["__key__"]: sample
        for sample in webdataset.WebDataset(str(tmp_path / "out" / "00000.tar"), shardshuffle=False).decode()
    }
    for clip in clips:
        raw = scipy.io.loadmat(root / "Inertial" / f"{clip}_inertial.mat")["d_iner"]
        mine = [key for key in samples if key.startswith(summary.identifiers[clip])]
        assert len(mine) == 1 + int((len(raw) / 50 - 2) / 0.25 + 1e-6)
        first = samples[f"{summary.identifiers[clip]}-000000"]
        at = 0 if clip.startswith("a2") else 1
        assert first["imu.npy"][:, at, :3] == pytest.approx(raw[:100, :3] * 9.80665, abs=1e-4)
        assert first["imu.npy"][:, at, 3:] == pytest.approx(np.deg2rad(raw[:100, 3:]), abs=1e-4)
        assert not first["valid.npy"][:, 1 - at].any()


def test_every_clip_is_long_enough_for_a_window(realdata, tmp_path):
    write_utd_mhad_manifest(realdata / "utd_mhad", tmp_path / "m.csv")
    config = PairedConfig(manifest=str(tmp_path / "m.csv"), acc_unit="g", gyro_unit="deg/s", rate_hz=50.0, key="d_iner")
    source = PairedSource(config)
    for ref in source.list()[::40]:
        recording = source.open(ref)
        assert recording.duration_s > 2.0
        assert recording.streams[0].acc is not None
        assert recording.duration_s == pytest.approx(len(recording.streams[0].acc.times_s) / 50, abs=0.02)
