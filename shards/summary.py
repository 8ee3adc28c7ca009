"""What a build tells while it runs and when it is done."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)

PROGRESS_EVERY_S = 5.0


@dataclass
class BuildSummary:
    """What a build did. For the eyes of whoever ran it: it holds plain names, the dataset does not."""

    name: str
    out: str
    existed: bool = False
    """True where the complete dataset was there already and no recording was added."""
    regated: bool = False
    """True where the verdicts and weights of a complete dataset were decided anew, by other gates."""
    waiting: bool = False
    """True where this part of a build is done but others are not."""
    counts: dict[str, int] = field(default_factory=dict)
    """samples, recordings, subjects, shards."""
    hours: float = 0.0
    """Sum of the windows' durations without padding, hours."""
    splits: dict[str, int] = field(default_factory=dict)
    """Samples in train, val and test."""
    verdicts: dict[str, int] = field(default_factory=dict)
    """Windows by verdict of the quality gates; '' = good."""
    sync: dict[str, int] = field(default_factory=dict)
    """Recordings by verdict of the check of synchrony."""
    skipped: list[tuple[str, str, str]] = field(default_factory=list)
    """(recording, reason, message) of what was not used, sorted."""
    marked: dict[str, int] = field(default_factory=dict)
    """Number of recordings used with parts marked or left out, by kind: gap, not_a_number, no_imu, stuck, ..."""
    num_padded: int = 0
    """Windows that the recording covers only in part; the samples say where."""
    identifiers: dict[str, str] = field(default_factory=dict)
    """Plain name of each recording to its identifier in the shards."""
    seconds: float = 0.0
    """Duration of the build."""

    @property
    def reasons(self) -> dict[str, int]:
        """Number of recordings that were not used, by reason."""
        names = sorted(reason for _, reason, _ in self.skipped)
        return {name: names.count(name) for name in names}

    def lines(self) -> list[str]:
        """Return the summary as lines of text."""
        if self.waiting:
            return [f"{self.out}: this part is done in {self.seconds:.1f} s; the last one assembles the dataset"]
        if self.regated:
            return [f"{self.out}: the dataset '{self.name}' has other gates now; " + self._verdicts()]
        if self.existed:
            return [f"{self.out}: the dataset '{self.name}' is complete already, with the same config: nothing to do"]
        counts = self.counts
        lines = [
            f"{self.out}: {counts['samples']} windows ({self.hours:.2f} h) of {counts['recordings']} recordings, "
            f"{counts['subjects']} subjects, in {counts['shards']} shards, {self.seconds:.1f} s",
            "windows by split: " + _listing(self.splits),
        ]
        lines.append(self._verdicts())
        if self.sync:
            lines.append("recordings by synchrony of IMU and video: " + _listing(self.sync))
        if self.num_padded:
            lines.append(f"padded {self.num_padded} windows that their recordings cover only in part (marked)")
        if self.skipped:
            lines.append(f"skipped {len(self.skipped)} recordings: {_listing(self.reasons)}")
        if self.marked:
            lines.append(f"recordings with parts marked or left out: {_listing(self.marked)}")
        return lines

    def _verdicts(self) -> str:
        failed = {verdict: number for verdict, number in self.verdicts.items() if verdict}
        return "windows that fail a quality gate: " + (_listing(failed) or "none")

    def __str__(self) -> str:
        return "\n".join(self.lines())


class Progress:
    """Logs now and then how far some work is, at which rate, and the time left."""

    def __init__(self, what: str, total: int):
        self.what, self.total = what, total
        self.done = 0
        self.started = self.told = time.monotonic()

    def advance(self) -> None:
        """Count one more as done."""
        self.done += 1
        now = time.monotonic()
        if now - self.told < PROGRESS_EVERY_S and not (self.done == self.total and self.told > self.started):
            return
        self.told = now
        rate = self.done / max(now - self.started, 1e-9)
        logger.info(
            "%s: %d of %d, %.2f a second, %.0f s left",
            self.what,
            self.done,
            self.total,
            rate,
            (self.total - self.done) / rate,
        )


def _listing(numbers: dict[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in numbers.items())
