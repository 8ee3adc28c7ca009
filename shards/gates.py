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


def verdict(quality: Mapping[str, float | None], gates: GatesConfig) -> str:
    """Return the names of the gates that a window fails, joined by ',', in a fixed order; '' where it is good.

    Args:
        quality: measurements by the names of :data:`imuvid.data.format.QUALITY`; None or no entry = not measured.
    """
    missing = 1.0 - _at(quality, "imu_share") / max(_at(quality, "covered_share", 1.0), 1e-9)
    confidence = quality.get("sync_confidence")
    failed = {
        "imu_missing": missing > gates.max_missing,
        "imu_flat": _at(quality, "flat_share") > gates.max_flat,
        "imu_saturated": _at(quality, "saturated_share") > gates.max_saturated,
        "video_black": _at(quality, "black_share") > gates.max_black,
        "video_frozen": _at(quality, "frozen_share") > gates.max_frozen,
        "sync_offset": abs(_at(quality, "sync_offset_s")) > gates.max_sync_offset_s,
        "sync_unknown": gates.min_sync_confidence > 0 and (confidence or 0.0) < gates.min_sync_confidence,
    }
    return ",".join(name for name, fails in failed.items() if fails)


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


def _at(quality: Mapping[str, float | None], name: str, otherwise: float = 0.0) -> float:
    value = quality.get(name)
    return otherwise if value is None else float(value)
