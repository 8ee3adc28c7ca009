"""What a run says about itself: rates on a clock that is wound by hand, and logs that a kill leaves readable."""

from __future__ import annotations

import json
import math

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from imuvid.training.meters import MetricsLog, StepTimer
from imuvid.training.phases import Phases


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now

    def pass_s(self, seconds: float) -> None:
        self.now += seconds


def test_rate_and_wait_are_of_the_stretch():
    clock = Clock()
    timer = StepTimer(Phases(torch.device("cpu"), clock), clock)
    for wait, work in ((1.0, 3.0), (0.5, 3.5)):
        timer.waiting()
        clock.pass_s(wait)
        timer.got(64)
        clock.pass_s(work)
    assert timer.samples_per_s() == pytest.approx(128 / 8)
    assert timer.waits() == pytest.approx([1.5 / 8, 1.0, 0.0])
    clock.pass_s(60)  # a validation, say
    timer.reset()
    timer.waiting()
    timer.got(64)
    clock.pass_s(2)
    assert timer.samples_per_s() == pytest.approx(32)
    assert timer.waits() == pytest.approx([0.0, 0.0, 0.0])


def test_no_time_at_all_is_no_division_by_zero():
    timer = StepTimer(Phases(torch.device("cpu"), Clock()), Clock())
    assert all(map(math.isfinite, [timer.samples_per_s(), *timer.waits()]))


def log(folder, first_step: int, *lines: tuple[int, float]) -> None:
    meters = MetricsLog(folder, first_step)
    for step, loss in lines:
        meters.write(step, "train", {"loss": loss})
    meters.close()


def read(folder) -> list[tuple[int, float | None]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"]) for line in lines]


def board(folder) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder)).Reload()
    return [(event.step, event.value) for event in events.Scalars("train/loss")]


def test_lines_and_events_are_what_was_written(tmp_path):
    log(tmp_path, 0, (1, 3.0), (2, 2.0))
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0]) == {
        "step": 1,
        "split": "train",
        "loss": 3.0,
    }
    assert board(tmp_path) == [(1, 3.0), (2, 2.0)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_null(tmp_path, value):
    log(tmp_path, 0, (1, value))
    assert read(tmp_path) == [(1, None)]
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


@pytest.mark.parametrize("checkpoint", [0, 2])
def test_what_a_killed_start_wrote_after_its_last_checkpoint_is_dropped(tmp_path, checkpoint):
    log(tmp_path, 0, (1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0))
    log(tmp_path, checkpoint, *((step, step + 10.0) for step in range(checkpoint + 1, 6)))
    expected = [(1, 4.0), (2, 3.0)][:checkpoint] + [(step, step + 10.0) for step in range(checkpoint + 1, 6)]
    assert read(tmp_path) == expected
    assert board(tmp_path) == expected


def test_a_broken_last_line_does_not_stand_in_the_way(tmp_path):
    log(tmp_path, 0, (1, 4.0), (2, 3.0))
    path = tmp_path / "metrics.jsonl"
    for rest in (b'{"step": 3, "lo', b"\x00\x00\xff", b"3\n", b"[1]\n", b'{"loss": 1}\n'):
        sound = b"".join(path.read_bytes().splitlines(keepends=True)[:2])
        path.write_bytes(sound + rest)
        log(tmp_path, 2, (3, 2.0))
        assert read(tmp_path) == [(1, 4.0), (2, 3.0), (3, 2.0)]
