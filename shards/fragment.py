"""One recording made into samples: what a worker process of a build does.

The samples of a recording are written as a *fragment*, raw tar members without an end of archive, beside a JSON
file that is written after it and says what it holds. A fragment that is there is complete.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from imuvid.data.format import Sample, SampleMeta, encode_members
from imuvid.imu.resample import MAX_GAP_S, pieces, resample, usual_interval
from shards.config import BuildConfig, FramesConfig
from shards.sources.base import Recording, RecordingError, RecordingRef, Signal, Source
from shards.splits import Identities
from shards.video import VideoInfo, probe, read_frames
from shards.windows import Window, frame_times, grid_times, label_of, pick_frames, plan_windows
from shards.write import replacing, tar_members

logger = logging.getLogger(__name__)

MIN_IMU_S = 1.0
"""A recording whose longest signal is shorter than this cannot be used, seconds."""
PLAUSIBLE_ACC = (4.0, 25.0)
"""Range that the median of |acc| lies in where gravity is in the signal and its unit is right, m/s^2."""


@dataclass
class Fragment:
    """What became of a recording; the samples lie in a file."""

    recording: str
    subject: str | None
    split: str
    positions: list[str]
    """Of the samples as they lie in the fragment."""
    samples: list[dict[str, Any]] = field(default_factory=list)
    """Of each: key, offset and size in the fragment (bytes), label, start_s, covered_s, imu_share, frame_share."""
    marked: dict[str, str] = field(default_factory=dict)
    """What was marked or left out, by kind (gap, not_a_number, no_imu, implausible_acc): one line each."""


@dataclass
class Skipped:
    """A recording that cannot be used."""

    reason: str
    message: str


def digest_of(config: BuildConfig, salt: str, ref: RecordingRef) -> str:
    """Return the hash of all that the fragment of a recording follows from: config, reference, files named there."""
    fields = [vars(config)[name] for name in ("source", "window", "frames", "positions", "split")]
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in _files(ref.payload)]
    content = [salt, [str(part) for part in fields], ref.name, ref.payload, stats]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def read_fragment(path: Path, digest: str) -> Fragment | None:
    """Return the fragment at ``path`` (a ``.tar``) if it is there, complete and of this digest, else None."""
    try:
        stated = json.loads(path.with_suffix(".json").read_text())
        if stated.pop("digest") != digest or path.stat().st_size != stated.pop("size"):
            return None
        return Fragment(**stated)
    except (OSError, ValueError, KeyError, TypeError):
        return None


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
        recording = source.open(ref)
        identity = identities.recording(ref.name)
        subject = identities.subject(recording.subject)
        split = identities.split_of(ref.name, recording.subject)
        fragment = Fragment(identity, subject, split, config.positions or _positions(recording))
        _check(recording, fragment, config)
        size = 0
        with replacing(path) as file:
            for sample, row in _samples(recording, fragment, config, num_threads):
                raw = tar_members(encode_members(sample))
                file.write(raw)
                fragment.samples.append({"key": sample.key, "offset": size, "size": len(raw)} | row)
                size += len(raw)
    except RecordingError as error:
        return Skipped(error.reason, error.message)
    except Exception as error:
        logger.debug("%s", ref.name, exc_info=True)
        text = (str(error).strip().splitlines() or [""])[0]
        return Skipped("failed", f"{type(error).__name__}: {text}")
    with replacing(path.with_suffix(".json")) as file:
        file.write(json.dumps(dataclasses.asdict(fragment) | {"digest": digest, "size": size}).encode())
    return fragment


def _files(value: Any) -> Iterator[Path]:
    if isinstance(value, dict):
        for key in sorted(value):
            yield from _files(value[key])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _files(item)
    elif isinstance(value, str | Path) and len(str(value)) < 4096 and Path(value).is_file():
        yield Path(value)


def _positions(recording: Recording) -> list[str]:
    return sorted({stream.position for stream in recording.streams})


def _signals(recording: Recording) -> Iterator[tuple[str, int, Signal]]:
    """Yield (position, 0 for acc or 1 for gyro, signal)."""
    for stream in recording.streams:
        for sensor, found in enumerate((stream.acc, stream.gyro)):
            if found is not None:
                yield stream.position, sensor, found


def _check(recording: Recording, fragment: Fragment, config: BuildConfig) -> None:
    """Refuse what cannot be used, and note in ``fragment.marked`` what can be used in part."""
    names = [stream.position for stream in recording.streams]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RecordingError("duplicate_position", f"two sensors are both at '{twice[0]}': name their positions apart")
    if not set(names) & set(fragment.positions):
        raise RecordingError("no_imu", f"no sensor at {', '.join(fragment.positions) or 'all'} (there is {names})")
    if config.frames.num and recording.video is None:
        raise RecordingError("no_video", "has no video: name one, or set frames.num=0")
    gaps, gap_s, missing, longest_s = 0, 0.0, 0, 0.0
    for position, sensor, found in _signals(recording):
        where = f"{('acc', 'gyro')[sensor]} of {position}"
        times_s, values = found.times_s, found.values
        if values.ndim != 2 or values.shape[1] != 3 or times_s.shape != values.shape[:1]:
            raise RecordingError("bad_shape", f"{where}: times {list(times_s.shape)}, values {list(values.shape)}")
        if not np.isfinite(times_s).all():
            raise RecordingError("bad_time", f"{where}: a time stamp is not a number")
        if not (np.diff(times_s) > 0).all():
            row = int(np.flatnonzero(np.diff(times_s) <= 0)[0]) + 1
            raise RecordingError("time_backwards", f"{where}: time does not increase at sample {row}")
        rows = np.isfinite(values).all(axis=1)
        if not rows.any():
            raise RecordingError("all_nan", f"{where}: holds no number: leave this sensor out, or mend the file")
        spans = pieces(times_s, values)
        gaps += len(spans) - 1
        gap_s += sum(float(times_s[b[0]] - times_s[a[1] - 1]) for a, b in itertools.pairwise(spans))
        missing += int((~rows).sum())
        longest_s = max(longest_s, float(times_s[-1] - times_s[0]) + usual_interval(times_s))
        middle = float(np.median(np.linalg.norm(values[rows], axis=1)))
        if sensor == 0 and not PLAUSIBLE_ACC[0] <= middle <= PLAUSIBLE_ACC[1]:
            fragment.marked["implausible_acc"] = f"{where}: median |acc| is {middle:.3g} m/s^2: is the unit right?"
    if longest_s < MIN_IMU_S:
        raise RecordingError("imu_too_short", f"the IMU lasts {longest_s:.2f} s, less than {MIN_IMU_S:g} s")
    if gaps:
        fragment.marked["gap"] = f"{gaps} gaps of over {MAX_GAP_S * 1000:g} ms, {gap_s:.2f} s in all, marked as missing"
    if missing:
        fragment.marked["not_a_number"] = f"{missing} samples hold NaN and count as missing"


def _cover(recording: Recording) -> tuple[float, float]:
    """Return the start and end (s) of what the IMU and the recording both cover."""
    spans = [(s.times_s[0], s.times_s[-1] + usual_interval(s.times_s)) for _, _, s in _signals(recording)]
    first_s, last_s = float(min(start for start, _ in spans)), float(max(end for _, end in spans))
    if min(last_s, recording.duration_s) <= max(first_s, 0.0):
        raise RecordingError(
            "no_overlap",
            f"the IMU covers {first_s:.2f} to {last_s:.2f} s, the video 0 to {recording.duration_s:.2f} s: "
            "set the offset between their clocks",
        )
    return max(first_s, 0.0), min(last_s, recording.duration_s)


def _samples(
    recording: Recording, fragment: Fragment, config: BuildConfig, num_threads: int
) -> Iterator[tuple[Sample, dict[str, Any]]]:
    begin_s, end_s = _cover(recording)
    windows = plan_windows(begin_s, end_s, config.window)
    if not windows:
        raise RecordingError(
            "too_short",
            f"{end_s - begin_s:.2f} s are less than {config.window.min_share:g} of a window of "
            f"{config.window.length_s:g} s: lower window.length_s or window.min_share",
        )
    imu, valid = _imu(recording, fragment.positions, grid_times(windows, config.window), config)
    with_imu = valid.any(axis=(1, 2, 3))
    if not with_imu.any():
        raise RecordingError("no_imu", "no window holds a sample of the IMU")
    if not with_imu.all():
        fragment.marked["no_imu"] = f"{int((~with_imu).sum())} windows in a gap of the IMU left out"
    kept = np.flatnonzero(with_imu)
    windows, imu, valid = [windows[i] for i in kept], imu[kept], valid[kept]
    pictures = _pictures(recording, windows, config, num_threads)
    for window, values, present, (frames, times_s, frame_valid) in zip(windows, imu, valid, pictures, strict=True):
        acc_present = present[..., 0]
        quality = {
            "imu_share": float(present.any(axis=(1, 2)).mean()),
            "frame_share": float(np.mean(frame_valid)) if frame_valid else 0.0,
            "covered_share": window.covered_s / config.window.length_s,
        }
        if acc_present.any():
            quality["acc_mean"] = float(np.linalg.norm(values[..., :3][acc_present], axis=-1).mean())
        quality = {name: round(value, 6) for name, value in quality.items()}
        meta = SampleMeta(
            recording=fragment.recording,
            source=recording.source,
            start_s=window.start_s,
            duration_s=config.window.length_s,
            imu_rate_hz=config.window.rate_hz,
            positions=list(fragment.positions),
            frame_times_s=times_s,
            frame_valid=frame_valid,
            subject=fragment.subject,
            label=label_of(window, recording.segments, config.window.label_share),
            text=recording.text,
            sync_offset_s=recording.sync_offset_s,
            quality=quality,
        )
        row = {"label": meta.label, "start_s": meta.start_s, "covered_s": window.covered_s}
        row |= {name: quality[name] for name in ("imu_share", "frame_share")}
        yield Sample(f"{fragment.recording}-{window.number:06d}", values, present, frames, meta), row


def _imu(
    recording: Recording, positions: list[str], grid_s: np.ndarray, config: BuildConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 [W, T, P, 6] and bool [W, T, P, 2] of the windows with the grid ``grid_s`` [W, T]."""
    imu = np.zeros((*grid_s.shape, len(positions), 6), dtype=np.float32)
    valid = np.zeros((*grid_s.shape, len(positions), 2), dtype=bool)
    # Half a sample of slack, as for the samples at the ends of a signal.
    inside = grid_s < recording.duration_s + 0.5 / config.window.rate_hz
    for position, sensor, found in _signals(recording):
        if position not in positions:
            continue
        at = positions.index(position)
        values, present = resample(found.times_s, found.values, grid_s, config.window.rate_hz)
        present &= inside
        imu[:, :, at, 3 * sensor : 3 * sensor + 3] = np.where(present[..., None], values, 0.0)
        valid[:, :, at, sensor] = present
    return imu, valid


