"""The report as one HTML page without anything to load."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import jinja2

from imuvid.ood.figures import METRIC_NAMES, class_recall, confusion_matrix, few_shot_curves, training_curves
from imuvid.ood.statements import METHOD_NAMES
from imuvid.ood.summary import ALL

TEMPLATE = "report.html"


def render(report: dict[str, Any]) -> str:
    """Return the page of a report (the content of report.json).

    Everything that comes from outside (names, provenance) is escaped; the figures are embedded.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["fact"] = _fact
    training = report["training"]
    return environment.get_template(TEMPLATE).render(
        report=report,
        datasets=[_dataset(name, result, report) for name, result in report["results"].items()],
        training_figure=_embed(training_curves(training)) if training else None,
        config=json.dumps(report["config"], indent=2),
    )


def _dataset(name: str, result: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    facts = report["tasks"][name]
    return {
        "name": name,
        "result": result,
        "protocol": facts["protocol"],
        "notes": result["warnings"] + facts["notes"],
        "data": facts["data"],
        "statements": [row for row in report["statements"] if row["dataset"] == name],
        "tables": [_table(result, metric) for metric in METRIC_NAMES if metric in result["scores"][0]["metrics"]],
        "differences": _differences(result),
        "curves": _embed(few_shot_curves(result)),
        "recall": _embed(class_recall(result)),
        "confusion": _embed(confusion_matrix(result)),
    }


def _table(result: dict[str, Any], metric: str) -> dict[str, Any]:
    """Return one metric as rows of methods and columns of shots; the best of a column is marked."""
    shots = list(dict.fromkeys(row["shots"] for row in result["scores"]))
    cells = {(row["method"], row["shots"]): row["metrics"][metric] for row in result["scores"]}
    known = {key: cell["value"] for key, cell in cells.items() if cell["value"] is not None}
    best = {k: max((value for (_, s), value in known.items() if s == k), default=None) for k in shots}
    methods = [method for method in METHOD_NAMES if any(method == row["method"] for row in result["scores"])]
    rows = [
        (
            METHOD_NAMES[method],
            [
                _cell(cells.get((method, k)), known.get((method, k)) is not None and known[method, k] == best[k])
                for k in shots
            ],
        )
        for method in methods
    ]
    return {
        "metric": METRIC_NAMES[metric],
        "columns": ["all windows" if k == ALL else f"{k} shot{'s' if k > 1 else ''}" for k in shots],
        "rows": rows,
        "chance": result["chance"].get(metric),
    }


def _cell(estimate: dict[str, Any] | None, best: bool) -> dict[str, Any] | None:
    if estimate is None or estimate["value"] is None:
        return None
    return {
        "value": f"{estimate['value']:.3f}",
        "interval": f"{estimate['low']:.3f} to {estimate['high']:.3f}",
        "best": best,
    }


def _differences(result: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for row in result["differences"]:
        for metric in METRIC_NAMES:
            estimate = row["metrics"].get(metric)
            if metric == "macro_f1" or estimate is None or estimate["value"] is None:
                continue
            sign = "better" if estimate["low"] > 0 else "worse" if estimate["high"] < 0 else "open"
            rows.append(
                {
                    "reference": METHOD_NAMES[row["reference"]],
                    "shots": row["shots"],
                    "metric": METRIC_NAMES[metric],
                    "value": f"{estimate['value']:+.3f}",
                    "interval": f"{estimate['low']:+.3f} to {estimate['high']:+.3f}",
                    "verdict": sign,
                }
            )
    return rows


def _fact(value: Any) -> str:
    """Return a value of the provenance as a person reads it; long lists are counted."""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_fact(part)}" for key, part in value.items())
    if isinstance(value, list):
        listing = ", ".join(map(_fact, value[:12])) or "none"
        return listing if len(value) <= 12 else f"{listing} and {len(value) - 12} more"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _embed(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
