"""The text tower: CLIP's own features, its tokens, and the folder that gives a run's texts and windows one space."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

import imuvid
from imuvid.errors import UserError
from imuvid.models.heads import HeadConfig
from imuvid.models.text_encoder import TextEncoder, TextEncoderConfig, save_text_encoder
from imuvid.models.text_tokens import load_tokenizer
from imuvid.models.towers import TextTowerConfig, build_text_tower
from imuvid.models.tuning import TuningConfig
from tests.imuvid.models.small import TEXT, write_tokenizer


def changed(tuning: str = "full", **fields) -> TextTowerConfig:
    return dataclasses.replace(TEXT, clip=dataclasses.replace(TEXT.clip, **fields), tuning=TuningConfig(kind=tuning))


@pytest.fixture
def folder(tmp_path):
    return write_tokenizer(tmp_path / "tokenizer")


def test_features_are_those_of_clip(tmp_path, folder):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = {**sizes, "vocab_size": 60, "max_position_embeddings": 12, "eos_token_id": 53}
    vision = {**sizes, "image_size": 8, "patch_size": 4}
    peer = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()
    peer.save_pretrained(tmp_path / "clip")
    texts = ["open the door", "a", "walk"]
    their_tokenizer = CLIPTokenizer(tokenizer_file=str(folder / "tokenizer.json"))
    tokenizer = load_tokenizer(changed(tokenizer=str(folder)))
    tokens = torch.from_numpy(np.stack([tokenizer(each) for each in texts]))
    for projection_dim in (0, 8):
        config = changed(tokenizer=str(folder), weights=str(tmp_path / "clip"), projection_dim=projection_dim)
        tower = build_text_tower(config).eval()
        for each, row in zip(texts, tokens, strict=True):
            ids = their_tokenizer(each, return_tensors="pt", truncation=True, max_length=12)["input_ids"]
            assert row[row >= 0].tolist() == ids[0].tolist()
            with torch.no_grad():
                output = peer.text_model(input_ids=ids)
                expected = output.pooler_output if not projection_dim else peer.text_projection(output.pooler_output)
                found = tower(row[None], row[None] >= 0)
            assert torch.allclose(found, expected, atol=1e-6), (projection_dim, each)


def test_what_follows_a_text_or_stands_beside_it_changes_nothing(folder):
    tokenizer, tower = load_tokenizer(changed(tokenizer=str(folder))), build_text_tower(TEXT).eval()
    tokens = torch.from_numpy(np.stack([tokenizer("sit down"), tokenizer(None), tokenizer("a b c d e f g h i j k l")]))
    assert (tokens >= 0).sum(1).tolist() == [9, 0, 12]  # the last is cut, and keeps its end
    assert tokens[2, -1] == tokens[0, 8] == 53
    together, alone = tower(tokens, tokens >= 0), tower(tokens[:1, :9], tokens[:1, :9] >= 0)
    assert torch.allclose(together[0], alone[0], atol=1e-6)
    assert torch.isfinite(together).all()


def test_an_empty_text_is_none(folder):
    tokenizer = load_tokenizer(changed(tokenizer=str(folder)))
    assert (tokenizer(" ") == -1).all()


def test_frozen_weights_stay(folder):
    tower = build_text_tower(changed("frozen", projection_dim=8)).train()
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert tower(torch.ones(2, 5, dtype=torch.int64), torch.ones(2, 5, dtype=torch.bool)).shape == (2, 8)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "give a folder or hub name with tokenizer.json"),
        ({"tokenizer": "nowhere"}, "hf download nowhere tokenizer.json --local-dir DIR"),
        ({"tokenizer": "known", "vocab_size": 20}, "knows 54 tokens, the text tower 20"),
        ({"tokenizer": "damaged"}, "damaged"),
    ],
)
def test_a_tokenizer_that_is_not_to_be_had_is_one_line(tmp_path, folder, monkeypatch, fields, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    folder.rename("known")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=message):
        load_tokenizer(changed(**fields))


@pytest.fixture
def saved(tmp_path, folder):
    config = TextEncoderConfig(changed(tokenizer=str(folder)), HeadConfig(dim=6), imu_feature_dim=9)
    tokenizer = load_tokenizer(config.tower)
    torch.manual_seed(0)
    encoder = TextEncoder(config, tokenizer).eval()
    place = tmp_path / "checkpoint" / "text_encoder"
    save_text_encoder(place, config, encoder.state_dict(), tokenizer.description)
    return place, encoder


def test_a_folder_gives_texts_and_features_one_space(saved, folder):
    place, encoder = saved
    (folder / "tokenizer.json").unlink()  # all that it needs lies in it
    loaded = imuvid.load_text_encoder(place.parent)
    texts, features = ["walk", "a long walk", "sit"], torch.randn(4, 9)
    embedded = loaded.embed(texts)
    assert embedded.shape == (3, 6)
    tokens = torch.from_numpy(np.stack([encoder.tokenizer(text) for text in texts]))
    with torch.no_grad():
        assert torch.allclose(embedded, F.normalize(encoder.head(encoder.tower(tokens, tokens >= 0)), dim=1), atol=1e-6)
        assert torch.allclose(loaded.project(features), F.normalize(encoder.imu_head(features), dim=1), atol=1e-6)
    assert not embedded.requires_grad
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert torch.allclose(loaded.embed(texts * 200), embedded.repeat(200, 1), atol=1e-6)
    assert loaded.embed([]).shape == (0, 6)
    with pytest.raises(ValueError, match="empty"):
        loaded.embed(["walk", " "])
    with pytest.raises(ValueError, match=r"expected features \[B, 9\]"):
        loaded.project(torch.randn(4, 8))


def test_a_checkpoint_without_text_or_a_damaged_one_is_one_line(saved):
    place, _ = saved
    (place / "config.json").write_text(json.dumps({"format": 2}))
    with pytest.raises(UserError, match="text encoder format 2, expected 1"):
        imuvid.load_text_encoder(place.parent)
    (place / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"holds no text encoder: pretrain with model.text_tower.kind=clip"):
        imuvid.load_text_encoder(place.parent)
