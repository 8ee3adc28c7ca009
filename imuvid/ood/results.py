"""What an evaluation leaves behind: its files, and what stands in them."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

import imuvid
from imuvid.errors import UserError
from imuvid.models.encoder import Encoder
from imuvid.ood.embedding import weights_sha256
from imuvid.ood.model import FunctionModel
from imuvid.ood.predictions import write_predictions
from imuvid.ood.report import render
from imuvid.ood.statements import score_table

PREDICTIONS, RETRIEVAL, DRAWS, MAPS = "predictions.parquet", "retrieval.parquet", "draws.json", "maps.json"
REPORT_JSON, REPORT_HTML = "report.json", "report.html"


@dataclass
class EvaluationResult:
    """What an evaluation leaves behind."""

    out: Path
    """Folder with predictions.parquet, draws.json, report.json and report.html."""
    report: dict[str, Any]
    """The content of report.json."""

    @property
    def html(self) -> Path:
        """The report to open in a browser."""
        return self.out / REPORT_HTML

    def lines(self) -> list[str]:
        """Return the table of balanced accuracies, the findings and the place of the report, for the terminal."""
        return [*score_table(self.report["results"]), *[s["text"] for s in self.report["statements"]], f"{self.html}"]


def describe_model(model: str | Path | FunctionModel, encoder: Encoder | FunctionModel) -> dict[str, Any]:
    """Return what report.json says of the model."""
    name = model.name if isinstance(model, FunctionModel) else str(model)
    ours = encoder if isinstance(encoder, Encoder) else None
    return {
        "checkpoint": name,
        "weights_sha256": weights_sha256(ours) if ours else None,
        "num_parameters": sum(part.numel() for part in ours.parameters()) if ours else None,
        "imu_rate_hz": encoder.config.imu_rate_hz,
        "window_s": encoder.config.window_s,
        "positions": encoder.config.positions,
        "condition": dataclasses.asdict(encoder.config.condition),
        "provenance": encoder.config.provenance,
    }


def describe_program() -> dict[str, str]:
    """Return the versions that the numbers were made with."""
    return {"imuvid": imuvid.__version__, "torch": torch.__version__, "numpy": np.__version__}


def write_results(
    out: Path,
    table: pa.Table,
    draws: dict[str, Any],
    report: dict[str, Any],
    maps: dict[str, Any],
    queries: pa.Table | None = None,
) -> None:
    """Write the files; each appears under its name only when it is whole, the page last.

    Args:
        out: folder, made if need be.
        table: predictions.
        draws: for draws.json.
        report: for report.json.
        maps: embedding maps of the tasks, for maps.json and the page.
        queries: of the retrieval, for retrieval.parquet.

    Raises:
        UserError: a file cannot be written.
    """
    tables = {PREDICTIONS: table} | ({} if queries is None else {RETRIEVAL: queries})
    files: dict[str, Callable[[Path], Any]] = {
        **{name: functools.partial(write_predictions, rows) for name, rows in tables.items()},
        DRAWS: lambda path: path.write_text(json.dumps(draws, indent=1)),
        MAPS: lambda path: path.write_text(json.dumps(maps)),
        REPORT_JSON: lambda path: path.write_text(json.dumps(report, indent=1, allow_nan=False)),
        REPORT_HTML: lambda path: path.write_text(render(report, maps), encoding="utf-8"),
    }
    write_whole(out, files)


def write_whole(out: Path, files: dict[str, Callable[[Path], Any]]) -> None:
    """Write files of a folder, by name, in order; each appears under its name only when it is whole.

    Raises:
        UserError: one cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, write in files.items():
            partial = out / f".{name}.{os.getpid()}.partial"
            write(partial)
            os.replace(partial, out / name)
    except OSError as error:
        raise UserError(
            f"{out}: the report cannot be written ({error}): choose another folder with out=FOLDER"
        ) from error
