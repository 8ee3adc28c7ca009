"""Public data sets as windows: which sensors, which labels, which stretches; the same for all of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from imuvid.errors import UserError
from imuvid.imu.resample import resample
from imuvid.ood.datasets.base import Windows, WindowsBuilder, data_folder
from imuvid.ood.datasets.common_labels import COMMON_LABELS, common_label
from imuvid.ood.datasets.recording import Card, Recording, Segment, check_recording, need_positions
from imuvid.ood.protocols.folds import ProtocolConfig

logger = logging.getLogger(__name__)

MAX_LEFT_OUT = 0.05
"""Share of a data set's recordings that may be implausible: they are left out and counted. Above it, the copy is."""
ABUTTING_S = 1e-3
"""Segments nearer than this are one stretch, seconds."""


@dataclass
class PublicConfig:
    """Where a public data set lies and what of it is scored."""

    root: str | None = None
    """Folder of the unpacked official files, or one above it; None: the data set's name under $IMUVID_REALDATA."""
    positions: list[str] = field(default_factory=list)
    """Sensors that are used, as ``imuvid datasets list`` names them; none: the data set's usual one."""
    labels: str = "own"
    """own: the data set's labels; common: those that it shares with others, under their common names."""
    activities: list[str] = field(default_factory=list)
    """Labels that are scored, or the name of a published selection; none: all that the files hold."""
    positive_share: float = 0.5
    """With a positive class: a window counts as positive if at least this share of it is labelled so, 0 to 1."""
    max_windows: int | None = None
    """Windows kept of a recording and class, spread evenly in time; 0: all; None: as the data set's size asks for."""
    partial: bool = False
    """May people be missing from the copy; otherwise that is an error."""
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)


class Reading:
    """Iterates over the plausible recordings of a copy of a data set, and counts.

    Args:
        card: of the data set.
        folder: at or above the official files.

    Attributes:
        subjects, recordings, hours: read so far.
        dead: ``RECORDING POSITION`` of accelerometers that read nothing.
        left_out: why recordings were left out, one line each.
    """

    def __init__(self, card: Card, folder: Path):
        self.card, self.folder = card, folder
        self.subjects: set[str] = set()
        self.recordings, self.hours = 0, 0.0
        self.dead: list[str] = []
        self.left_out: list[str] = []

    def __iter__(self) -> Iterator[Recording]:
        """Yield the recordings.

        Raises:
            UserError: a file is missing or damaged, or too many recordings are implausible.
        """
        for recording in self.card.read(self.folder):
            self.subjects.add(recording.subject)
            self.recordings += 1
            try:
                self.dead += [f"{recording.name} {position}" for position in check_recording(recording, self.card)]
            except UserError as error:
                self.left_out.append(str(error))
                continue
            self.hours += recording.duration_s / 3600
            yield recording
        if not self.recordings:
            raise UserError(f"{self.folder}: no recording of {self.card.title} is there: give the folder of its files")
        if len(self.left_out) > MAX_LEFT_OUT * self.recordings:
            more = f"; and {len(self.left_out) - 1} recordings more" if len(self.left_out) > 1 else ""
            raise UserError(self.left_out[0] + more)

    def missing_subjects(self) -> str | None:
        """Return a sentence where fewer people were read than are published."""
        if self.card.subjects is None or len(self.subjects) >= self.card.subjects:
            return None
        return f"only {len(self.subjects)} of the {self.card.subjects} published people are there"


