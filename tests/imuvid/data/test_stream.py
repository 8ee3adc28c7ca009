"""The training stream: the same global batches for any ranks, workers and place to begin, and no silent damage."""

from __future__ import annotations

import os
import re
import shutil
import signal as signals
import subprocess
import sys
import time
from itertools import islice

import numpy as np
import pytest
import torch
from scipy import signal, stats

from imuvid.data.augment import AugmentConfig
from imuvid.data.batch import Batch
from imuvid.data.dataset_tables import read_recordings
from imuvid.data.index import Index
from imuvid.data.shard_dataset import ShardDataset
from imuvid.data.stream import DataConfig, evaluation_batches, training_stream
from imuvid.errors import UserError
from imuvid.imu.condition import ConditionConfig
from tests.tiny_dataset import rewrite_recordings

STEPS = 9  # 72 windows: well into the second epoch of 44
ALL = AugmentConfig(rotate_share=1.0, drop_gyro_share=0.5)


def batches(folder, steps=STEPS, first_step=0, rank=0, world=1, num_workers=0, augment=ALL, **data) -> list[Batch]:
    dataset = ShardDataset(folder, "train")
    config = DataConfig(path=str(folder), batch_size=8, num_workers=num_workers, augment=augment, **data)
    return list(islice(training_stream(dataset, config, 5, rank, world, first_step, False), steps))


def same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


def joined(parts: list[Batch]) -> Batch:
    return Batch(**{name: torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])})


def test_frames_are_drawn_by_chunk_in_training_and_fixed_in_evaluation(tiny_dataset, whole):
    stored, dataset = ShardDataset(tiny_dataset, "train"), ShardDataset(tiny_dataset, "train", num_frames=2)
    assert (stored.num_frames, dataset.num_frames) == (4, 2)
    config = DataConfig(path=str(tiny_dataset), batch_size=8, num_workers=0, augment=NO_AUGMENTATION, num_frames=2)
    parts = list(islice(training_stream(dataset, config, 5, 0, 1, 0, False), STEPS))
    drawn: dict[int, list[tuple[int, ...]]] = {}
    for batch in parts:
        assert batch.frames.shape == (8, 2, 16, 16, 3)
        for sample, frames in zip(batch.sample.tolist(), batch.frames.numpy(), strict=True):
            pictures = stored.example(sample).frames
            places = tuple(next(i for i in range(4) if np.array_equal(frame, pictures[i])) for frame in frames)
            assert places[0] in (0, 1)
            assert places[1] in (2, 3)
            drawn.setdefault(sample, []).append(places)
    assert {places for several in drawn.values() for places in several} == {(0, 2), (0, 3), (1, 2), (1, 3)}
    assert sum(a != b for a, b in (several for several in drawn.values() if len(several) == 2)) > 10  # of 28, by epoch
    assert all(map(same, islice(training_stream(dataset, config, 5, 0, 1, 4, False), 2), parts[4:6]))
    [held_out] = evaluation_batches(dataset, [3, 7], 2, ConditionConfig())
    assert np.array_equal(held_out.frames[1], stored.example(7).frames[[1, 3]])
    with pytest.raises(UserError, match="5 frames of a window are asked for, 4 are stored"):
        ShardDataset(tiny_dataset, "train", num_frames=5)


def change_recordings(folder, change) -> None:
    rows = read_recordings(folder).to_pylist()
    for row in rows:
        change(row)
    rewrite_recordings(folder, rows)


@pytest.fixture(scope="module")
def whole(tiny_dataset) -> list[Batch]:
    return batches(tiny_dataset)


def test_shapes_and_an_epoch_has_every_sample_once(whole):
    first = whole[0]
    assert first.imu.shape == (8, 20, 1, 6)
    assert first.imu.dtype == torch.float32
    assert first.valid.shape == (8, 20, 1, 2)
    assert first.frames.shape == (8, 4, 16, 16, 3)
    assert first.frames.dtype == torch.uint8
    assert torch.cat([batch.sample for batch in whole])[:44].sort().values.tolist() == list(range(44))


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
@pytest.mark.parametrize("num_workers", [1, 3])
def test_any_number_of_workers_gives_the_same_batches(tiny_dataset, whole, num_workers):
    assert all(map(same, batches(tiny_dataset, num_workers=num_workers), whole))


def test_no_column_of_the_index_is_read_for_what_the_samples_say_themselves(tiny_dataset, whole, monkeypatch):
    starts_s = ShardDataset(tiny_dataset, "train").starts_s
    monkeypatch.setattr(Index, "column", lambda self, name: pytest.fail(f"reads {name} of all samples"))
    [batch] = batches(tiny_dataset, 1)
    assert same(batch, whole[0])
    assert batch.start_s.tolist() == [starts_s[i] for i in batch.sample.tolist()]


