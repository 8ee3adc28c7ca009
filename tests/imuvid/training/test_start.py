"""What is refused before any process starts: one line that names the key or the place."""

from __future__ import annotations

import shutil

import pyarrow.parquet as pq
import pytest

from imuvid import config as configs
from imuvid.data.dataset_json import DATASET_NAME
from imuvid.data.dataset_tables import INDEX_NAME, read_recordings
from imuvid.errors import UserError
from imuvid.training.checkpoint import StreamState
from imuvid.training.checkpoint_writer import CheckpointWriter
from imuvid.training.config import PretrainConfig
from imuvid.training.start import check_run_folder, check_start
from tests.tiny_dataset import rewrite_index, rewrite_recordings


def config_of(dataset, *words: str) -> PretrainConfig:
    return configs.load(PretrainConfig, None, ["name=a", f"data.path={dataset}", "data.batch_size=8", *words])


def refused(function, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_sound_start_gives_both_splits(tiny_dataset):
    train, held_out = check_start(config_of(tiny_dataset), 4)
    assert (len(train), len(held_out)) == (44, 12)


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("data.batch_size=10", ["data.batch_size=10", "4 ranks"]),
        ("data.batch_size=0", ["data.batch_size=0"]),
        ("data.batch_size=48", ["data.batch_size=48", "44"]),
        ("data.path=/nowhere", ["/nowhere", "shards build"]),
        ("data.train_split=tain", ["'tain'"]),
        ("data.val_split=train", ["subjects"]),
        ("data.num_workers=-1", ["data.num_workers=-1"]),
        ("data.timeout_s=0", ["data.timeout_s"]),
        ("seed=-1", ["seed=-1"]),
        ("name=../a", ["name=../a"]),
        ("name=..", ["name=.."]),
        ("model.objective.kind=clip", ["'clip'", "sigmoid", "infonce"]),
        ("model.objective.masked.share=1", ["model.objective.masked.share=1", "between 0 and 1"]),
        ("model.objective.extra={nt_xent: -1}", ["objective.extra.nt_xent", "above 0"]),
        ("engine.micro_batch_size=-1", ["engine.micro_batch_size=-1"]),
        ("engine.micro_batch_size=2", ["engine.micro_batch_size", "batch normalisation"]),
        ("model.imu_tower.kind=rnn", ["'rnn'", "cnn", "patchtst"]),
        ("model.video_tower.kind=rnn", ["'rnn'", "cnn", "videomae"]),
        ("model.imu_tower.cnn.channels=[4]", ["imu_tower.cnn", "channels"]),
        ("optimizer.betas=[0.9]", ["optimizer.betas"]),
        ("engine.zero_stage=4", ["engine.zero_stage=4"]),
        ("engine.dtype=fp8", ["fp8", "fp32, bf16 or fp16"]),
        ("engine.offload=true", ["engine.offload", "engine.zero_stage to 1"]),
        ("engine.activation_checkpointing=true", ["engine.activation_checkpointing", "patchtst"]),
        ("engine.accumulate=3", ["engine.accumulate=3", "negatives", "engine.micro_batch_size"]),
        ("optimizer.schedule=step", ["optimizer.schedule=step", "cosine, wsd, constant"]),
        ("optimizer.layer_decay=0", ["optimizer.layer_decay=0"]),
        ("train.profile_steps=20:10", ["train.profile_steps='20:10'", "BEGIN:END"]),
        ("train.epochs=0", ["train.epochs=0"]),
        ("train.log_every_steps=0", ["train.log_every_steps=0"]),
        ("train.checkpoint_every_steps=0", ["train.checkpoint_every_steps=0"]),
        ("train.keep_checkpoints=1", ["train.keep_checkpoints=1"]),
        ("train.validate_max_windows=0", ["train.validate_max_windows=0"]),
        ("train.validate_windows=all", ["'all'", "non_overlapping"]),
        ("data.condition.median_samples=4", ["data.condition.median_samples=4", "odd"]),
        ("data.condition.median_samples=-1", ["data.condition.median_samples=-1"]),
        ("data.condition.normalise=person", ["data.condition.normalise=person", "window, recording"]),
        ("data.condition.normalise=recording", ["data.augment.rotate_share=0.5", "set data.augment.rotate_share=0"]),
    ],
)
def test_what_does_not_fit_is_refused(tiny_dataset, word, parts):
    message = refused(check_start, config_of(tiny_dataset, word), 4)
    for part in parts:
        assert part in message


