"""Public data sets from the official layout to shards that verify, with the example configs as they are shipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import webdataset

from imuvid.config import load
from imuvid.data.dataset_json import read_dataset_info
from imuvid.data.dataset_tables import read_index
from shards.build import build
from shards.config import BuildConfig
from shards.sources.layouts import write_manifest
from shards.verify import verify
from tests.shards.sources.layouts.test_manifests import CONFIGS, MAKE, G


@pytest.mark.parametrize(
    ("layout", "positions", "labels", "has_gyro"),
    [
        ("uestc_mmea_cl", ["head"], ["open_close_door", "reading"], True),
        ("wear", ["left_ankle", "left_wrist", "right_ankle", "right_wrist"], [], False),
        ("turning_in_place", ["shank"], ["freeze", "no_freeze"], True),
        ("cmu_mmac", ["back", "left_arm", "left_leg", "right_arm", "right_leg"], ["brownie", "eggs"], False),
    ],
)
def test_example_config_builds_shards_that_verify(
    tmp_path: Path, layout: str, positions: list[str], labels: list[str], has_gyro: bool
):
    MAKE[layout](tmp_path / "data")
    count = write_manifest(layout, tmp_path / "data", tmp_path / "m.csv")
    words = [f"source.paired.manifest={tmp_path / 'm.csv'}", f"out={tmp_path / 'out'}", "frames.size=48"]
    summary = build(load(BuildConfig, CONFIGS / f"{layout}.yaml", [*words, "build.workers=1"]))
    assert not summary.skipped
    info = read_dataset_info(tmp_path / "out")
    assert info.positions == positions
    assert info.labels == labels
    assert info.counts["recordings"] == count
    assert read_index(tmp_path / "out").num_rows >= count
    shards = webdataset.WebDataset(str(tmp_path / "out" / "00000.tar"), shardshuffle=False)
    for sample in shards.decode():
        imu, valid = sample["imu.npy"], sample["valid.npy"]
        assert valid[..., 0].any(axis=0).all()
        assert bool(valid[..., 1].any()) == has_gyro
        size = np.linalg.norm(np.median(imu[..., :3], axis=0), axis=-1)
        assert size == pytest.approx(G, rel=0.13)  # WEAR's right wrist feels 1.12 g
    assert verify(tmp_path / "out").problems == []
