"""Peak memory and time of the contrastive objectives on one rank of worlds of 1 to 64, beside those of open_clip.

One process stands for rank 0: torch's fake process group answers its collectives at once, and what a rank would get
from its neighbour is a copy of what it sends. So memory and computing are those of a rank, and waiting for the network
is not in them. The loss and its gradients to both embeddings, temperature and bias; local batch = global / world.
open_clip's losses are taken where build/peers has it (--set-up installs it there) and where they fit into memory and
time: SigLipLoss with its default exchange, ClipLoss in the local-loss form with gathered gradients. Runs alternate
between the two; the median counts, and of cases above 2^26 logits a rank one run gives both figures. On a CPU, time is
that of one core, and memory the growth of the process's resident set; on a GPU they are the clock's and the
allocator's.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import ctypes
import gc
import importlib.util
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch
import torch.distributed as dist
from torch.nn import functional as F

from imuvid.objectives.infonce import InfoNCE
from imuvid.objectives.pairwise_sigmoid import PairwiseSigmoid
from imuvid.objectives.views import Views

PEERS = Path(__file__).parent.parent / "build" / "peers"
OPEN_CLIP = "open_clip_torch==3.3.0"
DIM = 512
GLOBAL_BATCHES = (4096, 16384, 65536)
WORLDS = (1, 2, 4, 8, 16, 32, 64)
BAR_BATCH = 16384
MAX_MEMORY_RATIO, MAX_TIME_RATIO = 0.25, 1.15
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def set_up() -> None:
    """Install open_clip alone, without what it depends on, where this benchmark looks for it."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--target", str(PEERS / "open_clip"), OPEN_CLIP], check=True, timeout=600)


def open_clip_losses() -> ModuleType | None:
    """Load open_clip's loss module by its path: the package would import torchvision and timm."""
    path = PEERS / "open_clip" / "open_clip" / "loss.py"
    if not path.is_file():
        return None
    spec = importlib.util.spec_from_file_location("open_clip_loss", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def rank_of(world: int) -> Iterator[None]:
    """Be rank 0 of ``world`` ranks that are not there."""
    if world == 1:
        yield
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=world, store=FakeStore())
    exchange = dist.batch_isend_irecv
    dist.batch_isend_irecv = _echo
    try:
        yield
    finally:
        dist.batch_isend_irecv = exchange
        dist.destroy_process_group()


def _echo(operations: list[dist.P2POp]) -> list[dist.Work]:
    sent = [operation.tensor for operation in operations if operation.op is dist.isend]
    received = [operation.tensor for operation in operations if operation.op is dist.irecv]
    for target, source in zip(received, sent, strict=True):
        target.copy_(source)
    return []


def steps(objective: str, world: int, local: int, peer: ModuleType | None) -> dict[str, Callable[[], None]]:
    """Return what computes the loss and its gradients once: ours, and open_clip's where it is there."""
    generator = torch.Generator().manual_seed(0)
    embeddings = [F.normalize(torch.randn(local, DIM, generator=generator), dim=1).to(DEVICE) for _ in range(2)]
    there = torch.ones(local, dtype=torch.bool, device=DEVICE)
    recording = torch.arange(local, device=DEVICE)
    start_s = torch.zeros(local, dtype=torch.float64, device=DEVICE)
    module = {"sigmoid": PairwiseSigmoid, "infonce": InfoNCE}[objective]().to(DEVICE)

    def ours() -> None:
        leaves = [x.detach().requires_grad_() for x in embeddings]
        module.zero_grad()
        module(Views(recording, start_s, there, there, *leaves))[0].backward()

    found: dict[str, Callable[[], None]] = {"ours": ours}
    if peer is None:
        return found
    if objective == "sigmoid":
        theirs = peer.SigLipLoss(rank=0, world_size=world)
    else:
        theirs = peer.ClipLoss(local_loss=True, gather_with_grad=True, rank=0, world_size=world)
    small = [parameter.detach().clone().requires_grad_() for parameter in module.parameters()]

    def open_clip() -> None:
        leaves = [x.detach().requires_grad_() for x in embeddings]
        log_scale, *bias = small
        theirs(*leaves, log_scale.exp(), *bias).backward()

    return found | {"open_clip": open_clip}