def read_public(card: Card, config: PublicConfig, rate_hz: float, window_s: float) -> Windows:
    """Read a public data set as labelled windows without overlap, none across a change of label.

    Where the data set has a positive class, windows are cut from whole labelled stretches instead, and are positive
    by the share of the window that is.

    Args:
        card: of the data set.
        config: where it lies and what is scored.
        rate_hz: of the windows.
        window_s: their length, seconds.

    Raises:
        UserError: a file is missing or damaged, people are missing, or the settings do not fit the data set.
    """
    positions, wanted = need_positions(card, config.positions), _wanted(card, config)
    folder = data_folder(config.root, card.key)
    reading = Reading(card, folder)
    # Classes are numbered as they occur and put in order at the end: some files name their own.
    numbers: dict[str, int] = {name: number for number, name in enumerate(wanted)}
    builder = WindowsBuilder(card.key, list(wanted), positions, rate_hz, window_s)
    limit = card.max_windows if config.max_windows is None else config.max_windows
    labelled: set[str] = set()
    for recording in reading:
        segments = _segments(recording, config, wanted)
        labelled |= {segment.label for segment in segments}
        starts = _starts(segments, recording.duration_s, card, config, builder)
        if not starts or not any(stream.position in positions for stream in recording.streams):
            continue
        imu, valid = _on_grid(recording, positions, rate_hz)
        for name, firsts in _thinned(starts, limit).items():
            number = numbers.setdefault(name, len(numbers))
            for first in firsts:
                if 0 <= first <= len(imu) - builder.num_steps:
                    builder.add(imu, valid, first, number, recording.subject, recording.name, domain=recording.domain)
    missing = reading.missing_subjects()
    if missing is not None and not config.partial:
        raise UserError(f"{folder}: {missing}: fetch the rest, or set {card.key}.partial=true")
    builder.classes = list(numbers)
    builder.order_classes(_order(card, config, list(numbers)), keep_all=bool(config.activities))
    if card.positive is not None and card.positive not in builder.classes:
        raise UserError(
            f"{folder}: no window of class '{card.positive}' is there: shorten window_s, or complete the copy"
        )
    absent = sorted(labelled - set(builder.classes))
    return builder.build(card.positive, _provenance(card, reading), _notes(card, reading, missing, absent, positions))


def _wanted(card: Card, config: PublicConfig) -> list[str]:
    if config.labels not in ("own", "common"):
        raise UserError(f"{card.key}.labels={config.labels}: choose own or common")
    if not 0 < config.positive_share <= 1:
        raise UserError(f"{card.key}.positive_share={config.positive_share}: must lie between 0 and 1")
    if config.max_windows is not None and config.max_windows < 0:
        raise UserError(f"{card.key}.max_windows={config.max_windows}: must be 0 (all) or more")
    known = [*COMMON_LABELS] if config.labels == "common" else [*card.labels]
    wanted: list[str] = []
    for name in config.activities:
        wanted += card.subsets.get(name, (name,))
    unknown = [name for name in wanted if known and name not in known]
    if unknown:
        selections = f"; or a selection: {', '.join(card.subsets)}" if card.subsets else ""
        raise UserError(
            f"{card.key}.activities: there is no '{unknown[0]}': choose from {', '.join(known)}{selections}"
        )
    if card.positive is not None and wanted and card.positive not in wanted:
        raise UserError(f"{card.key}.activities: {card.positive}, the positive class, must be among them")
    return wanted


def _segments(recording: Recording, config: PublicConfig, wanted: list[str]) -> list[Segment]:
    """Return the segments that are scored, under the names that are."""
    segments = []
    for segment in recording.segments:
        label = common_label(segment.label) if config.labels == "common" else segment.label
        if label is not None and (not wanted or label in wanted):
            segments.append(Segment(segment.start_s, segment.stop_s, label, segment.event_s))
    return segments


def _starts(
    segments: list[Segment], duration_s: float, card: Card, config: PublicConfig, builder: WindowsBuilder
) -> list[tuple[str, int]]:
    """Return (class, first grid sample) of each window of a recording, in order of time."""
    window_s = builder.num_steps / builder.rate_hz
    starts = []
    for block in _blocks(segments) if card.positive is not None else [[segment] for segment in segments]:
        if block[0].event_s is not None:
            first = round((block[0].event_s - window_s / 2) * builder.rate_hz)
            last = int((duration_s - window_s) * builder.rate_hz)
            starts.append((block[0].label, min(max(first, 0), last)))
            continue
        for first in builder.starts(block[0].start_s, block[-1].stop_s):
            label = block[0].label
            if len({segment.label for segment in block}) > 1:
                begin_s = first / builder.rate_hz
                covered = sum(
                    max(0.0, min(segment.stop_s, begin_s + window_s) - max(segment.start_s, begin_s))
                    for segment in block
                    if segment.label == card.positive
                )
                negative = next(segment.label for segment in block if segment.label != card.positive)
                is_positive = covered >= config.positive_share * window_s - 1e-9
                label = card.positive if is_positive and card.positive is not None else negative
            starts.append((label, first))
    return starts


