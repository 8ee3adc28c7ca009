"""A training over data that is damaged or slow: what it counts, when it stops, and that it resumes to the same end."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from itertools import pairwise

import pytest
import torch

from tests.imuvid.data.test_damage import flip
from tests.imuvid.training.test_run import CONFIG, REPOSITORY, Run, lines_of, steps_of, weights_of

pytestmark = pytest.mark.slow
WORDS = ("train.epochs=6", "train.checkpoint_every_steps=10", "train.validate_every_epochs=100")
NUM_STEPS = 33


@pytest.fixture(scope="module")
def damaged(tiny_dataset, tmp_path_factory):
    copied = shutil.copytree(tiny_dataset, tmp_path_factory.mktemp("damaged") / "dataset")
    for sample in (3, 14, 15):
        flip(copied, sample)
    picture = (copied / "00002.tar").read_bytes()
    (copied / "00002.tar").write_bytes(picture.replace(b"\xff\xd8\xff", b"\0\0\0", 1))
    return copied


@pytest.fixture(scope="module")
def undisturbed(damaged, tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("a"), damaged, *WORDS)
    return run.folder, *run.end()


def test_corrupt_samples_are_counted_by_reason_and_said_once(undisturbed):
    folder, code, output, errors = undisturbed
    assert (code, errors) == (0, "")
    lines = lines_of(folder)
    counts = [line["corrupt_samples"] for line in lines]
    assert all(a <= b for a, b in pairwise(counts))
    assert counts[-1] == 4  # each once, though each comes in every epoch
    assert lines[-1]["corrupt_checksum"] == 4
    assert 1 <= output.count("corrupt sample") <= 4
    assert ".tar: sample r0" in output
    assert "4 of at most 10 (data.max_corrupt)" in output


def test_an_interrupted_run_counts_and_learns_the_same(undisturbed, damaged, tmp_path):
    run = Run(tmp_path, damaged, *WORDS)
    run.wait_for_step(7)
    os.kill(run.process.pid, signal.SIGTERM)
    assert run.end()[0] == 143
    assert steps_of(run.folder)[-1] < NUM_STEPS
    run = Run(tmp_path, damaged, *WORDS)
    assert run.end()[0] == 0
    for name in ("loss", "corrupt_samples"):
        expected, found = ([line[name] for line in lines_of(folder)] for folder in (undisturbed[0], run.folder))
        assert found == expected, name
    for expected, found in zip(weights_of(undisturbed[0], NUM_STEPS), weights_of(run.folder, NUM_STEPS), strict=True):
        assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_above_the_budget_every_rank_stops_with_shard_and_key(damaged, tmp_path):
    run = Run(tmp_path, damaged, *WORDS, "data.max_corrupt=3")
    code, _, errors = run.end()
    assert code == 1
    assert "4 corrupt samples, more than data.max_corrupt=3" in errors
    assert ".tar: sample r0" in errors
    assert steps_of(run.folder)[-1] < NUM_STEPS
    run = Run(tmp_path, damaged, *WORDS, "data.max_corrupt=4")  # may be changed; the run goes on
    assert run.end()[0] == 0


SLOW = """
import sys, time
from imuvid import config as configs
from imuvid.data.shard_dataset import ShardDataset
from imuvid.training.config import PretrainConfig
from imuvid.training.loop import pretrain

read = ShardDataset.read
def slow(self, *arguments):
    time.sleep(float(sys.argv[1]))
    return read(self, *arguments)
ShardDataset.read = slow
pretrain(configs.load(PretrainConfig, sys.argv[2], sys.argv[3:]))
"""


def test_a_slow_dataset_shows_in_every_line_of_the_log(tiny_dataset, tmp_path):
    shares = []
    for name, delay_s in (("slow", 0.04), ("fast", 0.0)):
        (tmp_path / "config.yaml").write_text(CONFIG)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        one = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        words = [f"data.path={tiny_dataset}", f"runs_dir={tmp_path}", f"name={name}", "train.epochs=1.5"]
        subprocess.run(
            [sys.executable, "-c", SLOW, str(delay_s), str(tmp_path / "config.yaml"), *words, "data.num_workers=0"],
            cwd=REPOSITORY,
            env=os.environ | one | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            check=True,
            capture_output=True,
            timeout=120,
        )
        lines = lines_of(tmp_path / name)
        assert len(lines) == 9
        assert all(0 <= line["data_wait_share"] <= 1 for line in lines)
        if name == "slow":
            assert all(line["data_wait_longest_s"] >= 8 * delay_s for line in lines)
        shares.append(sorted(line["data_wait_share"] for line in lines)[len(lines) // 2])
    assert shares[0] > 0.7
    assert shares[0] > shares[1]