def _pictures(
    recording: Recording, windows: list[Window], config: BuildConfig, num_threads: int
) -> Iterator[tuple[list[bytes], list[float], list[bool]]]:
    """Yield (JPEGs, times after the window's start in s, validity) of each window, decoding the video once."""
    if not config.frames.num:
        yield from (([], [], []) for _ in windows)
        return
    assert recording.video is not None
    info: VideoInfo = probe(recording.video)
    wanted_s = frame_times(windows, config.window, config.frames.num)
    tolerance_s = 0.5 * config.window.length_s / config.frames.num
    indices, near = pick_frames(wanted_s, info.times_s, tolerance_s)
    needed = np.unique(indices[near]).tolist()
    size, fit = config.frames.size, config.frames.fit
    decoded = read_frames(recording.video, needed, size, fit, num_threads)
    black = _jpeg(np.zeros((size, size, 3), dtype=np.uint8), config.frames)
    ready: dict[int, bytes] = {}
    last = -1
    for window, picks, taken, centres_s in zip(windows, indices, near, wanted_s, strict=True):
        used = picks[taken].tolist()
        while used and last < max(used):
            last, picture = next(decoded)
            ready[last] = _jpeg(picture, config.frames)
        frames = [ready[pick] if ok else black for pick, ok in zip(picks.tolist(), taken, strict=True)]
        times_s = np.where(taken, info.times_s[picks], centres_s) - window.start_s
        yield frames, [round(float(time_s), 6) for time_s in times_s], taken.tolist()
        # Later windows start later, so they need nothing before the first frame of this one.
        ready = {index: jpeg for index, jpeg in ready.items() if not used or index >= min(used)}


def _jpeg(picture: np.ndarray, frames: FramesConfig) -> bytes:
    return simplejpeg.encode_jpeg(picture, quality=frames.quality, colorspace="RGB", colorsubsampling="420")
