"""Arrays kept on disk: what they are found by, what damage, kills and a full folder do to them."""

from __future__ import annotations

import dataclasses
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from imuvid.errors import UserError
from imuvid.imu.condition import ConditionConfig
from imuvid.models.encoder import EncoderConfig, random_encoder
from imuvid.models.towers import ImuTowerConfig
from imuvid.ood.cache import ArrayCache, CacheConfig, content_key, open_cache
from imuvid.ood.datasets.base import Windows
from imuvid.ood.embedding import conditioned, embed, features_of, represent
from tests.soak import times

CPU = torch.device("cpu")
SI = ConditionConfig()


def make_windows(num: int = 6, seed: int = 0) -> Windows:
    rng = np.random.default_rng(seed)
    text = np.array(["r1", "r2"] * (num // 2))
    return Windows(
        name="set",
        imu=rng.standard_normal((num, 40, 2, 6)).astype(np.float32),
        valid=np.ones((num, 40, 2, 2), bool),
        label=np.zeros(num, np.int64),
        subject=text,
        recording=text,
        start_s=np.arange(num, dtype=float),
        classes=["a"],
        positions=["wrist", "thigh"],
        rate_hz=20.0,
    )


def make_encoder(seed: int = 0, **changes):
    tower = dataclasses.replace(ImuTowerConfig(), **changes)
    return random_encoder(EncoderConfig(tower, 20.0, 2.0, ["wrist"]), seed)


class Counting(ArrayCache):
    """Counts what had to be made."""

    made = 0

    def fetch(self, key, make):
        def counted():
            self.made += 1
            return make()

        return super().fetch(key, counted)


@pytest.fixture
def cache(tmp_path: Path) -> Counting:
    return Counting(tmp_path / "cache", 10**9)


def files(cache: ArrayCache) -> list[Path]:
    return sorted(cache._folder.iterdir())


def test_the_same_windows_are_embedded_once(cache):
    encoder, windows = make_encoder(), make_windows()
    expected = embed(encoder, windows, 4, CPU)
    first = represent(encoder, windows, SI, 4, CPU, "apart", cache)
    again = represent(make_encoder(), make_windows(), SI, 4, CPU, "apart", Counting(cache._folder, 10**9))
    assert cache.made == 1
    np.testing.assert_array_equal(first, expected)
    np.testing.assert_array_equal(again, expected)
    assert again.dtype == np.float32
    # Labels, subjects and the name of the data set do not enter an encoder: another protocol may change them.
    renamed = dataclasses.replace(windows, name="other", label=windows.label + 1, subject=windows.subject[::-1])
    represent(encoder, renamed, SI, 4, CPU, "apart", cache)
    assert cache.made == 1


@pytest.mark.parametrize("change", ["weight", "sample", "valid", "order", "positions", "sensors", "condition", "batch"])
def test_whatever_enters_the_features_enters_the_key(cache, change):
    encoder, windows, condition, sensors, batch = make_encoder(), make_windows(), SI, "apart", 4
    represent(encoder, windows, condition, batch, CPU, sensors, cache)
    if change == "weight":
        with torch.no_grad():
            next(encoder.parameters()).view(-1)[0] += 1
    elif change == "sample":
        windows.imu[3, 7, 1, 2] = np.nextafter(windows.imu[3, 7, 1, 2], np.float32(9))
    elif change == "valid":
        windows.valid[0, 0, 0, 1] = False
    elif change == "order":
        windows.imu = windows.imu[::-1]
    elif change == "positions":
        windows.positions = ["wrist", "chest"]
    elif change == "sensors":
        sensors = "together"
    elif change == "condition":
        condition = ConditionConfig(5)
    else:
        batch = 3
    found = represent(encoder, windows, condition, batch, CPU, sensors, cache)
    assert cache.made == 2
    np.testing.assert_array_equal(found, embed(encoder, conditioned(windows, condition), batch, CPU, sensors))


def test_recordings_matter_where_they_normalise(cache):
    encoder, windows, condition = make_encoder(), make_windows(), ConditionConfig(normalise="recording")
    represent(encoder, windows, condition, 4, CPU, "apart", cache)
    windows.recording = np.array(["r1"] * 3 + ["r2"] * 3)
    represent(encoder, windows, condition, 4, CPU, "apart", cache)
    assert cache.made == 2


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "pickle"])
def test_a_damaged_file_is_made_again_and_executes_nothing(cache, tmp_path, damage, caplog):
    encoder, windows = make_encoder(), make_windows()
    expected = represent(encoder, windows, SI, 4, CPU, "apart", cache)
    [path] = files(cache)
    content, struck = bytearray(path.read_bytes()), tmp_path / "struck"
    if damage == "flip":
        content[-5] ^= 1
    elif damage == "cut":
        content = content[:-5]
    elif damage == "empty":
        content = bytearray()
    else:
        content = bytearray(pickle.dumps(Bomb(struck)))
    path.write_bytes(content)
    np.testing.assert_array_equal(represent(encoder, windows, SI, 4, CPU, "apart", cache), expected)
    assert cache.made == 2
    assert not struck.exists()
    assert str(path) in caplog.text
    represent(encoder, windows, SI, 4, CPU, "apart", cache)
    assert cache.made == 2