@pytest.mark.parametrize("world", [2, 4])
def test_any_number_of_ranks_gives_the_same_global_batches(tiny_dataset, whole, world):
    ranks = [batches(tiny_dataset, rank=rank, world=world) for rank in range(world)]
    assert all(same(joined(list(parts)), expected) for *parts, expected in zip(*ranks, whole, strict=True))


@pytest.mark.parametrize(("first_step", "num_workers"), [(1, 0), (5, 2), (7, 0)])
def test_beginning_at_a_step_equals_skipping_to_it(tiny_dataset, whole, first_step, num_workers):
    later = batches(tiny_dataset, STEPS - first_step, first_step, num_workers=num_workers)
    assert all(map(same, later, whole[first_step:]))
    assert len(later) == STEPS - first_step


def test_a_sample_is_augmented_otherwise_in_the_next_epoch(whole):
    seen: dict[int, torch.Tensor] = {}
    repeated = 0
    for batch in whole:
        for sample, imu in zip(batch.sample.tolist(), batch.imu, strict=True):
            if sample in seen:
                repeated += 1
                assert not torch.equal(seen[sample], imu)
            seen[sample] = imu
    assert repeated == 28


def test_evaluation_is_unaugmented_in_order_and_may_end_short(tiny_dataset):
    dataset = ShardDataset(tiny_dataset, "val")
    parts = list(evaluation_batches(dataset, [3, 1, 7], 2, ConditionConfig()))
    assert [len(part) for part in parts] == [2, 1]
    assert torch.cat([part.sample for part in parts]).tolist() == [3, 1, 7]
    assert torch.equal(parts[1].imu[0], torch.from_numpy(dataset.example(7).imu))


NO_AUGMENTATION = AugmentConfig(0.0, 0.0, 0.0, 0.0, 0.0, crop_area=1.0, brightness=0.0)
TYPICAL = [9.80665] * 3 + [3.0] * 3  # m/s^2 and rad/s: what towers divide by


@pytest.mark.parametrize("num_workers", [0, 1])
def test_windows_are_normalised_by_their_recording(tiny_dataset, num_workers):
    config = ConditionConfig(normalise="recording")
    dataset = ShardDataset(tiny_dataset, "train")
    expected = {}
    for sample in range(0, 44, 2):  # two windows a recording
        pair = np.concatenate([dataset.example(i).imu for i in (sample, sample + 1)]).astype(np.float64)
        expected |= dict(zip((sample, sample + 1), np.split(stats.zscore(pair) * TYPICAL, 2), strict=True))
    for batch in batches(tiny_dataset, 6, num_workers=num_workers, augment=NO_AUGMENTATION, condition=config):
        for sample, imu in zip(batch.sample.tolist(), batch.imu.numpy(), strict=True):
            assert imu == pytest.approx(expected[sample], abs=1e-4)
    [held_out] = evaluation_batches(dataset, [7, 2], 2, config)
    assert held_out.imu.numpy() == pytest.approx(np.stack([expected[7], expected[2]]), abs=1e-4)


def test_the_median_filter_comes_before_the_z_score(tiny_dataset):
    config = ConditionConfig(median_samples=5, normalise="window")
    dataset = ShardDataset(tiny_dataset, "train")
    [batch] = evaluation_batches(dataset, [3], 1, config)
    filtered = signal.medfilt(dataset.example(3).imu.astype(np.float64), (5, 1, 1))[2:-2]  # scipy pads by zeros
    conditioned = batch.imu[0].numpy() / TYPICAL
    assert conditioned.mean(axis=0) == pytest.approx(0.0, abs=1e-5)
    assert conditioned.std(axis=0) == pytest.approx(1.0, abs=1e-5)
    assert stats.zscore(conditioned[2:-2]) == pytest.approx(stats.zscore(filtered), abs=1e-4)


def test_conditioning_is_of_the_augmented_readings(tiny_dataset):
    noisy = AugmentConfig(rotate_share=1.0, noise_acc_m_s2=50.0, drop_gyro_share=0.5)
    plain = batches(tiny_dataset, 2, augment=noisy)
    scored = batches(tiny_dataset, 2, augment=noisy, condition=ConditionConfig(normalise="window"))
    for before, after in zip(plain, scored, strict=True):
        assert torch.equal(before.valid, after.valid)
        expected = stats.zscore(before.imu[..., :3].double().numpy(), axis=1) * 9.80665
        assert after.imu[..., :3].numpy() == pytest.approx(expected, abs=1e-3)
        assert (after.imu[~before.valid.any(1)[:, 0, 1]][..., 3:] == 0).all()


