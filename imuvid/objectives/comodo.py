"""Distillation of the video into the IMU over a queue, as COMODO (Chen et al., 2025) and SEED (ICLR 2021) do.

With unit embeddings u_i of the IMU (student) and v_i of the video (teacher) and a queue q_1 ... q_K of the teacher's
last embeddings, this batch's among them,

    p_ik = softmax_k(v_i . q_k / tau_t),  L = -1/N sum_i sum_k p_ik log softmax_k(u_i . q_k / tau_s).

No gradient reaches the teacher, whose tower is to be frozen (then its head is a random projection). Both temperatures
are fixed. Windows without IMU or video are left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from imuvid.distributed import share_of_mean
from imuvid.objectives.objective import Objective, Widths
from imuvid.objectives.queue import Queue
from imuvid.objectives.views import Views


@dataclass
class ComodoConfig:
    """As the authors have them."""

    queue_size: int = 16384
    """Embeddings in the queue."""
    student_temperature: float = 0.05
    teacher_temperature: float = 0.1


class Comodo(Objective):
    """Queue distillation."""

    needs = frozenset({"imu", "video"})

    def __init__(self, config: ComodoConfig, widths: Widths):
        super().__init__()
        self.config = config
        self.queue = Queue(config.queue_size, [widths.embedding])

    def forward(self, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`Objective`. Only in training mode are embeddings put into the queue."""
        imu, video = views.pair()
        paired = views.has_imu & views.has_video
        if self.training:
            self.queue.put([video], paired)
        (kept,) = self.queue.contents()
        empty = ~self.queue.filled

        def log_softmax(x: Tensor, temperature: float) -> Tensor:
            return (x @ kept.T / temperature).masked_fill(empty, -math.inf).log_softmax(1).masked_fill(empty, 0.0)

        target = log_softmax(video.detach(), self.config.teacher_temperature).exp().masked_fill(empty, 0.0)
        losses = -(target * log_softmax(imu, self.config.student_temperature)).sum(1)
        return share_of_mean(losses, paired), {}
