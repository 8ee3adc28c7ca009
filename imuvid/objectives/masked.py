"""Masked reconstruction of the IMU (PatchTST: Nie et al., ICLR 2023, Section 3.2; MAE: He et al., CVPR 2022).

Of each sensor of a window, a share of the patches is hidden from the tower as if it were absent. One linear layer
predicts, from the token of a patch, all readings within it, x in units of order one:

    L = mean over hidden, valid readings of (x - x_predicted)^2.

No temperature. Windows without video take part.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from imuvid.distributed import share_of_mean
from imuvid.errors import UserError
from imuvid.objectives.objective import Objective, Widths
from imuvid.objectives.views import Views


@dataclass
class MaskedConfig:
    """What is hidden and predicted."""

    share: float = 0.4
    """Of the patches, hidden; PatchTST's and the paper's baseline's 0.4."""
    patch_samples: int = 10
    """Samples a patch."""
    num_sensors: int = 1
    """Sensors of a window: all are predicted from one token."""


class Masked(Objective):
    """Prediction of hidden patches from the tokens of the rest."""

    needs = frozenset({"hidden_tokens", "hidden", "readings"})

    def __init__(self, config: MaskedConfig, widths: Widths):
        super().__init__()
        assert widths.imu_tokens is not None
        self.patch_samples, self.num_sensors = config.patch_samples, config.num_sensors
        self.predict = nn.Linear(widths.imu_tokens, config.patch_samples * config.num_sensors * 6)

    def forward(self, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`Objective`.

        Raises:
            UserError: the windows have another number of sensors.
        """
        assert views.hidden_tokens is not None
        assert views.hidden is not None
        assert views.readings is not None
        steps, sensors = views.readings.shape[1:3]
        if sensors != self.num_sensors:
            raise UserError(
                f"model.objective.masked.num_sensors is {self.num_sensors}, but the windows have {sensors} sensors: set"
                f" it to {sensors}"
            )
        num_patches = -(-steps // self.patch_samples)
        tokens = F.adaptive_avg_pool1d(views.hidden_tokens.transpose(1, 2), num_patches).transpose(1, 2)
        predicted = self.predict(tokens).view(len(tokens), -1, sensors, 6)[:, :steps]
        return share_of_mean((predicted - views.readings).square(), views.hidden), {}
