"""What a pretraining will take: memory, time, GPU-hours, storage, loader cores, communication, for 1 to 1,024 devices.

Everything here is a formula over stated or measured figures; nothing runs. Sizes are in bytes, 1 GB is 1e9 bytes.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field

from imuvid.errors import UserError

FORMULAS = {
    "parameters": "4 B each; stages 1 and 2: and 4 B / N of each trainable one (the copy that ZeRO updates); stage 3:"
    " all of it / N",
    "gradients": "4 B a trainable parameter; stage 3: / N. A bucket holds 5e8 of them, so stage 2 frees none before",
    "moments": "8 B a trainable parameter (AdamW, fp32); stages 1 to 3: / N; with engine.offload in host memory, and so"
    " is the copy of the parameters",
    "bucket": "stages 1 to 3: 2 GB, DeepSpeed's buffer for 5e8 gradients (in the backward pass; at stage 3 always)",
    "activations": "windows in the towers at a time (a rank's, / engine.accumulate, or engine.micro_batch_size) * bytes"
    " that autograd keeps of one, counted on the model itself, + its casts of the parameters;"
    " engine.activation_checkpointing, which saves most of it, is not counted",
    "compute": "windows of a rank / samples_per_s",
    "communication": "bytes a rank sends / bandwidth + latency_us * 2 log2(N) of each exchange;"
    " gradients and parameters P = 4 B a trainable one: (N-1)/N * 2P at stage 0, 3P at stages 1 to 3;"
    " embeddings: 4 B * dim * 2 towers * batch, gathered and sent back, 2 (N-1)/N of it."
    " Nothing overlaps, as in DeepSpeed's defaults. bandwidth: within a node node_gb_s, else the lower of it and"
    " network_gb_s",
    "data": "the slower of reading (windows * bytes / read_gb_s, over the nodes) and decoding (windows of a rank /"
    " (decode_per_core_s * loader_cores)); goes on beside the step",
    "step": "the longer of compute + communication, and data",
    "efficiency": "step of one rank with the same windows a rank / step",
    "loader_cores": "samples_per_s / decode_per_core_s",
    "checkpoint": "12 B a trainable parameter (parameter, 2 moments), 4 B a frozen one, and both towers once more",
}


@dataclass
class PlanConfig:
    """The figures that a plan is made of; each as a word, plan.NAME=VALUE."""

    samples_per_s: float | None = None
    """Windows a second that one device trains on; else from plan.run."""
    run: str | None = None
    """Folder of a run with the same model and windows: its samples_per_s and its windows a device are taken."""
    doctor: str | None = None
    """What `imuvid doctor --json` wrote where it will run: bandwidths, disk, decoding."""
    local_batch: int | None = None
    """Windows a step and device in the table of growing batches; else those of plan.run, or data.batch_size."""
    devices_per_node: int = 8
    device_gb: float = 80.0
    """Memory of a device."""
    node_gb_s: float | None = None
    """Bus bandwidth of an all-reduce within a node (as nccl-tests say), GB/s; assumed 200."""
    network_gb_s: float | None = None
    """The same between nodes; assumed 20."""
    latency_us: float | None = None
    """Of one hop of an exchange, microseconds; assumed 20."""
    read_gb_s: float | None = None
    """What a node reads from the shards' storage, GB/s; assumed 1."""
    decode_per_core_s: float | None = None
    """Windows a second that a loader's core decodes; assumed 500."""
    loader_cores: int | None = None
    """Loader processes of a device; else data.num_workers."""
    hours: float | None = None
    """Of windows, where there is no dataset yet; then none is opened, and the shape of the windows is stated."""
    window_kb: float = 140.0
    """Of a window in a shard, 1,000 bytes."""
    window_s: float = 5.0
    imu_rate_hz: float = 50.0
    sensors: int = 1
    frames: int = 10
    frame_px: int = 224
    embedding_dim: int = 0
    """Of a frozen video tower's embedding that is stored instead of frames; 0 for frames."""


ASSUMED = {"node_gb_s": 200.0, "network_gb_s": 20.0, "latency_us": 20.0, "read_gb_s": 1.0, "decode_per_core_s": 500.0}
"""Of what is neither stated nor measured: DGX-like nodes on a 200 Gbit/s network, 224 px frames."""
_BUCKET_BYTES = 4 * 500_000_000
FROM_DOCTOR = {*ASSUMED, "samples_per_s"}


@dataclass
class ModelSize:
    """Of a config's model, counted."""

    trainable: int
    frozen: int
    embedding: int
    """Width of the common space."""
    activation_bytes: int
    """That autograd keeps of one window."""
    cast_bytes: int
    """That it keeps however few windows there are."""


