"""The model card of an exported encoder: what it is, how it is used, what it was trained and judged on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2

import imuvid
from imuvid.models.encoder import Encoder
from imuvid.ood.embedding import weights_sha256
from imuvid.ood.training_log import find_run, read_training_log

REPORT_NAME = "report.json"
TEMPLATE_NAME = "model_card.md"


def model_card(encoder: Encoder, checkpoint: Path, name: str, onnx_difference: float) -> str:
    """Return the card as Markdown.

    Args:
        encoder: that is exported.
        checkpoint: where it came from; the run folder that it lies in is looked at for the training log and for a
            report of the same step.
        name: of the folder that the card is written into.
        onnx_difference: largest difference of a feature between onnxruntime and torch, as a share of the largest.
    """
    config, run = encoder.config, find_run(checkpoint)
    condition = config.condition
    median = f"median of {condition.median_samples} samples" if condition.median_samples > 1 else ""
    score = f"z-score by {condition.normalise}" if condition.normalise != "none" else ""
    facts = {key: value for key, value in config.provenance.items() if key != "train_subjects"}
    if "train_subjects" in config.provenance:
        facts["train_subjects"] = len(config.provenance["train_subjects"])
    return (
        jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined)
        .from_string((Path(__file__).parent / TEMPLATE_NAME).read_text(encoding="utf-8"))
        .render(
            name=name,
            version=imuvid.__version__,
            tower=config.tower.kind,
            num_parameters=f"{sum(parameter.numel() for parameter in encoder.parameters()):,}",
            feature_dim=encoder.feature_dim,
            window_s=config.window_s,
            rate_hz=config.imu_rate_hz,
            samples=round(config.window_s * config.imu_rate_hz),
            positions=", ".join(config.positions) or "positions that are not known",
            conditioning=", ".join(word for word in (median, score) if word) or "none",
            sha256=weights_sha256(encoder.tower),
            difference=onnx_difference,
            provenance=[(key, _cell(value)) for key, value in facts.items()],
            training=_last_values(run),
            statements=_statements(run, config.provenance.get("step")),
        )
    )


def _last_values(run: Path | None) -> list[tuple[str, float]]:
    """Return the last values of the held-out retrieval and of the training loss."""
    log = read_training_log(run) if run else None
    return [(name, curve["value"][-1]) for name, curve in sorted(log["curves"].items())] if log else []


def _statements(run: Path | None, step: Any) -> list[str]:
    """Return the findings of the report of this step, where there is one."""
    if run is None or not isinstance(step, int):
        return []
    path = run / "report" / f"step-{step:08d}" / REPORT_NAME
    try:
        return [_cell(statement["text"]) for statement in json.loads(path.read_text())["statements"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
