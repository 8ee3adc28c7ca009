"""Recordings of Project Aria glasses (VRS files), as of Ego-Exo4D, Aria Everyday Activities and Nymeria.

Clock: the device's; 0 is the first RGB frame, whose time is the middle of its exposure. A sample of an IMU that is
stamped t stands for the instant t - d - D/2, where d is the sensor's time offset in the factory calibration and D its
sampling interval ("Temporal alignment of Aria sensor data" in the makers' documentation).

Calibration: the readings s become M^-1 (s - b) with the matrix M and the bias b of the factory calibration in the file
("Sensor measurement models" there), and are turned from the sensor's axes into those of the central pupil frame: x to
the wearer's left, y up, z forward. Both IMUs so have the same axes. They are not moved: the acceleration is that at
the sensor. As the axes are turned, a sensor that reaches its range does not show in a single axis; no range is given.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import MISSING

from imuvid.errors import UserError
from shards.sources.base import Recording, RecordingError, RecordingRef, Signal, Stream
from shards.sources.paths import find_files, sorted_by_name
from shards.video import probe
from shards.video_vrs import check_projectaria, has_rgb, open_vrs, quiet

POSITIONS = {"imu-left": "head_left", "imu-right": "head_right"}
"""Where each IMU is, by its label in the recording. The left one is beside the RGB camera."""
_WITHOUT_IMAGES = "_noimagestreams"


@dataclass
class AriaConfig:
    """Which files are read and who wore the glasses."""

    paths: list[str] = MISSING
    """Files, folders (searched for ``*.vrs`` through all levels) and globs (``**`` spans levels)."""
    subject_from_folder: bool = False
    """Whether the name of the folder that holds a file is the subject."""
    takes: str | None = None
    """Ego-Exo4D's ``takes.json``: the participant of the take whose folder holds a file is the subject."""


class AriaSource:
    """The recordings of an :class:`AriaConfig`; see :class:`shards.sources.base.Source`.

    Raises:
        UserError: both ways to find the subject are asked for.
    """

    def __init__(self, config: AriaConfig):
        if config.takes is not None and config.subject_from_folder:
            raise UserError("aria: set subject_from_folder or takes, not both")
        self.config = config

    def list(self) -> list[RecordingRef]:
        """Return one reference a file, sorted by name: the path below the folder (or glob) that it was found by.

        Ego-Exo4D's files without image streams are left out where the file with them is there too.

        Raises:
            UserError: projectaria-tools is not installed, a path does not exist, nothing matches, two files would
                have the same name, or ``takes`` cannot be read.
        """
        check_projectaria()
        found = find_files("aria.paths", self.config.paths, (".vrs",), "VRS file of Aria glasses")
        participants = None if self.config.takes is None else _participants(Path(self.config.takes).expanduser())
        kept = [
            path
            for path in found
            if path.with_name(path.name.replace(_WITHOUT_IMAGES, "")) not in found.keys() - {path}
        ]
        return [
            RecordingRef(found[path], {"path": str(path), "subject": self._subject(path, participants)})
            for path in sorted_by_name("aria.paths", kept, found)
        ]

    def _subject(self, path: Path, participants: dict[str, str] | None) -> str | None:
        if participants is None:
            return path.parent.name if self.config.subject_from_folder else None
        takes = [participants[parent.name] for parent in path.parents if parent.name in participants]
        if not takes:
            raise UserError(f"{self.config.takes}: has no take of the folder that holds {path}")
        return takes[0]

    def open(self, ref: RecordingRef) -> Recording:
        """Read the IMUs of one file.

        Raises:
            RecordingError: ``missing``, ``empty``, ``not_a_video`` (no VRS file), ``truncated``, ``damaged_video``,
                ``no_calibration``, ``no_imu`` or ``bad_clock``.
        """
        path = Path(ref.payload["path"])
        provider = open_vrs(path)
        calibration = provider.get_device_calibration()
        if calibration is None:
            raise RecordingError("no_calibration", f"{path}: holds no factory calibration")
        with_video = has_rgb(provider)
        video = probe(path) if with_video else None
        streams = _streams(path, provider, calibration)
        if video is None:
            # A clock must start somewhere: without pictures, where the first IMU does.
            start_s = min(float(signal.times_s[0]) for stream in streams for signal in _signals(stream))
        else:
            start_s = video.start_s
        for stream in streams:
            for signal in _signals(stream):
                signal.times_s -= start_s
        last_s = max(float(signal.times_s[-1]) for stream in streams for signal in _signals(stream))
        return Recording(
            name=ref.name,
            source="aria",
            streams=streams,
            duration_s=last_s if video is None else video.duration_s,
            video=None if video is None else path,
            subject=ref.payload["subject"],
            camera_position=None if video is None else streams[0].position,
        )


