"""What every public data set is read into before windows are cut: recordings of sensor streams, in SI units, with
labelled stretches, and the card that says what the data set is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from imuvid.errors import UserError
from imuvid.imu.defects import MAX_USUAL_RATE, MOVING_GRAVITY, find_unit_conflict
from imuvid.imu.units import STANDARD_GRAVITY

SIDES = ("", "left_", "right_")
PLACES = (
    *("head", "chest", "back", "trunk", "lower_back", "waist", "upper_arm", "forearm", "wrist", "pocket"),
    *("thigh", "knee", "shank", "ankle", "foot"),
)
POSITIONS = frozenset(side + place for side in SIDES for place in PLACES)
"""Words for where a sensor is worn."""
RATE_TOLERANCE = 0.15
"""Largest relative deviation of a measured rate from the published ones."""
MAX_FREE_ACC = 15.0
"""Largest plausible median of |acc| where gravity was removed, m/s^2."""
MAX_DISORDER = 0.2
"""Largest share of time stamps that may not lie after all earlier ones. Those samples, duplicates and lines out of
order, are left out; what they leave is a gap."""


@dataclass
class Stream:
    """The readings of one sensor at one place."""

    position: str
    """A word of POSITIONS."""
    kind: str
    """acc or gyro."""
    times_s: np.ndarray
    """float64 [N], increasing, seconds on the recording's clock."""
    values: np.ndarray
    """float64 [N, 3], m/s^2 or rad/s; NaN where the sensor gave nothing."""


@dataclass
class Segment:
    """A stretch of a recording that has one label."""

    start_s: float
    stop_s: float
    label: str
    event_s: float | None = None
    """Instant of a short event such as an impact: one window is cut around it, none elsewhere in the segment."""


@dataclass
class Recording:
    """One uninterrupted stretch of one person's data."""

    name: str
    """Unique in the data set."""
    subject: str
    source: Path
    """File that messages name."""
    streams: list[Stream]
    segments: list[Segment]
    """In order of time, without overlap."""
    domain: dict[str, str] = field(default_factory=dict)
    """What else is known of it: session, device, population, ..."""

    @property
    def duration_s(self) -> float:
        """Time from the first to the last sample, seconds."""
        return max(float(stream.times_s[-1]) for stream in self.streams)


@dataclass(frozen=True)
class Download:
    """A file that the publisher offers to everyone."""

    url: str
    name: str
    """File name under which it is kept."""
    md5: str | None = None
    """Published checksum, hexadecimal; None where none is published."""


@dataclass(frozen=True)
class Card:
    """What a public data set is: the row of the table of data sets, and the function that reads its official files."""

    key: str
    """Name in configs."""
    title: str
    population: str
    citation: str
    homepage: str
    licence: str
    rate_hz: tuple[float, float]
    """Lowest and highest published rate of a sensor, Hz."""
    positions: tuple[str, ...]
    sensors: str
    """What the sensors are, with the units in the files."""
    labels: tuple[str, ...]
    """Own names of the labels, as snake_case; empty where the files name them."""
    read: Callable[[Path], Iterator[Recording]]
    """Reads the official files under a folder, recording by recording; raises UserError."""
    subjects: int | None
    """Published number of people; None where none is published."""
    recordings: int | None = None
    """Published number of what is read as a recording."""
    hours: float | None = None
    """Published hours of signal."""
    default_positions: tuple[str, ...] = ()
    """Positions that are scored unless others are asked for; empty: the first one."""
    positive: str | None = None
    """The rare class of a data set with two; its windows are cut regardless of label and count as positive by share."""
    gravity: bool = True
    """Is gravity in the acceleration."""
    max_rate: float = MAX_USUAL_RATE
    """Above this median of a recording, rad/s, an angular rate has another unit."""
    max_windows: int = 0
    """Windows kept of a recording and class unless otherwise asked for; 0: all."""
    subsets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Named selections of labels."""
    downloads: tuple[Download, ...] = ()
    """Files that ``imuvid datasets fetch`` gets; empty where the terms want a click, an account or a request."""
    steps: str = ""
    """What to do where there are no downloads."""
    seen: bool = False
    """Was the reader tried on the published files; otherwise only on files written as they are described."""
    note: str = ""
    """One sentence that a reader of the scores should know."""


def xyz(pattern: str) -> tuple[str, str, str]:
    """Return the names of three columns: ``xyz("acc_{}")`` is acc_x, acc_y, acc_z."""
    x, y, z = (pattern.format(axis) for axis in "xyz")
    return x, y, z


def runs(codes: np.ndarray) -> list[tuple[int, int]]:
    """Return first and stop of each stretch of equal values in an array [N]."""
    edges = np.flatnonzero(codes[1:] != codes[:-1]) + 1 if len(codes) else np.array([], dtype=int)
    bounds = [0, *edges.tolist(), len(codes)]
    return [(first, stop) for first, stop in itertools.pairwise(bounds) if stop > first]


def segments_of(
    times_s: np.ndarray, codes: np.ndarray, names: Mapping[Any, str | None], source: Path, what: str = "label"
) -> list[Segment]:
    """Return the labelled stretches of samples that carry a code each.

    Args:
        times_s: float64 [N], seconds.
        codes: [N].
        names: code to own name of the label; None where it means unlabelled.
        source: file that messages name.
        what: the column, in messages.

    Raises:
        UserError: a code has no name.
    """
    interval_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.0
    segments = []
    for first, stop in runs(codes):
        code = codes[first].item() if hasattr(codes[first], "item") else codes[first]
        if code not in names:
            raise UserError(
                f"{source}: row {first + 1}: '{code}' is no {what} of this data set: the columns are not the published "
                "ones, or the file is damaged"
            )
        name = names[code]
        if name is not None:
            segments.append(Segment(float(times_s[first]), float(times_s[stop - 1]) + interval_s, name))
    return segments


def in_order(stamps: np.ndarray, unit_s: float, source: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the times of a stream and which of its samples are kept: those later than all before them.

    Args:
        stamps: [N], any real or integer dtype.
        unit_s: of the stamps, seconds.
        source: file that messages name.

    Returns:
        (float64 [M] seconds from the first stamp, bool [N]).

    Raises:
        UserError: a stamp is not finite, or too many lie before earlier ones.
    """
    if not np.isfinite(stamps).all():
        row = int(np.flatnonzero(~np.isfinite(stamps))[0]) + 1
        raise UserError(f"{source}: row {row} has no time: the columns are not the published ones, or it is damaged")
    # Relative to the first before the conversion: nanoseconds since 1970 have no exact float64.
    times_s = (stamps - stamps[0]).astype(np.float64) * unit_s
    keep = np.ones(len(times_s), dtype=bool)
    keep[1:] = times_s[1:] > np.maximum.accumulate(times_s)[:-1]
    lost = float(1 - keep.mean())
    if lost > MAX_DISORDER:
        raise UserError(
            f"{source}: {100 * lost:.0f} % of the time stamps do not advance: the columns are not the published ones, "
            "or lines are out of order"
        )
    return times_s[keep], keep