@dataclass
class Workload:
    """What is trained, and on what."""

    model: ModelSize
    zero_stage: int
    offload: bool
    micro_batch: int
    """0 for all windows at a time."""
    accumulate: int
    batch: int
    windows: int
    """Of the training split."""
    window_bytes: float
    epochs: float
    loader_cores: int
    checkpoints: int
    """That are kept at most, with the one that is being written."""

    def memory(self, devices: int, local: int, zero_stage: int | None = None) -> Memory:
        """Return what a device holds, with ``local`` windows a step."""
        stage = self.zero_stage if zero_stage is None else zero_stage
        at_a_time = min(local, self.micro_batch or math.ceil(local / self.accumulate))
        return memory(self.model, stage, devices, at_a_time, self.offload)


@dataclass
class Memory:
    """Of one device, bytes."""

    zero_stage: int
    devices: int
    parameters: int
    gradients: int
    moments: int
    bucket: int
    activations: int

    @property
    def total(self) -> int:
        """At most, in the backward pass."""
        return self.parameters + self.gradients + self.moments + self.bucket + self.activations


@dataclass
class Scaling:
    """A run on some devices."""

    devices: int
    batch: int
    local_batch: int
    compute_s: float
    communication_s: float
    data_s: float
    step_s: float
    communication_share: float
    samples_per_s: float
    efficiency: float
    hours: float
    device_hours: float
    fits: bool
    """Whether the memory of a device suffices."""
    bound_by: str


@dataclass
class Plan:
    """All that ``imuvid plan`` says."""

    figures: dict[str, float]
    assumed: list[str]
    """Names of figures that were neither stated nor measured."""
    model: ModelSize
    memory: list[Memory]
    same_batch: list[Scaling]
    """The run as configured, on more and more devices."""
    growing_batch: list[Scaling]
    """The same windows a device, so a batch that grows with them."""
    loader_cores: float
    """That keep up with one device."""
    dataset_bytes: float
    checkpoint_bytes: int
    checkpoints_bytes: int
    formulas: dict[str, str] = field(default_factory=lambda: dict(FORMULAS))


def memory(model: ModelSize, zero_stage: int, devices: int, windows: int, offload: bool = False) -> Memory:
    """Return what a device holds with ``windows`` in the towers at a time (FORMULAS)."""
    whole, share = 4 * model.trainable, 4 * math.ceil(model.trainable / devices)
    frozen = 4 * model.frozen
    parameters = {0: whole + frozen, 1: whole + share + frozen, 2: whole + share + frozen}.get(
        zero_stage, 2 * share + math.ceil(frozen / devices)
    )
    moments = 2 * (share if zero_stage else whole)
    if offload and zero_stage:
        parameters, moments = parameters - share, 0
    return Memory(
        zero_stage=zero_stage,
        devices=devices,
        parameters=parameters,
        gradients=share if zero_stage == 3 else whole,
        moments=moments,
        bucket=_BUCKET_BYTES if zero_stage else 0,
        activations=windows * model.activation_bytes + model.cast_bytes,
    )


def sent_bytes(model: ModelSize, zero_stage: int, devices: int, batch: int) -> float:
    """Return what a rank sends in a step, bytes (FORMULAS)."""
    whole = 4 * model.trainable
    times = 3 if zero_stage else 2
    embeddings = 4 * model.embedding * 2 * batch
    return (devices - 1) / devices * (times * whole + 2 * embeddings)


def scaling(work: Workload, figures: dict[str, float], devices: int, local: int) -> Scaling:
    """Return what a run on ``devices`` with ``local`` windows each takes (FORMULAS)."""

    def times(number: int) -> tuple[float, float, float]:
        compute = local / figures["samples_per_s"]
        nodes = math.ceil(number / figures["devices_per_node"])
        within, between = figures["node_gb_s"] * 1e9, figures["network_gb_s"] * 1e9
        bandwidth = within if nodes == 1 else min(within, between)
        # Gradients or parameters, and the embeddings of both towers there and back.
        hops = 5 * 2 * math.log2(number) if number > 1 else 0.0
        sent = sent_bytes(work.model, work.zero_stage, number, number * local)
        communication = sent / bandwidth + hops * figures["latency_us"] * 1e-6
        reading = number * local * work.window_bytes / (nodes * figures["read_gb_s"] * 1e9)
        decoding = local / (figures["decode_per_core_s"] * max(1, work.loader_cores))
        return compute, communication, max(reading, decoding)

    compute, communication, data = times(devices)
    alone_compute, alone_communication, alone_data = times(1)
    step = max(compute + communication, data)
    alone = max(alone_compute + alone_communication, alone_data)
    batch = devices * local
    hours = work.epochs * work.windows / batch * step / 3600
    used = work.memory(devices, local).total
    bound = "data" if data > compute + communication else "communication" if communication > compute else "compute"
    return Scaling(
        devices=devices,
        batch=batch,
        local_batch=local,
        compute_s=compute,
        communication_s=communication,
        data_s=data,
        step_s=step,
        communication_share=communication / step,
        samples_per_s=batch / step,
        efficiency=alone / step,
        hours=hours,
        device_hours=hours * devices,
        fits=used <= figures["device_gb"] * 1e9,
        bound_by=bound,
    )


