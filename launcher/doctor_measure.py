"""What ``imuvid doctor`` measures: the exchange between the ranks, the shards' storage, decoding, the model itself."""

from __future__ import annotations

import dataclasses
import math
import os
import socket
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from imuvid import config as configs
from imuvid.data.batch import Batch
from imuvid.data.mixture import AnyDataset, open_split
from imuvid.data.stream import training_stream
from imuvid.errors import UserError
from imuvid.models.text_tokens import load_tokenizer
from imuvid.models.towers import with_places, without_weights
from imuvid.models.two_tower import TwoTower
from imuvid.training.config import PretrainConfig
from imuvid.training.engine import resolve_device, resolve_dtype, start_process_group
from imuvid.training.environment import describe_environment
from launcher.doctor import (
    BROKEN,
    DOUBTFUL,
    GOOD,
    Finding,
    Report,
    device_findings,
    nccl_findings,
    network_findings,
    same_everywhere,
)
from launcher.plan import PlanConfig, Workload, complete_figures, scaling
from launcher.plan_model import model_size

ALL_REDUCE_BYTES, ROUNDS = 64 << 20, 5
SECONDS = 2.0
"""For each measurement of a rate."""
_CHUNK = 4 << 20


def examine(config: PretrainConfig | None, timeout_s: float) -> Report:
    """Examine this rank's machine, and with the other ranks what is between them; every rank must call it.

    Args:
        config: of the pretraining that is meant; None looks at machines and network alone.
        timeout_s: longest wait for the other ranks.
    """
    environ = os.environ
    world, local_world = int(environ["WORLD_SIZE"]), int(environ.get("LOCAL_WORLD_SIZE", 1))
    name = config.engine.device if config else "auto"
    findings = device_findings(environ, torch.cuda.device_count(), name) + network_findings(environ)
    findings += nccl_findings(environ, Path("/sys/class/infiniband").is_dir())
    report = Report([socket.gethostname()], world, "", findings, {}, describe_environment())
    if report.broken:
        return report
    device = resolve_device(name, int(environ["LOCAL_RANK"]))
    try:
        start_process_group(device, timeout_s)
        report.backend = dist.get_backend()
        _between_ranks(report, device)
    except RuntimeError as error:
        report.backend = ""
        report.findings.append(Finding(BROKEN, "ranks", str(error).splitlines()[0]))
        return report
    if config is not None:
        _with_config(report, config, device, world, local_world)
    _gather(report)
    return report