def check_recording(recording: Recording, card: Card) -> list[str]:
    """Mark what a dead sensor reads as absent, and refuse signals that cannot be what the card says.

    Args:
        recording: changed in place.
        card: of its data set.

    Returns:
        the positions whose accelerometer is dead.

    Raises:
        UserError: a stream is too short, has another rate, or its values have another unit or come from other columns.
    """
    dead = []
    where = f"{recording.source} ({recording.name})"
    for stream in recording.streams:
        if len(stream.times_s) < 2:
            raise UserError(f"{where}: {stream.position} {stream.kind} has less than 2 samples: fetch the file again")
        _check_rate(stream, card, where)
        if stream.kind == "acc":
            # Gravity acts on every accelerometer that is connected: zero on all axes means that it gave nothing.
            stream.values[(stream.values == 0).all(axis=1)] = np.nan
        length = np.linalg.norm(stream.values, axis=1)
        if not np.isfinite(length).any():
            dead += [stream.position] if stream.kind == "acc" else []
            continue
        typical = float(np.nanmedian(length))
        low, high = (STANDARD_GRAVITY * share for share in MOVING_GRAVITY)
        if stream.kind == "acc" and card.gravity and not low < typical < high:
            raise UserError(
                f"{where}: the median acceleration of {stream.position} is {typical:.3g} m/s^2 when read as published, "
                "gravity alone is 9.8: the file has another unit or other columns"
            )
        if stream.kind == "acc" and not card.gravity and typical > MAX_FREE_ACC:
            raise UserError(
                f"{where}: the median acceleration of {stream.position} is {typical:.3g} m/s^2 when read as published, "
                "without gravity: the file has another unit or other columns"
            )
        if stream.kind == "gyro" and typical > card.max_rate:
            raise UserError(
                f"{where}: the median angular rate of {stream.position} is {typical:.3g} rad/s when read as published: "
                "the file has another unit or other columns"
            )
    if card.gravity:
        _check_gyro_unit(recording, where)
    return dead


def _check_rate(stream: Stream, card: Card, where: str) -> None:
    low, high = card.rate_hz
    # Over half a second: the median of single intervals is no use where stamps are rounded to milliseconds.
    lag = min(max(1, round(0.5 * high)), len(stream.times_s) - 1)
    span_s = float(np.median(stream.times_s[lag:] - stream.times_s[:-lag]))
    measured = lag / span_s if span_s > 0 else math.inf
    if not low * (1 - RATE_TOLERANCE) < measured < high * (1 + RATE_TOLERANCE):
        published = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        raise UserError(
            f"{where}: {stream.position} {stream.kind} has {measured:.4g} samples a second by its time stamps, "
            f"published are {published}: lines are missing or the columns are not the published ones"
        )


def _check_gyro_unit(recording: Recording, where: str) -> None:
    by_place = {(stream.position, stream.kind): stream for stream in recording.streams}
    for (position, kind), gyro in by_place.items():
        acc = by_place.get((position, "acc"))
        if kind != "gyro" or acc is None:
            continue
        conflict = find_unit_conflict(acc.times_s, acc.values, gyro.times_s, gyro.values)
        if conflict is not None:
            raise UserError(
                f"{where}: the gyroscope of {position} contradicts how gravity turns at the accelerometer; it looks "
                f"like {conflict}: the file has another unit than the published one"
            )


def default_positions(card: Card) -> list[str]:
    """Return the positions that are scored unless others are asked for."""
    return list(card.default_positions or card.positions[:1])


def need_positions(card: Card, wanted: Sequence[str]) -> list[str]:
    """Return the positions to score; none wanted means the default ones.

    Raises:
        UserError: the data set has no sensor there.
    """
    unknown = [position for position in wanted if position not in card.positions]
    if unknown:
        raise UserError(f"{card.key}.positions: '{unknown[0]}' is not among {', '.join(card.positions)}")
    return list(wanted) or default_positions(card)
