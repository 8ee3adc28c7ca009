"""A trial of a sweep against the same run by hand: at most 5 % longer after start-up, and started within 20 s.

Both train the same small configuration with two ranks on this machine's CPUs, in turn. Start-up is the time from the
command to the first step; the rest is the time from the first step to the last, by the ranks' own log.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BARS = {"overhead_percent": 5.0, "startup_s": 20.0}
POLL_S = 0.02
BASE = """
data: {batch_size: 32, num_workers: 0}
model:
  imu_tower: {cnn: {channels: [16, 32], kernel_sizes: [5, 5]}}
  video_tower: {cnn: {channels: [16, 32], time_strides: [1, 2]}}
train: {log_every_steps: 1, checkpoint_every_steps: 100, validate_every_epochs: 20}
"""


def steps_done(run: Path) -> int:
    """Return how many steps of a run have been logged by now."""
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b'"split": "train"') if path.exists() else 0


def measure(command: list[str], run: Path) -> tuple[float, float]:
    """Run a command that trains in ``run``; return its start-up and the rest, seconds."""
    began, first, last, seen = time.time(), 0.0, 0.0, 0
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        if (done := steps_done(run)) > seen:
            seen, last = done, time.time()
            first = first or last
        time.sleep(POLL_S)
    if process.returncode or not first:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return first - began, last - first


def compare(epochs: int, repeats: int) -> dict[str, float]:
    """Return medians over pairs of a run by hand and a sweep of one trial, taken in turn."""
    from tests.tiny_dataset import write_tiny_dataset

    by_hand, by_sweep = [], []
    with tempfile.TemporaryDirectory(prefix="imuvid-sweep-") as name:
        folder = Path(name)
        write_tiny_dataset(folder / "data", num_train=512)
        (folder / "base.yaml").write_text(BASE)
        words = [f"data.path={folder}/data", f"train.epochs={epochs}"]
        program = [sys.executable, "-m", "launcher.cli"]
        for repeat in range(repeats):
            (folder / "sweep.yaml").write_text(
                f"name: s{repeat}\nruns_dir: {folder}\nbase: {folder}/base.yaml\nwords: {json.dumps(words)}\n"
                "space: {optimizer.lr: {grid: [0.001]}}\nsearch: {kind: grid}\nlimits: {trials: 1}\n"
                "trial: {ranks_per_node: 2}\n"
            )
            hand = ["pretrain", str(folder / "base.yaml"), "--nproc", "2", *words, f"runs_dir={folder}"]
            hand += [f"name=h{repeat}", "optimizer.lr=0.001"]
            by_hand.append(measure([*program, *hand], folder / f"h{repeat}"))
            sweep = ["sweep", str(folder / "sweep.yaml"), "ray.cpus=2"]
            by_sweep.append(measure([*program, *sweep], folder / f"s{repeat}/trials/trial-0000"))
    hand_s, sweep_s = (statistics.median(rest for _, rest in each) for each in (by_hand, by_sweep))
    return {
        "startup_s": statistics.median(start for start, _ in by_sweep),
        "startup_by_hand_s": statistics.median(start for start, _ in by_hand),
        "training_s": sweep_s,
        "training_by_hand_s": hand_s,
        "overhead_percent": 100 * (sweep_s / hand_s - 1),
    }


def main() -> int:
    """Measure, print one JSON line, return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter runs, once")
    arguments = parser.parse_args()
    figures = compare(20, 1) if arguments.quick else compare(60, 3)
    bars = {name: {"value": figures[name], "bar": bar, "holds": figures[name] <= bar} for name, bar in BARS.items()}
    print(json.dumps({"benchmark": "sweep", "figures": figures, "bars": bars}))
    return 0 if all(bar["holds"] for bar in bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
