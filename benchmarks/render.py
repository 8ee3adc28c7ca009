"""Cost of a simulated picture on one core: at most 10 ms for 128 px.

Beside it, in the same run: what encoding it costs, and the floor of any numpy renderer, one gather of a texel a pixel.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from shards.simulate.files import write_video
from shards.simulate.record import SimulatedConfig, frames, simulate

BAR_MS = 10.0


def measure(repeats: int, num_frames: int) -> dict[str, float]:
    """Return medians over ``repeats`` recordings, each in another room, milliseconds."""
    config = SimulatedConfig(num_subjects=repeats, duration_s=60.0, video_size=128, fps=max(1, num_frames // 60))
    render, set_up, encode, gather = [], [], [], []
    for index in range(repeats):
        start = time.perf_counter()
        recording = simulate(config, index)
        pictures = frames(config, recording, index)
        first = next(pictures)
        set_up.append(time.perf_counter() - start)
        start = time.perf_counter()
        rest = list(pictures)
        render.append((time.perf_counter() - start) / len(rest))
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            write_video(Path(folder) / "v.mp4", itertools.chain([first], rest), config.fps, 128)
        encode.append((time.perf_counter() - start) / (len(rest) + 1))
        texels = np.zeros(3_000_000, np.uint32)
        where = np.random.default_rng(index).integers(0, len(texels), (128, 128))
        start = time.perf_counter()
        for _ in range(100):
            texels[where]
        gather.append((time.perf_counter() - start) / 100)
    return {
        "render_ms": 1e3 * float(np.median(render)),
        "render_worst_ms": 1e3 * float(np.max(render)),
        "encode_ms": 1e3 * float(np.median(encode)),
        "set_up_ms": 1e3 * float(np.median(set_up)),
        "one_gather_ms": 1e3 * float(np.median(gather)),
    }


def main() -> int:
    """Measure, print one JSON line, return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rooms and pictures")
    quick = parser.parse_args().quick
    figures = measure(5, 180) if quick else measure(9, 600)
    holds = figures["render_ms"] <= BAR_MS
    bars = {"render_ms": {"value": figures["render_ms"], "bar": BAR_MS, "holds": holds}}
    print(json.dumps({"benchmark": "render", "figures": figures, "bars": bars}))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
