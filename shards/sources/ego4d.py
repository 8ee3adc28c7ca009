"""Recordings of Ego4D: canonical videos and the IMU of the camera, as the data set's own download tool lays them out.

    ROOT/ego4d.json                      what is known of each video
    ROOT/v2/video_540ss/UID.mp4          or full_scale
    ROOT/v2/imu/UID.csv                  component_idx, component_timestamp_ms, canonical_timestamp_ms,
                                         gyro_x, gyro_y, gyro_z (rad/s), accl_x, accl_y, accl_z (m/s^2)

The canonical time stamps count from the first frame of the video. The data set's documentation
(https://ego4d-data.org/docs/data/imu/) warns that some are empty, far too large or small, or not in order, that rows
or whole files lack the accelerometer, and that parts of a video may have no IMU. All of this falls by rules on the
data (:func:`ordered`, and the gaps and gates of every build), never by a list of known bad stretches.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from omegaconf import MISSING

from imuvid.errors import UserError
from imuvid.imu.resample import MAX_GAP_S
from shards.sources.base import Recording, RecordingError, RecordingRef, Signal, Stream
from shards.sources.ego4d_lists import Video, read_metadata, read_uids, split_by_person
from shards.sources.imu_files import Columns, read_columns
from shards.video import probe

logger = logging.getLogger(__name__)

VIDEO_FOLDERS = ("video_540ss", "full_scale")
UNLISTED = ("skip", "train", "hash")
TIME_COLUMN = "canonical_timestamp_ms"
SENSORS = {"acc": "accl", "gyro": "gyro"}
MARGIN_S = 1.0
"""Samples this far before or after the video are kept: they help to resample its edges. Others are no part of it."""
SHUFFLE_S = 0.02
"""A step back in time of at most this, seconds, is the order of packets: the samples are sorted."""
MAX_OVERLAP_S = 1.0
"""Longest stretch, seconds, that may be stamped twice, as where two components meet; it is left out."""


@dataclass
class Ego4DConfig:
    """Where the data set lies, and which part of it is used; only videos with IMU are."""

    root: str = MISSING
    """Folder that the ``ego4d`` tool was given as --output_directory; it holds ego4d.json."""
    version: str | None = None
    """Folder below root: v1, v2, v2_1; null = the newest in which IMU, and the newest in which videos, are there."""
    video: str | None = None
    """Folder of the videos: video_540ss or full_scale; null = the first of them that is there, since 540 px are enough
    for most frame sizes. Where there is neither, recordings have no video (frames.num=0)."""
    position: str = "head"
    """Body position of the camera."""
    uids: str | None = None
    """File that names the videos to use, in any of the forms of split_files; null = all that are downloaded."""
    universities: list[str] = field(default_factory=list)
    """Sources (``video_source`` of ego4d.json, such as cmu) to use; empty = all."""
    max_recordings: int | None = None
    """Use the first so many by uid, above 0; null = all. Uids are random, so this is a random part."""
    split_files: dict[str, str] = field(default_factory=dict)
    """File of each of train, val, test: JSON list of uids, official annotation file (nlq_train.json), or text with one
    uid a line. A person listed in several is in test before val before train, with all recordings."""
    unlisted: str = "skip"
    """Videos that no split file names: skip, or with the person's other videos in their split, and those of persons
    not listed at all in train (train) or by hash as in other sources (hash)."""


class Ego4DSource:
    """The recordings of an :class:`Ego4DConfig`; see :class:`shards.sources.base.Source`."""

    def __init__(self, config: Ego4DConfig):
        self.config = config

    def list(self) -> list[RecordingRef]:
        """Return one reference a video with IMU that is downloaded and not filtered out, sorted by uid.

        Videos named in ``uids`` are listed downloaded or not.

        Raises:
            UserError: a folder, ego4d.json or a list is missing or damaged, a value is not allowed, or nothing is left.
        """
        config = self.config
        if config.unlisted not in UNLISTED:
            raise UserError(f"ego4d.unlisted={config.unlisted}: must be one of {', '.join(UNLISTED)}")
        if config.max_recordings is not None and config.max_recordings < 1:
            raise UserError(f"ego4d.max_recordings={config.max_recordings}: must be above 0")
        root = Path(config.root).expanduser()
        videos = read_metadata(root)
        imu_folder = _folder(root, config.version, ("imu",))
        if imu_folder is None:
            where = root / (config.version or "v2") / "imu"
            raise UserError(f"ego4d.root: there is no folder {where}: download it by 'ego4d --datasets imu'")
        video_folder = _folder(root, config.version, (config.video,) if config.video else VIDEO_FOLDERS)
        if config.video and video_folder is None:
            where = root / (config.version or "v2") / config.video
            raise UserError(f"ego4d.video={config.video}: there is no folder {where}")
        splits = split_by_person(config.split_files, videos)
        refs = []
        for video in self._chosen(videos, video_folder):
            listed = video.uid in splits.listed
            if splits.listed and not listed and config.unlisted == "skip":
                continue
            split = splits.of_person.get(video.person)
            if split is None and splits.listed and config.unlisted == "train":
                split = "train"
            payload = {
                "imu": str(imu_folder / f"{video.uid}.csv"),
                "video": str(video_folder / f"{video.uid}.mp4") if video_folder else None,
                "subject": video.subject,
                "split": split,
                "duration_s": video.duration_s,
                "stereo": video.stereo,
            }
            refs.append(RecordingRef(video.uid, payload))
        if not refs:
            raise UserError(f"{root}: no video with IMU that is downloaded, listed and not filtered out")
        return sorted(refs, key=lambda ref: ref.name)[: config.max_recordings]

    def open(self, ref: RecordingRef) -> Recording:
        """Read the IMU of a video, on the clock of the video.

        Raises:
            RecordingError: ``stereo``, ``bad_metadata``, ``bad_time``, ``no_overlap``, ``time_backwards``, ``all_nan``,
                ``all_zero``, or what :func:`shards.video.probe` and the reader of the CSV raise.
        """
        payload = ref.payload
        path = Path(payload["imu"])
        video = Path(payload["video"]) if payload["video"] else None
        if video is not None and payload["stereo"]:
            raise RecordingError("stereo", f"{video}: shows two views side by side (is_stereo), which cannot be used")
        duration_s = probe(video).duration_s if video else payload["duration_s"]
        if duration_s is None or not duration_s > 0:
            raise RecordingError("bad_metadata", f"{ref.name}: ego4d.json gives no duration_sec, and there is no video")
        table = read_columns(path)
        times_s = table.column(TIME_COLUMN).astype(np.float64) / 1000.0
        inside = _inside(path, times_s, duration_s)
        values = {name: _axes(table, column)[inside] for name, column in SENSORS.items()}
        signals = {name: _signal(path, name, times_s[inside], values[name]) for name in SENSORS}
        if not any(signals.values()):
            zero = any(np.isfinite(sensor).any() for sensor in values.values())
            what = "nothing but zeros" if zero else "no number"
            raise RecordingError("all_zero" if zero else "all_nan", f"{path}: holds {what} within the video")
        return Recording(
            name=ref.name,
            source="ego4d",
            streams=[Stream(self.config.position, signals["acc"], signals["gyro"])],
            duration_s=float(duration_s),
            video=video,
            subject=payload["subject"],
            split=payload["split"],
            camera_position=self.config.position,
        )

    def _chosen(self, videos: Sequence[Video], video_folder: Path | None) -> Sequence[Video]:
        """Return the videos with IMU that pass the filters and, unless they are named one by one, are downloaded."""
        config = self.config
        known = sorted({video.university for video in videos})
        for name in config.universities:
            if name not in known:
                raise UserError(f"ego4d.universities: there is no '{name}' in ego4d.json, only {', '.join(known)}")
        chosen = [video for video in videos if video.has_imu]
        if config.universities:
            chosen = [video for video in chosen if video.university in config.universities]
        if config.uids is not None:
            named = read_uids("ego4d.uids", config.uids, videos)
            return [video for video in chosen if video.uid in named]
        if video_folder is None:
            return chosen
        here = {path.stem for path in video_folder.glob("*.mp4")}
        absent = sum(video.uid not in here for video in chosen)
        if absent:
            logger.warning("%d of %d videos with IMU are not in %s: left out", absent, len(chosen), video_folder)
        return [video for video in chosen if video.uid in here]


def _folder(root: Path, version: str | None, names: tuple[str, ...]) -> Path | None:
    """Return the first of the folders that is there, of the newest version that has one."""
    versions = [version] if version else sorted((path.name for path in root.glob("v[0-9]*")), reverse=True)
    candidates = [root / folder / name for folder in versions for name in names]
    return next((path for path in candidates if path.is_dir()), None)


def _inside(path: Path, times_s: np.ndarray, duration_s: float) -> np.ndarray:
    """Return bool [N]: which rows are stamped and belong to the video."""
    stamped = np.isfinite(times_s)
    if not stamped.any():
        raise RecordingError("bad_time", f"{path}: no row has a {TIME_COLUMN}: download the file again")
    inside = stamped & (times_s >= -MARGIN_S) & (times_s <= duration_s + MARGIN_S)
    if not inside.any():
        first_s, last_s = times_s[stamped].min(), times_s[stamped].max()
        raise RecordingError(
            "no_overlap", f"{path}: is stamped {first_s:.6g} to {last_s:.6g} s, the video lasts {duration_s:.2f} s"
        )
    return inside


def _axes(table: Columns, sensor: str) -> np.ndarray:
    return np.stack([table.column(f"{sensor}_{axis}").astype(np.float64) for axis in "xyz"], axis=1)


def _signal(path: Path, name: str, times_s: np.ndarray, values: np.ndarray) -> Signal | None:
    """Return a sensor's samples in order; None where it gave nothing but empty cells or zeros."""
    # A row without any axis is of the other sensor, or a gap like any other.
    sampled = np.isfinite(values).any(axis=1)
    times_s, values = times_s[sampled], values[sampled]
    if not np.nan_to_num(values).any():
        return None
    try:
        return Signal(*ordered(times_s, values))
    except ValueError as error:
        raise RecordingError("time_backwards", f"{path}: {name}: {error}") from error


