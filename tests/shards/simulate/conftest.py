"""Recordings that several tests look at, simulated once."""

from __future__ import annotations

import pytest

from shards.simulate.record import SimulatedConfig, SimulatedRecording, simulate

ALL_POSITIONS = ["head", "chest", "waist", "wrist", "thigh", "ankle"]


@pytest.fixture(scope="session")
def healthy() -> list[SimulatedRecording]:
    config = SimulatedConfig(num_subjects=4, duration_s=80.0, render=False, positions=ALL_POSITIONS, seed=3)
    return [simulate(config, index) for index in range(4)]


@pytest.fixture(scope="session")
def patients() -> list[SimulatedRecording]:
    config = SimulatedConfig(
        population="parkinson", num_subjects=4, duration_s=100.0, render=False, positions=ALL_POSITIONS, seed=3
    )
    return [simulate(config, index) for index in range(4)]
