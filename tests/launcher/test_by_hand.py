"""Ranks that torchrun or deepspeed started: what ends them, and that a run goes on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.imuvid.training.test_run import CONFIG, REPOSITORY, Run, lines_of, steps_of

pytestmark = pytest.mark.slow
STEPS = 99


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def torchrun() -> list[str]:
    agent = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port", free_port(), "--max-restarts=0"]
    # Without this word SIGUSR1 would kill torchrun at once, and leave the ranks behind.
    return [sys.executable, *agent, "--signals-to-handle=SIGTERM,SIGINT,SIGUSR1", "-m", "launcher.cli"]


def deepspeed(hosts: Path, node: int, port: str) -> list[str]:
    hosts.write_text("one slots=1\ntwo slots=1\n")
    program = Path(sys.executable).with_name("deepspeed")
    words = ["--no_ssh", f"--node_rank={node}", "--master_addr=127.0.0.1", f"--master_port={port}", "--no_local_rank"]
    return [str(program), f"--hostfile={hosts}", *words, "--module", "launcher.cli"]


class ByHand(Run):
    """A run whose ranks another program starts."""

    def __init__(self, folder: Path, dataset: Path, launcher: list[str]):
        (folder / "config.yaml").write_text(CONFIG)
        self.folder = folder / "run"
        words = [f"data.path={dataset}", f"runs_dir={folder}", "name=run", "train.validate_every_epochs=100"]
        self.process = subprocess.Popen(
            [*launcher, "pretrain", str(folder / "config.yaml"), *words],
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def test_torchrun_passes_the_warning_on_and_deepspeed_goes_on_with_the_run(tiny_dataset, tmp_path):
    run = ByHand(tmp_path, tiny_dataset, torchrun())
    run.wait_for_step(5)
    run.process.send_signal(signal.SIGUSR1)
    code, output, errors = run.end()
    assert code == 1, errors  # torchrun's own
    assert "stopped by SIGUSR1 at step" in output
    stopped = steps_of(run.folder)[-1]
    assert (run.folder / f"checkpoints/step-{stopped:08d}/MANIFEST.json").is_file()

    port = free_port()
    first, second = (ByHand(tmp_path, tiny_dataset, deepspeed(tmp_path / "hosts", node, port)) for node in (0, 1))
    code, output, errors = first.end()
    assert code == 0, errors
    assert second.end()[0] == 0
    assert f"resumed at step {stopped}" in output
    assert "on 2 ranks" in output
    assert [line["step"] for line in lines_of(run.folder)] == list(range(1, STEPS + 1))