def test_a_second_view_is_not_turned_where_readings_have_lost_their_units(tiny_dataset):
    words = ["model.objective.kind=nt_xent", "data.condition.normalise=window"]
    message = refused(check_start, config_of(tiny_dataset, *words), 4)
    assert "model.objective.second_view.rotate" in message
    check_start(config_of(tiny_dataset, *words, "model.objective.second_view.rotate=false"), 4)


def test_a_dataset_without_video_is_refused(tiny_dataset, tmp_path):
    copied = shutil.copytree(tiny_dataset, tmp_path / "copy")
    path = copied / DATASET_NAME
    path.write_text(path.read_text().replace('"num_frames": 4', '"num_frames": 0'))
    assert "no video" in refused(check_start, config_of(copied), 1)


def test_a_subject_in_both_splits_is_refused(tiny_dataset, tmp_path):
    copied = shutil.copytree(tiny_dataset, tmp_path / "copy")
    rows = pq.read_table(copied / INDEX_NAME).to_pylist()
    rows[50]["subject"] = rows[0]["subject"]
    rewrite_index(copied, rows)
    assert "1 subjects are in the training and in the held-out split" in refused(check_start, config_of(copied), 1)


def test_normalising_by_recordings_needs_a_dataset_with_their_statistics(tiny_dataset, tmp_path):
    words = ("data.condition.normalise=recording", "data.augment.rotate_share=0")
    check_start(config_of(tiny_dataset, *words), 1)
    copied = shutil.copytree(tiny_dataset, tmp_path / "copy")
    rows = read_recordings(copied).to_pylist()
    rows[-1]["imu_deviation"] = None  # of a held-out recording
    rewrite_recordings(copied, rows)
    message = refused(check_start, config_of(copied, *words), 1)
    assert "1 of 6 recordings have no imu_mean and imu_deviation: build the dataset again" in message
    check_start(config_of(copied, "data.condition.normalise=window"), 1)


def leave_run(folder, config: PretrainConfig, fingerprint: str) -> None:
    run = folder / config.name
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text(configs.to_yaml(config))
    state = StreamState(step=3, samples_seen=24, seed=0, batch_size=8, fingerprint=fingerprint)
    writer = CheckpointWriter(run / "checkpoints", 2)
    writer.start(state, {})
    writer.finish()


def test_a_run_is_gone_on_with_only_as_it_was_begun(tiny_dataset, tmp_path):
    config = config_of(tiny_dataset, f"runs_dir={tmp_path}")
    assert check_run_folder(config, "f") == (None, [])
    leave_run(tmp_path, config, "f")
    found, problems = check_run_folder(config, "f")
    assert problems == []
    assert found == tmp_path / "a" / "checkpoints" / "step-00000003"
    free = config_of(tiny_dataset, f"runs_dir={tmp_path}", "data.num_workers=3", "train.log_every_steps=1")
    assert check_run_folder(free, "f") == (found, [])
    other = config_of(tiny_dataset, f"runs_dir={tmp_path}", "optimizer.lr=1", "data.augment.crop_area=1")
    message = refused(check_run_folder, other, "f")
    assert "optimizer.lr" in message
    assert "data.augment.crop_area" in message
    assert "has changed since" in refused(check_run_folder, config, "g")


def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_anew(tiny_dataset, tmp_path):
    config = config_of(tiny_dataset, f"runs_dir={tmp_path}")
    leave_run(tmp_path, config, "f")
    (tmp_path / config.name / "checkpoints/step-00000003/stream.json").write_text("{}")
    message = refused(check_run_folder, config, "f")
    assert "none of its 1 checkpoints is sound" in message
    assert "stream.json: has 2 bytes instead of" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.imu_tower.kind=patchtst"], "patchtst: PatchTST was built for 250 samples, the window has 20"),
        (["model.imu_tower.kind=cnn_gru"], "cnn_gru: a window of 20 samples is too short"),
        (["model.imu_tower.kind=resnet"], "resnet.rate_hz=50, but the windows have 20 Hz: set"),
        (["model.imu_tower.kind=resnet", "model.imu_tower.resnet.rate_hz=20"], "resnet: the window is too short"),
    ],
)
def test_an_imu_tower_that_does_not_take_the_windows_is_refused(tiny_dataset, words, message):
    words = ["name=a", f"data.path={tiny_dataset}", "data.batch_size=8", *words]
    assert f"model.imu_tower.{message}" in refused(check_start, configs.load(PretrainConfig, None, words), 2)
