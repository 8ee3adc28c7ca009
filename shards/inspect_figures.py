"""Geometry of the inspection page's figures: paths that stretch with the page, and their ticks in per cent."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass, field

import numpy as np
import simplejpeg

from imuvid.data.format import Sample
from shards.inspect_numbers import SHARES, Distribution

WIDTH, HEIGHT = 2000, 400
"""Of a figure's coordinates; the page stretches them to what room there is."""
MIN_SPAN = (4.0, 1.0)
"""Least range of an accelerometer's (m/s^2) and a gyroscope's (rad/s) axis: the noise of rest must look like rest."""
SENSORS = (("Accelerometer", "m/s²"), ("Gyroscope", "rad/s"))
MAX_FRAMES = 12
MAX_POSITIONS = 6
THUMBNAIL = 120
"""Height that pictures too large for the page are scaled down towards, pixels."""


@dataclass
class Figure:
    """One plot; x and y of ticks are shares of its width and height in per cent, from the left and the top."""

    title: str
    """What is drawn, in words, for those who do not see it."""
    unit: str
    heading: str = ""
    lines: list[tuple[str, str]] = field(default_factory=list)
    """(class, path), drawn as lines."""
    areas: list[tuple[str, str]] = field(default_factory=list)
    """(class, path), filled; drawn beneath the lines."""
    x_ticks: list[tuple[float, str]] = field(default_factory=list)
    y_ticks: list[tuple[float, str]] = field(default_factory=list)


@dataclass
class Picture:
    """One frame of a window."""

    number: int
    """From 1."""
    time_s: float
    """After the window's start, seconds."""
    place: float
    """Of its time on the figures' x axis, per cent."""
    url: str | None
    """``data:`` URL of the JPEG; None where the recording had no picture."""


