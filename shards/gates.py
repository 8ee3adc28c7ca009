"""Which windows are good enough, decided by the measurements in the index: gates can change without a rebuild."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from imuvid.errors import UserError


@dataclass
class GatesConfig:
    """Bounds on the measurements of a window; a window beyond one stays in the shards, but training leaves it out."""

    max_missing: float = 0.5
    """Largest share of the covered part of a window without any valid sensor, 0 to 1."""
    max_flat: float = 0.9
    """Largest share of the sensors' readings that are stuck at one value, 0 to 1."""
    max_saturated: float = 0.2
    """Largest share of the sensors' readings at the end of their range, 0 to 1."""
    max_black: float = 0.5
    """Largest share of black frames, 0 to 1."""
    max_frozen: float = 0.95
    """Largest share of the steps between frames in which the picture does not change at all, 0 to 1."""
    max_sync_offset_s: float = 0.1
    """Largest offset between IMU and video that is left after correction, where it is known with confidence, s."""
    min_sync_confidence: float = 0.0
    """Least confidence that IMU and video are in synchrony, 0 to 1; above 0, windows without an estimate fail too."""
    static_acc_std: float = 0.1
    """A window is static where |acc| of no sensor varies by more than this (standard deviation), m/s^2 ..."""
    static_gyro_rms: float = 0.05
    """... and no sensor turns faster than this (root mean square), rad/s."""
    static_weight: float = 1.0
    """Weight of static windows, 0 to 1."""
    duplicate_change: float = 2.0
    """A static window whose frames differ by less than this from those of the window before it (grey levels of 255)
    is a near-duplicate."""
    duplicate_weight: float = 1.0
    """Weight of near-duplicates, 0 to 1."""


def check_gates(gates: GatesConfig) -> None:
    """Raise UserError where a bound makes no sense; names the key."""
    shares = ("max_missing", "max_flat", "max_saturated", "max_black", "max_frozen", "min_sync_confidence")
    for name in (*shares, "static_weight", "duplicate_weight"):
        if not 0 <= getattr(gates, name) <= 1:
            raise UserError(f"gates.{name}={getattr(gates, name)}: must be 0 to 1")
    for name in ("max_sync_offset_s", "static_acc_std", "static_gyro_rms", "duplicate_change"):
        if not getattr(gates, name) >= 0:
            raise UserError(f"gates.{name}={getattr(gates, name)}: must be 0 or more")


@dataclass(frozen=True)
class Gate:
    """One way for a window to fail."""

    column: str
    """Measurement that it looks at, of :data:`imuvid.data.dataset_tables.QUALITY`."""
    bound: str
    """Its bound in :class:`GatesConfig`."""
    side: str
    """Where values fail: above the bound, below it, or beyond +- it."""
    words: str
    """What failing means, with the bound filled in."""


GATES = {
    "imu_missing": Gate("imu_share", "max_missing", "below", "IMU missing in over {:g} of the covered part"),
    "imu_flat": Gate("flat_share", "max_flat", "above", "over {:g} of the readings stuck"),
    "imu_saturated": Gate("saturated_share", "max_saturated", "above", "over {:g} of the readings saturated"),
    "video_black": Gate("black_share", "max_black", "above", "over {:g} of the frames black"),
    "video_frozen": Gate("frozen_share", "max_frozen", "above", "over {:g} of the steps between frames frozen"),
    "sync_offset": Gate("sync_offset_s", "max_sync_offset_s", "beyond", "an offset of over {:g} s is left"),
    "sync_unknown": Gate("sync_confidence", "min_sync_confidence", "below", "confidence in synchrony below {:g}"),
}
"""The gates by name, in the order in which a verdict names them."""


def verdict(quality: Mapping[str, float | None], gates: GatesConfig) -> str:
    """Return the names of the gates that a window fails, joined by ',', in a fixed order; '' where it is good.

    Args:
        quality: measurements by the names of :data:`imuvid.data.dataset_tables.QUALITY`; None or no entry = not
            measured.
    """
    return ",".join(name for name, gate in GATES.items() if _fails(name, quality, getattr(gates, gate.bound)))


def _fails(name: str, quality: Mapping[str, float | None], bound: float) -> bool:
    gate = GATES[name]
    value = quality.get(gate.column)
    if name == "imu_missing":
        covered = quality.get("covered_share")
        return 1.0 - (value or 0.0) / max(1.0 if covered is None else covered, 1e-9) > bound
    if gate.side == "below":
        return (value or 0.0) < bound
    return value is not None and (abs(value) if gate.side == "beyond" else value) > bound


def weight(quality: Mapping[str, float | None], gates: GatesConfig) -> float:
    """Return how often a window is used relative to others, 0 to 1: less where nothing moves; see GatesConfig."""
    acc_std, gyro_rms, change = (quality.get(name) for name in ("acc_std", "gyro_rms", "frame_change"))
    if (acc_std is None and gyro_rms is None) or (acc_std or 0.0) > gates.static_acc_std:
        return 1.0
    if (gyro_rms or 0.0) > gates.static_gyro_rms:
        return 1.0
    duplicate = change is not None and change < gates.duplicate_change
    return gates.static_weight * (gates.duplicate_weight if duplicate else 1.0)


def regate(rows: list[dict[str, Any]], gates: GatesConfig) -> None:
    """Set ``verdict`` and ``weight`` of rows of an index by other gates, in place."""
    for row in rows:
        row["verdict"], row["weight"] = verdict(row, gates), weight(row, gates)
