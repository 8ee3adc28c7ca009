"""Training on stored embeddings is training with the frozen tower that made them; a mismatch is one line at start."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from imuvid import config as configs
from imuvid.data.augment import AugmentConfig, augment
from imuvid.data.batch import Batch, collate
from imuvid.data.dataset_json import DATASET_NAME
from imuvid.data.dataset_tables import INDEX_NAME, INDEX_SCHEMA, read_index
from imuvid.data.format import encode_members
from imuvid.data.shard_dataset import ShardDataset
from imuvid.data.stream import DataConfig, training_stream
from imuvid.errors import UserError
from imuvid.models.towers import VideoTowerConfig, build_video_tower
from imuvid.models.two_tower import ModelConfig, TwoTower
from imuvid.models.video_cnn import VideoCnnConfig
from imuvid.models.video_embedding import VideoEmbeddingConfig
from imuvid.models.video_encoder import VideoEncoderConfig, find_video_encoder, load_video_encoder, save_video_encoder
from imuvid.training.config import PretrainConfig
from imuvid.training.start import check_start

DIM = 6
CNN = VideoTowerConfig(cnn=VideoCnnConfig(channels=[4, DIM], time_strides=[1, 2]))
EMBEDDING = VideoTowerConfig(kind="embedding", embedding=VideoEmbeddingConfig(dim=DIM))


def model_of(tower: VideoTowerConfig) -> TwoTower:
    torch.manual_seed(0)
    return TwoTower(ModelConfig(video_tower=tower)).eval()


def embeddings_of(tower: torch.nn.Module, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return tower(batch.frames, batch.frame_valid).half()


@pytest.fixture(scope="module")
def frozen() -> torch.nn.Module:
    torch.manual_seed(3)
    return build_video_tower(CNN).eval()


@pytest.fixture(scope="module")
def embedded(tiny_dataset, frozen, tmp_path_factory) -> Path:
    """The tiny dataset with embeddings instead of frames, written with the standard library's tarfile."""
    folder = tmp_path_factory.mktemp("embedded") / "dataset"
    folder.mkdir()
    dataset = ShardDataset(tiny_dataset, None)
    rows = read_index(tiny_dataset).to_pylist()
    for i, row in enumerate(rows):
        embedding = embeddings_of(frozen, collate([dataset.example(i)]))[0].numpy()
        sample = dataclasses.replace(dataset.read(i), frames=[], embedding=embedding)
        path = folder / row["shard"]
        raw = b""
        for name, content in encode_members(sample):
            header = tarfile.TarInfo(name)
            header.size = len(content)
            raw += header.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)
        row |= {"offset": path.stat().st_size if path.exists() else 0, "size": len(raw), "crc32": zlib.crc32(raw)}
        with path.open("ab") as file:
            file.write(raw)
    pq.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), folder / INDEX_NAME)
    fields = json.loads((tiny_dataset / DATASET_NAME).read_text())
    described = {"dim": DIM, "num_frames": 4, "frame_size": [16, 16], "tower": {"kind": "cnn"}, "sha256": "0" * 64}
    fields |= {"frame_size": [], "video_embedding": described}
    fields["sha256"] = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    (folder / DATASET_NAME).write_text(json.dumps(fields))
    return folder


def refused(function, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_embeddings_give_what_the_frozen_tower_gives(tiny_dataset, embedded, frozen):
    pictures, vectors = ShardDataset(tiny_dataset, "val"), ShardDataset(embedded, "val")
    samples = range(len(vectors))
    with_pictures, with_vectors = (collate([dataset.example(i) for i in samples]) for dataset in (pictures, vectors))
    assert with_vectors.frames.dtype == torch.float16
    assert with_vectors.frames.shape == (12, DIM)
    whole, stored = model_of(CNN), model_of(EMBEDDING)
    whole.video_tower.load_state_dict(frozen.state_dict())
    stored.load_state_dict(
        {name: tensor for name, tensor in whole.state_dict().items() if not name.startswith("video_tower.")}
    )
    for a, b in zip(whole.embed(with_pictures), stored.embed(with_vectors), strict=True):
        assert torch.allclose(a, b, atol=2e-3)
    loss = stored.train()(with_vectors)[0]
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in stored.video_head.parameters())


