"""A dataset on one HTML page without anything to load: its numbers, and windows to look at, the worst first."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa

from imuvid.data.dataset_json import DatasetInfo, read_dataset_info
from imuvid.data.dataset_tables import QUALITY, RECORDINGS_NAME, read_index, read_recordings
from imuvid.data.format import Sample, decode_members
from imuvid.data.storage import Store, replacing
from imuvid.data.tar import parse_tar
from imuvid.errors import UserError
from shards import inspect_numbers as numbers
from shards.gates import GATES
from shards.inspect_figures import Figure, Picture, absent, histogram, pictures, traces
from shards.inspect_numbers import UNITS, Choice, Distribution, Group
from shards.write import check_frames

TEMPLATE, SCRIPT = "inspect.html", "inspect.js"
MAX_SAMPLES = 200
PICTURE_BYTES = 3_500_000
"""Of all pictures of the page, in base64."""
TRACE_BYTES = 1_200_000
"""Of all IMU traces of the page."""
MAX_TEXT = 300
"""Characters of a narration that are shown."""
MAX_CONFIG = 20_000
"""Characters of the build's config that are shown."""


@dataclass
class InspectReport:
    """The numbers of the page."""

    location: str
    name: str
    fingerprint: str
    """See :attr:`imuvid.data.dataset_json.DatasetInfo.fingerprint`."""
    format: int
    counts: dict[str, int]
    """Samples, recordings, subjects and shards, as ``dataset.json`` says."""
    hours: float
    """Sum of the windows' durations without padding, hours."""
    window_s: float
    imu_rate_hz: float
    positions: list[str]
    num_frames: int
    frame_size: list[int]
    """Height and width, pixels."""
    windows: dict[str, Distribution]
    """Measurements of the windows, by the columns of the index; ``covered_s`` is their duration without padding."""
    recordings: dict[str, Distribution] | None
    """Duration and synchrony of the recordings; None where the dataset does not list them."""
    hours_by: dict[str, list[Group]]
    """By split, source, subject and label."""
    gates: dict[str, float]
    """Bounds of the quality gates, by the gate's name."""
    failed: dict[str, int] | None
    """Windows that fail each gate; None where the index holds no verdicts."""
    num_failed: int
    """Windows that fail any gate."""
    not_used: dict[str, int]
    """Recordings that are not used, by reason."""
    marked: dict[str, int]
    """Recordings by kind of what was marked or left out in them."""
    sync_verdicts: dict[str, int]
    """Recordings by verdict on their synchrony."""
    notes: list[str] = field(default_factory=list)
    """What the dataset does not say."""
    shown: list[str] = field(default_factory=list)
    """Keys of the windows on the page, in its order."""
    damaged: list[str] = field(default_factory=list)
    """One line each of those of them that do not decode."""
    page: str = ""
    """Path of the page."""
    page_bytes: int = 0

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        counts = self.counts
        lines = [
            f"{self.location}: {counts['samples']} windows ({self.hours:.2f} h) of {counts['recordings']} recordings, "
            f"{counts['subjects']} subjects, in {counts['shards']} shards"
        ]
        if self.failed:
            lines.append(f"{self.num_failed} windows fail a quality gate: {_listing(self.failed)}")
        if self.not_used:
            lines.append(f"{sum(self.not_used.values())} recordings are not used: {_listing(self.not_used)}")
        if self.marked:
            lines.append(f"recordings with parts marked or left out: {_listing(self.marked)}")
        if self.sync_verdicts:
            lines.append(f"synchrony of the recordings: {_listing(self.sync_verdicts)}")
        lines += [*self.notes, *(f"damaged: {line}" for line in self.damaged)]
        return [*lines, f"{self.page}: {len(self.shown)} windows to look at, {self.page_bytes / 1e6:.1f} MB"]

    def __str__(self) -> str:
        return "\n".join(self.lines())


