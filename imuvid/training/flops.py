"""Floating-point operations of the model, and how many a device could do: what model FLOPs utilisation is made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from imuvid.data.batch import Batch
from imuvid.data.mixture import AnyDataset
from imuvid.models.two_tower import TwoTower

PEAK_TFLOPS = {
    # Dense matrix products per second, from the vendors' data sheets: (fp32, bf16 and fp16). Longest names first.
    "H100 PCIe": (51.0, 756.0),
    "H100 NVL": (60.0, 835.0),
    "GH200": (67.0, 989.0),
    "H200": (67.0, 989.0),
    "H100": (67.0, 989.0),
    "B200": (80.0, 2250.0),
    "A100": (19.5, 312.0),
    "A800": (19.5, 312.0),
    "A10G": (31.5, 70.0),
    "A40": (37.4, 149.7),
    "A30": (10.3, 165.0),
    "A10": (31.2, 125.0),
    "L40S": (91.6, 362.0),
    "L4": (30.3, 121.0),
    "V100": (15.7, 125.0),
    "T4": (8.1, 65.0),
}


@dataclass
class Throughput:
    """What a number of samples a second means for the devices."""

    world: int
    """Ranks."""
    flops_per_window: float | None
    """From :func:`flops_per_window`."""
    peak: float | None
    """From :func:`peak_flops`."""

    def figures(self, samples_per_s: float) -> dict[str, float]:
        """Return samples and model FLOPs a second, and the share of what the device could do, as far as known."""
        each = samples_per_s / self.world
        figures = {"samples_per_s": samples_per_s, "samples_per_s_per_device": each}
        if self.flops_per_window is not None:
            figures["model_tflops_per_device"] = each * self.flops_per_window / 1e12
            if self.peak is not None:
                figures["model_flops_utilisation"] = each * self.flops_per_window / self.peak
        return figures


def flops_per_window(model: TwoTower, dataset: AnyDataset, num_frames: int) -> float | None:
    """Return the operations of forward and backward of both towers and their heads, a window; None where unknown.

    Counted by torch (a multiplication and an addition are two) on the meta device, once. The objective, whose share is
    small, is left out, and so is what is computed twice to save memory.

    Args:
        model: on the meta device, before there is a process group.
        dataset: whose windows it takes.
        num_frames: that are read of each.
    """
    try:
        with torch.device("meta"):
            batch = _empty_batch(dataset, num_frames, getattr(model.text_tower, "max_tokens", 0))
            with FlopCounterMode(display=False) as counter:
                made = model.views(batch).differentiable()
                torch.stack([x.sum() for x in made.values() if x.requires_grad]).sum().backward()
    except (RuntimeError, NotImplementedError, ValueError):
        return None  # code of another package, which may not run without numbers
    finally:
        model.zero_grad()
    return counter.get_total_flops() / len(batch)


def peak_flops(device: torch.device, dtype: torch.dtype, stated_tflops: float) -> float | None:
    """Return the operations a second of a device: as stated (tera), else by its name; None where it is not known."""
    if stated_tflops:
        return stated_tflops * 1e12
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    found = next((rates for part, rates in PEAK_TFLOPS.items() if part in name), None)
    return found[dtype != torch.float32] * 1e12 if found else None


def _empty_batch(dataset: AnyDataset, num_frames: int, num_tokens: int, size: int = 2) -> Batch:
    info = dataset.info
    shape = (size, round(info.window_s * info.imu_rate_hz), len(info.positions))
    frames: Tensor = torch.zeros(size, num_frames, *info.frame_size, 3, dtype=torch.uint8)
    if info.embedding_dim is not None:
        frames = torch.zeros(size, info.embedding_dim, dtype=torch.float16)
    return Batch(
        imu=torch.zeros(*shape, 6),
        valid=torch.ones(*shape, 2, dtype=torch.bool),
        frames=frames,
        frame_valid=torch.ones(size, num_frames, dtype=torch.bool),
        recording=torch.zeros(size, dtype=torch.int64),
        sample=torch.zeros(size, dtype=torch.int64),
        skipped=torch.zeros(size, 2, dtype=torch.int64),
        start_s=torch.zeros(size, dtype=torch.float64),
        text=torch.zeros(size, num_tokens, dtype=torch.int64),
    )
