"""The video tower of a dataset without pictures: a frozen tower has embedded them when the dataset was made."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from imuvid.models.tower import Encoding, Tower


@dataclass
class VideoEmbeddingConfig:
    """Only the projection head is trained on these features."""

    dim: int = 768
    """Length of the stored embeddings: ``video_embedding.dim`` in the ``dataset.json``."""


class VideoEmbedding(Tower):
    """Passes stored embeddings on, so that a run on them is one with that frozen tower and no video augmentation."""

    def __init__(self, config: VideoEmbeddingConfig):
        super().__init__()
        if config.dim < 1:
            raise ValueError(f"dim {config.dim} must be at least 1")
        self.feature_dim = config.dim

    def encode(self, frames: Tensor, _frame_valid: Tensor) -> Encoding:
        """Map embeddings float16 [B, dim] to features float32 [B, dim].

        Raises:
            ValueError: they are no embeddings, or of another length.
        """
        if frames.shape[1:] != (self.feature_dim,):
            raise ValueError(f"expected embeddings of {self.feature_dim} numbers, got {list(frames.shape[1:])}")
        return Encoding(frames.float())
