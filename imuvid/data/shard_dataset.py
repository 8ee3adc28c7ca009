"""Random access to the samples of a dataset by the byte offsets of its index."""

from __future__ import annotations

import os
import zlib
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from imuvid.data.batch import Example, recording_number
from imuvid.data.format import (
    RECORDINGS_NAME,
    Sample,
    decode_members,
    parse_tar,
    read_dataset_info,
    read_index,
    read_recordings,
)
from imuvid.data.frame_memory import FrameMemory, decode_frames
from imuvid.data.storage import Store
from imuvid.errors import UserError


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
        table = read_index(folder, self.info)
        good = pc.equal(pc.fill_null(table["verdict"], ""), "").to_numpy(zero_copy_only=False)
        member = np.ones(table.num_rows, dtype=bool)
        if split is not None:
            member = table["split"].to_numpy(zero_copy_only=False) == split
        rows = np.flatnonzero(member & good)
        if not len(rows):
            why = "see the split section of its build config"
            if member.any():
                why = f"all {member.sum()} windows fail a quality gate: see 'imuvid shards inspect'"
            raise UserError(f"{folder}: no sample in split '{split}': {why}")
        self.num_gated = int((member & ~good).sum())
        """Windows of the split that are left out, since they fail a quality gate."""
        table = table.take(rows)
        shards = table["shard"].to_pylist()
        self._shards = list(dict.fromkeys(shards))
        for name in self._shards:
            # The name comes from a file that someone may have sent us: it must stay inside the folder.
            if Path(name).name != name or name in ("", ".."):
                raise UserError(f"{folder}: the index names the shard '{name}', which is no plain file name")
        number = {name: i for i, name in enumerate(self._shards)}
        self._shard = np.array([number[name] for name in shards], dtype=np.int32)
        if (np.diff(self._shard) < 0).any():
            raise UserError(f"{folder}: the rows of the index are not in the order of the shards: build it again")
        self._offset = table["offset"].to_numpy()
        self._size = table["size"].to_numpy()
        self.weights = np.clip(pc.fill_null(table["weight"], 1.0).to_numpy().astype(np.float64), 0.0, 1.0)
        """float64 [N]: how often each sample is used relative to others."""
        self._crc32 = table["crc32"].to_pylist()
        self.keys: list[str] = table["key"].to_pylist()
        self.recordings: list[str] = table["recording"].to_pylist()
        self.subjects: list[str | None] = table["subject"].to_pylist()
        self.starts_s: list[float] = table["start_s"].to_pylist()
        self.labels: list[str | None] = table["label"].to_pylist()
        self._files: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def shard_sizes(self) -> list[int]:
        """Number of samples in each shard that has any of this split."""
        return np.bincount(self._shard, minlength=len(self._shards)).tolist()

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
        names = list(dict.fromkeys(self.recordings))
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
        shard = int(self._shard[sample])
        name, size = self._shards[shard], int(self._size[sample])
        where = self.store.where(name)
        try:
            raw = self._raw(shard, name, int(self._offset[sample]), size)
        except OSError as error:
            raise ValueError(f"{where}: cannot be read: {error.strerror or error}") from error
        if len(raw) < size:
            raise ValueError(f"{where}: ends inside sample {self.keys[sample]}: the shard is truncated")
        # Indexes without checksums are read as well.
        if self._crc32[sample] is not None and zlib.crc32(raw) != self._crc32[sample]:
            raise ValueError(f"{where}: sample {self.keys[sample]}: checksum differs: the shard is damaged")
        try:
            decoded = decode_members(parse_tar(raw))
        except ValueError as error:
            raise ValueError(f"{where}: sample {self.keys[sample]}: {error}") from error
        if decoded.key != self.keys[sample]:
            raise ValueError(f"{where}: holds {decoded.key} where the index says {self.keys[sample]}")
        return decoded

    def _raw(self, shard: int, name: str, offset: int, size: int) -> bytes:
        if self.store.local is None:
            return self.store.read_range(name, offset, size)
        if shard not in self._files:
            self._files[shard] = os.open(self.store.local / name, os.O_RDONLY)
        return os.pread(self._files[shard], size, offset)

    def example(self, sample: int, memory: FrameMemory | None = None) -> Example:
        """Read one sample and decode its frames.

        Args:
            sample: its number.
            memory: where its frames are decoded; memory of their own without it.

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
            frames = memory.decode(stored.frames) if memory else decode_frames(stored.frames)
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


def retrieval_windows(dataset: ShardDataset, choice: str) -> list[int]:
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
