"""What a build of shards is told: the source, the windows, the frames, the splits."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from imuvid.errors import UserError
from shards.gates import GatesConfig, check_gates
from shards.sources.aria import AriaConfig
from shards.sources.ego4d import Ego4DConfig
from shards.sources.gopro import GoProConfig
from shards.sources.paired import PairedConfig
from shards.sources.simulated import SimulatedConfig
from shards.sync import SyncConfig, check_sync
from shards.video import BACKENDS, check_backend

FITS = ("crop", "pad", "squash")
EXECUTORS = ("local", "ray")


@dataclass
class SourceConfig:
    """Where the recordings come from."""

    kind: str = MISSING
    """gopro, aria, ego4d, paired or simulated; the section of that name is read."""
    gopro: GoProConfig | None = None
    """GoPro MP4 files with their own telemetry."""
    aria: AriaConfig | None = None
    """VRS files of Project Aria glasses, as of Ego-Exo4D."""
    ego4d: Ego4DConfig | None = None
    """Ego4D, as its own tool downloads it."""
    paired: PairedConfig | None = None
    """A manifest that names videos and IMU files."""
    simulated: SimulatedConfig | None = None
    """Recordings rendered from simulated movement."""


@dataclass
class WindowConfig:
    """How recordings are cut."""

    length_s: float = 5.0
    """Length of a window, seconds."""
    hop_s: float | None = None
    """From the start of a window to the start of the next, seconds; null = length_s."""
    rate_hz: float = 50.0
    """Rate that the IMU is resampled to, Hz."""
    min_share: float = 0.5
    """Least share of a window that IMU (and video) must cover, above 0 to 1; the rest is padded and marked."""
    label_share: float = 0.9
    """Least share of a window's covered part that one labelled segment must cover to give the window its label."""


@dataclass
class FramesConfig:
    """The pictures stored with a window."""

    num: int = 10
    """Frames a window, from the centres of as many equal parts of it; 0 = no video is needed or stored."""
    size: int = 224
    """Height and width, pixels."""
    fit: str = "crop"
    """crop (scale the shorter side, cut the longer), pad (black borders) or squash (ignore the aspect ratio)."""
    quality: int = 90
    """JPEG quality, 1 to 100."""
    embed_with: str | None = None
    """Frozen video tower whose embedding of a window's frames is stored instead of them, so that the dataset holds no
    picture: a checkpoint of a run, or a local folder of a transformers VideoMAE, V-JEPA 2, CLIP, SigLIP or DINOv2;
    null = the frames are stored."""
    backend: str = "pyav"
    """Decoder of the videos: pyav or decord. Their pictures differ a little. Pyav scales only the frames that are
    needed, and is the faster for it; wheels of decord are for Linux on x86-64 alone."""


@dataclass
class SubjectsConfig:
    """How names are hidden."""

    salt: str | None = None
    """Salt of the hashes that stand for names; null = a secret of this user, kept in the user's config folder."""


@dataclass
class SplitConfig:
    """Which subjects (recordings, where no subject is known) go to which split."""

    val: float = 0.1
    """Share of the subjects in val, by hash, 0 to 1; not used where subjects are listed."""
    test: float = 0.1
    """Share of the subjects in test, by hash, 0 to 1; not used where subjects are listed."""
    val_subjects: list[str] = field(default_factory=list)
    """Plain names of the subjects in val; once a subject is listed here or below, all others are in train."""
    test_subjects: list[str] = field(default_factory=list)
    """Plain names of the subjects in test."""


@dataclass
class ExecutionConfig:
    """How the work is done; the dataset does not depend on it."""

    executor: str = "local"
    """local (processes of this machine) or ray (a Ray cluster, by RAY_ADDRESS; one is started where there is none)."""
    workers: int = 0
    """Processes; 0 = one a core (of this machine, or of the Ray cluster)."""
    max_failed_share: float = 0.5
    """The build stops once more than this share of the recordings cannot be used, 0 to 1."""
    recording_timeout_s: float = 1800.0
    """A recording that takes longer than this, seconds, is given up."""
    work_dir: str | None = None
    """Folder for the unfinished build, the same for all machines that take part; null = OUT/.build, or where OUT is
    in an object store, a folder in the user's cache on this machine."""


