"""VideoMAE (Tong et al., NeurIPS 2022) as video tower, from transformers: the paper's video encoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from imuvid.models.sensors import valid_parts
from imuvid.models.tower import Encoding, Tower
from imuvid.models.tuning import bare
from imuvid.models.video_pixels import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    check_patch_dropout,
    kept_patches,
    standardised,
)
from imuvid.models.weights import load_pretrained


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
    patch_dropout: float = 0.0
    """Share of the patches of every tube that training leaves out, 0 to 0.75."""
    weights: str | None = None
    """Local folder or hub name, such as MCG-NJU/videomae-base-ssv2 (the paper's); None starts at random."""


class VideoMAE(Tower):
    """A vision transformer over space-time tubes; the feature is the mean of all output tokens."""

    def __init__(self, config: VideoMAETowerConfig):
        from transformers import VideoMAEConfig, VideoMAEModel

        super().__init__()
        if config.num_frames % config.tubelet_size:
            raise ValueError(f"num_frames {config.num_frames} is no multiple of tubelet_size {config.tubelet_size}")
        check_patch_dropout(config.patch_dropout)
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
        self.num_tubes = config.num_frames // config.tubelet_size
        self.num_patches = (config.image_size // config.patch_size) ** 2
        self.patch_dropout = config.patch_dropout
        self.model = load_pretrained(VideoMAEModel, config.weights, architecture)
        self.feature_dim = self.token_dim = config.hidden_size

    def stack(self) -> list[nn.Module]:
        """Return the transformer's layers."""
        return list(bare(self.model).encoder.layer)

    def encode(self, frames: Tensor, frame_valid: Tensor) -> Encoding:
        """Map frames uint8 [B, F, H, W, 3] and frame_valid bool [B, F] to features; a token is a tube.

        Frames that are not valid enter as the mean colour.

        Raises:
            ValueError: the clip has another number of frames or another size.
        """
        if tuple(frames.shape[1:4]) != self.expected:
            raise ValueError(f"VideoMAE was built for {self.expected} (frames, px, px), got {tuple(frames.shape[1:4])}")
        x = standardised(frames, frame_valid, IMAGENET_MEAN, IMAGENET_STD)
        dropped = None
        if self.training and self.patch_dropout > 0:
            shape = (len(x), self.num_tubes)
            kept = kept_patches(shape, self.num_patches, self.patch_dropout, x.device)
            dropped = torch.ones(*shape, self.num_patches, dtype=torch.bool, device=x.device)
            dropped = dropped.scatter(2, kept, False).flatten(1)
        found = self.model(pixel_values=x, bool_masked_pos=dropped).last_hidden_state
        tokens = found.unflatten(1, (self.num_tubes, -1)).mean(2)
        return Encoding(found.mean(1), tokens, valid_parts(frame_valid, self.num_tubes))