@dataclass
class Card:
    """A window on the page."""

    row: dict[str, Any]
    """Of the index."""
    choice: Choice
    problem: str = ""
    """Why nothing is shown of it but what the index says."""
    frames: list[Picture] = field(default_factory=list)
    traces: list[Figure] = field(default_factory=list)
    facts: list[tuple[str, str, bool]] = field(default_factory=list)
    """Name, value, and whether it is why a gate fails."""


def inspect_dataset(location: str | Path, out: Path, num_samples: int = 24, seed: int = 0) -> InspectReport:
    """Write a self-contained HTML page about a dataset and return its numbers.

    Its size does not depend on the dataset's: pictures and traces get coarser where they would not fit. A window that
    cannot be read is shown as damaged.

    Args:
        location: folder or URL of the dataset.
        out: file of the page.
        num_samples: windows on the page, 1 to 200; up to half of them the worst, the others drawn at random.
        seed: of the draw.

    Raises:
        UserError: there is no complete dataset of this format version; its index is damaged; ``num_samples`` is out
            of range; the page cannot be written.
    """
    if not 1 <= num_samples <= MAX_SAMPLES:
        raise UserError(f"samples={num_samples}: the page shows 1 to {MAX_SAMPLES} windows")
    store = Store(location)
    info = read_dataset_info(location)
    index = read_index(location)
    notes: list[str] = []
    recordings = _recordings(store, notes)
    failed, fails = numbers.failed_gates(index)
    if failed is None:
        notes.append("The index holds no verdicts of quality gates: an older version of the program built it.")
    report = InspectReport(
        location=store.location,
        name=info.name,
        fingerprint=info.fingerprint,
        format=info.format,
        counts=info.counts,
        hours=float(numbers.window_hours(index, info.window_s).sum()),
        window_s=info.window_s,
        imu_rate_hz=info.imu_rate_hz,
        positions=info.positions,
        num_frames=info.num_frames,
        frame_size=info.frame_size,
        windows=numbers.window_distributions(index, info),
        recordings=None if recordings is None else numbers.recording_distributions(recordings),
        hours_by=numbers.hours_by(index, recordings, info),
        gates=numbers.gate_bounds(info),
        failed=failed,
        num_failed=int((fails > 0).sum()),
        not_used={} if recordings is None else numbers.not_used(recordings),
        marked={} if recordings is None else numbers.marked(recordings),
        sync_verdicts={} if recordings is None else numbers.sync_verdicts(recordings),
        notes=notes,
        page=str(out),
    )
    choices = numbers.choose(index, info, fails, num_samples, seed)
    rows = index.take(pa.array([choice.row for choice in choices], pa.int64())).to_pylist()
    cards = [_card(store, info, *found, len(choices)) for found in zip(rows, choices, strict=True)]
    report.shown = [card.row["key"] for card in cards]
    report.damaged = [card.problem for card in cards if card.problem]
    page = render(report, cards, info).encode()
    report.page_bytes = len(page)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as file:
            file.write(page)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}): choose another file") from error
    return report


