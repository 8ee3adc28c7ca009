"""Picture encoders (CLIP, SigLIP, DINOv2, from transformers) as video tower: frame by frame, then over time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from imuvid.models.tower import Encoding, Tower
from imuvid.models.tuning import bare
from imuvid.models.video_pixels import (
    CLIP_MEAN,
    CLIP_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    SIGLIP_MEAN,
    SIGLIP_STD,
    check_patch_dropout,
    kept_patches,
    standardised,
)
from imuvid.models.weights import load_pretrained

COLOURS = {
    "clip": (CLIP_MEAN, CLIP_STD),
    "siglip": (SIGLIP_MEAN, SIGLIP_STD),
    "dinov2": (IMAGENET_MEAN, IMAGENET_STD),
}


@dataclass
class FramewiseConfig:
    """Sizes default to CLIP ViT-B/32."""

    model: str = "clip"
    """clip (Radford et al., 2021), siglip (Zhai et al., 2023) or dinov2 (Oquab et al., 2023)."""
    image_size: int = 224
    """Height and width, pixels."""
    patch_size: int = 32
    """Pixels."""
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    """Of the feed-forward layers; a multiple of hidden_size for dinov2."""
    projection_dim: int = 0
    """Width of CLIP's own projection into the space it shares with text; 0 leaves it out."""
    temporal_layers: int = 0
    """Layers of a transformer over the frames, trained from scratch; with 0 the frames are averaged."""
    max_frames: int = 64
    """Most frames that this transformer takes."""
    patch_dropout: float = 0.0
    """Share of the patches of every frame that training leaves out, 0 to 0.75."""
    weights: str | None = None
    """Local folder or hub name, such as openai/clip-vit-base-patch32, google/siglip-base-patch16-224 or
    facebook/dinov2-base; None starts at random."""


class Framewise(Tower):
    """Embeds every frame by itself, as its model pools it; the feature is the mean over the valid frames.

    The mean does not know the order of the frames; the transformer over them (CLIP4Clip's sequential form, Luo et al.,
    2022, section 3.3) does.
    """

    def __init__(self, config: FramewiseConfig):
        super().__init__()
        if config.model not in COLOURS:
            raise ValueError(f"model is '{config.model}', expected {', '.join(COLOURS)}")
        if config.projection_dim and config.model != "clip":
            raise ValueError(f"projection_dim is CLIP's, {config.model} has none: set it to 0")
        check_patch_dropout(config.patch_dropout)
        self.image_size, self.patch_dropout = config.image_size, config.patch_dropout
        self.colours = COLOURS[config.model]
        self.prefix = 0 if config.model == "siglip" else 1
        self.projected, self.max_frames = config.projection_dim > 0, config.max_frames
        self.model = _load(config)
        embeddings = self.model.vision_model.embeddings if self.projected else self.model.embeddings
        embeddings.register_forward_hook(self._drop_patches)
        self.feature_dim = self.token_dim = width = config.projection_dim or config.hidden_size
        self.temporal: nn.Module | None = None
        if config.temporal_layers:
            self.position_embeddings = nn.Parameter(0.02 * torch.randn(config.max_frames, width))
            layer = nn.TransformerEncoderLayer(
                width, max(1, width // 64), 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            self.temporal = nn.TransformerEncoder(layer, config.temporal_layers, enable_nested_tensor=False)

    def stack(self) -> list[nn.Module]:
        """Return the layers of the picture encoder; those over the frames come after them."""
        model = bare(self.model)
        encoder = model.vision_model.encoder if self.projected else model.encoder
        return list(encoder.layer if hasattr(encoder, "layer") else encoder.layers)

    def encode(self, frames: Tensor, frame_valid: Tensor) -> Encoding:
        """Map frames uint8 [B, F, H, W, 3] and frame_valid bool [B, F] to features; the tokens are the frames.

        Raises:
            ValueError: the frames have another size, or there are more than the transformer over them takes.
        """
        count, size = frames.shape[1], (self.image_size, self.image_size)
        if tuple(frames.shape[2:4]) != size:
            raise ValueError(f"the picture encoder was built for {size} px, got {tuple(frames.shape[2:4])}")
        x = standardised(frames, frame_valid, *self.colours)
        output = self.model(pixel_values=x.flatten(0, 1))
        tokens = (output.image_embeds if self.projected else output.pooler_output).unflatten(0, (-1, count))
        if self.temporal is not None:
            if count > self.max_frames:
                raise ValueError(f"{count} frames are more than max_frames {self.max_frames}")
            # A clip without any valid frame would attend to nothing, which gives NaN.
            hidden = ~frame_valid & frame_valid.any(1, keepdim=True)
            tokens = tokens + self.temporal(tokens + self.position_embeddings[:count], src_key_padding_mask=hidden)
        weight = frame_valid.to(tokens.dtype)[..., None]
        return Encoding((tokens * weight).sum(1) / weight.sum(1).clamp(min=1), tokens, frame_valid)

    def _drop_patches(self, _module: nn.Module, _inputs: Any, embedded: Tensor) -> Tensor:
        """Leave out some of the patches of every picture [N, prefix + L, D]; what stands before them stays."""
        if not (self.training and self.patch_dropout > 0):
            return embedded
        first, patches = embedded[:, : self.prefix], embedded[:, self.prefix :]
        kept = kept_patches((len(patches),), patches.shape[1], self.patch_dropout, patches.device)
        return torch.cat([first, patches.gather(1, kept[..., None].expand(-1, -1, patches.shape[-1]))], dim=1)


def _load(config: FramewiseConfig) -> Any:
    from transformers import (
        CLIPVisionConfig,
        CLIPVisionModel,
        CLIPVisionModelWithProjection,
        Dinov2Config,
        Dinov2Model,
        SiglipVisionConfig,
        SiglipVisionModel,
    )

    sizes: dict[str, Any] = {
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
    }
    if config.model == "dinov2":
        if config.intermediate_size % config.hidden_size:
            raise ValueError(f"intermediate_size {config.intermediate_size} is no multiple of {config.hidden_size}")
        dinov2 = Dinov2Config(**sizes, mlp_ratio=config.intermediate_size // config.hidden_size)
        return load_pretrained(Dinov2Model, config.weights, dinov2)
    sizes["intermediate_size"] = config.intermediate_size
    if config.model == "siglip":
        return load_pretrained(SiglipVisionModel, config.weights, SiglipVisionConfig(**sizes))
    if config.projection_dim:
        clip = CLIPVisionConfig(**sizes, projection_dim=config.projection_dim)
        return load_pretrained(CLIPVisionModelWithProjection, config.weights, clip)
    return load_pretrained(CLIPVisionModel, config.weights, CLIPVisionConfig(**sizes))
