"""How well the order of an epoch is shuffled, by the number of shards that are shuffled together."""

from __future__ import annotations

import numpy as np

from imuvid.data.order import SampleOrder

BATCH, PER_SHARD, PER_RECORDING = 256, 100, 180
BLOCKS = (1, 10, 100, 0)


def shuffle_figures(quick: bool) -> dict[str, float]:
    """Return for each number of shards in a block (``full``: all), over one epoch of recordings of 15 minutes:

    - ``distance``: mean distance in the dataset of samples that follow each other in the order, share of the
      number of samples; of a perfect shuffle a third;
    - ``same_recording``: share of the pairs within a batch that are of one recording, by that of a perfect shuffle;
    - ``pair_chance``: chance that a batch of 256 holds two windows of one recording.
    """
    num_shards = 200 if quick else 1000
    total = num_shards * PER_SHARD
    recording = np.arange(total) // PER_RECORDING
    sizes = np.bincount(recording)
    expected = float((sizes * (sizes - 1)).sum()) / (total * (total - 1))
    figures = {}
    for block in BLOCKS:
        order = SampleOrder([PER_SHARD] * num_shards, 0, block)
        samples = np.array([sample for _, sample in order.take(0, total // BATCH * BATCH)])
        batches = np.sort(recording[samples].reshape(-1, BATCH), axis=1)
        counts = [np.unique(batch, return_counts=True)[1] for batch in batches]
        pairs = np.array([(count * (count - 1)).sum() for count in counts]) / (BATCH * (BATCH - 1))
        name = f"shuffle_{block or 'full'}"
        figures[f"{name}_distance"] = float(np.abs(np.diff(samples)).mean()) / total
        figures[f"{name}_same_recording"] = float(pairs.mean()) / expected
        figures[f"{name}_pair_chance"] = float(np.mean([count.max() > 1 for count in counts]))
    return figures
