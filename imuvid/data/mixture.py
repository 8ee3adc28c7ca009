"""Several datasets as one to train on, and the order in which that is done."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from imuvid.data.batch import Example, recording_number
from imuvid.data.dataset_json import DatasetInfo, read_dataset_info
from imuvid.data.format import Sample
from imuvid.data.frame_memory import FrameMemory, ReadMemory
from imuvid.data.mixture_order import MixtureOrder, Shares, seed_of
from imuvid.data.order import Batches, Order, SampleOrder
from imuvid.data.resampled import ResampledOrder
from imuvid.data.shard_dataset import ShardDataset, Unpacked, picture
from imuvid.data.spread import Spread
from imuvid.errors import UserError

if TYPE_CHECKING:
    from imuvid.data.stream import DataConfig


@dataclass
class MixtureEntry:
    """One dataset of a mixture."""

    path: str = "???"
    """Dataset folder or URL (with dataset.json)."""
    weight: float = 1.0
    """Share of the samples that are of it, relative to the others' weights."""


class MixtureDataset:
    """Datasets that are trained on together, numbered through: sample n of the second follows the last of the first.

    Args:
        parts: of one split each.
        weights: above 0.

    Raises:
        UserError: they do not have the same windows, rates and positions, those with video not the same frames, or one
            is there twice.

    Windows of a dataset without video have black frames, none of them valid, or an embedding of zeros.
    """

    def __init__(self, parts: Sequence[ShardDataset], weights: Sequence[float]):
        self.parts, self.shares = list(parts), list(weights)
        self._model_part = next((part for part in parts if part.has_video), parts[0])
        for part in parts:
            _check_fits(self._model_part, part)
        for a, b in itertools.combinations(parts, 2):
            if a.fingerprint == b.fingerprint:
                raise UserError(f"data.mixture: {a.store} and {b.store} are the same dataset: give it once")
        self.first_samples = np.cumsum([0, *map(len, parts)]).tolist()
        self._first_shards = np.cumsum([0, *(len(part.index.shards) for part in parts)]).tolist()
        self.weights = np.concatenate([part.weights for part in parts])
        """float64 [N]: how often each sample is used relative to others of its dataset."""
        info = self._model_part.info
        self.info: DatasetInfo = dataclasses.replace(info, name=" + ".join(part.info.name for part in parts))
        """Of the first with video, which is that of all as to windows, positions and frames."""
        self.num_gated = sum(part.num_gated for part in parts)

    def __len__(self) -> int:
        return self.first_samples[-1]

    @property
    def fingerprint(self) -> str:
        """Of each dataset its weight and its own, so that what has changed can be named."""
        pairs = zip(self.shares, self.parts, strict=True)
        return "+".join(f"{weight / sum(self.shares):.9g}*{part.fingerprint}" for weight, part in pairs)

    @property
    def num_frames(self) -> int:
        """Frames of an example."""
        return self._model_part.num_frames

    @property
    def shard_sizes(self) -> list[int]:
        """Number of samples in each shard; those of the datasets one after the other."""
        return [size for part in self.parts for size in part.shard_sizes]

    @property
    def recordings(self) -> _Joined:
        """Of each sample, with the number of its dataset: datasets may use the same identifiers."""
        return _Joined([part.recordings for part in self.parts], "{number}/{value}")

    @property
    def subjects(self) -> _Joined:
        """Of each sample; None where unknown."""
        return _Joined([part.subjects for part in self.parts], "{value}")

    @property
    def starts_s(self) -> _Joined:
        """Of each sample, seconds."""
        return _Joined([part.starts_s for part in self.parts], None)

    @property
    def imu_statistics(self) -> list[dict[str, tuple[np.ndarray, np.ndarray]]]:
        """Of each dataset, as :attr:`ShardDataset.imu_statistics`."""
        return [part.imu_statistics for part in self.parts]

    def statistics_of(self, sample: int) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and deviation of the recording of a sample, as :meth:`ShardDataset.statistics_of`."""
        part, within = self._at(sample)
        return self.parts[part].statistics_of(within)

    def shard_of(self, sample: int) -> int:
        """Return the number of a sample's shard."""
        part, within = self._at(sample)
        return self._first_shards[part] + self.parts[part].shard_of(within)

    def at_shard(self, shard: int) -> tuple[ShardDataset, str]:
        """Return the dataset that has a shard, and the shard's file name there."""
        part = _interval(self._first_shards, shard)
        return self.parts[part].at_shard(shard - self._first_shards[part])

    def least_size(self, shard: int) -> int:
        """Return how large a shard has to be, as :meth:`ShardDataset.least_size`."""
        part = _interval(self._first_shards, shard)
        return self.parts[part].least_size(shard - self._first_shards[part])

    def where(self, sample: int) -> str:
        """Return shard and key of a sample, for messages."""
        part, within = self._at(sample)
        return self.parts[part].where(within)

    def span(self, sample: int) -> tuple[int, int]:
        """Return where in its shard a sample lies: offset and size, bytes."""
        part, within = self._at(sample)
        return self.parts[part].span(within)

    def intact(self, sample: int, raw: bytes | memoryview) -> bool:
        """Return whether these are the bytes of a sample, as :meth:`ShardDataset.intact`."""
        part, within = self._at(sample)
        return self.parts[part].intact(within, raw)

    def raw(self, sample: int, memory: ReadMemory | None = None) -> bytes | memoryview:
        """Read the bytes of one sample, as :meth:`ShardDataset.raw`."""
        part, within = self._at(sample)
        return self.parts[part].raw(within, memory)

    def read(self, sample: int, raw: bytes | memoryview | None = None) -> Sample:
        """Read one sample, as :meth:`ShardDataset.read`."""
        part, within = self._at(sample)
        return self.parts[part].read(within, raw)

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
        """Decode the frames of a sample, as :meth:`ShardDataset.decode`."""
        return picture(self, *self.unpack(sample, stored, rng), memory)

    def unpack(self, sample: int, stored: Sample, rng: np.random.Generator | None = None) -> Unpacked:
        """As :meth:`ShardDataset.unpack`; sample and recording have numbers of the mixture."""
        part, within = self._at(sample)
        example, jpegs = self.parts[part].unpack(within, stored, rng)
        recording = recording_number(f"{part}/{example.recording}")
        if not self.parts[part].has_video:
            example = self._without_video(example)
        return dataclasses.replace(example, sample=sample, recording=recording), jpegs

    def _without_video(self, example: Example) -> Example:
        dim, count = self.info.embedding_dim, self.num_frames
        shape = (count, *(self.info.frame_size or (0, 0)), 3)
        return dataclasses.replace(
            example,
            frames=np.zeros(shape, np.uint8) if dim is None else np.zeros(dim, np.float16),
            frame_valid=np.zeros(count, dtype=bool),
            frame_places=(np.arange(count) + 0.5) / max(count, 1),
        )

    def _at(self, sample: int) -> tuple[int, int]:
        part = _interval(self.first_samples, sample)
        return part, sample - self.first_samples[part]


