"""The configuration of a sweep, and what of it can be refused before anything starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imuvid import config as configs
from imuvid.errors import UserError

OOD_METRIC = "ood_validation"
"""Score on the training people of out-of-distribution data sets, each group of them held out once."""
RETRIEVAL_METRICS = {
    f"{name}_{direction}": mode
    for name, mode in (("r_at_1", "max"), ("r_at_5", "max"), ("mrr", "max"), ("median_rank", "min"))
    for direction in ("imu_to_video", "video_to_imu")
}
"""Scores of a run's own validation, and which way is better."""
SAME_PRIORITY = {"RAY_worker_niceness": "0"}
"""Environment of Ray that is started for a sweep: else it runs trials at a lower priority than runs by hand have."""
SEARCHES = ("random", "grid", "tpe", "hebo", "ax")
SCHEDULES = ("none", "asha", "hyperband", "pbt")


@dataclass
class SearchConfig:
    """How the next configuration is chosen."""

    kind: str = "tpe"
    """random; grid (all combinations); tpe (Bergstra et al., NeurIPS 2011, by Optuna); hebo or ax, where installed."""
    seed: int = 0
    startup_trials: int = 8
    """Trials that tpe draws at random before it models what it has seen."""


@dataclass
class ScheduleConfig:
    """Which trials go on. Progress is in percent of a run's steps, so that batch sizes can be compared."""

    kind: str = "asha"
    """none; asha (Li et al., MLSys 2020); hyperband (Li et al., JMLR 2018); pbt (Jaderberg et al., 2017)."""
    first_rung_percent: float = 10.0
    """asha: no trial is stopped before. It is judged at its first validation after each rung."""
    reduction: float = 3.0
    """asha, hyperband: one in so many trials passes a rung; the next rung is so many times higher."""
    perturb_percent: float = 20.0
    """pbt: so often the worst quarter takes over weights and stream state of the best, and other parameters."""


@dataclass
class LimitsConfig:
    """When no more is done; trials that run save and can be gone on with by --resume. None is no limit."""

    trials: int | None = 16
    hours: float | None = None
    """Of one start of the sweep."""
    gpu_hours: float | None = None
    """Of all trials in all starts: GPUs that they held, by time."""


@dataclass
class TrialConfig:
    """What one trial runs on, and when it is given up."""

    nodes: int = 1
    ranks_per_node: int = 1
    cpus_per_rank: float = 1.0
    gpus_per_rank: float = 0.0
    silent_minutes: float = 30.0
    """A trial that says nothing for so long hangs: it is ended and recorded as such."""
    grace_s: float = 60.0
    """Seconds that a run has to save and leave when it is told to end."""
    restarts: int = 3
    """How often in a row, without a new score, a trial whose ranks were killed goes on from its checkpoint."""


@dataclass
class RayConfig:
    """The Ray cluster."""

    address: str | None = None
    """HOST:PORT of one that runs; else $RAY_ADDRESS, else one on this machine's loopback for the sweep alone."""
    dashboard: bool = False
    cpus: int | None = None
    """Of the cluster that is started here; else all cores."""


@dataclass
class OodConfig:
    """How ood_validation is had."""

    config: str | None = None
    """YAML that ``imuvid evaluate`` takes; its test people are not looked at."""
    words: list[str] = field(default_factory=list)
    """Overrides of it."""


