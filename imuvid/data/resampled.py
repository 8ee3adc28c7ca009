"""Samples drawn with replacement: for data so large that a run never sees all of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from imuvid.data.order import Item, Order, epoch_size
from imuvid.data.shuffle import random_words

_STRETCH = 4096


class ResampledOrder(Order):
    """Each position has a sample drawn by itself, in proportion to the weights.

    The sequence is cut into stretches, each a function of (seed, its number), so it is entered anywhere at once. An
    epoch is as many draws as the epoch of :class:`imuvid.data.order.SampleOrder` has samples; of N samples of weight 1
    it holds a share of 1 - (1 - 1/N)^N, about 0.632, the others come later.

    Args:
        shard_sizes: number of samples of each shard; sample i is the i-th in the order of the shards.
        seed: of the draw.
        block_shards: number of shards that a stretch is drawn from, themselves drawn with replacement, in proportion to
            the sum of their weights; 0 for all. Bounds how scattered the reads are; how often a sample comes is the
            same.
        weights: float [N], 0 to 1; None = all alike.

    Raises:
        ValueError: there is no sample, or the number of weights is another one.
    """

    def __init__(self, shard_sizes: Sequence[int], seed: int, block_shards: int = 0, weights: np.ndarray | None = None):
        sizes = np.asarray(shard_sizes, dtype=np.int64)
        total = int(sizes.sum())
        if weights is not None and weights.shape != (total,):
            raise ValueError(f"{len(weights)} weights for {total} samples")
        self.num_samples = total if weights is None else epoch_size(weights)
        if self.num_samples == 0:
            raise ValueError("there is no sample to draw")
        self._reached = None if weights is None else np.concatenate([[0.0], np.cumsum(weights)])
        ends = np.concatenate([[0], np.cumsum(sizes)])
        self._shard_reached = ends.astype(np.float64) if self._reached is None else self._reached[ends]
        self._seed, self._block_shards = seed, block_shards
        self._length = round(block_shards * self.num_samples / len(sizes)) or 1 if block_shards else _STRETCH
        self._stretches: OrderedDict[int, np.ndarray] = OrderedDict()

    def take(self, start: int, stop: int) -> list[Item]:
        """Return (position, sample) of the positions [start, stop): a sample that comes again is augmented anew."""
        samples: list[int] = []
        position = start
        while position < stop:
            stretch, within = divmod(position, self._length)
            until = min(self._length, within + stop - position)
            samples += self._stretch(stretch)[within:until].tolist()
            position += until - within
        return list(zip(range(start, stop), samples, strict=True))

    def _stretch(self, stretch: int) -> np.ndarray:
        if stretch not in self._stretches:
            words = random_words(self._length + self._block_shards, self._seed, stretch, 0, 6)
            uniform = (words >> np.uint64(11)) * 2.0**-53
            drawn, rest = uniform[: self._length], uniform[self._length :]
            if self._block_shards:
                shards = self._find(self._shard_reached, rest * self._shard_reached[-1])
                chosen = drawn * self._block_shards
                which = np.minimum(chosen.astype(np.int64), self._block_shards - 1)
                low, high = self._shard_reached[shards[which]], self._shard_reached[shards[which] + 1]
                reached = np.minimum(low + (chosen - which) * (high - low), np.nextafter(high, low))
            else:
                reached = drawn * self._shard_reached[-1]
            if self._reached is None:
                samples = np.minimum(reached.astype(np.int64), int(self._shard_reached[-1]) - 1)
            else:
                samples = self._find(self._reached, reached)
            self._stretches[stretch] = samples
            while len(self._stretches) > 2:
                self._stretches.popitem(last=False)
        return self._stretches[stretch]

    @staticmethod
    def _find(reached: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Return i with reached[i] <= at < reached[i + 1]."""
        last = np.searchsorted(reached, reached[-1], side="left") - 1
        return np.minimum(np.searchsorted(reached, at, side="right") - 1, last)
