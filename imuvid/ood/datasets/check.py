"""Does a local copy of a public data set hold what is published?"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from imuvid.errors import UserError
from imuvid.ood.datasets.fetch import damaged_downloads
from imuvid.ood.datasets.public_windows import Reading
from imuvid.ood.datasets.recording import Card

HOURS_TOLERANCE = 0.03
"""Largest relative deviation of the hours read from the published ones, which are rounded or count differently."""


@dataclass
class CheckReport:
    """What was read of a copy; ``problems`` is empty where it is what was published."""

    key: str
    folder: str
    subjects: int = 0
    recordings: int = 0
    hours: float = 0.0
    labelled_hours: dict[str, float] = field(default_factory=dict)
    """Hours of each label."""
    dead_sensors: list[str] = field(default_factory=list)
    """``RECORDING POSITION`` of accelerometers that read nothing."""
    unpublished: list[str] = field(default_factory=list)
    """Counts that nothing published could be compared with."""
    problems: list[str] = field(default_factory=list)
    """One line each."""

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        labels = ", ".join(f"{name} {hours:.2f}" for name, hours in self.labelled_hours.items())
        lines = [
            f"{self.folder}: {self.subjects} people, {self.recordings} recordings, {self.hours:.2f} h",
            f"hours of each label: {labels}",
        ]
        if self.dead_sensors:
            lines.append(f"{len(self.dead_sensors)} dead accelerometers, first {self.dead_sensors[0]}")
        if self.unpublished:
            lines.append(f"not compared, for want of a published number: {', '.join(self.unpublished)}")
        return [
            *lines,
            *self.problems,
            f"{self.key}: " + ("no problem" if self.ok else f"{len(self.problems)} problems"),
        ]


def check(card: Card, folder: Path) -> CheckReport:
    """Read all of a copy and compare people, recordings and hours with the published ones.

    Args:
        card: of the data set.
        folder: at or above its official files.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder: give the folder of the data set, or imuvid datasets fetch {card.key}"
        )
    report = CheckReport(card.key, str(folder), problems=damaged_downloads(folder))
    reading = Reading(card, folder)
    try:
        for recording in reading:
            for segment in recording.segments:
                hours = (segment.stop_s - segment.start_s) / 3600
                report.labelled_hours[segment.label] = report.labelled_hours.get(segment.label, 0.0) + hours
    except UserError as error:
        # A file that cannot be read: the counts up to it would only mislead.
        report.problems.append(str(error))
        return report
    report.subjects, report.recordings, report.hours = len(reading.subjects), reading.recordings, reading.hours
    report.dead_sensors = reading.dead
    report.problems += reading.left_out
    for name, found, published in (
        ("people", report.subjects, card.subjects),
        ("recordings", report.recordings, card.recordings),
    ):
        if published is None:
            report.unpublished.append(name)
        elif found != published:
            report.problems.append(f"{found} {name}, published are {published}")
    if card.hours is None:
        report.unpublished.append("hours")
    elif abs(report.hours / card.hours - 1) > HOURS_TOLERANCE:
        report.problems.append(f"{report.hours:.2f} h, published are {card.hours:g}")
    return report
