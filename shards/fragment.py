"""One recording made into samples: what a worker process of a build does.

The samples of a recording are written as a *fragment*, raw tar members without an end of archive, beside a JSON
file that is written after it and says what it holds, or why the recording cannot be used. A JSON file that is there
is complete, and so is what it speaks of.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from imuvid.data.dataset_tables import QUALITY
from imuvid.data.format import Sample, SampleMeta, encode_members
from imuvid.data.storage import replacing
from imuvid.imu.condition import statistics
from shards.config import BuildConfig
from shards.embedder import describe_tower
from shards.motion import MotionTracker
from shards.pictures import Pictures
from shards.signals import check_signals, corrected, cover, imu_windows
from shards.sources.base import Recording, RecordingError, RecordingRef, Source
from shards.splits import Identities
from shards.sync import SyncEstimate, estimate
from shards.windows import Window, label_of, plan_windows
from shards.write import tar_members

logger = logging.getLogger(__name__)


@dataclass
class Fragment:
    """What became of a recording; the samples lie in a file."""

    recording: str
    digest: str
    """See :func:`digest_of`."""
    subject: str | None
    split: str
    source: str
    duration_s: float
    positions: list[str]
    """Of the samples as they lie in the fragment."""
    imu_mean: list[float]
    """Of each channel of these positions over all samples, as in RECORDINGS_SCHEMA."""
    imu_deviation: list[float]
    samples: list[dict[str, Any]] = field(default_factory=list)
    """Of each: key, offset and size in the fragment (bytes), label, start_s, covered_s, and the measurements."""
    marked: dict[str, str] = field(default_factory=dict)
    """What was marked or left out, by kind (gap, not_a_number, no_imu, ...): one line each."""
    sync_verdict: str | None = None
    """Of :class:`shards.sync.SyncEstimate`; None where synchrony was not looked at."""
    sync_offset_s: float | None = None
    sync_drift_ppm: float | None = None
    sync_confidence: float | None = None


@dataclass
class Skipped:
    """A recording that cannot be used."""

    reason: str
    message: str


def digest_of(config: BuildConfig, salt: str, ref: RecordingRef) -> str:
    """Return the hash of all that the fragment of a recording follows from: config, reference, files named there."""
    names = ("source", "window", "frames", "sync", "positions", "split")
    # What the tower is, not where it lies.
    frames = dataclasses.replace(config.frames, embed_with=json.dumps(describe_tower(config.frames), sort_keys=True))
    fields = [str((vars(config) | {"frames": frames})[name]) for name in names]
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in _files(ref.payload)]
    content = [salt, fields, ref.name, ref.payload, stats]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def read_fragment(path: Path, digest: str) -> Fragment | Skipped | None:
    """Return what became of the recording whose fragment is at ``path`` (a ``.tar``), or None.

    None where there is nothing, nothing complete, or the result of another digest.
    """
    try:
        stated = json.loads(path.with_suffix(".json").read_text())
        if stated["digest"] != digest:
            return None
        if "reason" in stated:
            return Skipped(stated["reason"], stated["message"])
        if path.stat().st_size != stated.pop("size"):
            return None
        return Fragment(**stated)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep_skipped(path: Path, digest: str, skipped: Skipped) -> None:
    """Write down beside the place of its fragment (``path``) that a recording cannot be used."""
    with replacing(path.with_suffix(".json")) as file:
        file.write(json.dumps(dataclasses.asdict(skipped) | {"digest": digest}).encode())


def make_fragment(
    config: BuildConfig,
    source: Source,
    identities: Identities,
    ref: RecordingRef,
    path: Path,
    digest: str,
    num_threads: int,
) -> Fragment | Skipped:
    """Read a recording, write the fragment of its samples to ``path``, and return what it holds.

    Nothing that is wrong with a recording is raised: it comes back as :class:`Skipped`.
    """
    try:
        if config.frames.embed_with is not None and digest_of(config, identities.salt, ref) != digest:
            raise RecordingError("changed", f"the recording or {config.frames.embed_with} has changed: build again")
        recording = source.open(ref)
        fragment = Fragment(
            recording=identities.recording(ref.name),
            digest=digest,
            subject=identities.subject(recording.subject),
            split=identities.split_of(ref.name, recording.subject, recording.split),
            source=recording.source,
            duration_s=recording.duration_s,
            positions=config.positions or sorted({stream.position for stream in recording.streams}),
            imu_mean=[],
            imu_deviation=[],
        )
        size = 0
        with replacing(path) as file:
            for sample, covered_s in _samples(recording, fragment, config, num_threads):
                raw = tar_members(encode_members(sample))
                file.write(raw)
                row = {"key": sample.key, "offset": size, "size": len(raw), "covered_s": covered_s}
                row |= {"label": sample.meta.label, "start_s": sample.meta.start_s}
                fragment.samples.append(row | sample.meta.quality)
                size += len(raw)
    except RecordingError as error:
        return Skipped(error.reason, error.message)
    except Exception as error:
        logger.debug("%s", ref.name, exc_info=True)
        text = (str(error).strip().splitlines() or [""])[0]
        return Skipped("failed", f"{type(error).__name__}: {text}")
    with replacing(path.with_suffix(".json")) as file:
        file.write(json.dumps(dataclasses.asdict(fragment) | {"size": size}).encode())
    return fragment


def _files(value: Any) -> Iterator[Path]:
    if isinstance(value, dict):
        for key in sorted(value):
            yield from _files(value[key])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _files(item)
    elif isinstance(value, str | Path) and os.path.isfile(value):
        yield Path(value)


def _samples(
    recording: Recording, fragment: Fragment, config: BuildConfig, num_threads: int
) -> Iterator[tuple[Sample, float]]:
    """Yield the samples of a recording and how much of each it covers (s); fill in ``fragment``."""
    fragment.marked, defects = check_signals(recording, fragment.positions, config.window)
    if config.frames.num and recording.video is None:
        raise RecordingError("no_video", "has no video: name one, or set frames.num=0")
    begin_s, end_s = cover(recording)
    windows = plan_windows(begin_s, end_s, config.window)
    if not windows:
        raise RecordingError(
            "too_short",
            f"{end_s - begin_s:.2f} s are less than {config.window.min_share:g} of a window of "
            f"{config.window.length_s:g} s: lower window.length_s or window.min_share",
        )
    gyro = recording.camera_gyro() if config.sync.policy != "ignore" and config.frames.num else None
    tracker = None if gyro is None else MotionTracker()
    with Pictures(recording, windows, config.window.length_s, config.frames, num_threads, tracker) as pictures:
        found = None
        if tracker is not None and gyro is not None:
            found = estimate(tracker.track(), gyro, config.sync)
            recording = _judge(recording, found, fragment, config)
        imu = imu_windows(recording, fragment.positions, windows, config.window, defects)
        with_imu = np.asarray(imu.valid.any(axis=(1, 2, 3)))
        if not with_imu.any():
            raise RecordingError("no_imu", "no window holds a sample of the IMU")
        if not with_imu.all():
            fragment.marked["no_imu"] = f"{int((~with_imu).sum())} windows in a gap of the IMU left out"
        mean, deviation = statistics(imu.values, imu.valid)
        fragment.imu_mean, fragment.imu_deviation = mean.ravel().tolist(), deviation.ravel().tolist()
        for i, (window, shown) in enumerate(zip(windows, pictures, strict=True)):
            if not with_imu[i]:
                continue
            quality = {"covered_share": window.covered_s / config.window.length_s} | imu.quality[i] | shown.quality
            quality |= _sync_quality(window, found, config)
            meta = SampleMeta(
                recording=fragment.recording,
                source=recording.source,
                start_s=window.start_s,
                duration_s=config.window.length_s,
                imu_rate_hz=config.window.rate_hz,
                positions=list(fragment.positions),
                frame_times_s=shown.times_s,
                frame_valid=shown.valid,
                subject=fragment.subject,
                label=label_of(window, recording.segments, config.window.label_share),
                text=recording.text,
                sync_offset_s=recording.sync_offset_s,
                sync_confidence=fragment.sync_confidence,
                # As the index will hold them: what is decided by the one is decided by the other.
                quality={name: float(np.float32(quality[name])) for name in QUALITY if name in quality},
            )
            key = f"{fragment.recording}-{window.number:06d}"
            sample = Sample(key, imu.values[i], imu.valid[i], shown.frames, meta, shown.embedding)
            yield sample, window.covered_s


def _judge(recording: Recording, found: SyncEstimate, fragment: Fragment, config: BuildConfig) -> Recording:
    """Note the estimate, and return the recording as the policy wants it.

    Raises:
        RecordingError: ``out_of_sync``, where the policy is to reject.
    """
    fragment.sync_verdict, fragment.sync_confidence = found.verdict, found.confidence
    if found.offset_s is None:
        return recording
    fragment.sync_offset_s, fragment.sync_drift_ppm = found.offset_s, found.drift_ppm
    largest_s = max(abs(_offset_at(found, time_s)) for time_s in (0.0, recording.duration_s))
    if config.sync.policy == "reject" and largest_s > config.gates.max_sync_offset_s:
        raise RecordingError(
            "out_of_sync",
            f"the IMU is {largest_s:.3f} s off the video: set its offset, or sync.policy=correct",
        )
    if config.sync.policy != "correct":
        return recording
    moved = corrected(recording, found)
    return dataclasses.replace(moved, sync_offset_s=recording.sync_offset_s + found.offset_s)


def _offset_at(found: SyncEstimate, time_s: float) -> float:
    return (found.offset_s or 0.0) + 1e-6 * (found.drift_ppm or 0.0) * time_s


def _sync_quality(window: Window, found: SyncEstimate | None, config: BuildConfig) -> dict[str, float]:
    if found is None:
        return {}
    quality = {"sync_confidence": found.confidence}
    if found.offset_s is not None:
        left_s = _offset_at(found, window.start_s + config.window.length_s / 2)
        quality["sync_offset_s"] = 0.0 if config.sync.policy == "correct" else left_s
    return quality
