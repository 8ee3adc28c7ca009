"""A step of ours against a bare loop of PyTorch DDP, and what data, checkpoints, ranks and ZeRO cost.

    step_time_ratio, step_memory_ratio   ours / bare, two ranks, the same model, batches in memory: at most 1.05
    data_wait_share                      of a rank with one loader process that decodes: at most 0.02
    checkpoint_share                     of the time, at a checkpoint every 100 steps: at most 0.03
    weak_scaling                         samples/s of two ranks, a core each, over twice those of one: at least 0.9
    optimizer_state_off                  largest deviation from 8 bytes a parameter over the ranks, ZeRO 1 to 3: 0.1

Ours is all that a pretraining does in a step: agreement of the ranks, guard, meters, a log line every tenth step. The
memory is what a process grows by from its imports on; both have imported DeepSpeed. The processes of all kinds live
side by side and take turns, so that each ratio is of one stretch of the machine's time; figures are medians.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

INTERVAL = 100
"""Steps between two checkpoints."""
BARS = {
    "step_time_ratio": (1.05, False),
    "step_memory_ratio": (1.05, False),
    "data_wait_share": (0.02, False),
    "checkpoint_share": (0.03, False),
    "weak_scaling": (0.9, True),
    "optimizer_state_off": (0.1, False),
}
"""The bar of each figure, and whether it is a least one."""


class Group:
    """The ranks of one kind of training, each pinned to a core; they do what they are told, and wait in between.

    Args:
        kind: ``bare`` or ``ours``.
        world: ranks.
        folder: with the dataset; gets the runs.
        batch: windows of a rank.
    """

    def __init__(self, kind: str, world: int, folder: Path, batch: int):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        common = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "CUDA_VISIBLE_DEVICES": ""}
        self._ranks = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.training", "--child", kind, str(folder), str(batch)],
                env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(world)
        ]

    def ask(self, *words: object) -> list[Any]:
        """Return the ranks' answers to a command."""
        for rank in self._ranks:
            assert rank.stdin is not None
            print(*words, file=rank.stdin, flush=True)
        return [self._answer(rank) for rank in self._ranks]

    def wait_until_ready(self) -> None:
        """Return when all ranks have done a first step."""
        for rank in self._ranks:
            self._answer(rank)

    def end(self) -> None:
        """Kill the ranks."""
        for rank in self._ranks:
            rank.kill()
            rank.wait()

    @staticmethod
    def _answer(rank: subprocess.Popen) -> Any:
        assert rank.stdout is not None
        for line in rank.stdout:
            if line.startswith("answer "):
                return json.loads(line.removeprefix("answer "))
        raise SystemExit(f"a rank of the benchmark ended with code {rank.wait()}")


def config_of(folder: Path, batch: int, world: int) -> Any:
    """Return the config of the pretraining: a patch transformer, a 3-D CNN over 10 frames of 224 px, sigmoid loss."""
    from imuvid import config as configs
    from imuvid.training.config import PretrainConfig

    words = [f"name=ours{world}", f"runs_dir={folder}", f"data.path={folder / 'data'}", "data.val_split=train"]
    words += [f"data.batch_size={batch * world}", "data.num_workers=1", "engine.device=cpu", "train.epochs=100000"]
    words += ["engine.timeout_s=3600", "engine.step_timeout_s=3600", "model.imu_tower.kind=patchtst"]
    words += ["model.imu_tower.patchtst.d_model=192", "model.imu_tower.patchtst.ffn_dim=768"]
    words += ["train.validate_max_windows=8", "train.checkpoint_every_steps=1000000", "data.augment.shift_range=0"]
    return configs.load(PretrainConfig, None, words)


