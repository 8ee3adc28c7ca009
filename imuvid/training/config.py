"""The configuration of a pretraining."""

from __future__ import annotations

from dataclasses import dataclass, field

from imuvid.data.stream import DataConfig
from imuvid.models.two_tower import ModelConfig
from imuvid.training.engine import EngineConfig
from imuvid.training.optimisation import OptimizerConfig


@dataclass
class ScheduleConfig:
    """How long, and what happens when."""

    epochs: float = 50.0
    """Passes over the training split; may be broken."""
    log_every_steps: int = 10
    profile_steps: str = ""
    """Steps that the first rank records with torch's profiler, as 10:20 for the ten from step 10 on; into profile/ in
    the run folder."""
    validate_every_epochs: float = 5.0
    """Retrieval on the held-out split; also at the end."""
    validate_windows: str = "non_overlapping"
    """Which held-out windows: non_overlapping ones of every recording, or one_per_recording (the middle one)."""
    validate_max_windows: int = 2048
    """Most windows for it; evenly spaced ones if there are more."""
    checkpoint_every_steps: int = 500
    """Also at the end and on a signal."""
    checkpoint_every_minutes: float = 30.0
    """Whichever comes first; 0 counts steps alone."""
    keep_checkpoints: int = 3
    """Newest checkpoints that stay; at least 2, since one must survive while the next is written."""
    keep_every_steps: int = 0
    """Checkpoints of steps that are a multiple of this stay for ever; 0 for none."""
    max_bad_steps: int = 5
    """Steps with a loss that is not finite, or leaps, are left out; after so many one after another the run goes back
    to its last checkpoint and passes over them."""
    leap_deviations: float = 0.0
    """A loss leaps where it is so many standard deviations above the mean of the last 100; 0 looks for none."""
    checkpoint_mirror: str | None = None
    """Where the newest checkpoints are copied to, as s3://bucket/runs. A run whose folder has none goes on from
    there."""


@dataclass
class EvaluateConfig:
    """Evaluation jobs of a run that is started by ``imuvid pretrain --srun`` in a Slurm job."""

    every: int = 0
    """Steps: checkpoints of a multiple of it, and the last one, are evaluated by a job each; 0 for none."""
    config: str | None = None
    """Of the evaluation: a YAML of configs/ood."""
    words: list[str] = field(default_factory=list)
    """Overrides of that config, as hapt.root=/data/hapt."""
    sbatch: list[str] = field(default_factory=list)
    """Options of sbatch, as --gpus=1 and --partition=short."""


@dataclass
class PretrainConfig:
    """Everything that decides a pretraining."""

    name: str = "???"
    """Of the run: its folder is runs_dir/name. A run of that name that was stopped is gone on with."""
    runs_dir: str = "runs"
    seed: int = 0
    """Of initialisation, order and augmentation."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    train: ScheduleConfig = field(default_factory=ScheduleConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
