"""Simulated recordings as a source of a build."""

from __future__ import annotations

import json
import zipfile

import numpy as np

from shards.simulate.files import IMU_NAME, TRUTH_NAME, VIDEO_NAME, ensure_recording
from shards.simulate.record import SimulatedConfig, num_recordings, recording_name
from shards.sources.base import Recording, RecordingError, RecordingRef, Segment, Signal, Stream

__all__ = ["SimulatedConfig", "SimulatedSource"]


class SimulatedSource:
    """The recordings of a config; each is made when it is first opened, and kept in ``work_dir``.

    Raises:
        UserError: a value of the config makes no sense.
    """

    def __init__(self, config: SimulatedConfig):
        config.check()
        self.config = config

    def list(self) -> list[RecordingRef]:
        """Return num_subjects * recordings_per_subject recordings."""
        return [
            RecordingRef(recording_name(self.config, index), {"index": index})
            for index in range(num_recordings(self.config))
        ]

    def open(self, ref: RecordingRef) -> Recording:
        """Make the recording where it is missing, and read it from its files.

        Raises:
            RecordingError: the files are damaged, or cannot be written.
        """
        try:
            folder = ensure_recording(self.config, ref.payload["index"])
        except OSError as error:
            raise RecordingError("not_writable", f"{self.config.work_dir}: cannot keep {ref.name}: {error}") from error
        try:
            truth = json.loads((folder / TRUTH_NAME).read_text())
            with np.load(folder / IMU_NAME, allow_pickle=False) as arrays:
                streams = []
                for position in self.config.positions:
                    times = arrays[f"{position}_times_s"]
                    acc, gyro = (Signal(times, arrays[f"{position}_{kind}"]) for kind in ("acc", "gyro"))
                    streams.append(Stream(position, acc, gyro))
            segments = [Segment(**segment) for segment in truth["segments"]]
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise RecordingError(
                "damaged", f"{folder}: is damaged ({error}): delete it to have it made again"
            ) from error
        return Recording(
            name=ref.name,
            source="simulated",
            streams=streams,
            duration_s=truth["duration_s"],
            video=folder / VIDEO_NAME if self.config.render else None,
            subject=truth["subject_name"],
            segments=segments,
            camera_position=self.config.camera if self.config.camera in self.config.positions else None,
        )