@dataclass
class BuildConfig:
    """A dataset of shards and how it is built."""

    name: str = MISSING
    """Name of the dataset."""
    out: str = MISSING
    """Folder or URL (s3://bucket/name) that the dataset is written to; recordings that a dataset of the same config
    there does not hold yet are added to it."""
    source: SourceConfig = field(default_factory=SourceConfig)
    window: WindowConfig = field(default_factory=WindowConfig)
    frames: FramesConfig = field(default_factory=FramesConfig)
    sync: SyncConfig = field(default_factory=SyncConfig)
    gates: GatesConfig = field(default_factory=GatesConfig)
    positions: list[str] = field(default_factory=list)
    """Sensor positions of every sample, in order; sensors elsewhere are left out. Empty = all that occur, sorted."""
    subjects: SubjectsConfig = field(default_factory=SubjectsConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    samples_per_shard: int = 1000
    """Samples in a shard (the last may have fewer)."""
    build: ExecutionConfig = field(default_factory=ExecutionConfig)


def check(config: BuildConfig) -> None:
    """Check what the types do not say.

    Raises:
        UserError: a value is out of range; names the key.
    """
    window, frames, split, build = config.window, config.frames, config.split, config.build
    kinds = [name for name in vars(config.source) if name != "kind"]
    demands = [
        ("name", re.fullmatch(r"[\w.-]+", config.name), "must hold letters, digits, '_', '.' and '-' only"),
        ("source.kind", config.source.kind in kinds, f"must be one of {', '.join(kinds)}"),
        ("window.length_s", window.length_s > 0, "must be above 0"),
        ("window.rate_hz", window.rate_hz * window.length_s >= 1, "must give at least one sample a window"),
        ("window.hop_s", window.hop_s is None or window.hop_s > 0, "must be above 0"),
        ("window.min_share", 0 < window.min_share <= 1, "must be above 0 and at most 1"),
        ("window.label_share", 0 < window.label_share <= 1, "must be above 0 and at most 1"),
        ("frames.num", 0 <= frames.num <= 100, "must be 0 to 100"),
        ("frames.size", 8 <= frames.size <= 4096, "must be 8 to 4096"),
        ("frames.fit", frames.fit in FITS, f"must be one of {', '.join(FITS)}"),
        ("frames.embed_with", frames.embed_with is None or frames.num > 0, "needs frames.num above 0"),
        ("frames.quality", 1 <= frames.quality <= 100, "must be 1 to 100"),
        ("positions", len(set(config.positions)) == len(config.positions), "must not name a position twice"),
        ("split.val", 0 <= split.val <= 1, "must be 0 to 1"),
        ("split.test", split.test >= 0 and split.val + split.test <= 1, "must be 0 to 1, with split.val at most 1"),
        ("samples_per_shard", config.samples_per_shard >= 1, "must be at least 1"),
        ("frames.backend", frames.backend in BACKENDS, f"must be one of {', '.join(BACKENDS)}"),
        ("build.executor", build.executor in EXECUTORS, f"must be one of {', '.join(EXECUTORS)}"),
        ("build.workers", build.workers >= 0, "must be 0 or more"),
        ("build.max_failed_share", 0 <= build.max_failed_share <= 1, "must be 0 to 1"),
        ("build.recording_timeout_s", build.recording_timeout_s > 0, "must be above 0"),
    ]
    for key, holds, demand in demands:
        if not holds:
            value: Any = config
            for part in key.split("."):
                value = getattr(value, part)
            raise UserError(f"{key}={value}: {demand}")
    check_sync(config.sync)
    check_gates(config.gates)
    check_backend(frames.backend)
    both = sorted(set(split.val_subjects) & set(split.test_subjects))
    if both:
        raise UserError(f"split: subject '{both[0]}' is listed in val_subjects and in test_subjects")
    if getattr(config.source, config.source.kind) is None:
        raise UserError(f"source.{config.source.kind}: the section of this kind of source is missing")
