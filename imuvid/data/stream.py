"""The training stream: webdataset composes the stages, the order and the position are ours.

    OrderedSamples      (pass, sample) of this rank's batches, from a step on, dealt to the loader's workers
      -> read ahead     where the dataset is at a URL: the bytes of the next samples, by threads, through a cache
      -> decode         bytes of the shard at the index's offset -> arrays, frames as uint8; a corrupt one is replaced
      -> augment        a function of (seed, epoch, sample), in SI units
      -> condition      median filter and normalisation, if any
      -> batched        local batches, never short

webdataset's own reading has no position to resume from, repeats or hangs on uneven shards, and drops the rest of a
damaged tar in silence; its shards are the format all the same, and its stages do the rest.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
import webdataset
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from imuvid.data.augment import AugmentConfig, augment, mirrored_positions
from imuvid.data.batch import Batch, Example, collate
from imuvid.data.cache import ShardCache
from imuvid.data.damage import read_or_replace
from imuvid.data.frame_memory import FrameMemory, ReadMemory
from imuvid.data.mixture import AnyDataset, MixtureEntry, sample_order
from imuvid.data.object_store import within
from imuvid.data.order import Order
from imuvid.data.progress import Progress
from imuvid.data.read_ahead import Read, ReadAhead
from imuvid.data.shard_dataset import Unpacked, picture
from imuvid.imu.condition import ConditionConfig, condition

Tokenize = Callable[[str | None], np.ndarray]
"""Makes of a text, or of None, an int64 array of a fixed length."""


@dataclass
class DataConfig:
    """Where the windows come from and how they are read."""

    path: str | None = None
    """Dataset: a folder (with dataset.json), or its URL, as s3://bucket/name; or else a mixture."""
    mixture: list[MixtureEntry] = field(default_factory=list)
    """Several datasets in shares of their weights: [{path: a, weight: 3}, {path: b, weight: 1}]."""
    train_split: str = "train"
    val_split: str = "val"
    batch_size: int = 64
    """Global batch: windows a step, over all ranks."""
    block_shards: int = 0
    """Shards whose samples are shuffled together; 0 for all. Bounds how scattered the reads are."""
    max_per_recording: int = 0
    """Most windows of one recording in a global batch, since such are false negatives; 0 = no bound. See
    imuvid.data.spread for what comes without."""
    resampled: bool = False
    """Draw each sample with replacement, instead of each once an epoch."""
    epoch_samples: int | None = None
    """Samples that count as an epoch in train.epochs, train.validate_every_epochs and the logs; None = as many as the
    training split has, of a mixture the sum."""
    num_workers: int = 1
    """Loader processes of each rank; 0 reads in the training process."""
    timeout_s: float = 300.0
    """Longest wait for a batch before the run stops and says what is being read."""
    max_corrupt: int = 10
    """Corrupt samples, each counted once, that are replaced by a sound neighbour; a run stops at the next one."""
    num_frames: int = 0
    """Frames of a window that are used, one drawn from each of as many chunks of the stored ones; 0 = all."""
    read_ahead: int = 64
    """Samples that each worker reads ahead, where the dataset is at a URL."""
    cache_dir: str | None = None
    """Folder on a local disk, where whole shards of a dataset at a URL are kept for all processes of the machine."""
    cache_gb: float = 50.0
    """Most room that they take, 1e9 bytes."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    condition: ConditionConfig = field(default_factory=ConditionConfig)
    """Of held-out windows too; it goes with the encoder, so that evaluation does the same."""


class OrderedSamples(IterableDataset):
    """Yields (epoch, sample) of one rank's batches from ``first_step`` on, for ever.

    With n loader workers, worker w has every n-th batch; the DataLoader takes them in turn, so the batches come
    out in the same order for any n.
    """

    def __init__(self, order: Order, batch_size: int, rank: int, world: int, first_step: int):
        self.order, self.batch_size, self.rank, self.world, self.first_step = order, batch_size, rank, world, first_step

    def __iter__(self) -> Iterator[tuple[int, int]]:
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        step = self.first_step + first
        while True:
            yield from self.order.rank_batch(step, self.batch_size, self.rank, self.world)
            step += stride


class _Decode:
    """Stage: (epoch, sample) and its bytes, if they were read -> augmented and conditioned Example."""

    def __init__(
        self,
        dataset: AnyDataset,
        config: DataConfig,
        seed: int,
        local_batch: int,
        progress: Progress,
        tokenize: Tokenize | None,
    ):
        self.dataset, self.config, self.seed, self.progress, self.tokenize = dataset, config, seed, progress, tokenize
        self.mirror = mirrored_positions(dataset.info.positions)
        self.local_batch, self.memory, self.read_memory = local_batch, FrameMemory(local_batch), ReadMemory(local_batch)

    def __call__(self, items: Iterable[Read]) -> Iterator[Example]:
        """Take a local batch of samples at a time: to read and unpack them one by one, between two decodings, would be
        twice as dear, since each decoding takes the processor's cache.
        """
        items = iter(items)
        while group := list(itertools.islice(items, self.local_batch)):
            unpacked = deque(self._unpacked(*position, raw, self.read_memory) for position, raw in group)
            for position, _ in group:
                yield self._example(*position, unpacked.popleft())
            self.progress.rests()

    def _unpacked(
        self, epoch: int, sample: int, raw: bytes | memoryview | ValueError | None, memory: ReadMemory | None = None
    ) -> Unpacked | ValueError:
        self.progress.reads(sample)
        if isinstance(raw, ValueError):
            return raw
        rng = None
        if self.config.num_frames:  # else nothing is drawn, and making one takes as long as reading the JSON
            rng = np.random.default_rng(np.random.SeedSequence([self.seed, epoch, sample, 5]))
        try:
            read = self.dataset.raw(sample, memory) if raw is None else raw
            return self.dataset.unpack(sample, self.dataset.read(sample, read), rng)
        except ValueError as error:
            return error

    def _example(self, epoch: int, sample: int, unpacked: Unpacked | ValueError) -> Example:
        def decode(number: int) -> Example:
            own = unpacked if number == sample else self._unpacked(epoch, number, None)
            if isinstance(own, ValueError):
                raise own
            self.progress.reads(number)
            return picture(self.dataset, *own, self.memory)

        example = read_or_replace(self.dataset, sample, decode, self.config.max_corrupt)
        # Augmentation is that of a sensor: it comes before the readings lose their units.
        augmented = augment(example, self.config.augment, self.seed, epoch, self.mirror)
        self.memory.keep(augmented.frames)
        if self.tokenize is not None:
            augmented = dataclasses.replace(augmented, text=self.tokenize(augmented.narration))
        return _conditioned(augmented, self.dataset, self.config.condition)


def _conditioned(example: Example, dataset: AnyDataset, config: ConditionConfig) -> Example:
    if config == ConditionConfig():
        return example
    recording = None
    if config.normalise == "recording":
        recording = dataset.statistics_of(example.sample)
    return dataclasses.replace(example, imu=condition(example.imu, example.valid, config, recording))


def training_stream(
    dataset: AnyDataset,
    config: DataConfig,
    seed: int,
    rank: int,
    world: int,
    first_step: int,
    pin_memory: bool,
    tokenize: Tokenize | None = None,
) -> Iterator[Batch]:
    """Return the endless iterator over this rank's local batches, beginning with that of ``first_step``.

    Narrations come as ``tokenize`` makes them, if it is given.

    Raises:
        RuntimeError: (while iterating) a worker ended or no batch came within ``config.timeout_s``; names rank, worker
            and what it was reading.
        ValueError: (while iterating) a shard cannot be read, or more samples one after another are corrupt than
            ``config.max_corrupt``; names shard and key. Or the global batch size is no multiple of the number of ranks.
        UserError: the dataset lacks the statistics of its recordings, which ``config.condition`` asks for, or the
            cache cannot be written to.
    """
    if config.condition.normalise == "recording":
        _ = dataset.imu_statistics  # read once, not by every worker
    order = sample_order(dataset, config, seed)
    progress = Progress(config.num_workers)
    pipeline = webdataset.DataPipeline(
        OrderedSamples(order, config.batch_size, rank, world, first_step),
        ReadAhead(dataset, config.read_ahead, open_cache(config, dataset), progress),
        _Decode(dataset, config, seed, config.batch_size // world, progress, tokenize),
        webdataset.batched(config.batch_size // world, collation_fn=collate, partial=False),
    )
    loader: DataLoader = DataLoader(
        pipeline,
        batch_size=None,
        num_workers=config.num_workers,
        pin_memory=pin_memory,
        timeout=config.timeout_s if config.num_workers else 0,
        worker_init_fn=_quiet_worker,
        multiprocessing_context="fork" if config.num_workers else None,
    )
    return _batches(loader, config.timeout_s, rank, lambda worker: progress.describe(worker, dataset.where))


def open_cache(config: DataConfig, dataset: AnyDataset) -> ShardCache | None:
    """Return the cache of the dataset's shards; None where there is none to be, or the dataset is in a local folder.

    Raises:
        UserError: it cannot be written to.
    """
    if config.cache_dir is None or all(part.store.local is not None for part in dataset.parts):
        return None
    return ShardCache(config.cache_dir, int(config.cache_gb * 1e9))


def _batches(loader: DataLoader, timeout_s: float, rank: int, doing: Callable[[int], str]) -> Iterator[Batch]:
    # Blocked while the workers are forked, so that none is hit before it has set itself up; they inherit that.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGUSR1, signal.SIGTERM})
    try:
        iterator = iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    number = 0
    while True:
        try:
            # The loader itself watches its workers only.
            batch = next(iterator) if loader.num_workers else within(timeout_s, lambda: next(iterator))
        except ValueError as error:
            # Of a worker's error the loader makes one that begins with the worker's traceback.
            raise ValueError(str(error).strip().splitlines()[-1].removeprefix("ValueError: ")) from error
        except (RuntimeError, TimeoutError) as error:
            what = str(error).strip().splitlines()[0]
            if isinstance(error, RuntimeError) and not what.startswith("DataLoader"):
                raise
            if "timed out" in what or isinstance(error, TimeoutError):
                what = f"no batch within {timeout_s:g} s (data.timeout_s)"
            worker = number % max(1, loader.num_workers)  # they take turns
            raise RuntimeError(f"rank {rank}: {what}: {doing(worker)}") from error
        number += 1
        yield batch


def _quiet_worker(_worker: int) -> None:
    # A time limit's or an interrupt's signal reaches every process of a job: only the training process acts on it.
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_obey_parent, daemon=True).start()
    torch.set_num_threads(1)


def _obey_parent() -> None:
    # By SIGTERM the training process itself ends its workers, when it fails or gives up waiting; then it joins them.
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def evaluation_batches(
    dataset: AnyDataset, samples: list[int], batch_size: int, config: ConditionConfig
) -> Iterator[Batch]:
    """Yield the given samples in order, unaugmented but conditioned, in batches of at most ``batch_size``.

    None is replaced: a result on other windows than those it names would be another result.

    Raises:
        ValueError: a sample is corrupt or cannot be read; names shard and key.
    """
    reads = ReadAhead(dataset, DataConfig.read_ahead)((0, sample) for sample in samples)
    chosen: list[Example] = []
    for (_, sample), raw in reads:
        if isinstance(raw, ValueError):
            raise raw
        chosen.append(_conditioned(dataset.example(sample, raw), dataset, config))
        if len(chosen) == batch_size:
            yield collate(chosen)
            chosen = []
    if chosen:
        yield collate(chosen)
