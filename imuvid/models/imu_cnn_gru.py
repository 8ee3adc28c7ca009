"""The convolutions and gated recurrent unit of IMU2CLIP (Moon et al., Findings of EMNLP 2023) as IMU tower."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from imuvid.models.norm import MaskedGroupNorm
from imuvid.models.sensors import fold_sensors, normalise_si, pool_sensors, unfold_sensors, valid_parts
from imuvid.models.tower import Encoding, Tower

DILATION, POOL = 2, 3


@dataclass
class ImuCnnGruConfig:
    """Defaults are the sizes of the authors' code; it was made for 5 s at 200 Hz, shorter windows need fewer layers."""

    channels: int = 32
    """Of every convolution."""
    kernel_sizes: list[int] = field(default_factory=lambda: [10, 5, 5])
    """Kernel of each convolution, samples, at a dilation of 2; a maximum over 3 samples follows each. Windows of 2 s at
    50 Hz go through two of them."""
    hidden_size: int = 512
    """State of the recurrent unit: the width of the features."""
    steps: str = "time"
    """What the recurrent unit reads one after the other: time; or channels, as the authors' released code does, where
    every step is one channel with all its instants."""
    num_samples: int = 1000
    """Window length, samples, where the steps are channels; other lengths are then refused."""


class ImuCnnGru(Tower):
    """Group normalisation, dilated convolutions with maxima, group normalisation, and the last state of a GRU.

    The first normalisation is over the samples that are there: it takes the size of the motion, and of gravity all but
    its direction, from the window. One set of weights reads every sensor, and the sensors that are present are
    averaged; an absent gyroscope (or accelerometer) enters as learned values, one a channel.
    """

    def __init__(self, config: ImuCnnGruConfig):
        super().__init__()
        if config.steps not in ("time", "channels"):
            raise ValueError(f"steps is '{config.steps}', expected time or channels")
        if config.channels % 4:
            raise ValueError(f"channels {config.channels} is no multiple of 4, the number of groups")
        self.kernel_sizes, self.over_time = config.kernel_sizes, config.steps == "time"
        self.num_samples = None if self.over_time else config.num_samples
        self.input_norm = MaskedGroupNorm(2, 6)
        self.absent = nn.Parameter(torch.zeros(6))
        widths = [6, *[config.channels] * len(config.kernel_sizes)]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(a, b, kernel, dilation=DILATION, bias=False)
            for a, b, kernel in zip(widths, widths[1:], config.kernel_sizes, strict=False)
        )
        self.norm = nn.GroupNorm(4, config.channels)
        width = config.channels if self.over_time else self._num_steps(config.num_samples)
        self.gru = nn.GRU(width, config.hidden_size, batch_first=True)
        self.feature_dim = config.hidden_size
        self.token_dim = config.hidden_size if self.over_time else None

    def encode(self, imu: Tensor, valid: Tensor) -> Encoding:
        """Map imu [B, T, P, 6] (SI) and valid [B, T, P, 2] to the last state; the tokens are the states over time.

        Raises:
            ValueError: the window is too short for the convolutions, or of another length than was configured.
        """
        samples, sensors = imu.shape[1:3]
        if self.num_samples not in (None, samples):
            raise ValueError(f"the CNN-GRU was built for {self.num_samples} samples, the window has {samples}")
        self._num_steps(samples)
        present = fold_sensors(valid.repeat_interleave(3, -1)).transpose(1, 2)  # [B P, 6, T]
        x = self.input_norm(fold_sensors(normalise_si(imu, valid)).transpose(1, 2), present)
        x = torch.where(present.any(-1, keepdim=True), x, self.absent[:, None].to(x.dtype))
        for convolution in self.convolutions:
            x = nn.functional.max_pool1d(convolution(x), POOL)
        x = self.norm(x)  # [B P, channels, L]
        states, last = self.gru(x.transpose(1, 2) if self.over_time else x)
        features = pool_sensors(unfold_sensors(last[0], sensors), valid)
        if not self.over_time:
            return Encoding(features)
        tokens = pool_sensors(unfold_sensors(states, sensors), valid)
        return Encoding(features, tokens, valid_parts(valid, tokens.shape[1]))

    def _num_steps(self, samples: int) -> int:
        """Return how many instants the convolutions leave of a window."""
        left = samples
        for kernel in self.kernel_sizes:
            left = (left - DILATION * (kernel - 1)) // POOL
        if left < 1:
            raise ValueError(
                f"a window of {samples} samples is too short for kernel_sizes {list(self.kernel_sizes)}: leave out the"
                " last one, or take longer windows"
            )
        return left