def _interval(starts: Sequence[int], number: int) -> int:
    return int(np.searchsorted(starts, number, side="right")) - 1


class _Joined(Sequence[Any]):
    """Columns one after the other."""

    def __init__(self, columns: list[Any], text: str | None):
        self._columns, self._text = columns, text
        self._first = np.cumsum([0, *map(len, columns)]).tolist()

    def __len__(self) -> int:
        return self._first[-1]

    @overload
    def __getitem__(self, i: int) -> Any: ...
    @overload
    def __getitem__(self, i: slice) -> list[Any]: ...
    def __getitem__(self, i: int | slice) -> Any:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        part = _interval(self._first, i)
        return self._named(part, self._columns[part][i - self._first[part]])

    def __iter__(self) -> Iterator[Any]:
        for number, column in enumerate(self._columns):
            for value in column:
                yield self._named(number, value)

    def unique(self) -> list[Any]:
        """Return the values that occur, in the order of their first appearance."""
        found = (self._named(k, value) for k, column in enumerate(self._columns) for value in column.unique())
        return list(dict.fromkeys(found))

    def _named(self, number: int, value: Any) -> Any:
        if self._text is None or value is None:
            return value
        return self._text.format(number=number, value=value)


AnyDataset = ShardDataset | MixtureDataset


def open_held_out(config: DataConfig) -> AnyDataset:
    """Open the held-out split; of a mixture, of its datasets with video alone, if there are any.

    Raises:
        UserError: as :func:`open_split`.
    """
    with_video = [entry for entry in config.mixture if read_dataset_info(entry.path).num_frames]
    return open_split(dataclasses.replace(config, mixture=with_video or config.mixture), config.val_split)


