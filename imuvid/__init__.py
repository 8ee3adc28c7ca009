"""imuvid: contrastive pretraining of IMU encoders on paired video, and their out-of-distribution evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imuvid.models.encoder import load_encoder
    from imuvid.models.text_encoder import load_text_encoder

__version__ = "0.1.0"
__all__ = ["__version__", "load_encoder", "load_text_encoder"]


def __getattr__(name: str) -> Any:
    # Read when they are asked for: they bring torch along, which the command line's help does not need.
    if name == "load_encoder":
        from imuvid.models.encoder import load_encoder

        return load_encoder
    if name == "load_text_encoder":
        from imuvid.models.text_encoder import load_text_encoder

        return load_text_encoder
    raise AttributeError(f"module 'imuvid' has no attribute '{name}'")
