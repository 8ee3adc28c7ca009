"""Rate of the evaluation: windows embedded a second, as a ratio to the bare forward pass; and the whole job's time.

The bare forward pass is the physical limit: the same encoder, device and batches on arrays that lie in memory as they
are wanted, nothing else. Against it, in turns in one run, what the evaluation does for windows that it has not seen:
hash weights and windows, condition, embed, check, and keep the result on the disk. The median of the ratios counts. A
second protocol reads what was kept: its time is printed beside.

The whole benchmark (every data set below $IMUVID_REALDATA, all protocols that are on by default, all baselines) is
timed on two processes with a small encoder, from nothing in the cache.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from imuvid.imu.condition import ConditionConfig
from imuvid.models.encoder import Encoder, EncoderConfig, random_encoder
from imuvid.models.towers import ImuTowerConfig
from imuvid.ood.cache import ArrayCache
from imuvid.ood.datasets.base import Windows
from imuvid.ood.embedding import choose_device, conditioned, represent

RATIO_BAR = 0.8
WHOLE_BAR_S = 600.0
BATCH = 256
ENCODERS = {
    "cnn": ("cnn", 2.0, ConditionConfig()),
    "gravity": ("gravity", 2.0, ConditionConfig()),
    "patchtst_as_published": ("patchtst", 5.0, ConditionConfig(5, "recording")),
}
"""Kind, length of the windows in seconds, conditioning."""


def make_windows(num: int, window_s: float) -> Windows:
    """Return windows of one sensor at 50 Hz, of 30 recordings."""
    rng = np.random.default_rng(0)
    steps = round(50 * window_s)
    recording = np.array([f"r{i % 30}" for i in range(num)])
    return Windows(
        name="benchmark",
        imu=rng.standard_normal((num, steps, 1, 6), np.float32),
        valid=np.ones((num, steps, 1, 2), bool),
        label=np.zeros(num, np.int64),
        subject=recording,
        recording=recording,
        start_s=np.arange(num, dtype=float),
        classes=["a"],
        positions=["wrist"],
        rate_hz=50.0,
    )


@torch.inference_mode()
def bare(encoder: Encoder, windows: Windows, device: torch.device) -> float:
    """Return the seconds of the forward passes alone, windows that lie on the device."""
    imu, valid = (torch.from_numpy(array).to(device) for array in (windows.imu, windows.valid))
    encoder.to(device)
    start = time.perf_counter()
    for first in range(0, len(imu), BATCH):
        features = encoder(imu[first : first + BATCH], valid[first : first + BATCH])
    features.cpu()  # waits for the device
    return time.perf_counter() - start


def embedding_rate(
    kind: str, window_s: float, condition: ConditionConfig, num: int, rounds: int, device: torch.device
) -> dict[str, float]:
    """Return windows a second of the two ways, their ratio, and the time of a second look."""
    encoder = random_encoder(EncoderConfig(ImuTowerConfig(kind=kind), 50.0, window_s, ["wrist"], condition), 0)
    windows = make_windows(num, window_s)
    ready = conditioned(windows, condition)
    bare_s, ours_s, again_s = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds + 1):
            cache = ArrayCache(Path(folder) / str(number), 10**10)

            def ours(cache: ArrayCache = cache) -> float:
                start = time.perf_counter()
                represent(encoder, windows, condition, BATCH, device, "apart", cache)
                return time.perf_counter() - start

            # In turns, each first as often as the other; the first round warms up.
            pair = (
                (bare(encoder, ready, device), ours()) if number % 2 else (ours(), bare(encoder, ready, device))[::-1]
            )
            if number:
                bare_s.append(pair[0])
                ours_s.append(pair[1])
                again_s.append(ours())
    return {
        "bare_per_s": num / float(np.median(bare_s)),
        "embed_per_s": num / float(np.median(ours_s)),
        "ratio": float(np.median(np.array(bare_s) / np.array(ours_s))),
        "second_look_s": float(np.median(again_s)),
    }
