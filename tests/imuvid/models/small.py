"""Towers of every kind in sizes that take no time, and inputs for them."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn

from imuvid.models.imu_cnn_gru import ImuCnnGruConfig
from imuvid.models.imu_external import ImuExternalConfig
from imuvid.models.imu_gravity import ImuGravityConfig
from imuvid.models.imu_patchtst import ImuPatchTSTConfig
from imuvid.models.imu_resnet import ImuResNetConfig
from imuvid.models.text_clip import TextClipConfig
from imuvid.models.tower import Tower
from imuvid.models.towers import ImuTowerConfig, TextTowerConfig, VideoTowerConfig, build_imu_tower, build_video_tower
from imuvid.models.video_framewise import FramewiseConfig
from imuvid.models.video_videomae import VideoMAETowerConfig
from imuvid.models.video_vjepa2 import VJEPA2TowerConfig

SAMPLES = 50
PATCHTST = ImuPatchTSTConfig(context_length=SAMPLES, d_model=16, num_layers=1, num_heads=2, ffn_dim=16)
CNN_GRU = ImuCnnGruConfig(channels=8, kernel_sizes=[5], hidden_size=12)
RESNET = ImuResNetConfig(channels=[8, 12, 16], num_blocks=[1, 1, 0], factors=[2, 2, 3], orders=[2, 2, 1])
GRAVITY = ImuGravityConfig(
    stem_channels=[8, 12], stem_kernels=[5, 3], num_filters=4, d_model=16, num_layers=1, num_heads=2, ffn_dim=16
)
THIS = "tests.imuvid.models.small"


class Series(nn.Module):
    """A stand-in for another package's encoder: [N, C, T] to [N, L, 6] or [N, 6]."""

    def __init__(self, channels: int = 1, pooled: bool = False):
        super().__init__()
        self.net = nn.Sequential(nn.Conv1d(channels, 6, 5, stride=5), nn.BatchNorm1d(6), nn.Dropout(0.5))
        self.pooled = pooled

    def forward(self, x: Tensor) -> Tensor:
        found = self.net(x).transpose(1, 2)
        return found.mean(1) if self.pooled else found


class Pretrained(nn.Module):
    """Another, which comes with weights, one of them of its own making: [N, 1, T] to [N, 4]."""

    def __init__(self, weights: float):
        super().__init__()
        self.net, self.scale = nn.Linear(1, 4), nn.Parameter(torch.zeros(4, 4))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.fill_(weights)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.transpose(1, 2)).mean(1) @ self.scale


def external(**fields) -> ImuTowerConfig:
    fields = {"factory": f"{THIS}:Series", "feature_dim": 6, **fields}
    return ImuTowerConfig(kind="external", external=ImuExternalConfig(**fields))


IMU = {
    "cnn": ImuTowerConfig(),
    "patchtst": ImuTowerConfig(kind="patchtst", patchtst=PATCHTST),
    "patchtst_paper": ImuTowerConfig(
        kind="patchtst",
        patchtst=ImuPatchTSTConfig(**{**vars(PATCHTST), "norm": "batchnorm", "scaling": True, "patch_length": 16}),
    ),
    "cnn_gru": ImuTowerConfig(kind="cnn_gru", cnn_gru=CNN_GRU),
    "cnn_gru_channels": ImuTowerConfig(
        kind="cnn_gru", cnn_gru=ImuCnnGruConfig(**{**vars(CNN_GRU), "steps": "channels", "num_samples": SAMPLES})
    ),
    "resnet": ImuTowerConfig(kind="resnet", resnet=RESNET),
    "gravity": ImuTowerConfig(kind="gravity", gravity=GRAVITY),
    "external": external(frozen=False),
    "external_together": external(channels="together", arguments={"channels": 6, "pooled": True}, num_samples=40),
}

SIZES = {"hidden_size": 24, "num_layers": 2, "num_heads": 2, "patch_size": 16, "image_size": 32}
TEXT = TextTowerConfig(
    kind="clip",
    clip=TextClipConfig(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16, max_tokens=12, vocab_size=60),
)
CLIP = FramewiseConfig(**SIZES, intermediate_size=48)
VIDEO = {
    "cnn": VideoTowerConfig(),
    "videomae": VideoTowerConfig(
        kind="videomae", videomae=VideoMAETowerConfig(**SIZES, num_frames=4, intermediate_size=32)
    ),
    "vjepa2": VideoTowerConfig(kind="vjepa2", vjepa2=VJEPA2TowerConfig(**SIZES, mlp_ratio=2.0)),
    "clip": VideoTowerConfig(kind="framewise", framewise=CLIP),
    "clip_projected": VideoTowerConfig(
        kind="framewise", framewise=FramewiseConfig(**{**vars(CLIP), "projection_dim": 8})
    ),
    "siglip": VideoTowerConfig(kind="framewise", framewise=FramewiseConfig(**{**vars(CLIP), "model": "siglip"})),
    "dinov2": VideoTowerConfig(
        kind="framewise", framewise=FramewiseConfig(**{**vars(CLIP), "model": "dinov2", "temporal_layers": 1})
    ),
}


def write_tokenizer(folder: Path) -> Path:
    """Write a ``tokenizer.json`` of CLIP's form that knows the letters of small English words; return the folder."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    numbers = {token: number for number, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(BPE(numbers, [], end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    ends = [(token, numbers[token]) for token in ("<|startoftext|>", "<|endoftext|>")]
    tokenizer.post_processor = TemplateProcessing(single="<|startoftext|> $A <|endoftext|>", special_tokens=ends)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def window(batch: int = 3, steps: int = SAMPLES, sensors: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    imu = torch.randn(batch, steps, sensors, 6, generator=generator) * 3
    return imu, torch.ones(batch, steps, sensors, 2, dtype=torch.bool)


def clip(batch: int = 3, count: int = 4, size: int = 32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (batch, count, size, size, 3), dtype=torch.uint8, generator=generator)
    return frames, torch.ones(batch, count, dtype=torch.bool)


def imu_tower(kind: str) -> Tower:
    """In evaluation mode, as after a training: learned vectors and running statistics are not at their start."""
    torch.manual_seed(0)
    tower = build_imu_tower(IMU[kind]).eval()
    with torch.no_grad():
        for name, tensor in tower.state_dict().items():
            if name.rsplit(".", 1)[-1] == "absent":
                tensor.normal_()
            elif name.endswith("running_var"):
                tensor.uniform_(0.2, 0.5)
            elif name.endswith("running_mean"):
                tensor.uniform_(-0.1, 0.1)
    return tower


def video_tower(kind: str) -> Tower:
    torch.manual_seed(0)
    return build_video_tower(VIDEO[kind]).eval()
