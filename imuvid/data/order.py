"""The order of samples: pure functions of (sizes of the shards, seed, epoch), whatever reads them.

Training consumes one endless sequence: the samples of epoch 0 in their order, those of epoch 1 in theirs, and so on.
Global batch s is positions [s B, (s + 1) B) of it, and rank r of W takes the r-th of W equal parts of that batch.
So every sample comes exactly once an epoch, every rank has the same number of batches, no batch is short, and the
global batches do not depend on the number of nodes, ranks or workers. The whole state is the number of steps done.

Samples of a weight below 1 come in that share of the epochs: each epoch has the same number of them, drawn anew.

Within an epoch the shards are shuffled and cut into blocks, and the samples of a block are shuffled together: reads
stay within a few shards, while neighbours in a batch come from a whole block.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np


def permutation(n: int, *key: int) -> np.ndarray:
    """Return a random permutation of range(n), int64 [n], that is a function of the non-negative integers ``key``.

    Raw Philox words are sorted, since numpy promises their stream across versions, but not that of shuffles.
    """
    bits = np.random.Philox(np.random.SeedSequence(key)).random_raw(n)
    return np.argsort(bits, kind="stable")


def epoch_size(weights: np.ndarray) -> int:
    """Return the number of samples of an epoch: those of weight 1, and the others' weights, summed and rounded down.

    Args:
        weights: float [N], 0 to 1.
    """
    light = weights < 1
    return int((~light).sum()) + int(weights[light].sum() + 1e-6)


class SampleOrder:
    """The endless sequence of samples.

    Args:
        shard_sizes: number of samples of each shard; sample i is the i-th in the order of the shards.
        seed: of the shuffle.
        block_shards: number of shards whose samples are shuffled together; 0 for all.
        weights: float [N], 0 to 1, how often each sample comes; None = every sample once an epoch.

    Raises:
        ValueError: there is no sample, or the number of weights is another one.
    """

    _CACHED_BLOCKS = 4

    def __init__(self, shard_sizes: Sequence[int], seed: int, block_shards: int = 0, weights: np.ndarray | None = None):
        self._sizes = np.asarray(shard_sizes, dtype=np.int64)
        self._first = np.concatenate([[0], np.cumsum(self._sizes)])
        self._weights = np.ones(self._first[-1]) if weights is None else np.asarray(weights, dtype=np.float64)
        if self._weights.shape != (self._first[-1],):
            raise ValueError(f"{len(self._weights)} weights for {self._first[-1]} samples")
        self._light = np.flatnonzero(self._weights < 1)
        self.num_samples = epoch_size(self._weights)
        """Samples of an epoch."""
        if self.num_samples == 0:
            raise ValueError("there is no sample to put in order")
        self._seed = seed
        self._block_shards = block_shards or len(self._sizes)
        self._plans: OrderedDict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = OrderedDict()
        self._blocks: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()

    def take(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return (epoch, sample) of the positions [start, stop) of the sequence."""
        return [self._at(position) for position in range(start, stop)]

    def rank_batch(self, step: int, batch_size: int, rank: int, world: int) -> list[tuple[int, int]]:
        """Return (epoch, sample) of what ``rank`` of ``world`` ranks trains on in ``step``.

        Raises:
            ValueError: the global ``batch_size`` is no multiple of ``world``.
        """
        if batch_size % world:
            raise ValueError(f"global batch size {batch_size} is no multiple of the {world} ranks")
        local = batch_size // world
        start = step * batch_size + rank * local
        return self.take(start, start + local)

    def _at(self, position: int) -> tuple[int, int]:
        epoch, within = divmod(position, self.num_samples)
        shards, block_ends, _ = self._plan(epoch)
        block = int(np.searchsorted(block_ends, within, side="right"))
        start = int(block_ends[block - 1]) if block else 0
        return epoch, int(self._block(epoch, block, shards)[within - start])

    def _plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The epoch's order of shards, where in the epoch each of its blocks ends, and which samples it has."""
        if epoch not in self._plans:
            shards = permutation(len(self._sizes), self._seed, epoch)
            chosen = self._chosen(epoch)
            sizes = np.add.reduceat(np.append(chosen, False), self._first[:-1], dtype=np.int64)
            ends = np.cumsum(np.where(self._sizes > 0, sizes, 0)[shards])
            last = np.arange(self._block_shards - 1, len(shards) + self._block_shards - 1, self._block_shards)
            self._plans[epoch] = shards, ends[np.minimum(last, len(shards) - 1)], chosen
            while len(self._plans) > 2:
                self._plans.popitem(last=False)
        return self._plans[epoch]

    def _block(self, epoch: int, block: int, shards: np.ndarray) -> np.ndarray:
        key = (epoch, block)
        if key not in self._blocks:
            members = shards[block * self._block_shards : (block + 1) * self._block_shards]
            samples = np.concatenate([np.arange(self._first[s], self._first[s + 1]) for s in members])
            samples = samples[self._plan(epoch)[2][samples]]
            self._blocks[key] = samples[permutation(len(samples), self._seed, epoch, block + 1)]
            while len(self._blocks) > self._CACHED_BLOCKS:
                self._blocks.popitem(last=False)
        return self._blocks[key]

    def _chosen(self, epoch: int) -> np.ndarray:
        """Which samples the epoch has, bool [N]; of the light ones by systematic sampling (Madow, 1949), shuffled."""
        chosen = np.ones(len(self._weights), dtype=bool)
        if len(self._light):
            order = self._light[permutation(len(self._light), self._seed, epoch, 0, 1)]
            reached = np.cumsum(self._weights[order])
            num = self.num_samples - (len(self._weights) - len(self._light))
            start = np.random.Philox(np.random.SeedSequence((self._seed, epoch, 0, 2))).random_raw() / 2**64
            steps = np.floor(reached * (num / max(reached[-1], 1e-12)) - start + 1e-9)
            chosen[order] = np.diff(steps, prepend=np.floor(1e-9 - start)) > 0
        return chosen
