"""Video towers at tiny sizes: weights from folders, what is trained, dropped patches, frames that are not there."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    SiglipConfig,
    SiglipModel,
    VideoMAEConfig,
    VideoMAEModel,
    VJEPA2Config,
    VJEPA2Model,
)

from imuvid.errors import UserError
from imuvid.models.towers import VideoTowerConfig, build_video_tower, without_weights
from imuvid.models.tuning import FrozenAtFirst, TuningConfig
from imuvid.models.video_encoder import load_video_encoder
from tests.imuvid.models.small import VIDEO, clip, video_tower

KINDS = list(VIDEO)
PRETRAINED = [kind for kind in KINDS if kind != "cnn"]
VISION = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "patch_size": 16,
    "image_size": 32,
}


def changed(kind: str, tuning: TuningConfig | None = None, **fields) -> VideoTowerConfig:
    config = VIDEO[kind]
    section = dataclasses.replace(getattr(config, config.kind), **fields)
    return dataclasses.replace(config, tuning=tuning or config.tuning, **{config.kind: section})


def normalised(frames: torch.Tensor, mean: list[float], std: list[float]) -> torch.Tensor:
    return ((frames / 255 - torch.tensor(mean)) / torch.tensor(std)).permute(0, 1, 4, 2, 3)


@pytest.mark.parametrize("kind", ["cnn", "videomae", "vjepa2"])
def test_gradients_of_3d_convolutions_are_exact_in_bfloat16_on_a_cpu(kind):
    frames, valid = clip(batch=4)
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        tower = video_tower(kind)
        convolutions = [part for part in tower.modules() if isinstance(part, torch.nn.Conv3d)]
        x = torch.randn(4, convolutions[0].in_channels, 4, 32, 32, generator=torch.Generator().manual_seed(0))
        x = x.to(memory_format=torch.channels_last_3d)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
            found = convolutions[0](x)
        assert found.dtype == torch.float32
        found.square().sum().backward()
        gradients.append(convolutions[0].weight.grad)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
            assert torch.isfinite(tower(frames, valid)).all()
    assert torch.equal(*gradients)


@pytest.mark.parametrize("kind", KINDS)
def test_features_and_tokens(kind):
    tower = video_tower(kind).train()
    frames, valid = clip()
    features, tokens, token_valid = tower(frames, valid, True)
    assert features.shape == (3, tower.feature_dim)
    assert tokens.shape == (3, tokens.shape[1], tower.token_dim)
    assert token_valid.shape == tokens.shape[:2]
    assert token_valid.all()
    features.square().sum().backward()
    unused = [n for n, p in tower.named_parameters() if p.requires_grad and p.grad is None]
    # What the models have beside the encoder: CLIP's normalisation after pooling is used, DINOv2's mask token is not.
    assert all("mask_token" in name for name in unused), unused


@pytest.mark.parametrize("kind", KINDS)
def test_frames_that_are_not_there_do_not_matter(kind):
    tower = video_tower(kind)
    frames, valid = clip()
    valid[:, 2:] = False
    other = frames.clone()
    other[:, 2:] = 255 - other[:, 2:]
    for a, b in zip(tower(frames, valid, True), tower(other, valid, True), strict=True):
        assert torch.allclose(a.float(), b.float(), atol=1e-5)
    token_valid = tower(frames, valid, True)[2]
    assert token_valid[:, 0].all()
    assert token_valid.shape[1] == 1 or not token_valid[:, -1].any()
    assert torch.isfinite(tower(frames, torch.zeros_like(valid))).all()


def test_frames_are_averaged_and_only_the_transformer_over_them_knows_their_order():
    frames, valid = clip()
    for kind, ordered in (("clip", False), ("siglip", False), ("dinov2", True)):
        tower = video_tower(kind)
        same = torch.allclose(tower(frames, valid), tower(frames.flip(1), valid), atol=1e-5)
        assert same is not ordered, kind


IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
CLIP_COLOURS = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])


@torch.no_grad()
def whole_model(kind: str, folder) -> tuple[dict, torch.Tensor]:
    """Save a whole model of transformers; return the tower's other fields and what the tower must give."""
    frames, _ = clip()
    torch.manual_seed(5)
    if kind == "videomae":
        sizes = {**VISION, "intermediate_size": 32}
        model = VideoMAEModel(VideoMAEConfig(**sizes, num_frames=4)).eval()
        expected = model(pixel_values=normalised(frames, *IMAGENET)).last_hidden_state.mean(1)
    elif kind == "vjepa2":
        sizes = {**VISION, "crop_size": 32, "mlp_ratio": 2.0, "frames_per_clip": 8}
        predictor = {"pred_hidden_size": 12, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 2}
        model = VJEPA2Model(VJEPA2Config(**sizes, **predictor)).eval()
        found = model(pixel_values_videos=normalised(frames, *IMAGENET), skip_predictor=True)
        expected = found.last_hidden_state.mean(1)
    elif kind == "dinov2":
        model = Dinov2Model(Dinov2Config(**VISION, mlp_ratio=2)).eval()
        pixels = normalised(frames, *IMAGENET).flatten(0, 1)
        expected = model(pixel_values=pixels).pooler_output.unflatten(0, (3, 4)).mean(1)
    elif kind == "siglip":
        model = SiglipModel(SiglipConfig(text_config=_text(), vision_config=VISION)).eval()
        pixels = normalised(frames, [0.5] * 3, [0.5] * 3).flatten(0, 1)
        expected = model.vision_model(pixel_values=pixels).pooler_output.unflatten(0, (3, 4)).mean(1)
    else:
        model = CLIPModel(CLIPConfig(text_config=_text(), vision_config=VISION, projection_dim=8)).eval()
        pixels = normalised(frames, *CLIP_COLOURS).flatten(0, 1)
        pooled = model.vision_model(pixel_values=pixels).pooler_output
        if kind == "clip_projected":
            pooled = model.visual_projection(pooled)
        expected = pooled.unflatten(0, (3, 4)).mean(1)
    model.save_pretrained(folder)
    return ({"temporal_layers": 0} if kind == "dinov2" else {}), expected


