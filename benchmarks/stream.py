"""Samples that the training stream yields per core-second, as a ratio to other ways of reading the same windows.

In one run, in turns, on one core: the bare loop that decodes the same JPEGs from memory into the same arrays (the
physical limit; beside it one that forgets each picture), a plain webdataset pipeline, Megatron-Energon on the same
tars, MosaicML Streaming on the same samples as MDS, and the way of the paper's released code, which opens the
recording, seeks, and decodes every frame of a window at native size. All decode by simplejpeg, none augments, each
shuffles. Core-seconds are user and system time of all threads; of the rounds, the median of the ratios counts. How well
the order is shuffled is printed with it.

The peers have environments of their own, which ``--setup`` makes (``make bench`` does).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.build_shards import SIZES, write_recording
from benchmarks.stream_data import write_dataset
from benchmarks.stream_peers import NOTES, Reader, prepare, python_of, set_up
from benchmarks.stream_shuffle import shuffle_figures

BATCH = 64
BARS = {"limit": 0.9, "plain_webdataset": 1.1, "energon": 1.1, "streaming": 1.1}
PAPER_BAR = 100.0
LOOPS = ("limit", "forgotten")


def compare(folder: Path, rounds: int, batches: int, workers: int) -> dict[str, float]:
    """Return samples a core-second of each way, and the ratios of ours to them."""
    readers = [Reader(way, folder, BATCH, workers) for way in dict.fromkeys(("ours", *LOOPS, *BARS)) if python_of(way)]
    try:
        shapes = {str(reader.shape) for reader in readers if reader.way not in LOOPS}
        if len(shapes) != 1:
            raise RuntimeError(f"the ways yield different things: {shapes}")
        seconds: dict[str, list[float]] = {reader.way: [] for reader in readers}
        for number in range(rounds):
            # Processors are compared, not the disk: what the system has dropped of the files comes back, uncounted.
            for path in folder.rglob("*"):
                if path.is_file():
                    path.read_bytes()
            for reader in readers[number % len(readers) :] + readers[: number % len(readers)]:
                seconds[reader.way].append(reader.core_seconds(batches))
    finally:
        for reader in readers:
            reader.close()
    return _figures(seconds, dict.fromkeys(seconds, BATCH * batches))


def compare_recording(folder: Path, name: str, ours_s: float, duration_s: float, rounds: int) -> dict[str, float]:
    """Return windows a core-second of the paper's way, and the ratio of ours to it.

    Args:
        folder: for the recording.
        name: 1080p or 480p.
        ours_s: core-seconds that a window takes in the stream.
        duration_s: of the recordings.
        rounds: over all windows of it.
    """
    (folder / name).mkdir()
    reader = Reader("paper", write_recording(folder / name, SIZES[name], duration_s), 1, 0)
    windows = int(duration_s // 5)
    took_s = float(np.median([reader.core_seconds(windows) for _ in range(rounds)])) / windows
    reader.close()
    return {f"paper_{name}": 1 / took_s, f"ours_over_paper_{name}": took_s / ours_s}


def _figures(seconds: dict[str, list[float]], samples: dict[str, int]) -> dict[str, float]:
    figures = {way: samples[way] / float(np.median(spent)) for way, spent in seconds.items()}
    for way in seconds.keys() - {"ours"}:
        ratios = np.array(seconds[way]) / np.array(seconds["ours"])
        figures[f"ours_over_{way}"] = float(np.median(ratios))
        figures[f"ours_over_{way}_low"], figures[f"ours_over_{way}_high"] = np.percentile(ratios, [25, 75]).tolist()
    return figures


def measure(quick: bool) -> dict[str, float]:
    """Make the data, measure everything, return the figures."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = write_dataset(folder / "data", 384 if quick else 1536, 4 if quick else 8)
        prepare(data)
        figures = compare(data, 5 if quick else 11, 2 if quick else 3, 0)
        figures |= compare_recording(folder, "1080p", 1 / figures["ours"], 5.0 if quick else 10.0, 1 if quick else 3)
        if not quick:
            figures |= compare_recording(folder, "480p", 1 / figures["ours"], 10.0, 3)
            one = compare(data, 3, 3, 1)
            figures |= {f"one_worker_{name}": value for name, value in one.items()}
    return figures | shuffle_figures(quick)


def main() -> int:
    """Measure, print one JSON line, return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer samples and rounds, no figures of a loader process")
    parser.add_argument("--setup", action="store_true", help="make the peers' environments, measure nothing")
    arguments = parser.parse_args()
    if arguments.setup:
        set_up()
        return 0
    for peer, note in NOTES.items():
        print(f"{peer}: {note if python_of(peer) else 'not measured: run python -m benchmarks.stream --setup'}")
    figures = measure(arguments.quick)
    bars = {}
    wanted = {f"ours_over_{way}": bar for way, bar in BARS.items()} | {"ours_over_paper_1080p": PAPER_BAR}
    for name, bar in wanted.items():
        value = figures.get(name)
        bars[name] = {"value": value, "bar": bar, "holds": value is not None and value >= bar}
        print(f"{name}: {'not measured' if value is None else f'{value:.3g}'}, at least {bar}")
    print(json.dumps({"benchmark": "stream", "figures": figures, "bars": bars}))
    return 0 if all(bar["holds"] for bar in bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
