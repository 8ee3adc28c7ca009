"""Several datasets as one: the same guarantees through the real loader, and what does not fit is refused."""

from __future__ import annotations

import json
import shutil
from itertools import islice
from pathlib import Path

import pytest
import torch

from imuvid import config as configs
from imuvid.data.augment import AugmentConfig
from imuvid.data.batch import Batch
from imuvid.data.dataset_json import DATASET_NAME
from imuvid.data.dataset_tables import INDEX_NAME
from imuvid.data.mixture import MixtureDataset, open_held_out, open_split
from imuvid.data.shard_dataset import ShardDataset, retrieval_windows
from imuvid.data.stream import DataConfig, MixtureEntry, training_stream
from imuvid.errors import UserError
from imuvid.training.config import PretrainConfig
from imuvid.training.start import check_run_folder, check_start
from tests.imuvid.training.test_start import leave_run
from tests.tiny_dataset import rewrite_index, write_tiny_dataset

STEPS = 12


@pytest.fixture(scope="module")
def second(tmp_path_factory) -> Path:
    """As tiny_dataset, other people; its recordings have the same identifiers."""
    return write_tiny_dataset(tmp_path_factory.mktemp("second") / "second", 20, 6, 7, people="p")


def data_config(*entries: tuple[Path, float], **data) -> DataConfig:
    mixture = [MixtureEntry(str(path), weight) for path, weight in entries]
    return DataConfig(mixture=mixture, batch_size=8, **{"num_workers": 0, **data})


def batches(config: DataConfig, steps=STEPS, first_step=0, rank=0, world=1) -> list[Batch]:
    stream = training_stream(open_split(config, "train"), config, 5, rank, world, first_step, False)
    return list(islice(stream, steps))


def same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


def test_batches_have_the_shares_and_recordings_of_different_datasets_differ(tiny_dataset, second):
    whole = batches(data_config((tiny_dataset, 3), (second, 1)))
    for batch in whole:
        assert (batch.sample >= 44).sum() == 2
    samples, recordings = torch.cat([b.sample for b in whole]), torch.cat([b.recording for b in whole])
    of = [set(recordings[samples < 44].tolist()), set(recordings[samples >= 44].tolist())]
    assert (len(of[0]), len(of[1])) == (22, 10)
    assert not of[0] & of[1]


@pytest.mark.parametrize("first", ["with video", "without"])
def test_a_dataset_without_video_has_windows_in_which_no_frame_is_valid(tiny_dataset, tmp_path, first):
    without = write_tiny_dataset(tmp_path / "imu", 20, 6, 7, people="p", with_video=False)
    order = [tiny_dataset, without] if first == "with video" else [without, tiny_dataset]
    augmented = AugmentConfig(shift_range=0.2, flip_share=0.5)  # what looks at frames and at their times
    config = data_config(*((path, 1.0) for path in order), augment=augmented, num_frames=2)
    paired, alone = ShardDataset(tiny_dataset, "train", 2), ShardDataset(without, "train", 2)
    start = 0 if first == "with video" else 20
    for batch in batches(config, 4):
        has_video = (batch.sample >= start) & (batch.sample < start + 44)
        assert has_video.sum() == 4
        assert batch.frames.shape == (8, 2, 16, 16, 3)
        assert torch.equal(batch.frame_valid.any(1), has_video)
        assert not batch.frames[~has_video].any()
        assert batch.valid.flatten(1).any(1).all()
    mixture = open_split(config, "train")
    assert mixture.num_frames == 2
    example = mixture.example(44 - start if first == "with video" else 3)
    assert (example.imu == alone.example(0 if first == "with video" else 3).imu).all()
    assert (mixture.example(start + 5).frames == paired.example(5).frames).all()
    assert len(open_held_out(config)) == 12


def test_a_sample_of_a_mixture_is_that_of_its_dataset(tiny_dataset, second):
    mixture = open_split(data_config((tiny_dataset, 1), (second, 2)), "train")
    own = ShardDataset(second, "train")
    assert (mixture.example(44 + 7).imu == own.example(7).imu).all()
    assert len(mixture) == 64
    assert mixture.recordings[44 + 7] == f"1/{own.recordings[7]}"
    assert len(mixture.recordings.unique()) == len(set(mixture.recordings)) == 32
    assert mixture.statistics_of(51)[0].tolist() == own.statistics_of(7)[0].tolist()
    held_out = open_split(data_config((tiny_dataset, 1), (second, 2)), "val")
    assert len(retrieval_windows(held_out, "one_per_recording")) == 9


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(
    "data", [{}, {"resampled": True}, {"max_per_recording": 1}, {"resampled": True, "block_shards": 2}]
)
def test_any_workers_ranks_and_beginning_give_the_same_batches(tiny_dataset, second, data):
    def config(**more):
        return data_config((tiny_dataset, 3), (second, 1), **data, **more)

    whole = batches(config())
    assert all(map(same, batches(config(num_workers=3)), whole))
    assert all(map(same, batches(config(num_workers=2), STEPS - 5, 5), whole[5:]))
    halves = [batches(config(), rank=rank, world=2) for rank in range(2)]
    for *parts, expected in zip(*halves, whole, strict=True):
        joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in vars(expected)}
        assert same(Batch(**joined), expected)
    if "max_per_recording" in data:
        assert all(len(set(batch.recording.tolist())) == 8 for batch in whole)


