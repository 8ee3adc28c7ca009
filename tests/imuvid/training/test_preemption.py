"""Which signal a run remembers, and the exit code it stands for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from imuvid.training import preemption


@pytest.fixture
def handlers(monkeypatch):
    before = {number: signal.getsignal(number) for number in preemption.SIGNALS}
    monkeypatch.setattr(preemption, "_received", 0)
    preemption.install()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(
    ("sent", "kept", "code"),
    [
        ((), 0, None),
        ((signal.SIGUSR1,), signal.SIGUSR1, 85),
        ((signal.SIGTERM,), signal.SIGTERM, 143),
        ((signal.SIGINT,), signal.SIGINT, 130),
        ((signal.SIGUSR1, signal.SIGTERM), signal.SIGTERM, 143),  # Slurm's warning, then its end
        ((signal.SIGTERM, signal.SIGUSR1), signal.SIGTERM, 143),
    ],
)
def test_what_is_remembered(sent, kept, code):
    for number in sent:
        os.kill(os.getpid(), number)
    assert preemption.received() == kept
    if code is not None:
        assert preemption.exit_code(preemption.received()) == code


def test_the_handlers_stand_before_anything_heavy_is_loaded():
    heavy = {"torch", "numpy", "deepspeed", "omegaconf"}
    code = f"import sys, imuvid.training.preemption; print(*{heavy} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
