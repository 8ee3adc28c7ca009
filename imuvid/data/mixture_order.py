"""Several sequences of samples as one, in exact shares."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from imuvid.data.order import Batches, Item, Order
from imuvid.data.shuffle import random_words

_HALF_BITS = 20
_BITS = 2 * _HALF_BITS


class Shares:
    """Which of several datasets each position of a sequence belongs to: a pure function of position and weights.

    Of the first n positions, round(n w) go to the heaviest dataset, of the others' those to the next, and so on. Any
    prefix thereby has each of K datasets to within (1 + H_K) / 2 samples of its share, and any stretch to within
    1 + H_K, H_K = 1 + 1/2 + ... + 1/K: below 2.5 for two datasets, below 4 for ten. Integers alone, no rounding error.

    Args:
        weights: above 0, of any sum; ratios are kept to 1 in 10^12.
    """

    def __init__(self, weights: Sequence[float]):
        self._order = sorted(range(len(weights)), key=lambda i: (-weights[i], i))
        left = sum(Fraction(weight) for weight in weights)
        self._ratios: list[tuple[int, int]] = []
        for i in self._order:
            self._ratios.append((round(Fraction(weights[i]) / left * (1 << _BITS)), 1 << _BITS))
            left -= Fraction(weights[i])

    def counts(self, positions: np.ndarray) -> np.ndarray:
        """Return how many positions below each of the given ones each dataset has, int64 [K, M].

        Args:
            positions: int64 [M], up to 10^12.
        """
        result = np.empty((len(self._order), len(positions)), dtype=np.int64)
        left = positions.astype(np.int64)
        for i, (above, _) in zip(self._order[:-1], self._ratios, strict=False):
            # In two halves, so that no product leaves 64 bits.
            high, low = np.divmod(left, 1 << _HALF_BITS)
            whole, rest = np.divmod(high * above, 1 << _HALF_BITS)
            result[i] = whole + (((rest << _HALF_BITS) + low * above + (1 << (_BITS - 1))) >> _BITS)
            left = left - result[i]
        result[self._order[-1]] = left
        return result

    def batches(self, dataset: int, batch_size: int) -> Batches:
        """Return where, in the sequence of one dataset, its part of each global batch begins."""

        def begins(steps: np.ndarray) -> np.ndarray:
            return self.counts(steps * batch_size)[dataset]

        def first_from(place: int) -> int:
            low, high = 0, 1
            while begins(np.array([high]))[0] < place:
                high *= 2
            while low < high:
                middle = (low + high) // 2
                if begins(np.array([middle]))[0] < place:
                    low = middle + 1
                else:
                    high = middle
            return low

        return lambda start, stop: np.unique(begins(np.arange(first_from(start), first_from(stop))))

    def largest_part(self, dataset: int, batch_size: int) -> int:
        """Return the most samples of one dataset that a global batch can have."""
        num = len(self._order)
        weight = float(Fraction(*self._weight(dataset)))
        return min(batch_size, int(batch_size * weight + 1 + sum(1 / k for k in range(1, num + 1))))

    def _weight(self, dataset: int) -> tuple[int, int]:
        left = Fraction(1)
        for i, (above, below) in zip(self._order, self._ratios, strict=True):
            share = left * Fraction(above, below)
            if i == dataset:
                return share.numerator, share.denominator
            left -= share
        raise IndexError(dataset)


class MixtureOrder(Order):
    """Several sequences in shares of their weights; each keeps its own epochs.

    Args:
        orders: of the datasets.
        shares: of the datasets.
        first_samples: number that sample 0 of each dataset has in the mixture.
    """

    def __init__(self, orders: Sequence[Order], shares: Shares, first_samples: Sequence[int]):
        self._orders, self._shares, self._first = list(orders), shares, list(first_samples)
        self.num_samples = sum(order.num_samples for order in orders)

    def take(self, start: int, stop: int) -> list[Item]:
        """Return (pass of its dataset, sample of the mixture) of the positions [start, stop)."""
        if stop <= start:
            return []
        counts = self._shares.counts(np.arange(start, stop + 1))
        items: list[Item] = [(0, 0)] * (stop - start)
        for order, first, reached in zip(self._orders, self._first, counts, strict=True):
            taken = order.take(int(reached[0]), int(reached[-1]))
            for place, (number, sample) in zip(np.flatnonzero(np.diff(reached)).tolist(), taken, strict=True):
                items[place] = number, first + sample
        return items

    def seen(self, position: int) -> list[int]:
        """Return how many of the first ``position`` samples are of each dataset."""
        return self._shares.counts(np.array([position]))[:, 0].tolist()


def seed_of(seed: int, dataset: int) -> int:
    """Return the seed of one dataset of a mixture, so that those of equal shards are not in the same order."""
    return int(random_words(1, seed, dataset, 0, 7)[0])