def make_plan(work: Workload, figures: dict[str, float], assumed: list[str], local_batch: int) -> Plan:
    """Return the plan of a run; the figures are those of PlanConfig, all of them known."""
    numbers = [2**power for power in range(11)]
    same = [scaling(work, figures, n, work.batch // n) for n in numbers if work.batch % n == 0]
    # Of the whole batch as one device would have it: fewer windows a rank cost no less communication.
    alone = scaling(work, figures, 1, work.batch).samples_per_s
    for row in same:
        row.efficiency = row.samples_per_s / (row.devices * alone)
    checkpoint = 16 * work.model.trainable + 8 * work.model.frozen
    return Plan(
        figures=figures,
        assumed=assumed,
        model=work.model,
        memory=[work.memory(n, local_batch, stage) for stage in range(4) for n in numbers],
        same_batch=same,
        growing_batch=[scaling(work, figures, n, local_batch) for n in numbers],
        loader_cores=figures["samples_per_s"] / figures["decode_per_core_s"],
        dataset_bytes=work.windows * work.window_bytes,
        checkpoint_bytes=checkpoint,
        checkpoints_bytes=checkpoint * work.checkpoints,
    )


def complete_figures(stated: PlanConfig, measured: dict[str, float]) -> tuple[dict[str, float], list[str]]:
    """Return the figures, stated before measured before assumed, and the names of those assumed.

    Raises:
        UserError: nobody knows how fast a device is.
    """
    figures: dict[str, float] = {}
    assumed = []
    for name, value in asdict(stated).items():
        if name in ("run", "doctor", "hours", "local_batch", "loader_cores"):
            continue
        if value is None and name in measured:
            value = measured[name]
        elif value is None:
            if name not in ASSUMED:
                raise UserError(
                    "how many windows a second a device trains on is not known: run some steps and name the run, as"
                    " plan.run=runs/first, or state it, as plan.samples_per_s=200"
                )
            value = ASSUMED[name]
            assumed.append(name)
        if value <= 0 and name not in ("embedding_dim", "latency_us"):
            raise UserError(f"plan.{name}={value:g}: must be above 0")
        figures[name] = value
    return figures, assumed


def lines(plan: Plan) -> list[str]:
    """Return the plan as text: tables, and the formula behind each column."""
    figures = ", ".join(
        f"{name} {value:g}{' (assumed)' if name in plan.assumed else ''}" for name, value in plan.figures.items()
    )
    model = plan.model
    text = [
        f"figures: {figures}",
        f"model: {model.trainable / 1e6:.1f} M trainable parameters, {model.frozen / 1e6:.1f} M frozen;"
        f" {model.activation_bytes / 1e6:.2f} MB of activations a window",
        f"storage: dataset {plan.dataset_bytes / 1e9:.3g} GB, a checkpoint {plan.checkpoint_bytes / 1e9:.3g} GB, those"
        f" that are kept {plan.checkpoints_bytes / 1e9:.3g} GB",
        f"loader: {plan.loader_cores:.1f} cores a device",
        "",
        "memory of a device, GB, by ZeRO stage (devices: parameters + gradients + moments + bucket + activations)",
    ]
    for stage in range(4):
        rows = [row for row in plan.memory if row.zero_stage == stage and row.devices in (1, 8, 64, 1024)]
        text.append(
            f"  {stage}  " + "   ".join(f"{row.devices}: {row.total / 1e9:.2f} ({_parts(row)})" for row in rows)
        )
    for title, rows_of in (
        ("the run as configured (same batch)", plan.same_batch),
        ("the same windows a device (growing batch)", plan.growing_batch),
    ):
        text += [
            "",
            title,
            "devices   batch    step s  communication  efficiency  samples/s     hours  GPU-hours  bound by",
        ]
        text += [
            f"{row.devices:7} {row.batch:7} {row.step_s:9.4f} {row.communication_share:13.0%} {row.efficiency:10.0%}"
            f" {row.samples_per_s:11.0f} {row.hours:9.2f} {row.device_hours:10.1f}  {row.bound_by}"
            + ("" if row.fits else "; memory does not suffice")
            for row in rows_of
        ]
    return [*text, "", "formulas", *(f"  {name}: {formula}" for name, formula in plan.formulas.items())]


def _parts(row: Memory) -> str:
    return " + ".join(
        f"{part / 1e9:.2f}" for part in (row.parameters, row.gradients, row.moments, row.bucket, row.activations)
    )
