"""Corrupt samples: what stands in for one, and how many a run puts up with.

The one that stands in is a function of the dataset alone, so that all ranks, workers and later starts of a run agree.
Only damage of the content counts: storage that does not answer stops a run, since the next start may find it well.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

from imuvid.data.batch import Example

REASONS = (
    "truncated",  # the shard is shorter than its index says
    "checksum",  # other bytes than were written
    "members",  # no sound tar members, or not those of a sample
    "other_sample",  # a sound sample, but another one than the index says
    "picture",  # a frame is no JPEG
)


class CorruptSample(ValueError):
    """The content of a sample is damaged; one line that names shard and key. ``reason`` is one of REASONS."""

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason


class Samples(Protocol):
    """What is known of a dataset without reading its shards."""

    weights: np.ndarray
    """float64 [N]: how often each sample is used; those of weight 0 never."""

    @property
    def shard_sizes(self) -> list[int]:
        """Number of samples of each shard; sample i is the i-th in the order of the shards."""

    def where(self, sample: int) -> str:
        """Return shard and key of a sample, for messages."""


def stand_ins(dataset: Samples, sample: int) -> Iterator[int]:
    """Yield the samples that may stand in for a corrupt one, best first.

    They are those behind it in its shard, then those before it there, then those of the shards behind it, and so
    round; of weight above 0.
    """
    ends = np.cumsum(dataset.shard_sizes)
    shard = int(np.searchsorted(ends, sample, side="right"))
    start, end, total = int(ends[shard] - dataset.shard_sizes[shard]), int(ends[shard]), int(ends[-1])
    for stretch in (range(sample + 1, end), range(start, sample), range(end, total), range(start)):
        yield from (other for other in stretch if dataset.weights[other] > 0)


def read_or_replace(dataset: Samples, sample: int, read: Callable[[int], Example], max_corrupt: int) -> Example:
    """Return what ``read`` gives for the sample, or for the first sound one of its stand-ins, which then says so.

    Raises:
        ValueError: more than ``max_corrupt`` samples are corrupt one after another; names the first.
    """
    try:
        return read(sample)
    except CorruptSample as error:
        first, num_corrupt = error, 1
    for other in stand_ins(dataset, sample):
        if num_corrupt > max_corrupt:
            break
        try:
            return dataclasses.replace(read(other), skipped=(sample, REASONS.index(first.reason)))
        except CorruptSample:
            num_corrupt += 1
    raise ValueError(_exceeded(str(first), num_corrupt, max_corrupt)) from first


class Damage:
    """The corrupt samples that a run has met, each counted once however often it was drawn.

    Args:
        dataset: to name them.
        max_corrupt: how many a run puts up with.
        known: reasons by sample, as ``known`` of an earlier start.
    """

    def __init__(self, dataset: Samples, max_corrupt: int, known: dict[str, str] | None = None):
        self._dataset, self._max_corrupt = dataset, max_corrupt
        self.known: dict[str, str] = dict(known or {})
        self._said = len(self.known)

    def add(self, skipped: list[tuple[int, int]]) -> None:
        """Count samples, (number, number of the reason) each; the same ones in the same order on every rank.

        Raises:
            ValueError: they are more than ``max_corrupt``; names the last.
        """
        for sample, reason in skipped:
            self.known.setdefault(str(sample), REASONS[reason])
        if len(self.known) > self._max_corrupt:
            raise ValueError(_exceeded(self._last(), len(self.known), self._max_corrupt))

    def figures(self) -> dict[str, float]:
        """Return the counts: ``corrupt_samples``, and ``corrupt_REASON`` of the reasons that occur."""
        counts = Counter(self.known.values())
        by_reason = {f"corrupt_{name}": float(counts[name]) for name in sorted(counts)}
        return {"corrupt_samples": float(len(self.known)), **by_reason}

    def news(self) -> str | None:
        """Return one line on what was added since the last call, None where nothing was."""
        if len(self.known) == self._said:
            return None
        new, self._said = len(self.known) - self._said, len(self.known)
        return (
            f"skipped {new} corrupt sample{'s' * (new > 1)}, {len(self.known)} of at most {self._max_corrupt}"
            f" (data.max_corrupt) by now; the last: {self._last()}"
        )

    def _last(self) -> str:
        sample, reason = next(reversed(self.known.items()))
        return f"{self._dataset.where(int(sample))}: {reason}"


def _exceeded(last: str, found: int, budget: int) -> str:
    if budget == 0:
        return last
    return f"{found} corrupt samples, more than data.max_corrupt={budget}: mend the dataset or allow more; {last}"
