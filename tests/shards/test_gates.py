"""Quality gates: which measurement fails which gate, and what a window weighs."""

from __future__ import annotations

import dataclasses

import pytest

from imuvid.data.dataset_tables import QUALITY
from imuvid.errors import UserError
from shards.gates import GATES, GatesConfig, check_gates, regate, verdict, weight

GOOD = {
    "imu_share": 1.0,
    "frame_share": 1.0,
    "covered_share": 1.0,
    "flat_share": 0.0,
    "saturated_share": 0.0,
    "acc_std": 1.0,
    "gyro_rms": 1.0,
    "black_share": 0.0,
    "frozen_share": 0.0,
    "frame_change": 9.0,
    "sync_offset_s": 0.0,
    "sync_confidence": 1.0,
}


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({}, ""),
        ({"imu_share": 0.45}, "imu_missing"),
        ({"imu_share": 0.3, "covered_share": 0.5}, ""),  # missing is counted where the recording covers the window
        ({"imu_share": 0.2, "covered_share": 0.5}, "imu_missing"),
        ({"flat_share": 0.95}, "imu_flat"),
        ({"saturated_share": 0.25}, "imu_saturated"),
        ({"black_share": 0.6}, "video_black"),
        ({"frozen_share": 1.0}, "video_frozen"),
        ({"sync_offset_s": -0.2}, "sync_offset"),
        ({"sync_offset_s": 0.2}, "sync_offset"),
        ({"sync_offset_s": 0.05}, ""),
        ({"black_share": 1.0, "frozen_share": 1.0, "imu_share": 0.0}, "imu_missing,video_black,video_frozen"),
        ({name: None for name in QUALITY if name != "imu_share"}, ""),  # what was not measured fails nothing
    ],
)
def test_default_gates(change, failed):
    assert verdict({**GOOD, **change}, GatesConfig()) == failed


def test_confidence_counts_only_where_it_is_asked_for():
    asked = GatesConfig(min_sync_confidence=0.9)
    assert verdict({**GOOD, "sync_confidence": 0.5}, GatesConfig()) == ""
    assert verdict({**GOOD, "sync_confidence": 0.5}, asked) == "sync_unknown"
    assert verdict({**GOOD, "sync_confidence": None}, asked) == "sync_unknown"
    assert verdict(GOOD, asked) == ""


def test_every_gate_has_its_bound_and_measurement():
    bounds = {field.name for field in dataclasses.fields(GatesConfig)}
    assert {gate.bound for gate in GATES.values()} <= bounds
    assert {gate.column for gate in GATES.values()} <= set(QUALITY)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, 1.0),
        ({"acc_std": 0.01}, 1.0),  # it turns
        ({"acc_std": 0.01, "gyro_rms": 0.01}, 0.5),
        ({"acc_std": 0.01, "gyro_rms": None}, 0.5),
        ({"acc_std": 0.01, "gyro_rms": 0.01, "frame_change": 1.0}, 0.5 * 0.2),
        ({"frame_change": 1.0}, 1.0),  # the same place, but somebody moves
        ({"acc_std": 0.01, "gyro_rms": 0.01, "frame_change": None}, 0.5),
        ({"acc_std": None, "gyro_rms": None, "frame_change": 0.0}, 1.0),
    ],
)
def test_static_windows_and_near_duplicates_weigh_less(change, expected):
    gates = GatesConfig(static_weight=0.5, duplicate_weight=0.2)
    assert weight({**GOOD, **change}, gates) == pytest.approx(expected)
    assert weight({**GOOD, **change}, GatesConfig()) == 1.0


def test_rows_are_judged_anew():
    rows = [{**GOOD, "verdict": "video_black", "weight": 0.1}, {**GOOD, "black_share": 0.3, "verdict": "", "weight": 1}]
    regate(rows, GatesConfig(max_black=0.2))
    assert [(row["verdict"], row["weight"]) for row in rows] == [("", 1.0), ("video_black", 1.0)]


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_black", 1.5), ("static_weight", -0.1), ("max_sync_offset_s", -1.0), ("max_flat", float("nan"))],
)
def test_bounds_that_make_no_sense_are_named(name, value):
    with pytest.raises(UserError, match=f"gates.{name}"):
        check_gates(GatesConfig(**{name: value}))