def _streams(path: Path, provider: Any, calibration: Any) -> list[Stream]:
    """Return the IMUs that hold samples, the left one first, on the device's clock."""
    to_cpf = calibration.get_transform_device_cpf().to_matrix()[:3, :3].T
    streams = []
    for label, position in POSITIONS.items():
        identifier = provider.get_stream_id_from_label(label)
        if identifier is None or provider.get_num_data(identifier) < 2:
            continue
        imu = calibration.get_imu_calib(label)
        if imu is None:
            raise RecordingError("no_calibration", f"{path}: holds no factory calibration of {label}")
        turn = to_cpf @ imu.get_transform_device_imu().to_matrix()[:3, :3]
        stamps_s, acc, gyro = _readings(path, provider, identifier)
        half_s = 0.5 * float(np.median(np.diff(stamps_s)))
        streams.append(
            Stream(
                position,
                Signal(
                    stamps_s - imu.get_time_offset_sec_device_accel() - half_s,
                    _rectified(acc, imu.get_accel_model(), turn),
                ),
                Signal(
                    stamps_s - imu.get_time_offset_sec_device_gyro() - half_s,
                    _rectified(gyro, imu.get_gyro_model(), turn),
                ),
            )
        )
    if not streams:
        raise RecordingError("no_imu", f"{path}: holds no sample of an IMU")
    return streams


def _readings(path: Path, provider: Any, identifier: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return float64 [N] device time stamps (s) and [N, 3] readings (m/s^2, rad/s) of an IMU; NaN where not valid."""
    count = provider.get_num_data(identifier)
    stamps_ns = np.zeros(count, dtype=np.int64)
    readings = np.full((2, count, 3), np.nan)
    try:
        with quiet():
            for i in range(count):
                sample = provider.get_imu_data_by_index(identifier, i)
                stamps_ns[i] = sample.capture_timestamp_ns
                if sample.accel_valid:
                    readings[0, i] = sample.accel_msec2
                if sample.gyro_valid:
                    readings[1, i] = sample.gyro_radsec
    except (RuntimeError, ValueError) as error:
        raise RecordingError("damaged_video", f"{path}: an IMU sample cannot be read: {error}") from error
    return stamps_ns * 1e-9, readings[0], readings[1]


def _rectified(readings: np.ndarray, model: Any, turn: np.ndarray) -> np.ndarray:
    """Return [N, 3] readings by the linear model of a sensor's calibration, in the axes that ``turn`` leads to."""
    return np.linalg.solve(model.get_rectification(), (readings - model.get_bias()).T).T @ turn.T


def _signals(stream: Stream) -> list[Signal]:
    return [signal for signal in (stream.acc, stream.gyro) if signal is not None]


def _participants(takes: Path) -> dict[str, str]:
    """Return the participant of each take of Ego-Exo4D by the name of the take's folder."""
    try:
        listed = json.loads(takes.read_text())
        return {
            Path(take["root_dir"]).name: str(take["participant_uid"])
            for take in listed
            if take["participant_uid"] is not None
        }
    except OSError as error:
        raise UserError(f"aria.takes: {takes} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"aria.takes: {takes} is not Ego-Exo4D's takes.json: no root_dir and participant_uid of each take"
        ) from error
