"""Settings of the out-of-distribution evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from imuvid.ood.cache import CacheConfig
from imuvid.ood.datasets.catalog import default_config
from imuvid.ood.datasets.daphnet import DaphnetConfig
from imuvid.ood.datasets.generic import GenericConfig
from imuvid.ood.datasets.hapt import HAPTConfig
from imuvid.ood.datasets.public_windows import PublicConfig
from imuvid.ood.datasets.shards import ShardsConfig
from imuvid.ood.datasets.spar import SPARConfig
from imuvid.ood.paired import PairedConfig
from imuvid.ood.settings import EvaluationSettings


def _public(key: str) -> Any:
    return field(default_factory=lambda: default_config(key))


@dataclass
class OODConfig(EvaluationSettings):
    """What ``imuvid evaluate`` scores an encoder on, and how."""

    datasets: list[str] = field(default_factory=lambda: ["hapt"])
    """Data sets of the report, in order: any of those below."""
    hapt: HAPTConfig = field(default_factory=HAPTConfig)
    daphnet: DaphnetConfig = field(default_factory=DaphnetConfig)
    spar: SPARConfig = field(default_factory=SPARConfig)
    shards: ShardsConfig = field(default_factory=ShardsConfig)
    generic: GenericConfig = field(default_factory=GenericConfig)
    uci_har: PublicConfig = _public("uci_har")
    utd_mhad: PublicConfig = _public("utd_mhad")
    wisdm_2011: PublicConfig = _public("wisdm_2011")
    wisdm_2019: PublicConfig = _public("wisdm_2019")
    motionsense: PublicConfig = _public("motionsense")
    pamap2: PublicConfig = _public("pamap2")
    mhealth: PublicConfig = _public("mhealth")
    realworld: PublicConfig = _public("realworld")
    hhar: PublicConfig = _public("hhar")
    shoaib: PublicConfig = _public("shoaib")
    usc_had: PublicConfig = _public("usc_had")
    dsads: PublicConfig = _public("dsads")
    ku_har: PublicConfig = _public("ku_har")
    harth: PublicConfig = _public("harth")
    har70plus: PublicConfig = _public("har70plus")
    opportunity: PublicConfig = _public("opportunity")
    capture24: PublicConfig = _public("capture24")
    uestc_mmea_cl: PublicConfig = _public("uestc_mmea_cl")
    tdcs_fog: PublicConfig = _public("tdcs_fog")
    stanford_fog: PublicConfig = _public("stanford_fog")
    fog_star: PublicConfig = _public("fog_star")
    fog_star_activities: PublicConfig = _public("fog_star_activities")
    turning_in_place: PublicConfig = _public("turning_in_place")
    weargait_pd: PublicConfig = _public("weargait_pd")
    pads: PublicConfig = _public("pads")
    sisfall: PublicConfig = _public("sisfall")
    mobiact: PublicConfig = _public("mobiact")
    window_s: float | None = None
    """Length of the windows, seconds; None: the encoder's own."""
    leave_out: list[str] = field(default_factory=lambda: ["dataset"])
    """With two domains or more, each is also left out once, on common activities, by: dataset, position, device, rate,
    population."""
    paper: bool = False
    """Also the few-shot protocol of Cheshmi et al. (2025), which is leaky and marked so."""
    subjects: str = "test"
    """test, or validation: training subjects alone are scored, each held out once, by the pretrained encoder's linear
    probe; for choosing settings of the pretraining."""
    prompt: str = "a person is {}"
    """Text that stands for a class in zero-shot classification by text; {} is its name in words."""
    prompts: dict[str, str] = field(default_factory=dict)
    """Texts of classes that need other words: class to text."""
    paired: PairedConfig = field(default_factory=PairedConfig)
    """For retrieval between IMU and video, and zero-shot classification by video."""
    num_bootstrap: int = 2000
    """Resamples of the test subjects for the intervals."""
    sensors: str = "apart"
    """Data sets with several sensors: apart (each through the encoder alone, features side by side) or together."""
    batch_size: int = 256
    """Windows that are embedded at once."""
    device: str = "auto"
    """Where the encoder runs: auto (a GPU if there is one), cpu, cuda, cuda:1."""
    workers: int = 0
    """Processes that score folds side by side; 0: one a core (of this machine, or of the Ray cluster). The result does
    not depend on it."""
    executor: str = "local"
    """local (processes of this machine) or ray (a Ray cluster, by RAY_ADDRESS; one is started where there is none)."""
    cache: CacheConfig = field(default_factory=CacheConfig)
    out: str | None = None
    """Folder of the report; None: report/step-XXXXXXXX in the run folder of the checkpoint."""
