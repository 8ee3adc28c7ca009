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

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np

from imuvid.data.shuffle import Permutation, permutation, random_words
from imuvid.data.spread import Cells, Spread, spread

Item = tuple[int, int]
"""Of a place in the sequence: (pass, sample). The pass is the epoch or, where a sample may come again within one, any
other number that differs each time; augmentation is drawn from both."""

Batches = Callable[[int, int], np.ndarray]
"""(start, stop) -> the positions in [start, stop) at which another global batch begins, sorted."""


def epoch_size(weights: np.ndarray) -> int:
    """Return the number of samples of an epoch: those of weight 1, and the others' weights, summed and rounded down.

    Args:
        weights: float [N], 0 to 1.
    """
    light = weights[weights < 1]
    return len(weights) - len(light) + int(light.sum() + 1e-6)


class Order(ABC):
    """An endless sequence of samples that can be entered anywhere.

    Attributes:
        num_samples: of an epoch.
    """

    num_samples: int

    @abstractmethod
    def take(self, start: int, stop: int) -> list[Item]:
        """Return what is at the positions [start, stop) of the sequence."""

    def seen(self, position: int) -> list[int]:
        """Return how many of the first ``position`` samples are of each dataset; here there is one."""
        return [position]

    def rank_batch(self, step: int, batch_size: int, rank: int, world: int) -> list[Item]:
        """Return what ``rank`` of ``world`` ranks trains on in ``step``.

        Raises:
            ValueError: the global ``batch_size`` is no multiple of ``world``.
        """
        if batch_size % world:
            raise ValueError(f"global batch size {batch_size} is no multiple of the {world} ranks")
        local = batch_size // world
        start = step * batch_size + rank * local
        return self.take(start, start + local)


class _Plan:
    """What an epoch is made of: its shards in order, where in it the blocks end, which samples it has."""

    def __init__(self, shards: np.ndarray, sizes: np.ndarray, firsts: np.ndarray, chosen: np.ndarray | None):
        self.shards, self.chosen, self.firsts = shards, chosen, firsts
        self.shard_ends = np.cumsum(sizes[shards])
        self.ends = self.shard_ends[np.append(firsts[1:], len(shards)) - 1]
        """Position in the epoch at which each block ends."""

    def samples(self, places: np.ndarray, first_of_shard: np.ndarray) -> np.ndarray:
        """Return the samples at places of the epoch before any shuffle within the blocks."""
        at = np.searchsorted(self.shard_ends, places, side="right")
        shards = self.shards[at]
        within = places - np.where(at > 0, self.shard_ends[at - 1], 0)
        if self.chosen is None:
            return first_of_shard[shards] + within
        samples = np.empty(len(places), dtype=np.int64)
        for shard in np.unique(shards):
            mine = shards == shard
            first, last = first_of_shard[shard], first_of_shard[shard + 1]
            samples[mine] = first + np.flatnonzero(self.chosen[first:last])[within[mine]]
        return samples


