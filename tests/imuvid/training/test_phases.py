"""Where the time of a step goes, on a clock that is wound by hand."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from imuvid.training.meters import StepTimer
from imuvid.training.phases import Phases
from tests.imuvid.training.test_meters import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def phases(clock) -> Phases:
    return Phases(torch.device("cpu"), clock)


def test_a_phase_within_another_takes_its_time_from_it(phases, clock):
    clock.pass_s(9)
    with phases.phase("forward"):
        clock.pass_s(1)
        with phases.phase("communication"):
            clock.pass_s(0.25)
        clock.pass_s(2)
    clock.pass_s(5)  # of no phase
    with phases.phase("backward"):
        clock.pass_s(4)
    assert phases.seconds() == pytest.approx({"forward": 3.0, "communication": 0.25, "backward": 4.0, "optimizer": 0.0})
    phases.reset()
    assert set(phases.seconds().values()) == {0.0}


def test_an_error_ends_its_phase(phases, clock):
    with pytest.raises(ValueError, match="wrong"), phases.phase("forward"):
        raise ValueError("wrong")
    clock.pass_s(1)
    with phases.phase("backward"):
        clock.pass_s(2)
    assert phases.seconds()["forward"] == 0
    assert phases.seconds()["backward"] == 2


def test_collectives_count_as_communication_where_a_step_calls_them(phases, clock, monkeypatch):
    def late(*_words, **_named):
        clock.pass_s(3)

    monkeypatch.setattr(dist, "all_reduce", late)
    with phases.watch_collectives():
        dist.all_reduce(None)  # of no phase: not a step's
        with phases.phase("backward"):
            clock.pass_s(1)
            dist.all_reduce(None)
    assert dist.all_reduce is late
    with phases.phase("backward"):
        dist.all_reduce(None)
    assert phases.seconds() == {"forward": 0.0, "backward": 4.0, "optimizer": 0.0, "communication": 3.0}


def test_shares_are_of_the_stretch(phases, clock):
    timer = StepTimer(phases, clock)
    with phases.phase("forward"):
        clock.pass_s(1)
    clock.pass_s(3)
    assert timer.shares()["forward_share"] == pytest.approx(0.25)
    timer.reset()
    clock.pass_s(1)
    assert timer.shares()["forward_share"] == 0
