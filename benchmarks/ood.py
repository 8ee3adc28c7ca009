"""Rate of the evaluation: windows embedded a second, as a ratio to the bare forward pass; and the whole job's time.

The bare forward pass is the physical limit: the same encoder, device and batches on arrays that lie in memory as they
are wanted, nothing else. Against it, in turns in one run, what the evaluation does for windows that it has not seen:
hash weights and windows, condition, embed, check, and keep the result on the disk. The median of the ratios counts. A
second protocol reads what was kept: its time is printed beside.

The whole benchmark (configs/ood/benchmark.yaml on the data below $IMUVID_REALDATA, all protocols and baselines) is
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

from imuvid import config as configs
from imuvid.imu.condition import ConditionConfig
from imuvid.models.encoder import Encoder, EncoderConfig, random_encoder, save_encoder
from imuvid.models.towers import ImuTowerConfig
from imuvid.ood.cache import ArrayCache
from imuvid.ood.config import OODConfig
from imuvid.ood.datasets.base import REALDATA, Windows
from imuvid.ood.embedding import choose_device, conditioned, represent
from imuvid.ood.job import evaluate
from launcher.evaluate_cli import executor

CONFIG = Path(__file__).parents[1] / "configs/ood/benchmark.yaml"
WORKERS = 2
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


def whole_job(quick: bool) -> dict[str, float]:
    """Return seconds of the whole benchmark on the real sets from an empty cache, and of a second protocol after it."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "run/checkpoints/step-00000001"
        tower = ImuTowerConfig(kind="cnn")
        config = EncoderConfig(tower, 50.0, 2.0, ["wrist"], provenance={"step": 1, "train_subjects": []})
        save_encoder(checkpoint / "encoder", config, random_encoder(config, 0).tower.state_dict())
        words = [f"cache.folder={folder}/cache", f"workers={WORKERS}"]
        if quick:
            words += ["datasets=[daphnet]", "shots=[1,5]", "finetune.steps=0"]
        settings = configs.load(OODConfig, CONFIG, words)
        start = time.perf_counter()
        report = evaluate(checkpoint, settings, executor(settings)).report
        whole_s = time.perf_counter() - start
        other = ["probe.c=1.0", "shots=[1]", "finetune.steps=0", "leave_out=[]", "paper=false"]
        again = configs.load(OODConfig, CONFIG, [*words, *other])
        start = time.perf_counter()
        evaluate(checkpoint, again, executor(again))
        second_s = time.perf_counter() - start
    windows = sum(result["num_test_windows"] for result in report["results"].values())
    return {"whole_s": whole_s, "other_probe_s": second_s, "tasks": len(report["results"]), "test_windows": windows}


def main() -> int:
    """Measure, print one JSON line, return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer windows and rounds, one real set with few probes")
    parser.add_argument("--device", default="cpu", help="where the encoders run")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = choose_device(arguments.device)
    figures: dict[str, float] = {}
    bars = {}
    for name, (kind, window_s, condition) in ENCODERS.items():
        size = (1024, 5) if arguments.quick else (4096, 11)
        found = embedding_rate(kind, window_s, condition, *size, device)
        figures |= {f"{name}_{key}": value for key, value in found.items()}
        bars[f"{name}_ratio"] = {"value": found["ratio"], "bar": RATIO_BAR, "holds": found["ratio"] >= RATIO_BAR}
    if REALDATA in os.environ:
        figures |= whole_job(arguments.quick)
    else:
        print(f"the whole benchmark is not measured: {REALDATA} is not set")
    whole_s = figures.get("whole_s")
    if not arguments.quick:
        holds = whole_s is not None and whole_s <= WHOLE_BAR_S
        bars["whole_s"] = {"value": whole_s, "bar": WHOLE_BAR_S, "holds": holds}
    print(json.dumps({"benchmark": "ood", "figures": figures, "bars": bars}))
    return 0 if all(bar["holds"] for bar in bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