def _between_ranks(report: Report, device: torch.device) -> None:
    by_rank: list = [None] * report.ranks
    dist.all_gather_object(by_rank, (socket.gethostname(), report.environment["versions"]))
    report.hosts = sorted({host for host, _ in by_rank})
    report.findings += same_everywhere(by_rank)
    versions = {name: version for name, version in report.environment["versions"].items() if version}
    text = ", ".join(f"{name} {version}" for name, version in versions.items())
    report.findings.append(Finding(GOOD, "versions", text))
    if report.ranks == 1:
        return
    large = _seconds(torch.ones(ALL_REDUCE_BYTES // 4, device=device))
    small = _seconds(torch.ones(2, device=device))
    # As nccl-tests count it: what each rank has to send for it, whatever the number of ranks.
    bandwidth = 2 * (report.ranks - 1) / report.ranks * ALL_REDUCE_BYTES / large / 1e9
    several = len(report.hosts) > 1
    report.figures["network_gb_s" if several else "node_gb_s"] = bandwidth
    report.figures["latency_us"] = small / (2 * math.log2(report.ranks)) * 1e6
    where = f"{report.ranks} ranks on {len(report.hosts)} host{'s' * several} ({report.backend})"
    slow = several and device.type == "cuda" and bandwidth < 5
    text = f"{bandwidth:.2f} GB/s of bus bandwidth, {small * 1e6:.0f} us for a number, between {where}"
    text += ": NCCL seems to go over sockets, see NCCL_DEBUG=INFO" if slow else ""
    report.findings.append(Finding(DOUBTFUL if slow else GOOD, "all-reduce", text))


def _seconds(tensor: torch.Tensor) -> float:
    took = []
    for _ in range(ROUNDS + 1):
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(tensor)
        if tensor.is_cuda:
            torch.cuda.synchronize()
        took.append(time.perf_counter() - start)
    return statistics.median(took[1:])


def _with_config(report: Report, config: PretrainConfig, device: torch.device, world: int, local_world: int) -> None:
    problem, batch, dataset = "", None, None
    try:
        dataset = open_split(config.data, config.data.train_split)
        if config.data.batch_size % world:
            raise UserError(f"data.batch_size={config.data.batch_size} is no multiple of the {world} ranks")
        if int(os.environ["LOCAL_RANK"]) == 0:  # of its node, whose storage all ranks share
            report.figures["read_gb_s"] = _reading(dataset) / 1e9
        local = config.data.batch_size // world
        serial = dataclasses.replace(config.data, num_workers=0)
        tokenize = load_tokenizer(config.model.text_tower)
        stream = training_stream(dataset, serial, config.seed, dist.get_rank(), world, 0, False, tokenize)
        batch = next(stream)
        report.figures["decode_per_core_s"] = local * _rate(lambda: next(stream))
    except (UserError, OSError, ValueError, RuntimeError) as error:
        problem = str(error).splitlines()[0]
    # What one rank cannot read is not waited for by the others.
    problems: list = [None] * world
    dist.all_gather_object(problems, problem)
    if problem:
        report.findings.append(Finding(BROKEN, config.data.path or "data.mixture", problem))
    if any(problems) or dataset is None or batch is None:
        return
    try:
        report.figures["samples_per_s"] = local * _training(config, dataset, batch.to(device), device)
    except (UserError, ValueError, RuntimeError) as error:
        report.findings.append(Finding(BROKEN, "model", str(error).splitlines()[0]))
        return
    stored = sum(part.least_size(shard) for part in dataset.parts for shard in range(len(part.shard_sizes)))
    report.figures["window_kb"] = stored / len(dataset) / 1e3
    report.figures["devices_per_node"] = local_world


def _rate(do: Callable[[], object]) -> float:
    """How often a second something can be done."""
    times, start = 0, time.perf_counter()
    while (took := time.perf_counter() - start) < SECONDS or times < 2:
        do()
        times += 1
    return times / took


def _reading(dataset: AnyDataset) -> float:
    """Bytes a second of one reader, as they come from the storage and not from this machine's memory."""
    part = dataset.parts[0]
    read, start = 0, time.perf_counter()
    for shard in range(len(part.shard_sizes)):
        name = part.index.shards[shard]
        local = part.store.local
        if local is not None and hasattr(os, "posix_fadvise"):
            with (local / name).open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        size = part.store.size(name)
        for offset in range(0, size, _CHUNK):
            read += len(part.store.read_range(name, offset, _CHUNK))
            if time.perf_counter() - start > SECONDS:
                return read / (time.perf_counter() - start)
    return read / (time.perf_counter() - start)


def _training(config: PretrainConfig, dataset: AnyDataset, batch: Batch, device: torch.device) -> float:
    """Steps a second of the model alone: no exchange of gradients, no update."""
    towers = dataclasses.replace(
        config.model,
        imu_tower=with_places(without_weights(config.model.imu_tower), dataset.info.positions),
        video_tower=without_weights(config.model.video_tower),
        text_tower=without_weights(config.model.text_tower),
    )
    model = TwoTower(towers, resolve_dtype(config.engine.dtype)).to(device).train()
    model.imu_tower.wear(dataset.info.positions)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def step() -> None:
        loss, _ = model(batch)
        torch.autograd.grad(loss, parameters, allow_unused=True)
        if device.type == "cuda":
            torch.cuda.synchronize()

    # Ranks exchange embeddings in the step: all of them have to do the same number.
    step()
    dist.barrier()
    start, times = time.perf_counter(), 3
    for _ in range(times):
        step()
    return times / (time.perf_counter() - start)


def _gather(report: Report) -> None:
    """Put what the ranks found together: the slowest rank's figures, everybody's mistakes."""
    everyone: list = [None] * report.ranks
    dist.all_gather_object(everyone, (report.figures, report.findings))
    for figures, findings in everyone:
        for name, value in figures.items():
            report.figures[name] = min(report.figures.get(name, value), value)
        known = {(finding.subject, finding.text) for finding in report.findings}
        report.findings += [f for f in findings if f.verdict != GOOD and (f.subject, f.text) not in known]


def judge(report: Report, config: PretrainConfig) -> None:
    """Add what will hold up a training of this config between these ranks."""
    found = report.figures
    if "samples_per_s" not in found:
        return
    for name, text in (
        ("read_gb_s", f"{found['read_gb_s']:.3f} GB/s by one reader, {found['window_kb']:.0f} kB a window"),
        ("decode_per_core_s", f"{found['decode_per_core_s']:.0f} windows/s a core"),
        ("samples_per_s", f"{found['samples_per_s']:.1f} windows/s a device, without exchange of gradients"),
    ):
        subject = {"read_gb_s": "storage", "decode_per_core_s": "decoding", "samples_per_s": "model"}[name]
        report.findings.append(Finding(GOOD, subject, text))
    figures, _ = complete_figures(PlanConfig(window_kb=found["window_kb"]), found)
    figures["devices_per_node"] = found["devices_per_node"]
    model = model_size(config, configs.load(PlanConfig, None))
    work = Workload(
        model=model,
        zero_stage=config.engine.zero_stage,
        offload=config.engine.offload,
        micro_batch=config.engine.micro_batch_size,
        accumulate=config.engine.accumulate,
        batch=config.data.batch_size,
        windows=config.data.batch_size,
        window_bytes=found["window_kb"] * 1e3,
        epochs=1,
        loader_cores=config.data.num_workers,
        checkpoints=1,
    )
    row = scaling(work, figures, report.ranks, config.data.batch_size // report.ranks)
    text = (
        f"{row.bound_by}: a step of {row.step_s:.3f} s, with {row.compute_s:.3f} s of computation,"
        f" {row.communication_s:.3f} s of exchange, {row.data_s:.3f} s of data beside them"
    )
    cores = found["samples_per_s"] / found["decode_per_core_s"]
    if row.bound_by == "data":
        text += f": {cores:.1f} loader cores a device would do (data.num_workers={config.data.num_workers})"
    report.findings.append(Finding(GOOD if row.bound_by == "compute" else DOUBTFUL, "bottleneck", text))
