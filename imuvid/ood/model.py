"""Models that are no checkpoint of ours: any function of windows can be judged."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from imuvid.imu.condition import ConditionConfig


@dataclass
class ModelConfig:
    """What a function wants to be fed, as far as :class:`imuvid.models.encoder.EncoderConfig` says it too."""

    imu_rate_hz: float
    window_s: float
    positions: list[str] = field(default_factory=list)
    condition: ConditionConfig = field(default_factory=ConditionConfig)
    provenance: dict[str, Any] = field(default_factory=dict)


class FunctionModel:
    """A function that turns windows into features, to be given to :func:`imuvid.ood.job.evaluate`.

    It is judged as an encoder is, but for what needs an architecture: there is no random-initialised twin, it is not
    fine-tuned, its features are not kept, and all is done in this process.

    Args:
        function: gets imu float32 [B, T, P, 6] (m/s^2 with gravity, rad/s; 0 where absent) and valid bool [B, T, P, 2]
            (accelerometer, gyroscope), and returns features float [B, D]. Several sensors come one at a time, P = 1,
            unless ``sensors=together``.
        rate_hz: of the windows that it wants.
        window_s: their length, seconds.
        name: for the report.
        train_subjects: salted hashes of the people that it was trained on, who are refused as test subjects.
        condition: what is to be done to windows before it gets them.
    """

    def __init__(
        self,
        function: Callable[[np.ndarray, np.ndarray], Any],
        rate_hz: float,
        window_s: float,
        name: str = "function",
        train_subjects: Collection[str] = (),
        condition: ConditionConfig | None = None,
    ):
        self.name = name
        self.config = ModelConfig(rate_hz, window_s, [], condition or ConditionConfig())
        self.config.provenance = {"train_subjects": sorted(train_subjects)}
        self._function = function

    def __call__(self, imu: np.ndarray, valid: np.ndarray) -> Any:
        """Return the features of a batch of windows."""
        return self._function(imu, valid)