class SampleOrder(Order):
    """Every sample once an epoch.

    Args:
        shard_sizes: number of samples of each shard; sample i is the i-th in the order of the shards.
        seed: of the shuffle.
        block_shards: number of shards whose samples are shuffled together, up to twice as many in the last block of an
            epoch; 0 for all.
        weights: float [N], 0 to 1, how often each sample comes; None = every sample once an epoch.
        bound: if given, how the windows of each recording are spread over the batches, so that few come together.
        batches: where the batches begin; needed for ``bound``.

    Raises:
        ValueError: there is no sample, or the number of weights is another one.
    """

    _CACHED_BLOCKS = 4

    def __init__(
        self,
        shard_sizes: Sequence[int],
        seed: int,
        block_shards: int = 0,
        weights: np.ndarray | None = None,
        bound: Spread | None = None,
        batches: Batches | None = None,
    ):
        self._sizes = np.asarray(shard_sizes, dtype=np.int64)
        self._first = np.concatenate([[0], np.cumsum(self._sizes)])
        total = int(self._first[-1])
        if weights is not None and weights.shape != (total,):
            raise ValueError(f"{len(weights)} weights for {total} samples")
        self._weights = weights
        self._light = np.flatnonzero(weights < 1) if weights is not None else np.zeros(0, dtype=np.int64)
        self.num_samples = total if weights is None else epoch_size(weights)
        if self.num_samples == 0:
            raise ValueError("there is no sample to put in order")
        self._seed = seed
        num_blocks = max(1, len(self._sizes) // (block_shards or len(self._sizes)))
        self._firsts = np.arange(num_blocks) * (block_shards or len(self._sizes))
        self._bound, self._batches = bound, batches
        self._plans: OrderedDict[int, _Plan] = OrderedDict()
        self._blocks: OrderedDict[tuple[int, int], Permutation] = OrderedDict()
        self._spreads: OrderedDict[tuple[int, int, bool], np.ndarray] = OrderedDict()

    def take(self, start: int, stop: int) -> list[Item]:
        """Return (epoch, sample) of the positions [start, stop) of the sequence."""
        items: list[Item] = []
        while start < stop:
            epoch, within = divmod(start, self.num_samples)
            first, end = self._block_of(epoch, within)
            until = min(end, within + stop - start)
            samples = self._samples(epoch, first, np.arange(within, until))
            items += [(epoch, sample) for sample in samples.tolist()]
            start += until - within
        return items

    @property
    def smallest_block(self) -> int:
        """Number of samples that a block has at least."""
        counts = self._sizes - np.bincount(
            np.searchsorted(self._first, self._light, side="right") - 1, minlength=len(self._sizes)
        )
        shards_of_block = len(self._sizes) if len(self._firsts) == 1 else int(self._firsts[1])
        return int(np.sort(counts)[:shards_of_block].sum())

    def _block_of(self, epoch: int, within: int) -> tuple[int, int]:
        """Where in the epoch the block of a position begins and ends."""
        ends = self._plan(epoch).ends
        block = int(np.searchsorted(ends, within, side="right"))
        return (int(ends[block - 1]) if block else 0), int(ends[block])

    def _samples(self, epoch: int, first: int, places: np.ndarray) -> np.ndarray:
        """The samples at places of an epoch, all of the block that begins at ``first``."""
        if self._bound is not None:
            return self._spread(epoch, first, after_neighbour=True)[places - first]
        return self._plan(epoch).samples(first + self._shuffle(epoch, first).at(places - first), self._first)

    def _shuffle(self, epoch: int, first: int) -> Permutation:
        if (epoch, first) not in self._blocks:
            ends = self._plan(epoch).ends
            block = int(np.searchsorted(ends, first, side="right"))
            self._blocks[epoch, first] = Permutation(int(ends[block]) - first, self._seed, epoch, block + 1)
            while len(self._blocks) > self._CACHED_BLOCKS:
                self._blocks.popitem(last=False)
        return self._blocks[epoch, first]

    def _spread(self, epoch: int, first: int, after_neighbour: bool) -> np.ndarray:
        """The samples of a block in an order that keeps the bound.

        By itself (not ``after_neighbour``), or also in the batch that it shares with the block before it. Of that one
        only the end matters, which does not depend on the block before that: no chain, so any block can be entered.
        """
        key = (epoch, first, after_neighbour)
        if key in self._spreads:
            self._spreads.move_to_end(key)
            return self._spreads[key]
        assert self._bound is not None
        assert self._batches is not None
        _, end = self._block_of(epoch, first)
        start = epoch * self.num_samples + first
        begins = self._batches(start, epoch * self.num_samples + end) - start
        cells = Cells(begins, end - first)
        if after_neighbour:
            samples = self._spread(epoch, first, after_neighbour=False)
            if cells.shares_head and start > 0:
                samples = self._bound.mend(samples, cells, self._before(start), (self._seed, epoch, first, 4))
        else:
            samples = self._plan(epoch).samples(np.arange(first, end), self._first)
            samples = spread(samples, self._bound, cells, (self._seed, epoch, first, 3))
        self._spreads[key] = samples
        while len(self._spreads) > self._CACHED_BLOCKS:
            self._spreads.popitem(last=False)
        return samples

    def _before(self, start: int) -> np.ndarray:
        """The samples of the block before position ``start`` that are in the same batch as the one there."""
        epoch, within = divmod(start - 1, self.num_samples)
        first, end = self._block_of(epoch, within)
        assert self._batches is not None
        begins = self._batches(epoch * self.num_samples + first, start)
        tail = start - int(begins[-1]) if len(begins) else end - first
        return self._spread(epoch, first, after_neighbour=False)[end - first - tail :]

    def _plan(self, epoch: int) -> _Plan:
        if epoch not in self._plans:
            shards = permutation(len(self._sizes), self._seed, epoch)
            chosen = self._chosen(epoch) if len(self._light) else None
            sizes = self._sizes
            if chosen is not None:
                sizes = np.add.reduceat(np.append(chosen, False), self._first[:-1], dtype=np.int64)
                sizes[self._sizes == 0] = 0
            self._plans[epoch] = _Plan(shards, sizes, self._firsts, chosen)
            while len(self._plans) > 2:
                self._plans.popitem(last=False)
        return self._plans[epoch]

    def _chosen(self, epoch: int) -> np.ndarray:
        """Which samples the epoch has, bool [N]; of the light ones by systematic sampling (Madow, 1949), shuffled."""
        assert self._weights is not None
        chosen = np.ones(len(self._weights), dtype=bool)
        order = self._light[permutation(len(self._light), self._seed, epoch, 0, 1)]
        reached = np.cumsum(self._weights[order])
        num = self.num_samples - (len(self._weights) - len(self._light))
        start = random_words(1, self._seed, epoch, 0, 2)[0] / 2**64
        steps = np.floor(reached * (num / max(reached[-1], 1e-12)) - start + 1e-9)
        chosen[order] = np.diff(steps, prepend=np.floor(1e-9 - start)) > 0
        return chosen