def ordered(times_s: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return samples in order of time, each instant once; stretches that are stamped twice become gaps.

    Packets out of order are sorted, as the data set's documentation advises. Where two runs of samples claim the same
    stretch of time, at least one is stamped wrongly and nothing says which: both are left out there, and enough beside
    them that the hole counts as a gap.

    Args:
        times_s: [N] in the order of the file, finite, seconds.
        values: [N, C].

    Returns:
        float64 [M] strictly increasing, float64 [M, C].

    Raises:
        ValueError: more than MAX_OVERLAP_S on end are stamped twice with different samples.
    """
    steps_s = np.diff(times_s)
    if (steps_s > 0).all():
        return times_s, values
    keep = ~_repeated(times_s, values)
    times_s, values = times_s[keep], values[keep]
    steps_s = np.diff(times_s)
    firsts = np.concatenate([[0], np.flatnonzero((steps_s < -SHUFFLE_S) | (steps_s > MAX_GAP_S)) + 1])
    starts_s, ends_s = _twice(np.minimum.reduceat(times_s, firsts), np.maximum.reduceat(times_s, firsts))
    longest = int(np.argmax(ends_s - starts_s)) if starts_s.size else 0
    if starts_s.size and ends_s[longest] - starts_s[longest] > MAX_OVERLAP_S:
        raise ValueError(
            f"two different runs of samples are stamped {starts_s[longest]:.3f} to {ends_s[longest]:.3f} s"
        )
    order = np.argsort(times_s, kind="stable")
    # Each side a little more than half of the shortest gap.
    reach_s = 0.5 * MAX_GAP_S + 1e-3
    opened = np.searchsorted(starts_s - reach_s, times_s[order], side="right")
    closed = np.searchsorted(ends_s + reach_s, times_s[order], side="left")
    order = order[opened == closed]
    if not order.size:
        raise ValueError("no sample is left that is stamped once")
    times_s, first = np.unique(times_s[order], return_index=True)
    return times_s, values[order][first]


def _repeated(times_s: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return bool [N]: which samples are exact copies, stamp included, of an earlier one."""
    # Sorted by all of it, copies lie beside each other, the earliest of them first (lexsort is stable).
    order = np.lexsort((*values.T, times_s))
    rows = np.column_stack([times_s, values])[order]
    copies = np.zeros(len(rows), dtype=bool)
    copies[order[1:]] = ((rows[1:] == rows[:-1]) | (np.isnan(rows[1:]) & np.isnan(rows[:-1]))).all(axis=1)
    return copies


def _twice(starts_s: np.ndarray, ends_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the starts and the ends of the stretches that lie in two or more of the given closed intervals."""
    count = len(starts_s)
    times_s = np.concatenate([starts_s, ends_s])
    change = np.repeat([1, -1], count)
    order = np.lexsort((-change, times_s))  # at the same instant, intervals start before others end
    depth = np.cumsum(change[order])
    rises = order[(depth == 2) & (change[order] == 1)]
    falls = order[(depth == 1) & (change[order] == -1)]
    return times_s[rises], times_s[falls]
