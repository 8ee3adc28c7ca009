"""Retrieval, placing in time, and classification without labelled IMU windows, in a space whose truth is known."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from imuvid.errors import UserError
from imuvid.models.encoder import EncoderConfig, load_encoder, random_encoder, save_encoder
from imuvid.models.heads import HeadConfig
from imuvid.models.shared_space import (
    SharedSpace,
    SharedSpaceConfig,
    find_beside,
    load_shared_space,
    save_shared_space,
)
from imuvid.models.text_encoder import TextEncoder, TextEncoderConfig, save_text_encoder
from imuvid.models.text_tokens import load_tokenizer
from imuvid.models.towers import ImuTowerConfig, VideoTowerConfig, build_video_tower
from imuvid.models.video_encoder import VideoEncoderConfig, save_video_encoder
from imuvid.ood.config import OODConfig
from imuvid.ood.datasets.shards import ShardsConfig, read_shards
from imuvid.ood.embedding import embed
from imuvid.ood.finetune import FinetuneConfig
from imuvid.ood.job import evaluate
from imuvid.ood.paired import Paired, PairedConfig
from imuvid.ood.predictions import read_predictions
from imuvid.ood.protocols.folds import ProtocolConfig, make_folds
from imuvid.ood.protocols.zero_shot import ZeroShot, mean_by_class, source_prototypes, zero_shot
from imuvid.ood.retrieval import retrieve, summarise_retrieval
from tests.imuvid.models.small import TEXT, write_tokenizer
from tests.imuvid.ood.test_leakage import memorable
from tests.tiny_dataset import write_tiny_dataset

KEY = "tiny/grouped-3-folds"


def pairs(num_recordings: int = 10, per_recording: int = 12, noise: float = 0.0, seed: int = 0) -> Paired:
    rng = np.random.default_rng(seed)
    number = num_recordings * per_recording
    imu = rng.standard_normal((number, 16))
    video = imu + noise * rng.standard_normal(imu.shape)
    recording = np.repeat([f"r{i}" for i in range(num_recordings)], per_recording)
    return Paired(
        "toy",
        *(x.astype(np.float32) / np.linalg.norm(x, axis=1, keepdims=True).astype(np.float32) for x in (imu, video)),
        label=np.full(number, ""),
        subject=recording,
        recording=recording,
        start_s=np.tile(np.arange(per_recording) * 0.5, num_recordings),
    )


def test_ranks_equal_a_plain_sort_and_the_metrics_their_definitions():
    paired = pairs(noise=2.0)
    table = retrieve(paired, 2.0)
    result = summarise_retrieval(table, 50, 0)
    for task, queries, gallery in (
        ("imu_to_video", paired.imu, paired.video),
        ("video_to_imu", paired.video, paired.imu),
    ):
        order = np.argsort(-(queries @ gallery.T), axis=1)
        ranks = 1 + np.argwhere(order == np.arange(len(queries))[:, None])[:, 1]
        metrics = result["tasks"][task]["metrics"]
        for k in (1, 5, 10):
            assert metrics[f"r_at_{k}"]["value"] == pytest.approx((ranks <= k).mean())
            assert metrics[f"r_at_{k}"]["chance"] == pytest.approx(k / 120)
        assert metrics["mrr"]["value"] == pytest.approx((1 / ranks).mean())
        assert metrics["mrr"]["chance"] == pytest.approx(np.mean(1 / np.arange(1, 121)))
        assert abs(metrics["median_rank"]["value"] - np.median(ranks)) <= 1
        assert metrics["r_at_1"]["low"] <= metrics["r_at_1"]["value"] <= metrics["r_at_1"]["high"]


def test_a_collapsed_model_finds_nothing_and_a_perfect_one_all():
    paired = pairs()
    result = summarise_retrieval(retrieve(paired, 2.0), 20, 0)["tasks"]
    assert result["imu_to_video"]["metrics"]["r_at_1"]["value"] == 1.0
    assert result["time_offset"]["metrics"]["exact"]["value"] == 1.0
    assert result["time_offset"]["metrics"]["median_error_s"]["value"] == 0.0
    paired.imu[:] = paired.video[:] = paired.imu[0]
    result = summarise_retrieval(retrieve(paired, 2.0), 20, 0)["tasks"]
    assert result["imu_to_video"]["metrics"]["r_at_1"]["value"] == 0.0
    assert result["time_offset"]["metrics"]["exact"]["value"] == 0.0
    assert result["time_offset"]["metrics"]["median_error_s"]["value"] > 0


def test_video_that_is_late_is_found_late():
    paired = pairs()
    paired.video = np.roll(paired.video.reshape(10, 12, 16), 2, axis=1).reshape(120, 16)
    table = retrieve(paired, 2.0).to_pylist()
    inner = [row for row in table if row["task"] == "time_offset" and float(row["window"].split("@")[1]) < 4.5]
    assert {row["offset_s"] for row in inner} == {1.0}
    chance = summarise_retrieval(retrieve(paired, 1.0), 20, 0)["tasks"]["time_offset"]["metrics"]["exact"]["chance"]
    assert chance == pytest.approx((8 / 5 + 2 / 4 + 2 / 3) / 12)  # five windows are within a second, fewer at the ends


def test_prototypes_are_of_the_same_activity_under_another_name():
    video = np.eye(4, dtype=np.float32)
    names = np.array(["walk", "walking_upstairs", "", "laying"])
    prototypes, missing = source_prototypes(["walking", "lying"], names, video)
    assert missing == []
    np.testing.assert_allclose(prototypes, video[[0, 3]])
    assert source_prototypes(["walking", "cycling"], names, video) == (None, ["cycling"])
    mean = mean_by_class(np.array([[1.0, 0], [0, 1], [0, 1]]), np.array([0, 0, 1]), 2)
    np.testing.assert_allclose(mean, [[0.5**0.5, 0.5**0.5], [0, 1]], atol=1e-6)


def test_clips_of_the_person_who_is_tested_never_stand_for_an_activity():
    task = memorable()
    fold = make_folds(task.windows.subject, ProtocolConfig("grouped-folds", num_folds=4), "toy")[0]
    paired = pairs(num_recordings=40, per_recording=24)
    (block,) = zero_shot(task, fold, ZeroShot(imu=paired.imu, video=paired.video))
    assert (block.probe, block.representation) == ("zero-shot-target-video", "pretrained")
    assert (block.test == fold.test).all()
    other = paired.video.copy()
    other[fold.test] = other[fold.test][::-1]
    (again,) = zero_shot(task, fold, ZeroShot(imu=paired.imu, video=other))
    np.testing.assert_array_equal(again.scores, block.scores)
    other[fold.train] = other[fold.train][::-1]
    (changed,) = zero_shot(task, fold, ZeroShot(imu=paired.imu, video=other))
    assert (changed.scores != block.scores).any()


def write_checkpoint(folder, train_subjects=(), fingerprint="f"):
    torch.manual_seed(0)
    facts = {"run": "t", "step": 1, "fingerprint": fingerprint, "train_subjects": list(train_subjects)}
    config = EncoderConfig(ImuTowerConfig(), imu_rate_hz=20.0, window_s=1.0, positions=["wrist"], provenance=facts)
    encoder = random_encoder(config, 0)
    save_encoder(folder / "encoder", config, encoder.tower.state_dict())
    tower = build_video_tower(VideoTowerConfig())
    save_video_encoder(
        folder / "video_encoder", VideoEncoderConfig(VideoTowerConfig(), 4, [16, 16]), tower.state_dict()
    )
    space = SharedSpaceConfig(HeadConfig(dim=8), encoder.feature_dim, tower.feature_dim)
    save_shared_space(folder / "shared_space", space, SharedSpace(space).state_dict())
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    root = tmp_path_factory.mktemp("paired")
    return write_tiny_dataset(root / "target", people="t"), write_tiny_dataset(root / "source", people="s")


def settings(shards, **changes) -> OODConfig:
    target, source = map(str, shards)
    return OODConfig(
        datasets=["shards"],
        shards=ShardsConfig(target, protocol=ProtocolConfig("grouped-folds", num_folds=3)),
        paired=PairedConfig(**({"root": target, "split": "val", "prototypes": source} | changes)),
        finetune=FinetuneConfig(steps=0),
        shots=[],
        num_draws=1,
        num_bootstrap=20,
        device="cpu",
    )


def test_the_job_scores_both_kinds_of_video_and_retrieval(shards, tmp_path):
    checkpoint = write_checkpoint(tmp_path / "run/checkpoints/step-00000001")
    result = evaluate(checkpoint, settings(shards))
    (scores,) = [part["scores"] for part in result.report["results"].values()]
    methods = {row["method"] for row in scores}
    assert {"pretrained/zero-shot-source-video", "pretrained/zero-shot-target-video"} <= methods
    retrieval = result.report["retrieval"]
    assert retrieval["tasks"]["imu_to_video"]["num_queries"] == 12
    assert retrieval["tasks"]["imu_to_video"]["metrics"]["r_at_1"]["chance"] == pytest.approx(1 / 12)
    assert (result.out / "retrieval.parquet").is_file()
    json.dumps(result.report, allow_nan=False)


def test_the_job_scores_text_where_the_checkpoint_has_a_text_tower(shards, tmp_path):
    checkpoint = write_checkpoint(tmp_path / "run/checkpoints/step-00000001")
    folder = write_tokenizer(tmp_path / "tokenizer")
    tower = dataclasses.replace(TEXT, clip=dataclasses.replace(TEXT.clip, tokenizer=str(folder)))
    tokenizer = load_tokenizer(tower)
    encoder = load_encoder(checkpoint)
    config = TextEncoderConfig(tower, HeadConfig(dim=6), encoder.feature_dim)
    text = TextEncoder(config, tokenizer).eval()
    save_text_encoder(checkpoint / "text_encoder", config, text.state_dict(), tokenizer.description)
    settings_ = settings(shards, root=None, prototypes=None)
    settings_.prompts = {"strong": "a person runs"}
    result = evaluate(checkpoint, settings_)
    assert result.report["retrieval"] is None
    rows = read_predictions(result.out / "predictions.parquet").to_pylist()
    rows = [row for row in rows if row["probe"] == "zero-shot-text"]
    assert len({row["window"] for row in rows}) == len(rows) == result.report["tasks"][KEY]["data"]["windows"]
    windows = read_shards(settings_.shards, 20.0, 1.0, {})
    features = embed(encoder, windows, 64, torch.device("cpu"))
    similarity = text.project(torch.from_numpy(features)) @ text.embed(["a person runs", "a person is weak"]).T
    assert windows.classes == ["strong", "weak"]
    expected = dict(zip(windows.ids.tolist(), (similarity / 0.07).softmax(dim=1).tolist(), strict=True))
    for row in rows:
        assert row["scores"] == pytest.approx(expected[row["window"]], abs=1e-4)
    with pytest.raises(UserError, match=r"must have \{\} once"):
        evaluate(checkpoint, dataclasses.replace(settings_, prompt="a person"))


def test_what_would_not_be_held_out_is_refused(shards, tmp_path):
    checkpoint = write_checkpoint(tmp_path / "a/checkpoints/step-00000001", train_subjects=["tval9"])
    config = settings(shards)
    config.shards.split = "train"
    with pytest.raises(UserError, match="were pretrained on"):
        evaluate(checkpoint, config)
    without = write_checkpoint(tmp_path / "b/checkpoints/step-00000001")
    for path in (without / "shared_space").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="holds no shared_space/"):
        evaluate(without, settings(shards))


def test_heads_are_read_as_they_were_saved_and_damage_is_named(tmp_path):
    folder = write_checkpoint(tmp_path / "step")
    for path in (folder, folder / "encoder"):
        assert find_beside(path, "shared_space") == folder / "shared_space"
    assert find_beside(folder, "text_encoder") is None
    space = load_shared_space(folder / "shared_space")
    features = torch.randn(3, load_encoder(folder).feature_dim)
    unit = space.project_imu(features)
    expected = features @ space.imu_head.weight.T + space.imu_head.bias
    torch.testing.assert_close(unit, expected / expected.norm(dim=1, keepdim=True))
    (folder / "shared_space/config.json").write_text("{}")
    with pytest.raises(UserError, match="damaged heads"):
        load_shared_space(folder / "shared_space")