def _blocks(segments: list[Segment]) -> list[list[Segment]]:
    """Join segments that follow each other without a break; events stay alone."""
    blocks: list[list[Segment]] = []
    for segment in segments:
        last = blocks[-1][-1] if blocks else None
        joins = last is not None and last.event_s is None and segment.event_s is None
        if joins and last is not None and segment.start_s - last.stop_s < ABUTTING_S:
            blocks[-1].append(segment)
        else:
            blocks.append([segment])
    return blocks


def _thinned(starts: list[tuple[str, int]], limit: int) -> dict[str, list[int]]:
    by_class: dict[str, list[int]] = {}
    for name, first in starts:
        by_class.setdefault(name, []).append(first)
    if limit:
        for name, firsts in by_class.items():
            chosen = np.unique(np.linspace(0, len(firsts) - 1, min(limit, len(firsts))).round().astype(int))
            by_class[name] = [firsts[i] for i in chosen]
    return by_class


def _on_grid(recording: Recording, positions: list[str], rate_hz: float) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 [M, P, 6] at i / rate_hz, 0 where not valid, and bool [M, P, 2]."""
    grid_s = np.arange(int(np.floor(recording.duration_s * rate_hz + 1e-6)) + 1) / rate_hz
    imu = np.zeros((len(grid_s), len(positions), 6), dtype=np.float32)
    valid = np.zeros((len(grid_s), len(positions), 2), dtype=bool)
    for stream in recording.streams:
        if stream.position in positions:
            place, sensor = positions.index(stream.position), ("acc", "gyro").index(stream.kind)
            values, valid[:, place, sensor] = resample(stream.times_s, stream.values, grid_s, rate_hz)
            imu[:, place, 3 * sensor : 3 * sensor + 3] = values
    return imu, valid


def _order(card: Card, config: PublicConfig, found: list[str]) -> list[str]:
    """Return classes in the order of the card, of the common labels or of the config; others as they were found."""
    if config.activities:
        return found
    known = [*COMMON_LABELS] if config.labels == "common" else [*card.labels]
    return [*[name for name in known if name in found], *[name for name in found if name not in known]]


def _provenance(card: Card, reading: Reading) -> dict:
    low, high = card.rate_hz
    return {
        "recordings": reading.recordings,
        "subjects": len(reading.subjects),
        "hours": reading.hours,
        "native_rate_hz": low if low == high else [low, high],
        "dead_sensors": reading.dead,
        "left_out": len(reading.left_out),
        "licence": card.licence,
        "citation": card.citation,
    }


def _notes(card: Card, reading: Reading, missing: str | None, absent: list[str], positions: list[str]) -> list[str]:
    notes = [card.note] if card.note else []
    if not card.seen:
        notes.append("The reader follows the published description; it was not tried on the published files.")
    if card.sensors.startswith("acc") and "gyro" not in card.sensors:
        notes.append("There is no gyroscope: it is marked absent in every window.")
    if missing is not None:
        notes.append(f"The copy is not complete: {missing}.")
    if absent:
        notes.append(f"No window is long enough for: {', '.join(absent)}.")
    if reading.left_out:
        notes.append(f"{len(reading.left_out)} recordings are left out, the first because {reading.left_out[0]}")
    dead = [name for name in reading.dead if name.rsplit(" ", 1)[1] in positions]
    if dead:
        notes.append(f"Accelerometers that read nothing and are marked absent: {', '.join(dead[:5])}.")
    return notes