def test_the_training_stream_augments_the_imu_alone(embedded):
    dataset = ShardDataset(embedded, "train")
    config = DataConfig(path=str(embedded), batch_size=4, num_workers=0, augment=AugmentConfig(crop_area=0.3))
    batch = next(training_stream(dataset, config, 0, 0, 1, 0, False))
    for i, sample in enumerate(batch.sample.tolist()):
        stored = dataset.example(sample)
        np.testing.assert_array_equal(batch.frames[i].numpy(), stored.frames)
        assert not np.array_equal(batch.imu[i].numpy(), stored.imu)
    example = dataset.example(0)
    assert augment(example, AugmentConfig(brightness=0.9), 0, 0).frames is example.frames


def config_of(dataset: Path, *words: str) -> PretrainConfig:
    return configs.load(PretrainConfig, None, ["name=a", f"data.path={dataset}", "data.batch_size=8", *words])


def test_a_start_that_fits_is_taken(embedded):
    words = ["model.video_tower.kind=embedding", f"model.video_tower.embedding.dim={DIM}"]
    assert len(check_start(config_of(embedded, *words), 2)[0]) == 44


@pytest.mark.parametrize("words", [[], ["model.video_tower.kind=embedding"], ["model.video_tower.embedding.dim=6"]])
def test_another_tower_than_the_dataset_wants_is_refused(embedded, words):
    message = refused(check_start, config_of(embedded, *words), 2)
    assert "embeddings of 6 numbers" in message
    assert "model.video_tower.kind=embedding model.video_tower.embedding.dim=6" in message


def test_an_embedding_tower_is_refused_where_there_are_frames(tiny_dataset):
    message = refused(check_start, config_of(tiny_dataset, "model.video_tower.kind=embedding"), 2)
    assert "holds frames" in message
    assert "imuvid shards embed" in message


def test_a_sample_of_another_kind_is_named(embedded, tiny_dataset, tmp_path):
    copied = shutil.copytree(embedded, tmp_path / "copy")
    text = (copied / DATASET_NAME).read_text()
    (copied / DATASET_NAME).write_text(text.replace(f'"dim": {DIM}', '"dim": 5'))
    with pytest.raises(ValueError, match="r000-000000: its video embedding has 6 numbers, expected 5"):
        ShardDataset(copied, None).example(0)
    mixed = shutil.copytree(tiny_dataset, tmp_path / "mixed")
    fields = json.loads((mixed / DATASET_NAME).read_text())
    (mixed / DATASET_NAME).write_text(json.dumps({**fields, "video_embedding": {"dim": 6}}))
    with pytest.raises(ValueError, match="has None numbers, expected 6"):
        ShardDataset(mixed, None).example(0)


def test_other_shapes_are_refused():
    tower = build_video_tower(EMBEDDING)
    assert tower(torch.ones(2, DIM).half(), torch.ones(2, 4, dtype=torch.bool)).dtype == torch.float32
    for frames in (torch.ones(2, DIM + 1), torch.ones(2, 4, 8, 8, 3)):
        with pytest.raises(ValueError, match="expected embeddings of 6 numbers"):
            tower(frames, torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(UserError, match=r"video_tower\.embedding: dim 0"):
        build_video_tower(VideoTowerConfig(kind="embedding", embedding=VideoEmbeddingConfig(dim=0)))


def test_a_video_encoder_is_read_as_it_was_saved(frozen, tmp_path):
    checkpoint = tmp_path / "checkpoints" / "step-00000007"
    save_video_encoder(checkpoint / "video_encoder", VideoEncoderConfig(CNN, 4, [16, 16]), frozen.state_dict())
    latest = tmp_path / "checkpoints" / "latest"
    latest.write_text("step-00000007\n")
    assert find_video_encoder(latest) == find_video_encoder(checkpoint) == checkpoint / "video_encoder"
    encoder = load_video_encoder(latest, 4, 16)
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 16, 16, 3), dtype=np.uint8)
    valid = np.array([[True] * 4, [True, False, True, True], [False] * 4])
    with torch.no_grad():
        expected = frozen(torch.from_numpy(frames), torch.from_numpy(valid)).numpy()
    found = encoder.embed(frames, valid)
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, expected, atol=1e-3, rtol=1e-3)
    assert not any(parameter.requires_grad for parameter in encoder.tower.parameters())
    assert encoder.description["dim"] == DIM
    encoder.tower.norms[-1].bias.fill_(1e5)
    with pytest.raises(ValueError, match="float16"):
        encoder.embed(frames[:1], valid[:1])
    encoder.tower.norms[-1].bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="finite"):
        encoder.embed(frames[:1], valid[:1])
