"""Several trainings one after another in the same ranks, which take longest to start; each with what befalls it."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path

from tests.imuvid.training.test_run import CONFIG, REPOSITORY


@dataclass
class Job:
    """A start of a run."""

    words: list[str]
    stop_after: int = 0
    """Steps after which SIGTERM comes; 0 for none."""
    stop_in_validation: bool = False
    """Whether SIGTERM comes in the middle of the validation."""
    nan_at: list[int] = field(default_factory=list)
    """Steps in which the last rank's windows are not finite."""
    wild_at: list[int] = field(default_factory=list)
    """Steps whose gradient is not finite, though the loss is."""


@dataclass
class Outcome:
    """What came of it."""

    step: int
    finished: bool
    error: str
    """One line, empty where the run ended in order."""
    samples: list[list[int]]
    """Of the global batch of each step that was computed."""


def train(folder: Path, world: int, jobs: list[Job]) -> list[Outcome]:
    """Run the jobs on ``world`` ranks of this machine, with the tiny config of test_run."""
    (folder / "config.yaml").write_text(CONFIG)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    words = [str(folder), json.dumps([asdict(job) for job in jobs])]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.imuvid.training.jobs", *words],
            cwd=REPOSITORY,
            env={**os.environ, **common, "RANK": str(r), "LOCAL_RANK": str(r), "WORLD_SIZE": str(world)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for r in range(world)
    ]
    try:
        outputs = [rank.communicate(timeout=300)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0] * world, "\n".join(output[-3000:] for output in outputs)
    (folder / "output.txt").write_text(outputs[0])
    by_rank = [json.loads((folder / f"outcomes-{r}.json").read_text()) for r in range(world)]
    outcomes = []
    for each in zip(*by_rank, strict=True):
        assert len({(one["step"], one["error"]) for one in each}) == 1, each  # on every rank alike
        steps = zip(*(one.pop("samples") for one in each), strict=True)
        outcomes.append(Outcome(**each[0], samples=[list(chain.from_iterable(step)) for step in steps]))
    return outcomes


def _rank(folder: Path, jobs: list[Job]) -> None:
    import torch.distributed as dist

    from imuvid import config as configs
    from imuvid.errors import UserError
    from imuvid.training import preemption, run
    from imuvid.training.config import PretrainConfig
    from imuvid.training.engine import Engine
    from imuvid.training.loop import pretrain

    start = dist.init_process_group
    dist.init_process_group = lambda *a, **k: dist.is_initialized() or start(*a, **k)  # type: ignore[assignment]
    dist.destroy_process_group = lambda: None  # type: ignore[assignment]  # DeepSpeed holds on to the first one
    train_on, forward, update, validate = run.Run.train_on, Engine.forward, Engine.backward_and_step, run.validate
    job, now, done, samples, validating = Job([]), 0, 0, [], False

    def seeing_step(self, batch):
        nonlocal now, done
        now = self.step
        found = train_on(self, batch)
        done += 1
        return found

    def seeing_batch(self, batch):
        samples.append(batch.sample.tolist())
        if now in job.nan_at and dist.get_rank() == dist.get_world_size() - 1:
            batch.imu[:] = float("nan")
        return forward(self, batch)

    def updating(self, loss, lr):
        update(self, loss * float("inf") if now in job.wild_at else loss, lr)

    def seeing_validation(*words):
        nonlocal validating
        validating = True
        try:
            return validate(*words)
        finally:
            validating = job.stop_in_validation

    def received() -> int:
        return 15 if (job.stop_after and done >= job.stop_after - 1) or (job.stop_in_validation and validating) else 0

    run.Run.train_on, Engine.forward, Engine.backward_and_step = seeing_step, seeing_batch, updating
    run.validate, preemption.received = seeing_validation, received
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)  # as the command line does
    outcomes = []
    for job in jobs:
        done, validating = 0, False
        samples.clear()
        step, finished, problem = -1, False, ""
        try:
            result = pretrain(configs.load(PretrainConfig, folder / "config.yaml", job.words))
            step, finished = result.step, result.finished
        except (UserError, ValueError, RuntimeError, OSError) as error:
            problem = str(error)
        outcomes.append({"step": step, "finished": finished, "error": problem, "samples": list(samples)})
    (folder / f"outcomes-{dist.get_rank()}.json").write_text(json.dumps(outcomes))
    sys.stdout.flush()
    os._exit(0)  # as a rank of the command line leaves


if __name__ == "__main__":
    _rank(Path(sys.argv[1]), [Job(**each) for each in json.loads(sys.argv[2])])
