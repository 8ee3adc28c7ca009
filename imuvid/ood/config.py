"""Settings of the out-of-distribution evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field

from imuvid.ood.datasets.daphnet import DaphnetConfig
from imuvid.ood.datasets.hapt import HAPTConfig
from imuvid.ood.datasets.shards import ShardsConfig
from imuvid.ood.datasets.spar import SPARConfig
from imuvid.ood.probes import ProbeConfig


@dataclass
class OODConfig:
    """What ``imuvid evaluate`` scores an encoder on, and how."""

    datasets: list[str] = field(default_factory=lambda: ["hapt"])
    """Data sets of the report, in order: any of hapt, daphnet, spar, shards."""
    hapt: HAPTConfig = field(default_factory=HAPTConfig)
    daphnet: DaphnetConfig = field(default_factory=DaphnetConfig)
    spar: SPARConfig = field(default_factory=SPARConfig)
    shards: ShardsConfig = field(default_factory=ShardsConfig)
    window_s: float | None = None
    """Length of the windows, seconds; None: the encoder's own."""
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    shots: list[int] = field(default_factory=lambda: [1, 5, 10, 20, 50])
    """Training windows per class of the few-shot probes."""
    num_draws: int = 5
    """Draws of the shots for each number; also the number of random-initialised encoders, one a draw."""
    num_bootstrap: int = 2000
    """Resamples of the test subjects for the intervals."""
    seed: int = 0
    """Of the draws, the random-initialised encoders and the resamples."""
    sensors: str = "apart"
    """Data sets with several sensors: apart (each through the encoder alone, features side by side) or together."""
    batch_size: int = 256
    """Windows that are embedded at once."""
    device: str = "auto"
    """Where the encoder runs: auto (a GPU if there is one), cpu, cuda, cuda:1."""
    out: str | None = None
    """Folder of the report; None: report/step-XXXXXXXX in the run folder of the checkpoint."""
