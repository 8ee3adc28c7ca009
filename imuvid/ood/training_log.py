"""What the run folder beside a checkpoint says about the pretraining, for the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

METRICS_NAME = "metrics.jsonl"
MAX_POINTS = 400
"""Points of a curve that the report keeps; longer curves are averaged over equal stretches."""


def find_run(checkpoint: Path) -> Path | None:
    """Return the run folder that a checkpoint, its ``encoder`` folder or ``checkpoints/latest`` lies in, if any."""
    for folder in (checkpoint.absolute(), *checkpoint.absolute().parents):
        if folder.name == "checkpoints":
            return folder.parent
    return None


def read_training_log(run: Path) -> dict[str, Any] | None:
    """Return the curves of a run's metrics.jsonl, or None where there is none.

    Lines that are not whole (the run is being written, or was killed) are left out.

    Returns:
        ``curves``: name such as ``train/loss`` to its steps and values; ``num_candidates``: of the retrieval.
    """
    path = run / METRICS_NAME
    if not path.is_file():
        return None
    points: dict[str, dict[int, float]] = {}
    candidates = None
    for line in path.read_text(errors="replace").splitlines():
        try:
            row = json.loads(line)
            step, split = int(row["step"]), str(row["split"])
        except (ValueError, KeyError, TypeError):
            continue
        candidates = row.get("num_candidates", candidates)
        for key, value in row.items():
            if (key == "loss" or key.startswith("r_at_")) and isinstance(value, int | float):
                # A resumed run writes some steps again: the later line is the one that counts.
                points.setdefault(f"{split}/{key}", {})[step] = float(value)
    curves = {name: _thin(sorted(curve.items())) for name, curve in points.items()}
    return {"curves": curves, "num_candidates": candidates} if curves else None


def _thin(points: list[tuple[int, float]]) -> dict[str, list[float]]:
    stretch = -(-len(points) // MAX_POINTS)
    groups = [points[i : i + stretch] for i in range(0, len(points), stretch)]
    return {
        "step": [group[-1][0] for group in groups],
        "value": [sum(value for _, value in group) / len(group) for group in groups],
    }