class Ours:
    """A rank of a pretraining whose batches lie in memory."""

    def __init__(self, folder: Path, batch: int):
        from imuvid.training.meters import StepTimer
        from imuvid.training.run import Run

        self.config = config_of(folder, batch, int(os.environ["WORLD_SIZE"]))
        self.run = Run(self.config)
        self.before = memory_before()
        self.run.set_up()
        self.timer = StepTimer(self.run.phases)
        stream = self.run.stream()
        self.batches = [next(stream) for _ in range(4)]
        stream.close()

    def step(self, batch: Any) -> Any:
        run = self.run
        agreed, _ = run.train_on(batch)
        run.step += 1
        if run.step % self.config.train.log_every_steps == 0:
            run.log_training(self.timer)
            self.timer.reset()
        return agreed

    def steps(self, number: int) -> float:
        """Return the seconds of a step."""
        start = time.perf_counter()
        for i in range(number):
            self.timer.waiting()
            self.timer.got(self.config.data.batch_size)
            self.step(self.batches[i % len(self.batches)])
        return (time.perf_counter() - start) / number

    def checkpoint(self, number: int) -> float:
        """Return the seconds of a save and of the steps beside which it is written."""
        start = time.perf_counter()
        self.run.save(wait=False)
        for i in range(number):
            if not self.step(self.batches[i % len(self.batches)]).writing:
                self.run.finish_saving()
        self.run.finish_saving()
        return time.perf_counter() - start

    def waits(self, number: int) -> float:
        """Return the share of the time that is spent waiting for batches that another process decodes."""
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
        stream = self.run.stream()
        self.step(next(stream))
        self.timer.reset()
        waited, start = 0.0, time.perf_counter()
        for _ in range(number):
            began = time.perf_counter()
            batch = next(stream)
            waited += time.perf_counter() - began
            self.step(batch)
        return waited / (time.perf_counter() - start)

    def states(self, _number: int) -> list[float]:
        """Return what AdamW's moments have beside 8 bytes a parameter, shared out over the ranks; by ZeRO stage."""
        import dataclasses

        from imuvid.models.two_tower import TwoTower
        from imuvid.training.engine import Engine

        found = []
        for stage in (1, 2, 3):
            engine_config = dataclasses.replace(self.config.engine, zero_stage=stage)
            model = TwoTower(self.config.model)
            parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
            world = self.run.world
            engine = Engine(model, engine_config, self.config.optimizer, self.run.device, len(self.batches[0]))
            engine.backward_and_step(engine.forward(self.batches[0])[0], 1e-4)
            state = engine.optimizer.optimizer.state.values()
            held = sum(x.nbytes for each in state for name, x in each.items() if name.startswith("exp_avg"))
            found.append(held / (8 * parameters / world) - 1)
        return found


class Bare:
    """A rank of a loop as anybody writes it, on the same model and batches."""

    def __init__(self, folder: Path, batch: int):
        import datetime

        import deepspeed  # noqa: F401 - so that both have imported it
        import torch
        import torch.distributed as dist

        from imuvid.data.mixture import open_split
        from imuvid.data.stream import training_stream
        from imuvid.models.two_tower import TwoTower
        from imuvid.training import run  # noqa: F401 - as above
        from imuvid.training.optimisation import parameter_groups

        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        config = config_of(folder, batch, world)
        dataset = open_split(config.data, "train")
        dist.init_process_group("gloo", timeout=datetime.timedelta(hours=1))
        torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
        self.before = memory_before()
        torch.manual_seed(config.seed)
        self.model = torch.nn.parallel.DistributedDataParallel(TwoTower(config.model))
        optimizer = config.optimizer
        groups = parameter_groups(self.model, optimizer.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=optimizer.lr, betas=tuple(optimizer.betas))
        self.clip = optimizer.grad_clip
        stream = training_stream(dataset, config.data, config.seed, rank, world, 0, False)
        self.batches = [next(stream) for _ in range(4)]
        stream.close()

    def steps(self, number: int) -> float:
        """Return the seconds of a step."""
        import torch

        start = time.perf_counter()
        for i in range(number):
            loss, _ = self.model(self.batches[i % len(self.batches)])
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            self.optimizer.step()
        return (time.perf_counter() - start) / number


