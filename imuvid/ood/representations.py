"""What turns windows into vectors: encoders, hand-made features, and the signal as it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from imuvid.models.encoder import Encoder
from imuvid.ood.cache import ArrayCache
from imuvid.ood.datasets.base import Windows
from imuvid.ood.embedding import represent
from imuvid.ood.features import handmade_features
from imuvid.ood.model import FunctionModel
from imuvid.ood.names import HANDMADE, RAW


@dataclass
class EncoderRepresentation:
    """Frozen encoders of one architecture, one a draw."""

    name: str
    """pretrained or random."""
    encoders: list[Encoder]
    batch_size: int
    device: torch.device
    sensors: str
    """apart or together, as of :func:`imuvid.ood.embedding.embed`."""
    cache: ArrayCache | None = None
    """Where features are kept."""

    @property
    def num_draws(self) -> int:
        """Number of encoders."""
        return len(self.encoders)

    def features(self, windows: Windows, draw: int) -> np.ndarray:
        """Return what an encoder makes of the windows, conditioned as in its pretraining: float32 [N, D]."""
        encoder = self.encoders[draw]
        condition = encoder.config.condition
        return represent(encoder, windows, condition, self.batch_size, self.device, self.sensors, self.cache)


@dataclass
class FunctionRepresentation:
    """A model that is a function."""

    name: str
    model: FunctionModel
    batch_size: int
    sensors: str
    num_draws: int = 1

    def features(self, windows: Windows, draw: int) -> np.ndarray:
        """Return what the function makes of the windows, float32 [N, D]."""
        device = torch.device("cpu")
        return represent(self.model, windows, self.model.config.condition, self.batch_size, device, self.sensors)


@dataclass
class HandmadeRepresentation:
    """Hand-made features."""

    name: str = HANDMADE
    num_draws: int = 1

    def features(self, windows: Windows, draw: int) -> np.ndarray:
        """Return moments and spectrum of each channel, float32 [N, D]."""
        return handmade_features(windows.imu, windows.valid, windows.rate_hz)


@dataclass
class RawRepresentation:
    """The signal itself."""

    name: str = RAW
    num_draws: int = 1

    def features(self, windows: Windows, draw: int) -> np.ndarray:
        """Return the samples of each window, sensor by sensor: float32 [N, P * T * 6]."""
        return windows.imu.transpose(0, 2, 1, 3).reshape(len(windows.imu), -1)
