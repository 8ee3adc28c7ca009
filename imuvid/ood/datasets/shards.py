"""A labelled dataset in the shard format: a simulated population, or own recordings."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from imuvid.data.dataset_json import read_dataset_info
from imuvid.data.dataset_tables import SPLITS, read_index
from imuvid.data.format import Sample, decode_members
from imuvid.data.tar import parse_tar
from imuvid.errors import UserError
from imuvid.ood.datasets.base import Windows, WindowsBuilder, to_grid
from imuvid.ood.protocols.folds import ProtocolConfig


@dataclass
class ShardsConfig:
    """Which dataset is scored, and how."""

    root: str | None = None
    """Folder with dataset.json, index.parquet and the tars."""
    split: str = "all"
    """Windows that are used: train, val, test or all."""
    labels: list[str] = field(default_factory=list)
    """Classes that are scored; none: every label that occurs."""
    positive: str | None = None
    """A rare class that AUC and average precision are reported of."""
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    """Subjects are named by their salted hashes; a recording without subject counts as a subject of its own."""


def read_shards(config: ShardsConfig, rate_hz: float, window_s: float, pretraining: dict[str, Any]) -> Windows:
    """Read the labelled samples of a dataset as windows, cut shorter and resampled where the encoder wants it.

    Args:
        config: where and what.
        rate_hz: of the windows.
        window_s: their length, seconds; at most that of the samples.
        pretraining: the encoder's provenance; its ``fingerprint`` tells whether this dataset is the one, or one
            of those, that it was pretrained on, its ``train_subjects`` whom.

    Raises:
        UserError: the dataset is missing or damaged, has no labels or too short samples, or holds
            windows of unknown subjects that the encoder was pretrained on.
    """
    if config.root is None:
        raise UserError("shards.root is not set: give the folder of a labelled dataset")
    if config.split not in (*SPLITS, "all"):
        raise UserError(f"shards.split={config.split}: choose one of {', '.join(SPLITS)}, all")
    folder = Path(config.root)
    info = read_dataset_info(folder)
    if window_s > info.window_s + 1e-6:
        raise UserError(
            f"{folder}: the samples last {info.window_s:g} s, window_s={window_s:g} is longer: lower window_s"
        )
    rows = read_index(folder, info).to_pylist()
    rows = [row for row in rows if config.split in (row["split"], "all")]
    if info.fingerprint in (pretraining.get("fingerprint") or "") and any(
        row["split"] == "train" and row["subject"] is None for row in rows
    ):
        raise UserError(
            f"{folder}: the encoder was pretrained on this dataset, whose subjects are not known: set shards.split=test"
        )
    labels = Counter(row["label"] for row in rows if row["label"] is not None)
    if len(labels) < 2:
        raise UserError(f"{folder}: split {config.split} has {len(labels)} labels, scores need at least 2")
    classes = config.labels or sorted(labels)
    unknown = [name for name in [*classes, config.positive] if name is not None and name not in labels]
    if unknown:
        raise UserError(f"{folder}: no sample is labelled '{unknown[0]}': the labels are {', '.join(sorted(labels))}")
    if config.positive is not None and config.positive not in classes:
        raise UserError(f"shards.positive={config.positive} is not among shards.labels")
    builder = WindowsBuilder(info.name, classes, info.positions, rate_hz, window_s)
    free_s: dict[str, float] = {}
    for row in sorted(rows, key=lambda row: (row["recording"], row["start_s"])):
        if row["label"] not in classes:
            continue
        sample = _read_sample(folder, row)
        imu, valid = _on_grid(sample, rate_hz)
        for first in builder.starts(0.0, sample.meta.duration_s):
            start_s = row["start_s"] + first / rate_hz
            if start_s < free_s.get(row["recording"], 0.0) - 1e-6:
                continue
            free_s[row["recording"]] = start_s + window_s
            subject = row["subject"] or row["recording"]
            builder.add(imu, valid, first, classes.index(row["label"]), subject, row["recording"], row["start_s"])
    used = sum(labels[name] for name in classes)
    provenance = {
        "fingerprint": info.fingerprint,
        "split": config.split,
        "samples": used,
        "samples_not_used": len(rows) - used,
        "native_rate_hz": info.imu_rate_hz,
    }
    notes = []
    if "train_subjects" not in pretraining:
        notes.append("The encoder does not say whom it was pretrained on: that test subjects were is not excluded.")
    return builder.build(config.positive, provenance, notes)


def _read_sample(folder: Path, row: dict[str, Any]) -> Sample:
    if Path(row["shard"]).name != row["shard"]:
        raise UserError(
            f"{folder}: the index names the shard '{row['shard']}', which is not a file name: build it again"
        )
    path = folder / row["shard"]
    try:
        with path.open("rb") as file:
            file.seek(row["offset"])
            return decode_members(parse_tar(file.read(row["size"])))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: sample {row['key']} cannot be read ({error}): build the dataset again") from error


def _on_grid(sample: Sample, rate_hz: float) -> tuple[np.ndarray, np.ndarray]:
    native_hz = sample.meta.imu_rate_hz
    if native_hz == rate_hz:
        return sample.imu, sample.valid
    values = np.where(np.repeat(sample.valid, 3, axis=2), sample.imu, np.nan).astype(np.float64)
    return to_grid(np.arange(len(values)) / native_hz, values[..., :3], values[..., 3:], rate_hz)