def memory_before() -> float:
    """Return this process's memory, bytes, once all is imported that a first update imports."""
    import torch

    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.square().sum().backward()
    torch.optim.AdamW([parameter]).step()
    return memory("VmRSS")


def memory(name: str) -> float:
    """Return a figure of this process's memory, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024


def child(kind: str, folder: Path, batch: int) -> None:
    """Do what comes on standard input."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ["RANK"]) % len(cores)]})
    training: Any = Ours(folder, batch) if kind == "ours" else Bare(folder, batch)
    training.steps(1)
    print("answer 0", flush=True)
    for line in sys.stdin:
        what, number = line.split()
        found = memory("VmHWM") - training.before if what == "memory" else getattr(training, what)(int(number))
        print("answer", json.dumps(found), flush=True)


def measure(batch: int, rounds: int, steps: int) -> dict[str, float]:
    """Return the figures.

    Args:
        batch: windows of a rank.
        rounds: turns that each kind has.
        steps: of a turn.
    """
    from benchmarks.stream_data import write_dataset

    groups: dict[str, Group] = {}
    with tempfile.TemporaryDirectory(prefix="imuvid-training-") as name:
        folder = Path(name)
        write_dataset(folder / "data", 128, 4)
        try:
            groups = {
                "bare": Group("bare", 2, folder, batch),
                "ours": Group("ours", 2, folder, batch),
                "one": Group("ours", 1, folder, batch),
            }
            for group in groups.values():
                group.wait_until_ready()
            times: dict[str, list[float]] = {kind: [] for kind in groups}
            for turn in range(rounds + 1):
                for kind, group in groups.items():
                    took = max(group.ask("steps", steps))
                    if turn:  # the first one warms up
                        times[kind].append(took)
            grown = {kind: max(groups[kind].ask("memory", 0)) for kind in ("bare", "ours")}
            step_s = statistics.median(times["ours"])
            saves = [max(groups["ours"].ask("checkpoint", steps)) - steps * step_s for _ in range(rounds)]
            waits = groups["one"].ask("waits", rounds * steps)
            states = groups["ours"].ask("states", 0)
        finally:
            for group in groups.values():
                group.end()
    pairs = list(zip(times["ours"], times["bare"], times["one"], strict=True))
    return {
        "batch": batch,
        "bare_step_s": statistics.median(times["bare"]),
        "our_step_s": step_s,
        "step_time_ratio": statistics.median(ours / bare for ours, bare, _ in pairs),
        "bare_memory_mb": grown["bare"] / 1e6,
        "our_memory_mb": grown["ours"] / 1e6,
        "step_memory_ratio": grown["ours"] / grown["bare"],
        "checkpoint_s": statistics.median(saves),
        "checkpoint_share": statistics.median(saves) / (INTERVAL * step_s),
        "data_wait_share": waits[0],
        "weak_scaling": statistics.median(one / ours for ours, _, one in pairs),
        **{f"optimizer_state_off_zero_{stage}": states[0][stage - 1] for stage in (1, 2, 3)},
        "optimizer_state_off": max(abs(off) for rank in states for off in rank),
    }


def main() -> int:
    """Measure, print one JSON line, return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small batches, few turns")
    parser.add_argument("--child", nargs=3, metavar=("KIND", "FOLDER", "BATCH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        kind, folder, batch = arguments.child
        child(kind, Path(folder), int(batch))
        return 0
    figures = measure(2, 3, 1) if arguments.quick else measure(4, 5, 2)
    bars = {
        name: {"value": figures[name], "bar": bar, "holds": (figures[name] >= bar) if least else (figures[name] <= bar)}
        for name, (bar, least) in BARS.items()
    }
    print(json.dumps({"benchmark": "training", "figures": figures, "bars": bars}))
    return 0 if all(bar["holds"] for bar in bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