def render(report: InspectReport, cards: list[Card], info: DatasetInfo) -> str:
    """Return the page. Everything that comes from the dataset is escaped, and no script but the page's own may run."""
    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "hours": _hours, "clip": _clip}
    script = (folder / SCRIPT).read_text()
    config = json.dumps(info.config, indent=1, sort_keys=True)
    return environment.get_template(TEMPLATE).render(
        report=report,
        cards=cards,
        num_windows=report.windows["covered_s"].count,
        gates=_gates(report),
        histogram=histogram,
        groups=[(name, rows, max(row.hours for row in rows)) for name, rows in report.hours_by.items() if rows],
        config=config if len(config) <= MAX_CONFIG else config[:MAX_CONFIG] + "\n… and more, in dataset.json",
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _recordings(store: Store, notes: list[str]) -> pa.Table | None:
    if not store.exists(RECORDINGS_NAME):
        notes.append(
            f"The dataset has no {RECORDINGS_NAME} (an older version of the program built it): what was not used, "
            "and why, is not known."
        )
        return None
    try:
        return read_recordings(store.location)
    except UserError as error:
        notes.append(str(error).replace(f"{store.location}/", ""))
        return None


def _card(store: Store, info: DatasetInfo, row: dict[str, Any], choice: Choice, num_cards: int) -> Card:
    card = Card(row, choice, facts=_row_facts(row))
    try:
        sample = _read(store, info, row)
        frames = pictures(sample, PICTURE_BYTES // num_cards)
        figures = traces(sample, TRACE_BYTES // num_cards)
        facts = _sample_facts(sample, frames)
    except FileNotFoundError:
        card.problem = f"{row['key']}: {row['shard']} is missing"
    except Exception as error:
        # A damaged index may state any offset and size, a damaged sample hold values of any type. Of an OSError only
        # the reason is told: paths of this machine do not belong on the page.
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        card.problem = f"{row['key']} in {row['shard']} at byte {row['offset']}: {reason}"
    else:
        card.frames, card.traces = frames, figures
        card.facts += facts
    return card


def _read(store: Store, info: DatasetInfo, row: dict[str, Any]) -> Sample:
    raw = store.read_range(row["shard"], row["offset"], row["size"])
    if row["crc32"] is not None and zlib.crc32(raw) != row["crc32"]:
        raise ValueError(f"checksum is {zlib.crc32(raw):08x}, expected {row['crc32']:08x}")
    sample = decode_members(parse_tar(raw))
    if sample.key != row["key"]:
        raise ValueError(f"another sample is there, {sample.key}")
    check_frames(sample, info.num_frames, info.frame_size[0] if info.frame_size else 0, info.embedding_dim)
    return sample


def _row_facts(row: dict[str, Any]) -> list[tuple[str, str, bool]]:
    failing = (row["verdict"] or "").split(",")
    suspects = [GATES[gate].column for gate in failing if gate in GATES]
    facts = [("recording", row["recording"], False)]
    if row["start_s"] is not None:
        facts.append(("from", f"{row['start_s']:.2f} s", False))
    facts += [(name, _clip(row[name]), False) for name in ("subject", "split", "label") if row[name] is not None]
    if row["verdict"]:
        facts.append(("fails", ", ".join(failing), True))
    for name in ("weight", *QUALITY):
        if row[name] is not None:
            facts.append((name, f"{_number(row[name])} {UNITS.get(name, '')}".strip(), name in suspects))
    return facts


def _sample_facts(sample: Sample, frames: list[Picture]) -> list[tuple[str, str, bool]]:
    meta = sample.meta
    facts = [("source", str(meta.source))]
    if meta.text:
        facts.append(("text", _clip(meta.text)))
    if meta.sync_offset_s:
        facts.append(("IMU clock", f"shifted by {_number(meta.sync_offset_s)} s"))
    if len(frames) < len(sample.frames):
        facts.append(("frames", f"{len(frames)} of {len(sample.frames)} shown"))
    facts += [("absent", words) for words in absent(sample)]
    return [(name, value, False) for name, value in facts]


def _gates(report: InspectReport) -> list[tuple[str, str, int | None]]:
    """Return name, words and failing windows of each gate that is set or failed."""
    failed = report.failed
    names = [name for name in GATES if name in report.gates or name in (failed or {})]
    names += [name for name in failed or {} if name not in GATES]
    return [
        (
            name,
            GATES[name].words.format(report.gates[name]) if name in report.gates else "",
            None if failed is None else failed.get(name, 0),
        )
        for name in names
    ]


def _listing(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _number(value: float | None) -> str:
    """Return a number as a person reads it: three digits where it is broken, thousands apart where it is large."""
    if value is None:
        return "\u2013"
    if 0 < abs(value) < 1e-4:
        return "≈ 0"
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.3g}".replace("-", "\u2212")


def _hours(value: float) -> str:
    """Return a duration given in hours."""
    if not math.isfinite(value):
        return _number(None)
    if value >= 100:
        return f"{_number(round(value))} h"
    if value >= 0.1:
        return f"{value:.1f} h"
    return f"{60 * value:.1f} min" if value >= 1 / 60 else f"{3600 * value:.0f} s"


def _clip(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + " …"