def _text() -> dict:
    return {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 30,
        "projection_size": 24,
    }


@pytest.mark.parametrize("kind", PRETRAINED)
def test_weights_of_a_whole_model_in_a_folder_give_its_features(kind, tmp_path):
    fields, expected = whole_model(kind, tmp_path)
    tower = build_video_tower(changed(kind, weights=str(tmp_path), **fields)).eval()
    with torch.no_grad():
        assert torch.allclose(tower(*clip()), expected, atol=1e-5)
    with pytest.raises(UserError, match="do not fit the configured sizes"):
        build_video_tower(changed(kind, weights=str(tmp_path), **fields, hidden_size=48))
    assert getattr(without_weights(changed(kind, weights="x")), VIDEO[kind].kind).weights is None


@pytest.mark.parametrize("kind", [kind for kind in PRETRAINED if kind != "clip_projected"])
def test_a_folder_of_transformers_is_a_frozen_tower_for_embedding(kind, tmp_path):
    _, expected = whole_model(kind, tmp_path)
    encoder = load_video_encoder(tmp_path, num_frames=4, size=32)
    frames, valid = clip()
    found = torch.from_numpy(encoder.embed(frames.numpy(), valid.numpy())).float()
    assert torch.allclose(found, expected, atol=5e-3, rtol=5e-3)  # float16
    assert encoder.description["dim"] == 24
    assert "weights" not in str(encoder.description)
    with pytest.raises(UserError, match=r"takes pictures of 32 pixels: set frames\.size=32"):
        load_video_encoder(tmp_path, num_frames=4, size=48)
    if kind in ("videomae", "vjepa2"):
        with pytest.raises(UserError, match="takes multiples of 2 frames, not 3"):
            load_video_encoder(tmp_path, num_frames=3, size=32)
    config = json.loads((tmp_path / "config.json").read_text())
    config.get("vision_config", config)["hidden_act"] = "relu"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="hidden_act is relu, which the"):
        load_video_encoder(tmp_path, num_frames=4, size=32)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="of type bert, expected one of videomae, vjepa2, clip"):
        load_video_encoder(tmp_path, num_frames=4, size=32)


@pytest.mark.parametrize("kind", PRETRAINED)
def test_weights_that_are_nowhere_say_what_to_download(kind, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=r"hf download /no/where --local-dir DIR"):
        build_video_tower(changed(kind, weights="/no/where"))


@pytest.mark.parametrize("kind", PRETRAINED)
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_tower_that_is_frozen_at_first(kind, tuning):
    config = changed(kind, TuningConfig(kind=tuning, frozen_steps=3), patch_dropout=0.5)
    tower = build_video_tower(config).train()
    (frozen,) = (part for part in tower.modules() if isinstance(part, FrozenAtFirst))
    for step in (2, 3, 4):
        frozen.at_step(step)
        tower.zero_grad()
        tower(*clip()).square().sum().backward()
        trained = {n: p for n, p in tower.model.named_parameters() if p.grad is not None}
        assert trained
        assert any(p.grad.any() for p in trained.values()) == (step >= 3)
        assert frozen.module.training == (step >= 3)
    assert not tower.eval().model.training
    with pytest.raises(UserError, match="frozen_steps -1 must be 0 or more"):
        build_video_tower(changed(kind, TuningConfig(frozen_steps=-1)))


