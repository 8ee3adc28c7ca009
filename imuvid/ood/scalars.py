"""Scores as TensorBoard scalars beside those of the run: one curve over its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from imuvid.ood.names import ORACLE

FOLDER = "report/tensorboard"


def write_scalars(run: Path, report: dict[str, Any]) -> None:
    """Write every score on windows as they are, at the step of the checkpoint.

    A checkpoint that is evaluated again replaces what was written of it. Tags are ``ood/TASK/METRIC/METHOD/SHOTS``.

    Args:
        run: run folder.
        report: content of report.json.
    """
    step = int(report["encoder"]["provenance"]["step"])
    folder, suffix = run / FOLDER, f".step-{step:08d}"
    for older in folder.glob(f"*{suffix}"):
        older.unlink(missing_ok=True)
    with SummaryWriter(str(folder), filename_suffix=suffix) as board:
        for task, result in report["results"].items():
            for row in result["scores"]:
                if row["stressor"] or row["selection"] == ORACLE:
                    continue
                for metric, estimate in row["metrics"].items():
                    if estimate["value"] is not None:
                        tag = f"ood/{task}/{metric}/{row['method']}/{row['shots']}"
                        board.add_scalar(tag, estimate["value"], step)
