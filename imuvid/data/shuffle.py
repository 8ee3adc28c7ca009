"""Random permutations that are functions of integers: the same in every process and with every version of numpy."""

from __future__ import annotations

import numpy as np

_LISTED = 1 << 16
_ROUNDS = 6


def random_words(n: int, *key: int) -> np.ndarray:
    """Return ``n`` random words, uint64 [n], that are a function of the non-negative integers ``key``.

    Raw Philox words, since numpy promises their stream across versions, but not those of its distributions.
    """
    return np.random.Philox(np.random.SeedSequence(key)).random_raw(n)


def permutation(n: int, *key: int) -> np.ndarray:
    """Return a random permutation of range(n), int64 [n], that is a function of the non-negative integers ``key``."""
    return np.argsort(random_words(n, *key), kind="stable")


class Permutation:
    """A random permutation of range(n) of which any places can be asked for.

    Short ones are listed. Of long ones each place is computed when it is asked for, by a Feistel network (Luby and
    Rackoff, 1988) on the next larger power of four, applied again until it falls below n (Black and Rogaway, 2002):
    an epoch of ten million samples is entered anywhere in no time and no memory.

    Args:
        n: number of places.
        key: non-negative integers that the permutation is a function of.
    """

    def __init__(self, n: int, *key: int):
        self._n = n
        self._listed = permutation(n, *key) if n <= _LISTED else None
        self._half = np.uint64((max(n - 1, 1).bit_length() + 1) // 2)
        self._mask = (np.uint64(1) << self._half) - np.uint64(1)
        self._keys = random_words(_ROUNDS, *key)

    def at(self, places: np.ndarray) -> np.ndarray:
        """Return what stands at the places, int64 [M], each 0 to n - 1."""
        if self._listed is not None:
            return self._listed[places]
        found = self._walk(places.astype(np.uint64))
        while len(beyond := np.flatnonzero(found >= self._n)):
            found[beyond] = self._walk(found[beyond])
        return found.astype(np.int64)

    def _walk(self, x: np.ndarray) -> np.ndarray:
        left, right = x >> self._half, x & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mixed(right ^ key) & self._mask)
        return (left << self._half) | right


def _mixed(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): each bit of the result depends on all of ``x``."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
