"""The settings that protocols need, apart from which data sets are read."""

from __future__ import annotations

from dataclasses import dataclass, field

from imuvid.errors import UserError
from imuvid.ood.finetune import FinetuneConfig
from imuvid.ood.probes import ProbeConfig
from imuvid.ood.stress import StressConfig, chosen_stressors


@dataclass
class EvaluationSettings:
    """How representations are scored."""

    probe: ProbeConfig = field(default_factory=ProbeConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    stress: StressConfig = field(default_factory=StressConfig)
    shots: list[int] = field(default_factory=lambda: [1, 2, 5, 10, 20, 50, 100])
    """Training windows per class of the few-shot probes."""
    num_draws: int = 5
    """Draws of the shots for each number; also the number of random-initialised encoders, one a draw."""
    seed: int = 0
    """Of the draws, the random-initialised encoders and the resamples."""

    def check(self) -> None:
        """Raise UserError where a setting cannot be."""
        if any(k < 1 for k in self.shots) or self.num_draws < 1:
            raise UserError("shots and num_draws must be at least 1")
        self.finetune.check()
        chosen_stressors(self.stress)
