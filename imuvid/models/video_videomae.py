"""VideoMAE (Tong et al., NeurIPS 2022) as video tower, from transformers: the paper's video encoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import VideoMAEConfig, VideoMAEModel

from imuvid.models.tower import Tower
from imuvid.models.weights import load_pretrained

# Mean and standard deviation of ImageNet's RGB channels, with which VideoMAE was trained (scale 0 to 1).
RGB_MEAN = (0.485, 0.456, 0.406)
RGB_STD = (0.229, 0.224, 0.225)


@dataclass
class VideoMAETowerConfig:
    """Sizes default to VideoMAE-base with the paper's 10 frames of 224 px."""

    num_frames: int = 10
    """Frames a clip; a multiple of tubelet_size."""
    image_size: int = 224
    """Height and width, pixels."""
    patch_size: int = 16
    """Pixels."""
    tubelet_size: int = 2
    """Frames a token spans."""
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    weights: str | None = None
    """Local folder or hub name, such as MCG-NJU/videomae-base-ssv2 (the paper's); None starts at random."""


class VideoMAE(Tower):
    """A vision transformer over space-time tubes; the feature is the mean of all output tokens."""

    def __init__(self, config: VideoMAETowerConfig):
        super().__init__()
        if config.num_frames % config.tubelet_size:
            raise ValueError(f"num_frames {config.num_frames} is no multiple of tubelet_size {config.tubelet_size}")
        architecture = VideoMAEConfig(
            num_frames=config.num_frames,
            image_size=config.image_size,
            patch_size=config.patch_size,
            tubelet_size=config.tubelet_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            intermediate_size=config.intermediate_size,
        )
        self.expected = (config.num_frames, config.image_size, config.image_size)
        self.model = load_pretrained(VideoMAEModel, config.weights, architecture)
        self.feature_dim = config.hidden_size

    def forward(self, frames: Tensor, frame_valid: Tensor) -> Tensor:
        """Map frames uint8 [B, F, H, W, 3] and frame_valid bool [B, F] to features [B, hidden_size].

        Frames that are not valid enter as the mean colour.

        Raises:
            ValueError: the clip has another number of frames or another size.
        """
        if tuple(frames.shape[1:4]) != self.expected:
            raise ValueError(f"VideoMAE was built for {self.expected} (frames, px, px), got {tuple(frames.shape[1:4])}")
        mean, std = frames.new_tensor(RGB_MEAN, dtype=torch.float32), frames.new_tensor(RGB_STD, dtype=torch.float32)
        x = (frames.float() / 255 - mean) / std * frame_valid[:, :, None, None, None]
        return self.model(pixel_values=x.permute(0, 1, 4, 2, 3)).last_hidden_state.mean(1)