@dataclass
class SweepConfig:
    """Everything that decides a sweep."""

    name: str = "???"
    """Its folder is runs_dir/name; all machines must see it."""
    runs_dir: str = "runs"
    base: str = "???"
    """Config of a pretraining: the default that the trials differ from."""
    words: list[str] = field(default_factory=list)
    """Overrides of the base that hold for every trial, as data.path=/data/gopro."""
    space: dict[str, Any] = field(default_factory=dict)
    """Parameters by key of the pretraining's config (docs/sweeps.md)."""
    metric: str = "mrr_imu_to_video"
    """What is optimised: a score of the validation retrieval, or ood_validation."""
    search: SearchConfig = field(default_factory=SearchConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    trial: TrialConfig = field(default_factory=TrialConfig)
    ray: RayConfig = field(default_factory=RayConfig)
    ood: OodConfig = field(default_factory=OodConfig)

    @property
    def folder(self) -> Path:
        """Of the sweep."""
        return Path(self.runs_dir) / self.name

    @property
    def maximise(self) -> bool:
        """Whether more is better."""
        return RETRIEVAL_METRICS.get(self.metric, "max") == "max"


def check_sweep(config: SweepConfig) -> None:
    """Refuse what cannot be swept, with one line.

    Raises:
        UserError: a value that does not fit; a test score as the metric, or test people in the validation.
    """
    _check_metric(config)
    if Path(config.name).name != config.name or config.name == "..":
        raise UserError(f"name={config.name} must be a plain folder name")
    for key, value, known in (
        ("search.kind", config.search.kind, SEARCHES),
        ("schedule.kind", config.schedule.kind, SCHEDULES),
    ):
        if value not in known:
            raise UserError(f"{key}={value} is unknown: choose one of {', '.join(known)}")
    demands = [
        ("limits.trials", config.limits.trials is None or config.limits.trials >= 1, "at least 1"),
        ("limits.hours", config.limits.hours is None or config.limits.hours > 0, "above 0"),
        ("limits.gpu_hours", config.limits.gpu_hours is None or config.limits.gpu_hours > 0, "above 0"),
        ("trial.nodes", config.trial.nodes >= 1, "at least 1"),
        ("trial.ranks_per_node", config.trial.ranks_per_node >= 1, "at least 1"),
        ("trial.cpus_per_rank", config.trial.cpus_per_rank > 0, "above 0"),
        ("trial.gpus_per_rank", config.trial.gpus_per_rank in (0, 1), "0 or 1: a rank trains on one GPU"),
        ("trial.silent_minutes", config.trial.silent_minutes > 0, "above 0"),
        ("trial.grace_s", config.trial.grace_s > 0, "above 0"),
        ("trial.restarts", config.trial.restarts >= 0, "0 or more"),
        ("schedule.first_rung_percent", 0 < config.schedule.first_rung_percent <= 100, "above 0, and at most 100"),
        ("schedule.reduction", config.schedule.reduction > 1, "above 1"),
        ("schedule.perturb_percent", 0 < config.schedule.perturb_percent < 100, "above 0, and below 100"),
    ]
    for key, holds, demand in demands:
        if not holds:
            raise UserError(f"{key} must be {demand}")
    if config.schedule.kind == "pbt" and config.search.kind not in ("random", "grid"):
        raise UserError(f"search.kind={config.search.kind}: schedule.kind=pbt searches itself: set search.kind=random")
    if config.limits.gpu_hours is not None and not config.trial.gpus_per_rank:
        raise UserError("limits.gpu_hours is set and trials hold no GPUs: set trial.gpus_per_rank=1, or limits.hours")
    endless = config.limits.trials is None and config.limits.hours is None and config.limits.gpu_hours is None
    if endless and config.search.kind != "grid":
        raise UserError("limits: none is set, and the sweep would not end: set limits.trials, .hours or .gpu_hours")


def trial_words(config: SweepConfig, parameters: dict[str, Any]) -> list[str]:
    """Return the overrides of the base for a trial; what the trial is called and where it lies is not among them."""
    return [*config.words, *(f"{key}={_as_yaml(value)}" for key, value in parameters.items())]


def pretrain_config(config: SweepConfig, parameters: dict[str, Any], name: str, runs_dir: Path) -> Any:
    """Return the whole config of a pretraining with these parameters.

    Raises:
        UserError: a key is unknown, or a value has the wrong type.
    """
    from imuvid.training.config import PretrainConfig

    words = [*trial_words(config, parameters), f"name={name}", f"runs_dir={_as_yaml(str(runs_dir))}"]
    return configs.load(PretrainConfig, config.base, words)


def _as_yaml(value: Any) -> str:
    import json

    return json.dumps(value)


def _check_metric(config: SweepConfig) -> None:
    metric = config.metric
    known = [*RETRIEVAL_METRICS, OOD_METRIC]
    if "test" in metric.lower():
        raise UserError(
            f"metric={metric}: a test score is no objective: chosen by it, the best would say nothing about people it"
            f" was not chosen on; take one of {', '.join(known)}"
        )
    if metric not in known:
        raise UserError(f"metric={metric} is unknown: choose one of {', '.join(known)}")
    if metric == OOD_METRIC and config.ood.config is None:
        raise UserError(f"metric={OOD_METRIC} needs ood.config: a YAML that imuvid evaluate takes")
    if any(word.startswith("subjects=") for word in config.ood.words):
        raise UserError("ood.words: subjects is not free: a sweep looks at the validation people alone")
