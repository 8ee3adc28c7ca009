"""Frozen video towers: which are read, which are refused, and how few pictures they hold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from imuvid.data.dataset_json import read_dataset_info
from imuvid.models.video_videomae import VideoMAE, VideoMAETowerConfig
from shards import embedder
from shards.build import build
from shards.config import FramesConfig
from shards.verify import verify
from tests.shards.embedding import NUM_FRAMES, SIZE, refused, write_recordings, write_tower
from tests.shards.inline import inline
from tests.shards.recordings import build_config


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    return write_tower(tmp_path_factory.mktemp("checkpoint") / "video_encoder")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_recordings(tmp_path_factory.mktemp("recordings"))


@pytest.mark.parametrize("seed", range(5))
def test_windows_are_embedded_from_their_pictures_and_few_are_held(monkeypatch, seed):
    rng = np.random.default_rng(seed)
    num_windows, hop, num_frames = 45, int(rng.integers(1, 6)), 5
    starts = np.arange(num_windows) * hop
    picks = np.minimum(starts[:, None] + np.arange(num_frames) * 2, starts[-1])
    near = rng.random(picks.shape) < 0.6
    near[rng.integers(0, num_windows, 3)] = False

    class Means:
        """Stands for a tower: the features are the mean of each frame."""

        def embed(self, frames, frame_valid):
            assert len(frames) <= embedder.BATCH
            return (frames.mean((2, 3, 4)) + 1000 * frame_valid).astype(np.float16)

    monkeypatch.setattr(embedder, "load_tower", lambda *_: Means())
    windows = embedder.WindowEmbedder(picks, near, FramesConfig(num=num_frames, size=8, embed_with="x"))
    most = 0
    for index in np.unique(picks[near]).tolist():
        windows.add(index, np.full((8, 8, 3), index, np.uint8))
        most = max(most, len(windows._held))
    np.testing.assert_array_equal(windows.finish(), np.where(near, picks % 256 + 1000.0, 0))
    assert most <= (embedder.BATCH + 1) * hop + 2 * num_frames
    assert not windows._held


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["frames.embed_with=/nowhere"], ["/nowhere", "no video tower"]),
        (["frames.num=0"], ["frames.embed_with", "frames.num"]),
        (["frames.num=6"], ["4 frames", "frames.num=4"]),
        (["frames.size=32"], ["frames.size=48"]),
    ],
)
def test_a_tower_that_does_not_fit_is_one_line(manifest, tower, tmp_path, words, parts):
    config = build_config(manifest, tmp_path / "out", f"frames.embed_with={tower}", *words)
    message = refused(build, config)
    for part in parts:
        assert part in message
    assert not (tmp_path / "out").exists()


def damaged_copy(tower: Path, folder: Path, damage) -> str:
    damage(shutil.copytree(tower, folder))
    return refused(embedder.load_tower, str(folder), NUM_FRAMES, SIZE)


def test_damaged_towers_are_one_line_and_pickles_are_not_read(tower, tmp_path):
    weights, config = "model.safetensors", "config.json"
    message = damaged_copy(tower, tmp_path / "a", lambda f: (f / weights).write_bytes(b"\x80\x04pickle"))
    assert "model.safetensors" in message
    half = (tower / weights).read_bytes()[:-9]
    assert "damaged" in damaged_copy(tower, tmp_path / "b", lambda f: (f / weights).write_bytes(half))
    assert "is missing" in damaged_copy(tower, tmp_path / "c", lambda f: (f / weights).rename(f / "pytorch_model.bin"))
    for number, text in enumerate(("{}", "[]", "{", '{"format": 1, "tower": {"kind": "rnn"}}', '{"format": 2}')):
        message = damaged_copy(tower, tmp_path / f"d{number}", lambda f, text=text: (f / config).write_text(text))
        assert str(tmp_path / f"d{number}") in message


def test_a_transformers_videomae_is_a_tower(tmp_path, manifest):
    sizes = VideoMAETowerConfig(
        num_frames=8, image_size=SIZE, hidden_size=24, num_layers=2, num_heads=2, intermediate_size=32
    )
    torch.manual_seed(0)
    original = VideoMAE(sizes).eval()
    folder = tmp_path / "videomae"
    original.model.save_pretrained(folder)
    encoder = embedder.load_tower(str(folder), 8, SIZE)
    frames = np.random.default_rng(0).integers(0, 256, (3, 8, SIZE, SIZE, 3), dtype=np.uint8)
    valid = np.ones((3, 8), dtype=bool)
    with torch.no_grad():
        expected = original(torch.from_numpy(frames), torch.from_numpy(valid)).numpy()
    np.testing.assert_allclose(embedder.embed(encoder, frames, valid), expected, rtol=2e-3, atol=2e-3)
    assert str(tmp_path) not in json.dumps(encoder.description)
    assert "frames.size=48" in refused(embedder.load_tower, str(folder), 8, 32)
    assert "multiples of 2" in refused(embedder.load_tower, str(folder), 7, SIZE)
    build(build_config(manifest, tmp_path / "out", f"frames.embed_with={folder}"), inline)
    assert read_dataset_info(tmp_path / "out").video_embedding["tower"]["kind"] == "videomae"
    assert verify(tmp_path / "out").problems == []
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, "hidden_act": "relu"}))
    assert "hidden_act" in refused(embedder.load_tower, str(folder), 8, SIZE)
