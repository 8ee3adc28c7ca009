"""Random access to the samples of a dataset by the byte offsets of its index."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import simplejpeg

from imuvid.data.batch import Example, recording_number
from imuvid.data.format import Sample, decode_members, parse_tar, read_dataset_info, read_index
from imuvid.errors import UserError


class ShardDataset:
    """The samples of one split of a dataset folder, in the order of its index.

    Pickles and forks: files are opened where they are read.

    Args:
        folder: of the dataset.
        split: train, val or test; None for all.

    Raises:
        UserError: the folder is no complete dataset, or the split is empty.
    """

    def __init__(self, folder: str | Path, split: str | None):
        self.folder = Path(folder)
        self.info = read_dataset_info(self.folder)
        table = read_index(self.folder)
        rows = np.arange(table.num_rows)
        if split is not None:
            rows = np.flatnonzero(table["split"].to_numpy(zero_copy_only=False) == split)
        if not len(rows):
            raise UserError(f"{folder}: no sample in split '{split}': see the split section of its build config")
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

    def read(self, sample: int) -> Sample:
        """Read one sample; its frames stay JPEG.

        Raises:
            ValueError: it is damaged or the shard is shorter than the index says. Names shard and key.
        """
        shard = int(self._shard[sample])
        name, size = self._shards[shard], int(self._size[sample])
        try:
            if shard not in self._files:
                self._files[shard] = os.open(self.folder / name, os.O_RDONLY)
            raw = os.pread(self._files[shard], size, int(self._offset[sample]))
        except OSError as error:
            raise ValueError(f"{self.folder / name}: cannot be read: {error.strerror}") from error
        if len(raw) < size:
            raise ValueError(f"{self.folder / name}: ends inside sample {self.keys[sample]}: the shard is truncated")
        try:
            decoded = decode_members(parse_tar(raw))
        except ValueError as error:
            raise ValueError(f"{self.folder / name}: sample {self.keys[sample]}: {error}") from error
        if decoded.key != self.keys[sample]:
            raise ValueError(f"{self.folder / name}: holds {decoded.key} where the index says {self.keys[sample]}")
        return decoded

    def example(self, sample: int) -> Example:
        """Read one sample and decode its frames.

        Raises:
            ValueError: as :meth:`read`, or a JPEG is damaged.
        """
        stored = self.read(sample)
        try:
            pictures = [simplejpeg.decode_jpeg(frame, colorspace="RGB") for frame in stored.frames]
            frames = np.stack(pictures) if pictures else np.zeros((0, 0, 0, 3), np.uint8)
        except ValueError as error:
            raise ValueError(f"{self.folder}: sample {stored.key}: damaged JPEG: {error}") from error
        return Example(
            imu=stored.imu,
            valid=stored.valid,
            frames=frames,
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
