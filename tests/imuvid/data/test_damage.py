"""Corrupt samples: what stands in for them is the same everywhere, the rest of the order holds, and there is an end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from imuvid.data.batch import Batch
from imuvid.data.damage import REASONS, Damage, stand_ins
from imuvid.data.shard_dataset import ShardDataset
from imuvid.data.stream import evaluation_batches
from imuvid.imu.condition import ConditionConfig
from tests.imuvid.data.test_stream import batches, joined, same

PER_SHARD = 13


def flip(folder: Path, sample: int, place: int = 700) -> None:
    """Change one bit of a sample's bytes."""
    dataset = ShardDataset(folder, None)
    path = folder / dataset.at_shard(dataset.shard_of(sample))[1]
    raw = bytearray(path.read_bytes())
    raw[dataset.span(sample)[0] + place] ^= 1
    path.write_bytes(raw)


@pytest.fixture
def copied(tiny_dataset, tmp_path) -> Path:
    return shutil.copytree(tiny_dataset, tmp_path / "copy")


@pytest.fixture
def damaged(copied) -> Path:
    for sample in (3, 14, 15):
        flip(copied, sample)
    return copied


def windows(parts: list[Batch]) -> list[Batch]:
    """Each window as a batch of its own."""
    return [Batch(**{n: v[i : i + 1] for n, v in vars(p).items()}) for p in parts for i in range(len(p))]


def test_the_rest_holds_and_a_corrupt_sample_gives_way_to_the_next_sound_one(tiny_dataset, damaged):
    found = []
    for sound, window in zip(windows(batches(tiny_dataset)), windows(batches(damaged)), strict=True):
        skipped, reason = window.skipped[0].tolist()
        if skipped < 0:
            assert same(sound, window)
            continue
        assert skipped == sound.sample
        assert REASONS[reason] == "checksum"
        found.append((skipped, window.sample.item()))
    # In each of the two epochs that 72 windows reach into; 15 is corrupt itself, so 16 stands in for 14.
    assert set(found) == {(3, 4), (14, 16), (15, 16)}
    assert len(found) > 3


@pytest.mark.parametrize(("world", "num_workers"), [(1, 2), (2, 0), (4, 1)])
def test_every_world_and_number_of_workers_replaces_alike(damaged, world, num_workers):
    expected = batches(damaged, 7)
    ranks = [batches(damaged, 7, rank=rank, world=world, num_workers=num_workers) for rank in range(world)]
    assert all(same(joined(list(parts)), whole) for *parts, whole in zip(*ranks, expected, strict=True))


def test_a_start_in_the_middle_replaces_alike(damaged):
    assert all(map(same, batches(damaged, 5, first_step=4), batches(damaged)[4:]))


def test_every_sample_of_a_shard_that_is_too_short_is_corrupt(copied):
    # The end of the last sample is missing, but nothing of such a shard is trusted.
    dataset = ShardDataset(copied, "train")
    os.truncate(copied / "00001.tar", dataset.least_size(1) - 1)
    parts = windows(batches(copied, 6, max_corrupt=PER_SHARD))
    skipped = {w.skipped[0, 0].item(): w for w in parts if w.skipped[0, 0] >= 0}
    assert set(skipped) == set(range(13, 26))
    assert {REASONS[w.skipped[0, 1]] for w in skipped.values()} == {"truncated"}
    assert {w.sample.item() for w in skipped.values()} == {26}


def test_more_than_the_budget_in_a_row_ends_the_stream_with_shard_and_key(copied):
    os.truncate(copied / "00001.tar", 5000)
    with pytest.raises(
        ValueError, match=r"11 corrupt samples, more than data\.max_corrupt=10: .*00001\.tar: sample r0"
    ):
        batches(copied)


def test_storage_that_cannot_be_read_is_no_corrupt_sample(copied):
    (copied / "00002.tar").unlink()
    with pytest.raises(ValueError, match=r"00002\.tar: sample r0\S+: cannot be read: No such file"):
        batches(copied)


def test_held_out_windows_are_never_replaced(copied):
    dataset = ShardDataset(copied, "val")
    flip(copied, 44 + 5)
    with pytest.raises(ValueError, match=r"r024-000049: checksum differs"):
        list(evaluation_batches(dataset, list(range(12)), 4, ConditionConfig()))


class Sizes:
    shard_sizes = (3, 2, 0, 4)

    def __init__(self, never: tuple[int, ...] = ()):
        self.weights = torch.tensor([0.0 if i in never else 0.5 for i in range(9)]).numpy()

    def where(self, sample: int) -> str:
        return f"shard of {sample}"


def test_stand_ins_are_of_the_shard_first_and_each_comes_once():
    assert list(stand_ins(Sizes(), 1)) == [2, 0, 3, 4, 5, 6, 7, 8]
    assert list(stand_ins(Sizes(), 4)) == [3, 5, 6, 7, 8, 0, 1, 2]
    assert list(stand_ins(Sizes(never=(3, 5, 8)), 4)) == [6, 7, 0, 1, 2]
    assert list(stand_ins(Sizes(), 8)) == [5, 6, 7, 0, 1, 2, 3, 4]


def test_a_sample_counts_once_and_the_budget_ends_with_its_name():
    damage = Damage(Sizes(), 2)
    assert damage.news() is None
    damage.add([(4, 1), (4, 1)])
    damage.add([(4, 1)])
    assert damage.figures() == {"corrupt_samples": 1, "corrupt_checksum": 1}
    assert "skipped 1 corrupt sample, 1 of at most 2 (data.max_corrupt) by now; the last: shard of 4" in str(
        damage.news()
    )
    assert damage.news() is None
    later = Damage(Sizes(), 2, damage.known)  # another start of the run
    later.add([(7, 0)])
    assert later.figures() == {"corrupt_samples": 2, "corrupt_checksum": 1, "corrupt_truncated": 1}
    with pytest.raises(ValueError, match=r"3 corrupt samples, more than data\.max_corrupt=2: .*; shard of 8: picture"):
        later.add([(8, REASONS.index("picture"))])


@pytest.mark.parametrize("damage", [lambda raw: raw.replace(b"\xff\xd8\xff", b"\0\0\0"), lambda raw: raw[::-1]])
def test_no_checksum_is_needed_to_notice_damage(copied, damage: Callable[[bytes], bytes]):
    from tests.imuvid.data.test_shard_dataset import reindex

    reindex(copied, lambda rows: [{**row, "crc32": None} for row in rows])
    dataset = ShardDataset(copied, "train")
    path = copied / "00000.tar"
    raw, (offset, size) = path.read_bytes(), dataset.span(5)
    path.write_bytes(raw[:offset] + damage(raw[offset : offset + size]) + raw[offset + size :])
    [window] = [w for w in windows(batches(copied, 5)) if w.skipped[0, 0] == 5] or [None]
    assert window is None or (window.sample == 6 and REASONS[window.skipped[0, 1]] in ("picture", "members"))
    assert window is not None