def first_run(step: Callable[[], None]) -> tuple[int, float]:
    """Return by how much a step raises the memory in use, bytes, and its seconds."""
    gc.collect()
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        took = seconds(step)
        return torch.cuda.max_memory_allocated() - before, took
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again at what is resident now
    before = _bytes("/proc/self/status", "VmRSS")
    took = seconds(step)
    return _bytes("/proc/self/status", "VmHWM") - before, took


def _bytes(file: str, name: str) -> int:
    """Return what a file of /proc says in kB."""
    for line in Path(file).read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{file} has no {name}")


def seconds(step: Callable[[], None]) -> float:
    """Return how long a step takes: of the core where it is a CPU's, so that what else runs there counts little."""
    if DEVICE.type == "cpu":
        start = time.process_time()
        step()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(objective: str, batch: int, world: int, peer: ModuleType | None, repeats: int) -> dict[str, float]:
    """Return memory (MiB) and time (s) of both, and the ratios of ours to theirs.

    Without ``repeats``, time is that of the run by which memory is measured.
    """
    with rank_of(world):
        ways = steps(objective, world, batch // world, peer)
        first = {name: first_run(step) for name, step in ways.items()}
        peaks = {name: peak for name, (peak, _) in first.items()}
        took = {name: [] if repeats else [time_s] for name, (_, time_s) in first.items()}  # else it only warms up
        for _ in range(repeats):
            for name, step in ways.items():
                took[name].append(seconds(step))
    figures = {f"{name}_mib": peaks[name] / 2**20 for name in ways}
    figures |= {f"{name}_s": statistics.median(took[name]) for name in ways}
    if "open_clip" in ways:
        figures["memory_ratio"] = peaks["ours"] / peaks["open_clip"]
        figures["time_ratio"] = figures["ours_s"] / figures["open_clip_s"]
    return figures


def fits(batch: int, world: int, quick: bool) -> tuple[bool, bool]:
    """Say whether ours and open_clip's are run: by time on a CPU, and open_clip's by memory."""
    logits = batch * batch // world  # of one rank, of which open_clip's losses keep up to seven copies
    if DEVICE.type == "cuda":
        return True, 32 * logits < torch.cuda.get_device_properties(DEVICE).total_memory
    in_time = logits <= (2**24 if quick else 2**28)
    return in_time, in_time and 32 * logits < _bytes("/proc/meminfo", "MemAvailable")


def main() -> int:
    """Measure, print one line a case and one JSON line, return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer worlds, no case of more than 2^24 logits")
    parser.add_argument("--set-up", action="store_true", help="install open_clip below build/peers first")
    arguments = parser.parse_args()
    if arguments.set_up:
        set_up()
    torch.set_flush_denormal(True)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)  # of what open_clip calls
    peer = open_clip_losses()
    figures: dict[str, float] = {}
    for objective in ("sigmoid", "infonce"):
        for batch in GLOBAL_BATCHES:
            for world in (4, 16, 64) if arguments.quick else WORLDS:
                run, beside = fits(batch, world, arguments.quick)
                if not run:
                    continue
                logits = batch * batch // world
                repeats = 3 if logits < 2**26 else 1 if logits == 2**26 or DEVICE.type == "cuda" else 0
                found = measure(objective, batch, world, peer if beside else None, repeats)
                print(
                    f"{objective} {batch} world {world}: " + "  ".join(f"{k} {v:.3g}" for k, v in found.items()),
                    flush=True,
                )
                figures |= {f"{objective}_{batch}_world_{world}_{name}": value for name, value in found.items()}
    bars = {}
    for kind, bar in (("memory_ratio", MAX_MEMORY_RATIO), ("time_ratio", MAX_TIME_RATIO)):
        for objective in ("sigmoid", "infonce"):
            start = f"{objective}_{BAR_BATCH}_world_"
            values = [v for name, v in figures.items() if name.startswith(start) and name.endswith(kind)]
            if values:
                bars[f"{objective}_{kind}"] = {"value": max(values), "bar": bar, "holds": max(values) <= bar}
    print(json.dumps({"benchmark": "objectives", "figures": figures, "bars": bars}))
    return 0 if bars and all(bar["holds"] for bar in bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
