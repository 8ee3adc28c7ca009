from __future__ import annotations

import pytest
import torch

from imuvid.errors import UserError
from imuvid.models.imu_patchtst import ImuPatchTSTConfig
from imuvid.models.towers import ImuTowerConfig, VideoTowerConfig, build_imu_tower, build_video_tower
from imuvid.models.video_videomae import VideoMAETowerConfig

SMALL_PATCHTST = ImuPatchTSTConfig(context_length=50, d_model=16, num_layers=1, num_heads=2, ffn_dim=16)
SMALL_VIDEOMAE = VideoMAETowerConfig(
    num_frames=4, image_size=32, hidden_size=24, num_layers=1, num_heads=2, intermediate_size=32
)
IMU = {"cnn": ImuTowerConfig(), "patchtst": ImuTowerConfig(kind="patchtst", patchtst=SMALL_PATCHTST)}
VIDEO = {"cnn": VideoTowerConfig(), "videomae": VideoTowerConfig(kind="videomae", videomae=SMALL_VIDEOMAE)}


def window(batch=3, steps=50, sensors=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    imu = torch.randn(batch, steps, sensors, 6, generator=generator) * 3
    return imu, torch.ones(batch, steps, sensors, 2, dtype=torch.bool)


def imu_tower(kind):
    torch.manual_seed(0)
    return build_imu_tower(IMU[kind]).eval()


@pytest.mark.parametrize("kind", IMU)
def test_features_have_the_stated_width_and_gradients_reach_every_parameter(kind):
    tower = imu_tower(kind).train()
    imu, valid = window()
    valid[0, :, :, 1] = False  # so that what stands for an absent gyroscope is used
    valid[1, :, :, 0] = False
    features = tower(imu, valid)
    assert features.shape == (3, tower.feature_dim)
    (features * torch.randn_like(features)).sum().backward()
    trained = [(n, p) for n, p in tower.named_parameters() if p.requires_grad]
    unused = [n for n, p in trained if p.grad is None or not p.grad.abs().sum() > 0]
    assert unused == []


@pytest.mark.parametrize("kind", IMU)
def test_what_is_not_valid_does_not_matter(kind):
    tower = imu_tower(kind)
    imu, valid = window()
    valid[:, :, 1] = False
    valid[0, :, 0, 1] = False
    changed = torch.where(valid.repeat_interleave(3, -1), imu, torch.full_like(imu, 7.0))
    assert torch.allclose(tower(imu, valid), tower(changed, valid), atol=1e-5)


@pytest.mark.parametrize("kind", IMU)
def test_absent_sensors_are_left_out_and_the_order_of_sensors_does_not_matter(kind):
    tower = imu_tower(kind)
    imu, valid = window(sensors=3)
    valid[:, :, 2] = False
    both = tower(imu, valid)
    assert torch.allclose(both, tower(imu[:, :, :2], valid[:, :, :2]), atol=1e-5)
    assert torch.allclose(both, tower(imu[:, :, [1, 2, 0]], valid[:, :, [1, 2, 0]]), atol=1e-5)


@pytest.mark.parametrize("kind", IMU)
def test_a_missing_gyroscope_is_not_a_still_one(kind):
    tower = imu_tower(kind)
    imu, valid = window(sensors=1)
    imu[..., 3:] = 0
    without = valid.clone()
    without[..., 1] = False
    if kind == "patchtst":
        with torch.no_grad():
            tower.absent.normal_()
    assert not torch.allclose(tower(imu, valid), tower(imu, without), atol=1e-3)


def test_intensity_and_posture_reach_the_features():
    # The paper's code standardises each channel of each window, and so cannot tell these apart.
    imu, valid = window(sensors=1)

    def effect(tower, changed):
        return (tower(imu, valid) - tower(changed, valid)).abs().max().item()

    for kind in IMU:
        assert effect(imu_tower(kind), 3 * imu) > 1e-3
        assert effect(imu_tower(kind), imu + 5) > 1e-3
    torch.manual_seed(0)
    scaled = ImuPatchTSTConfig(**{**vars(SMALL_PATCHTST), "scaling": True})
    assert effect(build_imu_tower(ImuTowerConfig(kind="patchtst", patchtst=scaled)).eval(), 3 * imu + 5) < 1e-4


def test_the_cnn_takes_any_length_and_padding_does_not_count():
    tower = imu_tower("cnn")
    imu, valid = window(steps=101, sensors=1)
    assert tower(imu, valid).shape == (3, tower.feature_dim)
    valid[:, 60:] = False
    padded = tower(imu, valid)
    imu[:, 60:] = 100
    assert torch.allclose(padded, tower(imu, valid), atol=1e-5)


def test_patchtst_refuses_another_length():
    imu, valid = window(steps=49)
    with pytest.raises(ValueError, match="built for 50 samples, the window has 49"):
        imu_tower("patchtst")(imu, valid)


def test_patchtst_reads_every_sample_by_default_and_the_paper_form_drops_ten():
    def blind(config):
        tower = build_imu_tower(ImuTowerConfig(kind="patchtst", patchtst=config)).eval()
        imu = torch.zeros(1, 250, 1, 6, requires_grad=True)
        valid = torch.ones(1, 250, 1, 2, dtype=torch.bool)
        tower(imu + torch.randn(imu.shape), valid).square().sum().backward()
        return int((imu.grad.abs().sum((0, 2, 3)) == 0).sum())

    small = {"d_model": 16, "num_layers": 1, "num_heads": 2, "ffn_dim": 16}
    assert blind(ImuPatchTSTConfig(**small)) == 0
    assert blind(ImuPatchTSTConfig(patch_length=16, patch_stride=16, **small)) == 10


def test_patchtst_has_the_papers_size():
    # 599,168 parameters in the released code (d 128, 3 layers, patch 16); ours has 256 more for absent channels,
    # and layer normalisation has as many as batch normalisation.
    tower = build_imu_tower(
        ImuTowerConfig(kind="patchtst", patchtst=ImuPatchTSTConfig(patch_length=16, patch_stride=16, norm="batchnorm"))
    )
    trained = sum(p.numel() for p in tower.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in tower.parameters() if not p.requires_grad)
    assert trained + frozen == 599_168 + 256


@pytest.mark.parametrize("kind", VIDEO)
def test_video_towers(kind):
    torch.manual_seed(0)
    tower = build_video_tower(VIDEO[kind])
    frames = torch.randint(0, 256, (3, 4, 32, 32, 3), dtype=torch.uint8)
    features = tower(frames, torch.ones(3, 4, dtype=torch.bool))
    assert features.shape == (3, tower.feature_dim)
    features.square().sum().backward()
    tower.eval()
    valid = torch.tensor([[True, True, False, False]] * 3)
    black = frames.clone()
    black[:, 2:] = 0
    if kind == "cnn":
        assert torch.isfinite(tower(black, torch.zeros_like(valid))).all()
    white = frames.clone()
    white[:, 2:] = 255
    if kind == "videomae":
        assert torch.allclose(tower(black, valid), tower(white, valid), atol=1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ImuTowerConfig(kind="cnnn"), "imu_tower.kind is 'cnnn', expected one of cnn, patchtst"),
        (
            ImuTowerConfig(kind="patchtst", patchtst=ImuPatchTSTConfig(norm="none")),
            "imu_tower.patchtst: norm is 'none'",
        ),
        (
            ImuTowerConfig(kind="patchtst", patchtst=ImuPatchTSTConfig(weights="/nowhere/at/all")),
            "weights '/nowhere/at/all' are neither",
        ),
    ],
)
def test_mistakes_are_one_line(config, message):
    with pytest.raises(UserError, match=message):
        build_imu_tower(config)


def test_pretrained_weights_are_loaded_from_a_folder_or_refused(tmp_path):
    torch.manual_seed(1)
    original = build_video_tower(VIDEO["videomae"])
    original.model.save_pretrained(tmp_path)
    torch.manual_seed(2)
    again = build_video_tower(
        VideoTowerConfig(
            kind="videomae", videomae=VideoMAETowerConfig(**{**vars(SMALL_VIDEOMAE), "weights": str(tmp_path)})
        )
    )
    for name, tensor in original.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    other = VideoMAETowerConfig(**{**vars(SMALL_VIDEOMAE), "weights": str(tmp_path), "hidden_size": 32})
    with pytest.raises(UserError, match="do not fit the configured sizes"):
        build_video_tower(VideoTowerConfig(kind="videomae", videomae=other))
