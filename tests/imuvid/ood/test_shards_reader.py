"""A labelled dataset in the shard format as test population."""

from __future__ import annotations

import numpy as np
import pytest

from imuvid.data.dataset_json import read_dataset_info
from imuvid.errors import UserError
from imuvid.ood.datasets.shards import ShardsConfig, read_shards
from tests.imuvid.ood.fakes import make_sample, write_shards


@pytest.fixture
def population(tmp_path):
    samples = []
    for i, subject in enumerate(["aa", "bb", "cc", "dd"]):
        for j, label in enumerate(["walk", "sit", None]):
            split = "test" if subject == "dd" else "train"
            samples.append((make_sample(f"{subject}-{j}", subject, label, start_s=4.0 * j + 100 * i), split))
    return write_shards(tmp_path / "population", samples)


def test_windows_are_cut_from_labelled_samples(population):
    windows = read_shards(ShardsConfig(str(population)), rate_hz=50.0, window_s=2.0, pretraining={})
    assert windows.name == "population"
    assert windows.imu.shape == (4 * 2 * 2, 100, 1, 6)
    assert windows.classes == ["sit", "walk"]
    assert set(windows.subject) == {"aa", "bb", "cc", "dd"}
    np.testing.assert_allclose(windows.imu[:, 0, 0, 0], windows.start_s, atol=1e-4)  # x is the time
    assert ((windows.imu[:, 0, 0, 2] > 0) == (windows.label == 1)).all()


def test_split_and_other_rate(population):
    windows = read_shards(ShardsConfig(str(population), split="test"), rate_hz=25.0, window_s=4.0, pretraining={})
    assert set(windows.subject) == {"dd"}
    assert windows.imu.shape == (2, 100, 1, 6)
    steady = windows.imu[:, 10:-10, 0, 0] - windows.start_s[:, None]
    np.testing.assert_allclose(steady, np.broadcast_to(np.arange(10, 90) / 25, steady.shape), atol=0.02)


def test_overlapping_samples_are_not_scored_twice(tmp_path):
    samples = [(make_sample(f"k{i}", "aa", label, start_s=2.0 * i), "test") for i, label in enumerate(["walk"] * 3)]
    samples.append((make_sample("other", "bb", "sit"), "test"))
    folder = write_shards(tmp_path / "p", samples)
    windows = read_shards(ShardsConfig(str(folder)), 50.0, 4.0, {})
    assert sorted(windows.start_s[windows.subject == "aa"].tolist()) == [0.0, 4.0]


@pytest.mark.parametrize(
    ("changes", "window_s", "message"),
    [
        ({"split": "dev"}, 2.0, "choose one of train, val, test, all"),
        ({"split": "val"}, 2.0, "split val has 0 labels"),
        ({"labels": ["walk", "run"]}, 2.0, "no sample is labelled 'run': the labels are sit, walk"),
        ({"positive": "fall"}, 2.0, "no sample is labelled 'fall'"),
        ({}, 6.0, "window_s=6 is longer"),
        ({"root": None}, 2.0, "shards.root is not set"),
        ({"root": "/nowhere"}, 2.0, "no dataset.json there"),
    ],
)
def test_mistakes_give_one_line(population, changes, window_s, message):
    config = ShardsConfig(**({"root": str(population)} | changes))
    with pytest.raises(UserError, match=message):
        read_shards(config, 50.0, window_s, {})


def test_a_damaged_tar_gives_one_line(population):
    tar = population / "00000.tar"
    tar.write_bytes(tar.read_bytes()[:20000])
    with pytest.raises(UserError, match=r"sample .* cannot be read"):
        read_shards(ShardsConfig(str(population)), 50.0, 2.0, {})


def test_training_windows_of_unknown_people_are_refused(tmp_path):
    samples = [(make_sample(f"k{i}", None, label), "train") for i, label in enumerate(["walk", "sit"])]
    folder = write_shards(tmp_path / "p", samples)
    fingerprint = read_dataset_info(folder).fingerprint
    assert len(read_shards(ShardsConfig(str(folder)), 50.0, 2.0, {"fingerprint": "other"}).label) == 4
    with pytest.raises(UserError, match=r"set shards\.split=test"):
        read_shards(ShardsConfig(str(folder)), 50.0, 2.0, {"fingerprint": fingerprint})
