"""Random access to the samples of a dataset by the byte offsets of its index."""

from __future__ import annotations

import os
import zlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg

from imuvid.data.batch import Example, recording_number
from imuvid.data.format import (
    RECORDINGS_NAME,
    Sample,
    decode_members,
    parse_tar,
    read_dataset_info,
    read_recordings,
)
from imuvid.data.index import Column, Index
from imuvid.data.storage import Store
from imuvid.errors import UserError

if TYPE_CHECKING:
    from imuvid.data.mixture import MixtureDataset


class ShardDataset:
    """The samples of one split of a dataset folder, in the order of its index.

    Windows that fail a quality gate are left out. Pickles and forks: files are opened where they are read.

    Args:
        folder: folder or URL of the dataset.
        split: train, val or test; None for all.

    Raises:
        UserError: the folder is no complete dataset, or the split is empty.
    """

    def __init__(self, folder: str | Path, split: str | None):
        self.store = Store(folder)
        self.info = read_dataset_info(folder)
        self.index = Index(self.store, self.info, split)
        self.num_gated = self.index.num_gated
        """Windows of the split that are left out, since they fail a quality gate."""
        self.weights = self.index.weights
        """float64 [N]: how often each sample is used relative to others."""
        self._files: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.index)

    @property
    def fingerprint(self) -> str:
        """Changes whenever the content of the dataset does."""
        return self.info.fingerprint

    @property
    def parts(self) -> list[ShardDataset]:
        """The datasets that it consists of: itself; see :class:`imuvid.data.mixture.MixtureDataset`."""
        return [self]

    @property
    def shard_sizes(self) -> list[int]:
        """Number of samples in each shard that has any of this split."""
        return np.diff(self.index.shard_starts).tolist()

    @cached_property
    def keys(self) -> Column[str]:
        """Of each sample. Like the columns below, read when it is first asked for."""
        return self.index.column("key")

    @cached_property
    def recordings(self) -> Column[str]:
        """Of each sample."""
        return self.index.column("recording")

    @cached_property
    def subjects(self) -> Column[str | None]:
        """Of each sample; None where unknown."""
        return self.index.column("subject")

    @cached_property
    def starts_s(self) -> Column[float]:
        """Of each sample, seconds."""
        return self.index.column("start_s")

    @cached_property
    def labels(self) -> Column[str | None]:
        """Of each sample; None where unlabelled."""
        return self.index.column("label")

    def statistics_of(self, sample: int) -> tuple[np.ndarray, np.ndarray]:
        """Return what :attr:`imu_statistics` has of the recording of a sample."""
        return self.imu_statistics[self.recordings[sample]]

    @cached_property
    def imu_statistics(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Mean and standard deviation of the IMU of each recording of the split, float64 [P, 6] each, SI units.

        Raises:
            UserError: the dataset does not hold them, or they are damaged.
        """
        where = self.store.where(RECORDINGS_NAME)
        table = read_recordings(self.store.location, self.info)
        found = {}
        for row in table.select(["recording", "imu_mean", "imu_deviation"]).to_pylist():
            if row["imu_mean"] is not None and row["imu_deviation"] is not None:
                found[row["recording"]] = (row["imu_mean"], row["imu_deviation"])
        names = self.recordings.unique()
        missing = [name for name in names if name not in found]
        if missing:
            raise UserError(
                f"{where}: {len(missing)} of {len(names)} recordings have no imu_mean and imu_deviation: build the"
                " dataset again, or choose data.condition.normalise=window or none"
            )
        shape, statistics = (len(self.info.positions), 6), {}
        for name in names:
            try:
                mean, deviation = (np.array(values, dtype=np.float64).reshape(shape) for values in found[name])
            except ValueError:
                mean, deviation = np.zeros(shape), np.zeros(shape)
            if not (np.isfinite(mean).all() and np.isfinite(deviation).all() and (deviation > 0).all()):
                raise UserError(
                    f"{where}: damaged: recording {name}: imu_mean and imu_deviation are not"
                    f" {shape[0] * 6} finite numbers each, deviations above 0"
                )
            statistics[name] = (mean, deviation)
        return statistics

    def read(self, sample: int) -> Sample:
        """Read one sample; its frames stay JPEG.

        Raises:
            ValueError: it is damaged or the shard is shorter than the index says. Names shard and key.
        """
        shard = self.index.shard_of(sample)
        name, crc32 = self.index.shards[shard], self.index.crc32(sample)
        offset, size = self.index.span(sample)
        where = self.store.where(name)
        try:
            raw = self._raw(shard, name, offset, size)
        except OSError as error:
            raise ValueError(f"{where}: cannot be read: {error.strerror or error}") from error
        if len(raw) < size:
            raise ValueError(f"{where}: ends inside sample {self._name_of(sample)}: the shard is truncated")
        # Indexes without checksums are read as well.
        if crc32 is not None and zlib.crc32(raw) != crc32:
            raise ValueError(f"{where}: sample {self._name_of(sample)}: checksum differs: the shard is damaged")
        try:
            decoded = decode_members(parse_tar(raw))
        except ValueError as error:
            raise ValueError(f"{where}: sample {self._name_of(sample)}: {error}") from error
        # The checksum is of the key as well; without one, the keys have to be at hand.
        if crc32 is None and decoded.key != self.keys[sample]:
            raise ValueError(f"{where}: holds {decoded.key} where the index says {self.keys[sample]}")
        return decoded

    def _name_of(self, sample: int) -> str:
        """The key of a sample or, where the index is another one by now, its number: for messages."""
        try:
            return self.keys[sample]
        except UserError:
            return f"number {sample}"

    def _raw(self, shard: int, name: str, offset: int, size: int) -> bytes:
        if self.store.local is None:
            return self.store.read_range(name, offset, size)
        if shard not in self._files:
            self._files[shard] = os.open(self.store.local / name, os.O_RDONLY)
        return os.pread(self._files[shard], size, offset)

    def example(self, sample: int) -> Example:
        """Read one sample and decode its frames.

        Raises:
            ValueError: as :meth:`read`, a JPEG is damaged, or the embedding is not as long as ``dataset.json`` says.
        """
        stored = self.read(sample)
        dim = None if stored.embedding is None else len(stored.embedding)
        if dim != self.info.embedding_dim:
            raise ValueError(
                f"{self.store}: sample {stored.key}: its video embedding has {dim} numbers, expected"
                f" {self.info.embedding_dim}"
            )
        try:
            pictures = [simplejpeg.decode_jpeg(frame, colorspace="RGB") for frame in stored.frames]
            frames = np.stack(pictures) if pictures else np.zeros((0, 0, 0, 3), np.uint8)
        except ValueError as error:
            raise ValueError(f"{self.store}: sample {stored.key}: damaged JPEG: {error}") from error
        return Example(
            imu=stored.imu,
            valid=stored.valid,
            frames=frames if stored.embedding is None else stored.embedding,
            frame_valid=np.asarray(stored.meta.frame_valid, dtype=bool),
            recording=recording_number(stored.meta.recording),
            sample=sample,
        )

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_files": {}}


def retrieval_windows(dataset: ShardDataset | MixtureDataset, choice: str) -> list[int]:
    """Return the samples that retrieval is judged on, in the order of the dataset.

    Overlapping windows look the same, so that a miss among them says nothing: there are none here.

    Args:
        dataset: the held-out split.
        choice: ``non_overlapping`` windows of every recording, or the middle window of each recording
            (``one_per_recording``), for recordings that show one thing throughout.

    Raises:
        UserError: the choice is unknown.
    """
    members: dict[str, list[int]] = {}
    for sample, recording in enumerate(dataset.recordings):
        members.setdefault(recording, []).append(sample)
    if choice == "one_per_recording":
        return [samples[len(samples) // 2] for samples in members.values()]
    if choice != "non_overlapping":
        raise UserError(f"train.validate_windows is '{choice}', expected non_overlapping or one_per_recording")
    chosen = []
    for samples in members.values():
        free_s = -np.inf
        for sample in sorted(samples, key=lambda i: dataset.starts_s[i]):
            if dataset.starts_s[sample] >= free_s - 1e-6:
                chosen.append(sample)
                free_s = dataset.starts_s[sample] + dataset.info.window_s
    return sorted(chosen)
