"""The synchrony of recordings by itself, without building shards: ``imuvid shards sync``."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from imuvid.errors import UserError
from shards.config import SourceConfig
from shards.sources import make_source
from shards.sources.aria import AriaConfig
from shards.sources.base import RecordingError, RecordingRef, Source
from shards.sources.gopro import GoProConfig
from shards.summary import Progress
from shards.sync import VERDICTS, SyncConfig, SyncEstimate, estimate
from shards.watching import follow_camera
from shards.workers import Lost, num_workers, run_jobs

logger = logging.getLogger(__name__)


@dataclass
class RecordingSync:
    """What was found of one recording."""

    name: str
    estimate: SyncEstimate | None = None
    """None where the recording cannot be read."""
    reason: str | None = None
    """Why it cannot be read."""
    message: str | None = None

    def line(self) -> str:
        """Return it as a line of text."""
        found = self.estimate
        if found is None:
            return f"{self.name}: {self.reason}: {self.message}"
        if found.offset_s is None:
            return f"{self.name}: not known ({found.verdict}: {VERDICTS[found.verdict]})"
        drift = "" if found.drift_ppm is None else f", drift {found.drift_ppm:+.0f} ppm"
        error = "" if found.error_s is None else f" +- {1000 * found.error_s:.0f} ms"
        return (
            f"{self.name}: add {1000 * found.offset_s:+.0f} ms{error}{drift} to the IMU's times "
            f"(confidence {found.confidence:.4f})"
        )


@dataclass
class SyncReport:
    """What was found of all."""

    recordings: list[RecordingSync] = field(default_factory=list)
    """Sorted by name."""

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        verdicts = Counter((found.estimate.verdict if found.estimate else found.reason) for found in self.recordings)
        listing = ", ".join(f"{name} {number}" for name, number in sorted(verdicts.items(), key=str))
        return [*(found.line() for found in self.recordings), f"{len(self.recordings)} recordings: {listing}"]


def sources_of(paths: Sequence[str]) -> list[SourceConfig]:
    """Return the sources that read files whose names say what they are: GoPro MP4 and Aria VRS files.

    Raises:
        UserError: a name does not say it.
    """
    vrs = [path for path in paths if Path(path).suffix.lower() == ".vrs"]
    gopro = [path for path in paths if Path(path).suffix.lower() in (".mp4", ".360")]
    for path in paths:
        if path not in vrs and path not in gopro:
            raise UserError(f"{path}: is no .mp4, .360 or .vrs file: name the config of its source with --config")
    sources = []
    if gopro:
        sources.append(SourceConfig(kind="gopro", gopro=GoProConfig(paths=gopro)))
    if vrs:
        sources.append(SourceConfig(kind="aria", aria=AriaConfig(paths=vrs)))
    return sources


def sync_recordings(
    source_config: SourceConfig,
    config: SyncConfig,
    names: Sequence[str] = (),
    backend: str = "pyav",
    workers: int = 0,
    timeout_s: float = 1800.0,
) -> SyncReport:
    """Estimate offset and drift of the recordings of a source.

    Args:
        source_config: of the source.
        config: search range and confidence; the policy is not looked at.
        names: recordings; empty = all.
        backend: decoder, decord or pyav.
        workers: processes; 0 = one a core.
        timeout_s: limit of one recording, seconds.

    Raises:
        UserError: the source cannot be used, or there is no recording of a name.
    """
    source = make_source(source_config)
    refs = {ref.name: ref for ref in source.list()}
    for name in names:
        if name not in refs:
            known = ", ".join(list(refs)[:5])
            raise UserError(f"there is no recording '{name}'; the {len(refs)} that there are begin with {known}")
    chosen = [refs[name] for name in sorted(set(names) or refs)]
    jobs = [(source, ref, config, backend) for ref in chosen]
    found: dict[int, RecordingSync] = {}
    progress = Progress("recordings", len(jobs))
    for job, result in run_jobs(sync_recording, jobs, min(num_workers(workers), max(len(jobs), 1)), timeout_s):
        if isinstance(result, Lost):
            result = RecordingSync(chosen[job].name, None, result.reason, result.message)
        found[job] = result
        progress.advance()
    return SyncReport([found[job] for job in range(len(jobs))])


def sync_recording(source: Source, ref: RecordingRef, config: SyncConfig, backend: str) -> RecordingSync:
    """Estimate offset and drift of one recording; what is wrong with it is returned, not raised."""
    try:
        recording = source.open(ref)
        gyro = recording.camera_gyro()
        if recording.video is None:
            raise RecordingError("no_video", f"{ref.name}: has no video")
        if gyro is None:
            return RecordingSync(ref.name, SyncEstimate("no_gyro"))
        return RecordingSync(ref.name, estimate(follow_camera(recording.video, backend), gyro, config))
    except RecordingError as error:
        return RecordingSync(ref.name, None, error.reason, error.message)