def open_split(config: DataConfig, split: str) -> AnyDataset:
    """Open one split of the dataset or of the mixture that the config names.

    Raises:
        UserError: neither or both are named, one cannot be read, or they do not fit together.
    """
    if (config.path is None) == (not config.mixture):
        raise UserError("give one of data.path (a dataset) and data.mixture (a list of datasets with weights)")
    if config.path is not None:
        return ShardDataset(config.path, split, config.num_frames)
    for entry in config.mixture:
        if not 0 < entry.weight < float("inf"):
            raise UserError(f"data.mixture: the weight of {entry.path} is {entry.weight}, it must be above 0")
    return MixtureDataset(
        [ShardDataset(entry.path, split, config.num_frames) for entry in config.mixture],
        [entry.weight for entry in config.mixture],
    )


def sample_order(dataset: AnyDataset, config: DataConfig, seed: int) -> Order:
    """Return the order in which the samples of a dataset are trained on.

    Raises:
        UserError: ``data.max_per_recording`` cannot be kept.
    """
    parts = dataset.parts
    if config.resampled and config.max_per_recording:
        raise UserError(
            "data.resampled and data.max_per_recording exclude each other: of draws with replacement no number is sure"
        )
    if isinstance(dataset, ShardDataset):
        size = config.batch_size
        return _order(dataset, config, seed, size, lambda start, stop: np.arange(-(-start // size) * size, stop, size))
    shares = Shares(dataset.shares)
    orders = [
        _order(
            part,
            config,
            seed_of(seed, number),
            shares.largest_part(number, config.batch_size),
            shares.batches(number, config.batch_size),
        )
        for number, part in enumerate(parts)
    ]
    return MixtureOrder(orders, shares, dataset.first_samples[:-1])


def _order(part: ShardDataset, config: DataConfig, seed: int, largest: int, batches: Batches) -> Order:
    """The order of one dataset, of which a batch has ``largest`` samples at most."""
    weights = part.weights if (part.weights.strides[0] and (part.weights < 1).any()) else None
    if config.resampled:
        return ResampledOrder(part.shard_sizes, seed, config.block_shards, weights)
    if not config.max_per_recording:
        return SampleOrder(part.shard_sizes, seed, config.block_shards, weights)
    bound = Spread(part.recordings.codes(), config.max_per_recording)
    order = SampleOrder(part.shard_sizes, seed, config.block_shards, weights, bound, batches)
    windows = np.bincount(bound.recordings)
    full = (order.smallest_block - largest + 1) // largest
    if windows.max() > config.max_per_recording * full:
        fits = f"{-(-int(windows.max()) // full)} fits" if full > 0 else "no number fits"
        raise UserError(
            f"data.max_per_recording={config.max_per_recording} cannot be kept: a recording of {part.store} has"
            f" {windows.max()} windows, and samples that are shuffled together make {max(full, 0)} batches ({fits}):"
            " raise it or data.block_shards (0 shuffles all together), or lower data.batch_size"
        )
    return order


def changed_part(before: str, now: str, paths: Sequence[str]) -> str:
    """Say in a few words which dataset of a mixture has changed, given its fingerprints and the paths of now."""
    old, new = (fingerprint.split("+") for fingerprint in (before, now))
    if len(old) != len(new):
        return f"data.mixture has {len(new)} datasets instead of {len(old)}"
    for was, found, path in zip(old, new, paths, strict=True):
        if was.partition("*")[2] != found.partition("*")[2]:
            return f"{path} has changed"
    return "the weights of data.mixture have changed"


def _check_fits(first: ShardDataset, other: ShardDataset) -> None:
    demands = (
        ("window_s", "windows of {} s"),
        ("imu_rate_hz", "IMU samples at {} Hz"),
        ("positions", "sensors at {}"),
        ("num_frames", "{} frames"),
        ("frame_size", "frames of {} px"),
        ("embedding_dim", "video embeddings of {} numbers"),
    )
    for name, text in demands if other.has_video else demands[:3]:
        a, b = getattr(first.info, name), getattr(other.info, name)
        if a != b:
            raise UserError(
                f"data.mixture: {first.store} has {text.format(a)}, {other.store} {text.format(b)}: build them alike"
            )