def test_a_dataset_without_statistics_is_refused_before_anything_is_read(tiny_dataset, tmp_path):
    copied = shutil.copytree(tiny_dataset, tmp_path / "copy")
    change_recordings(copied, lambda row: row.pop("imu_mean"))
    with pytest.raises(UserError, match=r"recordings\.parquet: 22 of 22 recordings have no imu_mean"):
        batches(copied, condition=ConditionConfig(normalise="recording"))
    assert len(batches(copied, 1, condition=ConditionConfig(5, "window"))) == 1


@pytest.mark.parametrize(
    "change", [{"imu_mean": [0.0] * 5}, {"imu_deviation": [0.0] * 6}, {"imu_mean": [float("nan")] * 6}]
)
def test_damaged_statistics_are_refused(tiny_dataset, tmp_path, change):
    copied = shutil.copytree(tiny_dataset, tmp_path / "copy")
    change_recordings(copied, lambda row: row.update(change))
    with pytest.raises(UserError, match="damaged: recording r000: imu_mean and imu_deviation are not 6 finite"):
        batches(copied, condition=ConditionConfig(normalise="recording"))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_damaged_sample_stops_the_stream_with_shard_and_key(tiny_dataset, tmp_path, num_workers):
    copied = shutil.copytree(tiny_dataset, tmp_path / "copy")
    raw = bytearray((copied / "00001.tar").read_bytes())
    raw[5] ^= 1
    (copied / "00001.tar").write_bytes(raw)
    with pytest.raises(ValueError, match=r"00001\.tar: sample r006-000013: checksum differs") as caught:
        batches(copied, num_workers=num_workers, max_corrupt=0)
    assert "\n" not in str(caught.value)


def test_a_batch_that_the_ranks_cannot_share_is_refused(tiny_dataset):
    with pytest.raises(ValueError, match="no multiple of the 3 ranks"):
        batches(tiny_dataset, world=3)


def children() -> list[int]:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [int(word) for word in file.read().split()]


def test_workers_outlive_the_signals_of_a_time_limit(tiny_dataset, whole):
    before = set(children())
    dataset = ShardDataset(tiny_dataset, "train")
    config = DataConfig(path=str(tiny_dataset), batch_size=8, num_workers=2, augment=ALL)
    stream = training_stream(dataset, config, 5, 0, 1, 0, False)
    got = [next(stream)]
    workers = set(children()) - before
    assert len(workers) == 2
    # From another process, as Slurm sends them.
    for name in ("TERM", "INT", "USR1"):
        subprocess.run(["kill", f"-{name}", *map(str, workers)], check=True)
    time.sleep(0.2)
    got += islice(stream, STEPS - 1)
    assert all(map(same, got, whole))
    del stream
    deadline = time.monotonic() + 10
    while workers & set(children()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not workers & set(children())


HUNG = """
import os, sys
from imuvid.data.shard_dataset import ShardDataset
from imuvid.data.stream import DataConfig, training_stream

config = DataConfig(batch_size=8, timeout_s=1.0, num_workers=int(sys.argv[2]))
stream = training_stream(ShardDataset(sys.argv[1], "train"), config, 0, 3, 4, 0, False)
while True:
    next(stream)
"""


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_storage_that_hangs_ends_the_process_and_says_what_was_read(tiny_dataset, tmp_path, num_workers):
    copied = shutil.copytree(tiny_dataset, tmp_path / "copy")
    (copied / "00001.tar").unlink()
    os.mkfifo(copied / "00001.tar")  # to open it takes for ever, as files of a server that is gone do
    # Ending includes the worker, which does not answer: Python waits for its children at exit.
    run = subprocess.run(
        [sys.executable, "-c", HUNG, str(copied), str(num_workers)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 1
    assert re.fullmatch(
        r"RuntimeError: rank 3: no batch within 1 s \(data\.timeout_s\): worker [01] has been reading"
        r" \S*/copy/00001\.tar: sample r0\d\d-0000\d\d for 1 s",
        run.stderr.splitlines()[-1],
    ), run.stderr


@pytest.mark.slow
def test_a_worker_that_is_killed_is_named_with_what_it_read(tiny_dataset):
    before = set(children())

    class Slow(ShardDataset):
        def read(self, *arguments):
            time.sleep(0.2)
            return super().read(*arguments)

    config = DataConfig(path=str(tiny_dataset), batch_size=8, num_workers=1)
    stream = training_stream(Slow(tiny_dataset, "train"), config, 5, 2, 4, 0, False)
    next(stream)
    [worker] = set(children()) - before
    os.kill(worker, signals.SIGKILL)
    with pytest.raises(
        RuntimeError, match=r"rank 2: DataLoader worker .* worker 0 has been reading \S*\.tar: sample r"
    ):
        list(stream)