class Bomb:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_the_folder_stays_below_its_size_and_keeps_what_was_used_last(tmp_path):
    cache = Counting(tmp_path / "cache", 5000)
    array = np.arange(250, dtype=np.float32)  # 1 kB, and some for names and the checksum
    for number in range(4):
        cache.fetch(content_key(number), lambda: {"x": array})
        time.sleep(0.02)
    cache.fetch(content_key(0), lambda: {"x": array})
    assert cache.made == 4
    time.sleep(0.02)
    cache.fetch(content_key(4), lambda: {"x": array})
    assert sum(path.stat().st_size for path in files(cache)) <= 5000
    names = {path.stem for path in files(cache)}
    assert names == {content_key(number) for number in (0, 2, 3, 4)}
    cache.fetch(content_key("large"), lambda: {"x": np.zeros(5000)})
    assert {path.stem for path in files(cache)} == names
    Counting(tmp_path / "none", 0).fetch(content_key(0), lambda: {"x": array})
    assert not (tmp_path / "none").exists()


def test_what_a_killed_job_left_is_cleared_when_it_is_old(cache):
    cache.fetch(content_key(0), lambda: {"x": np.zeros(3)})
    old, fresh = (cache._folder / f"{name}.partial" for name in ("old", "fresh"))
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    cache.fetch(content_key(1), lambda: {"x": np.zeros(3)})
    assert not old.exists()
    assert fresh.exists()


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    cache = ArrayCache(tmp_path / "file" / "cache", 10**9)
    assert cache.fetch(content_key(0), lambda: {"x": np.ones(2)})["x"].tolist() == [1, 1]
    assert "give another cache.folder" in caplog.text
    with pytest.raises(UserError, match=r"cache.max_gb=-1"):
        open_cache(CacheConfig(max_gb=-1))


JOB = """
import sys
from pathlib import Path
import numpy as np
from imuvid.ood.cache import ArrayCache, content_key
cache = ArrayCache(Path(sys.argv[1]), 400_000)
rng = np.random.default_rng(int(sys.argv[2]))
print("begun", flush=True)
for _ in range(int(sys.argv[3])):
    number = int(rng.integers(20))
    array = cache.fetch(content_key(number), lambda: {"x": np.full(10_000, number, np.float32)})["x"]
    assert array.shape == (10_000,) and (array == number).all(), number
"""


def test_jobs_beside_each_other_and_kills_leave_only_whole_files(tmp_path):
    """More arrays than fit, so that every job deletes what others look for."""

    def start(seed: int, rounds: int) -> subprocess.Popen:
        words = [sys.executable, "-c", JOB, str(tmp_path / "cache"), str(seed), str(rounds)]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    for seed in range(times(1, 20)):
        victim, others = start(seed, 10**9), [start(100 + seed, 200), start(200 + seed, 200)]
        victim.stdout.readline()
        time.sleep(0.2)
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
        for other in others:
            _, complaints = other.communicate(timeout=60)
            assert other.returncode == 0, complaints
            assert "not used" not in complaints
    whole = [path for path in (tmp_path / "cache").iterdir() if path.suffix == ".safetensors"]
    assert whole
    assert sum(path.stat().st_size for path in whole) <= 400_000
    cache = Counting(tmp_path / "cache", 10**9)
    for number in range(20):
        found = cache.fetch(content_key(number), lambda n=number: {"x": np.full(10_000, n, np.float32)})
        assert (found["x"] == number).all()
    assert cache.made == 20 - len(whole)


def test_a_function_is_an_encoder_too_and_is_not_cached(cache):
    windows = make_windows()

    def spread(imu: np.ndarray, valid: np.ndarray) -> np.ndarray:
        assert imu.shape[1:] == (40, 1, 6)
        assert valid.shape[1:] == (40, 1, 2)
        return imu.std(axis=1).reshape(len(imu), -1)

    found = represent(spread, windows, SI, 4, CPU, "apart", cache)
    np.testing.assert_allclose(found, windows.imu.std(axis=1).reshape(6, -1), rtol=1e-6)
    assert cache.made == 0
    with pytest.raises(UserError, match=r"shape \[3\] for 4 windows"):
        features_of(lambda imu, valid: np.zeros(3), windows.imu, windows.valid, 4, CPU)
