"""Few windows of a recording in a batch: overlapping or adjoining ones are alike, so that they are false negatives.

In a full shuffle of N windows, c_r of them of recording r, a batch of B holds in the mean

    sum over r of c_r (c_r - 1) / 2  *  B (B - 1) / (N (N - 1))

pairs of windows of one recording, and the chance that it holds any is 1 - e_B(c) / binomial(N, B) with e_B the
elementary symmetric polynomial of degree B, about 1 - exp(-mean). For 2000 recordings of 100 windows and B = 256 the
mean is 16: such pairs are the rule.

With a bound, the windows of a block, grouped by recording in random order, are dealt to its batches like cards, so that
the windows of a recording lie in as many batches as there can be. Where batches differ in size, in a mixture, and where
a batch has parts of two blocks or epochs, those that are too many change places with others at random. A deal is exact:
no batch within a block holds more than the bound if no recording has more windows than the bound times the full
batches of a block. In the batch where two blocks or epochs meet that takes recordings enough to choose from besides;
where there are none, some stay.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imuvid.data.shuffle import permutation

_TRIES = 2000


class Cells:
    """The parts of global batches that a block is cut into.

    Args:
        begins: places in the block at which a batch begins, sorted.
        size: of the block.

    Attributes:
        starts: place at which each part begins.
        sizes: of each part.
        of_place: part of each place of the block.
        shares_head: whether the first part is the rest of a batch that begins before the block.
    """

    def __init__(self, begins: np.ndarray, size: int):
        self.shares_head = not len(begins) or int(begins[0]) > 0
        self.starts = np.append(0, begins) if self.shares_head else begins
        self.sizes = np.diff(self.starts, append=size)
        self.of_place = np.repeat(np.arange(len(self.sizes)), self.sizes)


@dataclass(frozen=True)
class Spread:
    """At most so many windows of a recording in a batch."""

    recordings: np.ndarray
    """int [N]: number of the recording of each sample."""
    most: int

    def mend(self, samples: np.ndarray, cells: Cells, before: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
        """Return the samples of a block, those of its first part changed for others of the block where they must be.

        Its last part stays as it is: the block after it relies on that.

        Args:
            samples: int64 [n], a block that keeps the bound by itself.
            cells: of the block.
            before: samples of the block before that are in the same batch as the first part.
            key: of the random choice.
        """
        return _exchanged(samples, self, cells, self.recordings[before], len(cells.sizes) - 1, key)


def spread(samples: np.ndarray, bound: Spread, cells: Cells, key: tuple[int, ...]) -> np.ndarray:
    """Return the samples of a block dealt to its batches, in random order within each.

    Args:
        samples: int64 [n].
        bound: that is to be kept.
        cells: of the block.
        key: of the random choice.
    """
    n = len(samples)
    mixed = samples[permutation(n, *key, 1)]
    _, codes = np.unique(bound.recordings[mixed], return_inverse=True)
    rank = permutation(int(codes.max()) + 1, *key, 2)
    grouped = mixed[np.argsort(rank[codes], kind="stable")]
    # A slot is a place; slots of equal row lie in different cells. Rows are random within a cell, cells within a row.
    shuffled = permutation(n, *key, 3)
    places = shuffled[np.argsort(cells.of_place[shuffled], kind="stable")]
    rows = np.arange(n) - cells.starts[cells.of_place[places]]
    turn = permutation(len(cells.sizes), *key, 4)
    slots = places[np.lexsort((turn[cells.of_place[places]], rows))]
    dealt = np.empty_like(samples)
    dealt[slots] = grouped
    return _exchanged(dealt, bound, cells, np.zeros(0, dtype=np.int64), None, key)


def _exchanged(
    samples: np.ndarray,
    bound: Spread,
    cells: Cells,
    before: np.ndarray,
    frozen: int | None,
    key: tuple[int, ...],
) -> np.ndarray:
    """Exchange samples that are too many in their cell with ones of other cells, where both then keep the bound."""
    codes = bound.recordings[samples]
    extra = _too_many(codes, cells, before, bound.most)
    if not len(extra):
        return samples
    samples, codes = samples.copy(), codes.copy()
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((*key, 5))))

    def count(cell: int, code: int) -> int:
        start = int(cells.starts[cell])
        found = np.count_nonzero(codes[start : start + int(cells.sizes[cell])] == code)
        return int(found) + (int(np.count_nonzero(before == code)) if cell == 0 else 0)

    for place in extra.tolist():
        cell = int(cells.of_place[place])
        if cell == frozen or count(cell, codes[place]) <= bound.most:
            continue
        for other in (rng.random(_TRIES) * len(samples)).astype(np.int64).tolist():
            target = int(cells.of_place[other])
            if (
                target not in (cell, frozen)
                and codes[other] != codes[place]
                and count(target, codes[place]) < bound.most
                and count(cell, codes[other]) < bound.most
            ):
                samples[[place, other]], codes[[place, other]] = samples[[other, place]], codes[[other, place]]
                break
    return samples


def _too_many(codes: np.ndarray, cells: Cells, before: np.ndarray, most: int) -> np.ndarray:
    """Places whose recording comes more than ``most`` times up to there in its cell, ``before`` the first cell's."""
    all_codes = np.concatenate([before, codes])
    cell = np.concatenate([np.zeros(len(before), dtype=np.int64), cells.of_place])
    order = np.lexsort((all_codes, cell))
    same = np.append(False, (np.diff(all_codes[order]) == 0) & (np.diff(cell[order]) == 0))
    begins = np.flatnonzero(~same)
    nth = np.arange(len(order)) - np.repeat(begins, np.diff(begins, append=len(order)))
    places = order[nth >= most] - len(before)
    return np.sort(places[places >= 0])