def traces(sample: Sample, max_bytes: int) -> list[Figure]:
    """Return a figure of each sensor that is there at all, of the first positions, in about ``max_bytes`` of paths."""
    found = []
    positions = sample.meta.positions[:MAX_POSITIONS]
    shown = [(p, s) for p in range(len(positions)) for s in range(2) if sample.valid[:, p, s].any()]
    max_points = max(60, max_bytes // (20 * max(len(shown), 1)))
    for p, s in shown:
        values = np.where(sample.valid[:, p, s, None], sample.imu[:, p, 3 * s : 3 * s + 3], np.nan)
        found.append(_trace(values, sample, positions[p], s, max_points))
    return found


def absent(sample: Sample) -> list[str]:
    """Return in words which sensors of a sample are not there at all, and which are not drawn."""
    there: list[list[bool]] = np.any(sample.valid, axis=0).tolist()
    words = []
    for position, (acc, gyro) in zip(sample.meta.positions, there, strict=True):
        if not (acc or gyro):
            words.append(f"{position}: no sensor")
        elif not (acc and gyro):
            words.append(f"{position}: no {'gyroscope' if acc else 'accelerometer'}")
    if len(there) > MAX_POSITIONS:
        words.append(f"{len(there) - MAX_POSITIONS} more positions are not drawn")
    return words


def _trace(values: np.ndarray, sample: Sample, position: str, sensor: int, max_points: int) -> Figure:
    kind, unit = SENSORS[sensor]
    smallest, largest = float(np.nanmin(values)), float(np.nanmax(values))
    middle = (smallest + largest) / 2
    half = max(0.54 * (largest - smallest), MIN_SPAN[sensor] / 2)
    low, high = middle - half, middle + half
    gone = np.isnan(values[:, 0])
    title = (
        f"{kind} at {position}, x, y and z over {sample.meta.duration_s:g} s, "
        f"from {smallest:.3g} to {largest:.3g} {unit}"
    )
    if gone.any():
        title += f", missing in {100 * gone.mean():.0f} % of the window"
    figure = Figure(title, unit, f"{position} · {kind.lower()}")
    figure.y_ticks = [(100 * (high - v) / (high - low), text) for v, text in ticks(low, high, 5)]
    figure.x_ticks = [(100 * t / sample.meta.duration_s, text) for t, text in ticks(0, sample.meta.duration_s, 5)]
    gaps = _boxes(gone, max_points)
    if gaps:
        figure.areas.append(("gap", gaps))
    x = np.arange(len(values)) * (WIDTH / len(values))
    for axis, name in enumerate("xyz"):
        y = (high - values[:, axis]) * (HEIGHT / (high - low))
        figure.lines.append((f"axis-{name}", _path(*_thinned(x, y, max_points))))
    return figure


def histogram(found: Distribution) -> Figure:
    """Return the histogram of a distribution, counts on a logarithmic axis; bins beyond the gate's bounds stand out."""
    edges, counts = np.array(found.edges), np.array(found.counts)
    top = math.log10(1 + counts.max())
    figure = Figure(f"Histogram of {found.name}", found.unit)
    low, high = edges[0], edges[-1]
    fails = np.zeros(len(counts), dtype=bool)
    centres = (edges[1:] + edges[:-1]) / 2
    if len(found.limits) == 2:
        fails = (centres < found.limits[0]) | (centres > found.limits[1])
    elif found.limits:
        below = found.name in ("imu_share", "sync_confidence")
        fails = centres < found.limits[0] if below else centres > found.limits[0]
    for name, chosen in (("bar", ~fails), ("bar fails", fails)):
        path = ""
        for i in np.flatnonzero(chosen & (counts > 0)).tolist():
            left, right = WIDTH * i / len(counts), WIDTH * (i + 1) / len(counts)
            height = HEIGHT * math.log10(1 + counts[i]) / top
            path += f"M{left + 8:.0f} {HEIGHT}V{HEIGHT - height:.0f}H{right - 8:.0f}V{HEIGHT}z"
        if path:
            figure.areas.append((name, path))
    for limit in found.limits:
        if low <= limit <= high:
            at = WIDTH * (limit - low) / (high - low)
            figure.lines.append(("limit", f"M{at:.0f} 0V{HEIGHT}"))
    decades = range(math.floor(math.log10(counts.max())) + 1)
    step = 1 if len(decades) <= 4 else 2
    figure.y_ticks = [(100.0, "0")]
    figure.y_ticks += [(100 * (1 - math.log10(1 + 10**d) / top), _count(10**d)) for d in decades[::step]]
    figure.x_ticks = [(100 * (value - low) / (high - low), text) for value, text in ticks(low, high, 4)]
    assert found.smallest is not None
    assert found.largest is not None
    if found.name not in SHARES and found.largest > high:
        figure.x_ticks = [tick for tick in figure.x_ticks if tick[0] < 82] + [(100.0, f"≥ {high:.3g}")]
    if found.name not in SHARES and found.smallest < low:
        figure.x_ticks = [(0.0, f"≤ {low:.3g}")] + [tick for tick in figure.x_ticks if tick[0] > 18]
    return figure


def pictures(sample: Sample, max_bytes: int) -> list[Picture]:
    """Return at most MAX_FRAMES frames of a sample, evenly picked; as stored where all fit into ``max_bytes``.

    Where they do not they are scaled down and, as a last resort, become fewer.

    Raises:
        ValueError: a frame is no JPEG.
    """
    total = len(sample.frames)
    num = min(total, MAX_FRAMES)
    if not num:
        return []
    scaled: dict[int, bytes] = {}
    while True:
        picked = np.unique(np.linspace(0, total - 1, num).round().astype(int)).tolist()
        stored = {i: sample.frames[i] for i in picked if sample.meta.frame_valid[i]}
        if _encoded_size(stored) <= max_bytes:
            break
        scaled |= {i: _thumbnail(frame) for i, frame in stored.items() if i not in scaled}
        stored = {i: scaled[i] for i in stored}
        if num == 1 or _encoded_size(stored) <= max_bytes:
            break
        num //= 2
    return [
        Picture(
            i + 1,
            sample.meta.frame_times_s[i],
            min(max(100 * sample.meta.frame_times_s[i] / sample.meta.duration_s, 0.0), 100.0),
            "data:image/jpeg;base64," + base64.b64encode(stored[i]).decode() if i in stored else None,
        )
        for i in picked
    ]


def ticks(low: float, high: float, most: int = 4) -> list[tuple[float, str]]:
    """Return round values (1, 2 or 5 times a power of 10 apart) from ``low`` to ``high`` with their text."""
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= most)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [
        (i * step, f"{i * step + 0.0:.{decimals}f}" if abs(i * step) < 1e5 else f"{i * step:.2g}")
        for i in range(first, last + 1)
    ]


