"""CLIP's text encoder (Radford et al., ICML 2021, Section 2.4), from transformers, as text tower."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imuvid.models.tower import Encoding, Tower
from imuvid.models.tuning import bare
from imuvid.models.weights import load_pretrained


@dataclass
class TextClipConfig:
    """Sizes default to those beside CLIP ViT-B/32."""

    hidden_size: int = 512
    num_layers: int = 12
    num_heads: int = 8
    intermediate_size: int = 2048
    """Of the feed-forward layers."""
    max_tokens: int = 77
    """Longest text, its begin and end included; what is longer is cut."""
    vocab_size: int = 49408
    projection_dim: int = 0
    """Width of CLIP's own projection into the space it shares with pictures; 0 leaves it out."""
    weights: str | None = None
    """Local folder or hub name, such as openai/clip-vit-base-patch32; None starts at random."""
    tokenizer: str | None = None
    """Local folder or hub name that holds its ``tokenizer.json``; None for the place of the weights."""


class TextClip(Tower):
    """The feature is the state of the last token, which has seen all before it; there are no tokens in time."""

    def __init__(self, config: TextClipConfig):
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

        super().__init__()
        architecture = CLIPTextConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=config.max_tokens,
            projection_dim=config.projection_dim or config.hidden_size,
        )
        self.max_tokens = config.max_tokens
        self.projected = config.projection_dim > 0
        kind = CLIPTextModelWithProjection if self.projected else CLIPTextModel
        self.model = load_pretrained(kind, config.weights, architecture)
        self.feature_dim = config.projection_dim or config.hidden_size

    def encode(self, tokens: Tensor, valid: Tensor) -> Encoding:
        """Map tokens int64 [B, L] and valid bool [B, L], which is True up to the end of the text, to features."""
        states = self.model(input_ids=tokens * valid).last_hidden_state
        last = (valid.sum(1) - 1).clamp(min=0)
        features = states[torch.arange(len(states), device=states.device), last]
        if self.projected:
            features = bare(self.model).text_projection(features)
        return Encoding(features)