def test_the_bound_holds_through_the_stream(tiny_dataset):
    config = DataConfig(path=str(tiny_dataset), batch_size=8, num_workers=0, max_per_recording=1)
    got = batches(config, 22)
    assert all(len(set(batch.recording.tolist())) == 8 for batch in got)
    assert sorted(torch.cat([batch.sample for batch in got])[:44].tolist()) == list(range(44))


def pretrain_config(runs, *words: str) -> PretrainConfig:
    return configs.load(PretrainConfig, None, ["name=a", f"runs_dir={runs}", "data.batch_size=8", *words])


def refused(function, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_mixed_is_refused(tiny_dataset, second, tmp_path):
    a, b = f"{{path: {tiny_dataset}, weight: 1}}", f"{{path: {second}, weight: 2}}"
    check_start(pretrain_config(tmp_path, f"data.mixture=[{a},{b}]"), 4)
    copied = shutil.copytree(second, tmp_path / "copy")
    c = f"{{path: {copied}}}"

    def start(*words: str) -> str:
        return refused(check_start, pretrain_config(tmp_path, *words), 4)

    assert "one of data.path" in start()
    assert "one of data.path" in start(f"data.path={second}", f"data.mixture=[{a}]")
    assert f"the weight of {tiny_dataset} is 0.0" in start(f"data.mixture=[{{path: {tiny_dataset}, weight: 0}},{b}]")
    assert "are the same dataset" in start(f"data.mixture=[{b},{c}]")
    assert "exclude each other" in start(f"data.path={second}", "data.resampled=true", "data.max_per_recording=1")
    message = start(f"data.path={second}", "data.max_per_recording=1", "data.batch_size=16")
    assert "a recording of" in message
    assert "has 2 windows" in message
    assert "data.epoch_samples=0" in start(f"data.path={second}", "data.epoch_samples=0")
    info = json.loads((copied / DATASET_NAME).read_text())
    for change, part in (
        ({"positions": ["waist"]}, "has sensors at ['wrist']"),
        ({"num_frames": 3}, "has 4 frames"),
        ({"imu_rate_hz": 25.0}, "IMU samples at 20.0 Hz"),
    ):
        (copied / DATASET_NAME).write_text(json.dumps(info | change))
        message = start(f"data.mixture=[{a},{c}]")
        assert part in message
        assert str(tiny_dataset) in message
        assert str(copied) in message


def test_a_person_in_the_held_out_split_of_another_dataset_is_noticed(tiny_dataset, tmp_path):
    other = write_tiny_dataset(tmp_path / "other", 20, 6, 7, people="p")
    import pyarrow.parquet as pq

    rows = pq.read_table(other / INDEX_NAME).to_pylist()
    for row in rows[-2:]:
        row["subject"] = "strain0"  # of the training split of the tiny dataset
    rewrite_index(other, rows)
    config = pretrain_config(tmp_path, f"data.mixture=[{{path: {tiny_dataset}}},{{path: {other}}}]")
    assert "1 subjects are in the training and in the held-out split" in refused(check_start, config, 1)


def test_a_run_is_gone_on_with_only_on_the_same_mixture(tiny_dataset, second, tmp_path):
    copied = shutil.copytree(second, tmp_path / "copy")

    def config(weight: float) -> PretrainConfig:
        return pretrain_config(
            tmp_path, f"data.mixture=[{{path: {tiny_dataset}, weight: {weight}}},{{path: {copied}}}]"
        )

    def fingerprint(chosen: PretrainConfig) -> str:
        dataset = open_split(chosen.data, "train")
        assert isinstance(dataset, MixtureDataset)
        return dataset.fingerprint

    leave_run(tmp_path, config(3), fingerprint(config(3)))
    assert check_run_folder(config(3), fingerprint(config(3))) is not None
    assert "the weights of data.mixture have changed since" in refused(
        check_run_folder, config(2), fingerprint(config(2))
    )
    (copied / DATASET_NAME).write_text((copied / DATASET_NAME).read_text().replace('"00000.tar": "', '"00000.tar": "0'))
    message = refused(check_run_folder, config(3), fingerprint(config(3)))
    assert f"{copied} has changed since" in message