def _encoded_size(frames: dict[int, bytes]) -> int:
    return sum(4 * len(frame) // 3 for frame in frames.values())


def _thumbnail(frame: bytes) -> bytes:
    picture = simplejpeg.decode_jpeg(frame, min_height=THUMBNAIL, min_width=THUMBNAIL)
    # libjpeg scales by 1/8 at most; blocks of pixels are averaged beyond that.
    block = max(1, min(picture.shape[:2]) // THUMBNAIL)
    height, width = (length // block * block for length in picture.shape[:2])
    blocks = picture[:height, :width].reshape(height // block, block, width // block, block, 3)
    small = blocks.mean(axis=(1, 3)).round().astype(np.uint8)
    return simplejpeg.encode_jpeg(np.ascontiguousarray(small), quality=80, colorsubsampling="420")


def _thinned(x: np.ndarray, y: np.ndarray, max_points: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the points, or where they are too many the least and the greatest of every few, so that peaks stay."""
    block = -(-2 * len(y) // max_points) if len(y) > max_points else 1
    if block < 3:
        return x, y
    num = -(-len(y) // block)
    padded = np.full(num * block, np.nan)
    padded[: len(y)] = y
    blocks = padded.reshape(num, block)
    empty = np.isnan(blocks).all(axis=1)
    low = np.where(empty, np.nan, np.where(np.isnan(blocks), np.inf, blocks).min(axis=1))
    high = np.where(empty, np.nan, np.where(np.isnan(blocks), -np.inf, blocks).max(axis=1))
    left = x[::block]
    step = x[1] - x[0]
    return np.stack([left, left + step * block / 2], axis=1).ravel(), np.stack([low, high], axis=1).ravel()


def _path(x: np.ndarray, y: np.ndarray) -> str:
    """Return the path through the points, broken where y is NaN."""
    parts: list[str] = []
    pen: tuple[int, int] | None = None
    for at, value in zip(x.round().astype(int).tolist(), y.tolist(), strict=True):
        if math.isnan(value):
            pen = None
            continue
        height = round(value)
        if pen is None:
            parts.append(f"M{at} {height}h0")
        else:
            parts.append(f"l{at - pen[0]} {height - pen[1]}")
        pen = (at, height)
    return "".join(parts)


def _boxes(gone: np.ndarray, max_points: int) -> str:
    """Return boxes over the runs of True; where they are very many, over all of every few samples that hold one."""
    edges = np.flatnonzero(np.diff(gone, prepend=False, append=False))
    if len(edges) > max_points // 2:
        block = -(-4 * len(gone) // max_points)
        padded = np.concatenate((gone, np.zeros(-len(gone) % block, dtype=bool)))
        gone = np.logical_or.reduce(padded.reshape(-1, block), axis=1)
        edges = np.flatnonzero(np.diff(gone, prepend=False, append=False))
    places = (edges * (WIDTH / len(gone))).round().astype(int).reshape(-1, 2).tolist()
    return "".join(f"M{left} 0H{right}V{HEIGHT}H{left}z" for left, right in places)


def _count(number: int) -> str:
    return f"{number // 1_000_000}M" if number >= 1_000_000 else f"{number // 1000}k" if number >= 1000 else str(number)
