"""Random access to the samples of a dataset by the byte offsets of its index."""

from __future__ import annotations

import os
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imuvid.data.augment import choose_frames
from imuvid.data.batch import Example, recording_number
from imuvid.data.damage import CorruptSample
from imuvid.data.dataset_json import read_dataset_info
from imuvid.data.dataset_tables import RECORDINGS_NAME, read_recordings
from imuvid.data.format import Sample, decode_members
from imuvid.data.frame_memory import FrameMemory, ReadMemory, decode_frames
from imuvid.data.index import Column, Index
from imuvid.data.storage import Store
from imuvid.data.tar import parse_tar, views_of_tar
from imuvid.errors import UserError

if TYPE_CHECKING:
    from imuvid.data.mixture import AnyDataset


Unpacked = tuple[Example, Sequence["bytes | memoryview"]]
"""Everything of an example but its frames, and the JPEGs of these."""
_NO_FRAMES = decode_frames([])


class ShardDataset:
    """The samples of one split of a dataset folder, in the order of its index.

    Windows that fail a quality gate are left out. Pickles and forks: files are opened where they are read.

    Args:
        folder: folder or URL of the dataset.
        split: train, val or test; None for all.
        num_frames: frames of each window that are used, one of each of as many chunks of it; 0 = all that are stored.
            Of a dataset without video there are none all the same.

    Raises:
        UserError: the folder is no complete dataset, the split is empty, or fewer frames are stored.
    """

    _MOST_FILES = 256  # of the 1024 that a process may usually have open

    def __init__(self, folder: str | Path, split: str | None, num_frames: int = 0):
        self.store = Store(folder)
        self.info = read_dataset_info(folder)
        stored = self.info.num_frames if self.info.video_embedding is None else 0
        if num_frames > stored and self.has_video:
            raise UserError(f"{folder}: {num_frames} frames of a window are asked for, {stored} are stored")
        self._num_frames = num_frames if self.has_video else 0
        self.index = Index(self.store, self.info, split)
        self.num_gated = self.index.num_gated
        """Windows of the split that are left out, since they fail a quality gate."""
        self.weights = self.index.weights
        """float64 [N]: how often each sample is used relative to others."""
        self._files: OrderedDict[int, int] = OrderedDict()
        self._measured: set[int] = set()

    def __len__(self) -> int:
        return len(self.index)

    @property
    def has_video(self) -> bool:
        """Whether its windows have frames, or embeddings of them."""
        return self.info.num_frames > 0

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

    @property
    def num_frames(self) -> int:
        """Frames of an example."""
        return self._num_frames or self.info.num_frames

    def shard_of(self, sample: int) -> int:
        """Return the number of a sample's shard."""
        return self.index.shard_of(sample)

    def least_size(self, shard: int) -> int:
        """Return how large a shard has to be to hold the samples of this split, bytes."""
        return sum(self.span(int(self.index.shard_starts[shard + 1]) - 1))

    def at_shard(self, shard: int) -> tuple[ShardDataset, str]:
        """Return the dataset that has a shard, and the shard's file name there."""
        return self, self.index.shards[shard]

    def where(self, sample: int) -> str:
        """Return shard and key of a sample, for messages; its number, where the index is another one by now."""
        shard = self.store.where(self.index.shards[self.shard_of(sample)])
        try:
            return f"{shard}: sample {self.keys[sample]}"
        except UserError:
            return f"{shard}: sample number {sample}"

    def span(self, sample: int) -> tuple[int, int]:
        """Return where in its shard a sample lies: offset and size, bytes."""
        return self.index.span(sample)

    def intact(self, sample: int, raw: bytes | memoryview) -> bool:
        """Return whether these are the bytes of a sample; of an index without checksums only their number is known."""
        crc32 = self.index.crc32(sample)
        return len(raw) == self.span(sample)[1] and (crc32 is None or zlib.crc32(raw) == crc32)

    def raw(self, sample: int, memory: ReadMemory | None = None) -> bytes | memoryview:
        """Read the bytes of one sample.

        Args:
            sample: its number.
            memory: where the bytes of a local file go; memory of their own without it.

        Raises:
            CorruptSample: the shard is shorter than the index says.
            ValueError: it cannot be read. Names shard and key.
        """
        shard = self.shard_of(sample)
        name, (offset, size) = self.index.shards[shard], self.span(sample)
        try:
            if self.store.local is None:
                if shard not in self._measured:
                    self._check_size(shard, sample, self.store.size(name))
                raw: bytes | memoryview = self.store.read_range(name, offset, size)
            elif memory is None:
                raw = os.pread(self._open(shard, sample), size, offset)
            else:
                room = memory.take(size)
                raw = room[: os.preadv(self._open(shard, sample), [room], offset)]
        except OSError as error:
            raise ValueError(f"{self.where(sample)}: cannot be read: {error.strerror or error}") from error
        if len(raw) < size:
            raise CorruptSample(f"{self.where(sample)}: the shard ends inside it: truncated", "truncated")
        return raw

    def _open(self, shard: int, sample: int) -> int:
        if shard in self._files:
            self._files.move_to_end(shard)
        else:
            assert self.store.local is not None
            file = os.open(self.store.local / self.index.shards[shard], os.O_RDONLY)
            try:
                self._check_size(shard, sample, os.fstat(file).st_size)
            except CorruptSample:
                os.close(file)
                raise
            self._files[shard] = file
            while len(self._files) > self._MOST_FILES:
                os.close(self._files.popitem(last=False)[1])
        return self._files[shard]

    def _check_size(self, shard: int, sample: int, size: int) -> None:
        least = self.least_size(shard)
        if size < least:
            raise CorruptSample(
                f"{self.where(sample)}: the shard has {size} of the {least} bytes that its index speaks of: truncated",
                "truncated",
            )
        self._measured.add(shard)

    def read(self, sample: int, raw: bytes | memoryview | None = None) -> Sample:
        """Read one sample; its frames stay JPEG.

        Args:
            sample: its number.
            raw: its bytes, where they were read before; the JPEGs of what is returned lie in them.

        Raises:
            CorruptSample: it is damaged or the shard is shorter than the index says.
            ValueError: it cannot be read. Names shard and key.
        """
        raw = self.raw(sample) if raw is None else raw
        if not self.intact(sample, raw):
            raise CorruptSample(f"{self.where(sample)}: checksum differs: the shard is damaged", "checksum")
        checked = self.index.crc32(sample) is not None
        try:
            decoded = decode_members(views_of_tar(raw) if checked else parse_tar(raw))
        except ValueError as error:
            raise CorruptSample(f"{self.where(sample)}: {error}", "members") from error
        # The checksum is of the key as well; without one, the keys have to be at hand.
        if not checked and decoded.key != self.keys[sample]:
            where = self.store.where(self.index.shards[self.shard_of(sample)])
            raise CorruptSample(
                f"{where}: holds {decoded.key} where the index says {self.keys[sample]}", "other_sample"
            )
        return decoded

    def example(self, sample: int, raw: bytes | memoryview | None = None) -> Example:
        """Read one sample and decode its frames: :meth:`read`, then :meth:`decode`."""
        return self.decode(sample, self.read(sample, raw))

    def decode(
        self,
        sample: int,
        stored: Sample,
        rng: np.random.Generator | None = None,
        memory: FrameMemory | None = None,
    ) -> Example:
        """Decode the frames of a sample: :meth:`unpack`, then :func:`picture`."""
        return picture(self, *self.unpack(sample, stored, rng), memory)

    def unpack(self, sample: int, stored: Sample, rng: np.random.Generator | None = None) -> Unpacked:
        """Return everything of an example but its frames, and the JPEGs of these.

        Args:
            sample: its number.
            stored: what :meth:`read` gave.
            rng: draws the frame of each chunk; without it the frame in the middle is taken.

        Raises:
            CorruptSample: there are too few frames, or the embedding is not as long as ``dataset.json`` says.
        """
        dim = None if stored.embedding is None else len(stored.embedding)
        if dim != self.info.embedding_dim:
            raise CorruptSample(
                f"{self.where(sample)}: its video embedding has {dim} numbers, expected {self.info.embedding_dim}",
                "members",
            )
        frame_valid = np.array(stored.meta.frame_valid, dtype=bool)
        places = np.array(stored.meta.frame_times_s, dtype=np.float64) / stored.meta.duration_s
        jpegs = stored.frames
        if self._num_frames:
            if len(frame_valid) < self._num_frames:
                raise CorruptSample(f"{self.where(sample)}: has {len(frame_valid)} frames", "members")
            chosen = choose_frames(frame_valid, self._num_frames, rng)
            frame_valid, places, jpegs = frame_valid[chosen], places[chosen], [jpegs[i] for i in chosen]
        example = Example(
            imu=stored.imu,
            valid=stored.valid,
            frames=_NO_FRAMES if stored.embedding is None else stored.embedding,
            frame_valid=frame_valid,
            recording=recording_number(stored.meta.recording),
            sample=sample,
            frame_places=places,
            start_s=stored.meta.start_s,  # as in the index, a column of which would have to be read for it
            narration=stored.meta.text,
        )
        return example, jpegs

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_files": OrderedDict()}


def picture(
    dataset: AnyDataset, example: Example, jpegs: Sequence[bytes | memoryview], memory: FrameMemory | None
) -> Example:
    """Give an example its frames.

    Args:
        dataset: that it is of.
        example: that ``unpack`` of the dataset gave; it is changed.
        jpegs: of it; none where it has an embedding.
        memory: where they are decoded; None = memory of their own.

    Raises:
        CorruptSample: a JPEG is damaged.
    """
    if jpegs:
        try:
            example.frames = memory.decode(jpegs) if memory else decode_frames(jpegs)
        except ValueError as error:
            raise CorruptSample(f"{dataset.where(example.sample)}: damaged JPEG: {error}", "picture") from error
    return example


def retrieval_windows(dataset: AnyDataset, choice: str) -> list[int]:
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