@pytest.mark.parametrize("kind", PRETRAINED)
def test_a_frozen_tower_is_not_trained(kind):
    torch.manual_seed(0)
    tower = build_video_tower(changed(kind, TuningConfig("frozen"))).train()
    frames, valid = clip()
    before = {name: tensor.clone() for name, tensor in tower.model.state_dict().items()}
    trained = {name.split(".")[0] for name, p in tower.named_parameters() if p.requires_grad}
    assert trained == ({"temporal", "position_embeddings"} if kind == "dinov2" else set())
    assert not any(module.training for module in tower.model.modules())
    assert torch.equal(tower(frames, valid), tower(frames, valid))
    assert all(torch.equal(tensor, before[name]) for name, tensor in tower.model.state_dict().items())
    torch.manual_seed(0)
    assert torch.allclose(tower.eval()(frames, valid), build_video_tower(VIDEO[kind]).eval()(frames, valid), atol=1e-6)


@pytest.mark.parametrize("kind", PRETRAINED)
def test_lora_starts_as_the_frozen_model_and_trains_little(kind):
    pytest.importorskip("peft", reason="peft is not installed: pip install 'imuvid[lora]'")
    config = changed(kind, TuningConfig("lora", lora_rank=2))
    tower = build_video_tower(config)
    frames, valid = clip()
    plain = copy.deepcopy(tower)
    for name, parameter in plain.named_parameters():
        if "lora_" in name:
            parameter.data.zero_()
    assert torch.allclose(tower.eval()(frames, valid), plain.eval()(frames, valid), atol=1e-6)
    trained = {name: p for name, p in tower.named_parameters() if p.requires_grad}
    added = {name for name in trained if name.startswith("model.")}
    assert all("lora_" in name for name in added)
    assert len(added) == 2 * 2 * 2  # layers, queries and values, the two factors
    tower.train()(frames, valid).square().sum().backward()
    assert all(trained[name].grad.abs().sum() > 0 for name in added if "lora_B" in name)
    with torch.no_grad():
        for name in added:
            trained[name].normal_()
    again = build_video_tower(config)
    again.load_state_dict(tower.state_dict())
    assert torch.equal(again.eval()(frames, valid), tower.eval()(frames, valid))
    assert not torch.allclose(again(frames, valid), plain(frames, valid), atol=1e-3)


@pytest.mark.parametrize("kind", PRETRAINED)
@pytest.mark.parametrize("tuning", ["full", "frozen"])
def test_patches_are_dropped_in_training_alone(kind, tuning):
    torch.manual_seed(0)
    fields = {"patch_dropout": 0.5, "patch_size": 8}
    tower = build_video_tower(changed(kind, TuningConfig(tuning), **fields))
    lengths = []
    layer = next(
        m
        for name, m in tower.named_modules()
        if name.endswith(("encoder.layer.1", "model.layer.1", "module.layer.1", "layers.1"))
    )
    layer.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    frames, valid = clip()
    tower.eval()
    assert torch.equal(tower(frames, valid), tower(frames, valid))
    tower.train()
    first, tokens, _ = tower(frames, valid, True)
    assert not torch.allclose(first, tower(frames, valid), atol=1e-4)
    prefix = {"clip": 1, "clip_projected": 1, "dinov2": 1}.get(kind, 0)
    per_clip = 2 if kind in ("videomae", "vjepa2") else 1
    whole, half = 16 * per_clip + prefix, 8 * per_clip + prefix
    assert lengths == [whole, whole, half, half]
    assert torch.isfinite(tokens).all()


def test_dropping_no_patch_of_vjepa2_is_the_model_itself():
    """Its layers are called one by one where patches are dropped: the places must be those of the patches."""
    tower = video_tower("vjepa2")
    frames, valid = clip()
    expected = tower(frames, valid)
    tower.train()
    tower.patch_dropout = 1e-9
    assert torch.allclose(tower(frames, valid), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (VideoTowerConfig(kind="cnn", tuning=TuningConfig("frozen")), "the kind cnn has no pretrained weights"),
        (changed("clip", TuningConfig("half")), "tuning.kind is 'half', expected full, frozen or lora"),
        (changed("clip", TuningConfig("lora", lora_rank=0)), "lora_rank 0 must be at least 1"),
        (changed("clip", patch_dropout=0.8), "patch_dropout 0.8 must lie between 0 and 0.75"),
        (changed("clip", model="vgg"), "model is 'vgg', expected clip, siglip, dinov2"),
        (changed("siglip", projection_dim=8), "projection_dim is CLIP's, siglip has none"),
        (changed("videomae", num_frames=5), "num_frames 5 is no multiple of tubelet_size 2"),
    ],
)
def test_mistakes_are_one_line(config, message):
    with pytest.raises(UserError, match=message):
        build_video_tower(config)


def test_lora_without_peft_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(UserError, match=r"pip install 'imuvid\[lora\]'"):
        build_video_tower(changed("clip", TuningConfig("lora")))


@pytest.mark.parametrize("kind", PRETRAINED)
def test_clips_of_another_shape_are_refused(kind):
    with pytest.raises(ValueError, match=r"built for"):
        video_tower(kind)(*clip(size=48))
    if kind == "vjepa2":
        assert video_tower(kind)(*clip(count=6)).shape == (3, 24)
        with pytest.raises(ValueError, match="multiples of 2 frames"):
            video_tower(kind)(*clip(count=5))
