"""The report as one HTML page without anything to load."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import jinja2

from imuvid.ood.figures import (
    METRIC_NAMES,
    MODELS,
    STYLE,
    class_recall,
    clean,
    confusion_matrix,
    domain_scores,
    embedding_map,
    few_shot_curves,
    headline_intervals,
    stress_curves,
    training_curves,
)
from imuvid.ood.names import FINETUNE, KNN, LINEAR, ORACLE
from imuvid.ood.statements import METHOD_NAMES
from imuvid.ood.stress import STRESSORS
from imuvid.ood.summary import ALL, HEADLINE_METRIC

HEADLINE = (
    "pretrained/linear",
    "pretrained/finetune",
    "random/linear",
    "random/finetune",
    "handmade/linear",
    "handmade/forest",
)
"""Columns of the headline table."""
KEY_BASELINES = ("handmade/linear", "random/linear", "random/finetune")
"""Baselines of the findings in the summary: what needs no pretraining."""
LOWER_IS_BETTER = ("ece",)
PROBE_NAMES = {LINEAR: "linear probe", FINETUNE: "fine-tuned", KNN: "nearest neighbours"}
RETRIEVAL_NAMES = {
    "r_at_1": "right one first (R@1)",
    "r_at_5": "among the first 5 (R@5)",
    "r_at_10": "among the first 10 (R@10)",
    "mrr": "mean reciprocal rank",
    "median_rank": "median rank",
    "exact": "right window",
    "median_error_s": "median error, s",
}


def render(report: dict[str, Any], maps: dict[str, Any]) -> str:
    """Return the page of an evaluation.

    Everything that comes from outside (names, provenance) is escaped; the figures are embedded.

    Args:
        report: content of report.json.
        maps: of :func:`imuvid.ood.maps.embedding_maps`.
    """
    training, results = report["training"], report["results"]
    return (
        _environment()
        .get_template("report.html")
        .render(
            report=report,
            headline=_headline(results),
            findings=_key_findings(report),
            tally=_tally(results),
            intervals=_embed(headline_intervals(results)),
            leaky=[name for name, result in results.items() if not result["strict"]],
            tasks=[_task(name, result, report, maps.get(name)) for name, result in results.items()],
            retrieval=_retrieval(report.get("retrieval")),
            training_figure=_embed(training_curves(training)) if training else None,
            config=json.dumps(report["config"], indent=2),
        )
    )


def render_comparison(comparison: dict[str, Any]) -> str:
    """Return the page that compares models.

    Args:
        comparison: of :func:`imuvid.ood.compare.compare`.
    """
    models = [model["name"] for model in comparison["models"]]
    tasks = []
    for name, result in comparison["results"].items():
        probes = list(dict.fromkeys(row["probe"] for row in result["scores"]))
        style = {f"{m}/{LINEAR}": (MODELS[i % len(MODELS)], "os^DvPX*"[i % 8]) for i, m in enumerate(models)}
        names = {f"{model}/{LINEAR}": model for model in models}
        tasks.append(
            {
                "name": name,
                "result": result,
                "curves": _embed(few_shot_curves(result, style, names)),
                "tables": [
                    _table(result, HEADLINE_METRIC, {f"{m}/{probe}": m for m in models})
                    | {"probe": PROBE_NAMES.get(probe, probe.replace("-", " "))}
                    for probe in probes
                ],
                "differences": _differences(result, {f"{m}/{p}": f"{m}" for m in models for p in probes}),
            }
        )
    return _environment().get_template("comparison.html").render(comparison=comparison, tasks=tasks)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["fact"] = _fact
    environment.filters["title"] = _title
    environment.filters["anchor"] = lambda name: "".join(c if c.isalnum() else "-" for c in name)
    return environment


def _title(task: str) -> str:
    """Return the name of a task for people: DATASET/PROTOCOL becomes ``data set · protocol``."""
    return task.replace("_", " ").replace("/", " · ")


def _key_findings(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the findings of the summary: on all training windows of strict tasks, against the baselines of KEY."""
    strict = [name for name, result in report["results"].items() if result["strict"]]
    return [
        row
        for row in report["statements"]
        if row["dataset"] in strict and row["shots"] == ALL and row["reference"] in KEY_BASELINES
    ]


def _tally(results: dict[str, Any]) -> dict[str, int] | None:
    """Return on how many strict tasks the encoder beats hand-made features, falls behind them, or neither is clear."""
    verdicts = [
        row["verdict"]
        for result in results.values()
        if result["strict"]
        for row in _differences(result, {})
        if (row["method"], row["reference"]) == ("pretrained/linear", "handmade/linear")
        and row["shots"] == ALL
        and row["metric"] == METRIC_NAMES[HEADLINE_METRIC]
    ]
    return {name: verdicts.count(name) for name in ("better", "worse", "open")} if verdicts else None


def _headline(results: dict[str, Any]) -> dict[str, Any]:
    """Return strict tasks as rows and methods as columns, balanced accuracy on all training windows."""
    used = [m for m in HEADLINE if any(row["method"] == m for result in results.values() for row in result["scores"])]
    rows = []
    for name, result in results.items():
        if not result["strict"]:
            continue
        found = {row["method"]: row["metrics"][HEADLINE_METRIC] for row in clean(result) if row["shots"] == ALL}
        best = max((found[m]["value"] for m in used if m in found and found[m]["value"] is not None), default=None)
        own = next((row for row in clean(result) if (row["method"], row["shots"]) == (used[0], ALL)), None)
        rows.append(
            {
                "name": name,
                "result": result,
                "cells": [_cell(found.get(m), m in found and found[m]["value"] == best) for m in used],
                "chance": result["chance"][HEADLINE_METRIC],
                "worst": own.get("worst") if own else None,
            }
        )
    return {"columns": [METHOD_NAMES[method] for method in used], "rows": rows}


def _task(name: str, result: dict[str, Any], report: dict[str, Any], drawn: dict[str, Any] | None) -> dict[str, Any]:
    facts, rows = report["tasks"][name], clean(result)
    own = next((row for row in rows if (row["method"], row["shots"]) == ("pretrained/linear", ALL)), None)
    chance = result["chance"][HEADLINE_METRIC]
    return {
        "name": name,
        "result": result,
        "protocol": facts["protocol"],
        "warnings": result["warnings"],
        "notes": facts["notes"],
        "data": facts["data"],
        "statements": [row for row in report["statements"] if row["dataset"] == name],
        "tables": [_table(result, m, METHOD_NAMES) for m in METRIC_NAMES if m in result["scores"][0]["metrics"]],
        "differences": _differences(result, METHOD_NAMES),
        "curves": _embed(few_shot_curves(result, STYLE, METHOD_NAMES)),
        "recall": _embed(class_recall(result)) if own else None,
        "confusion": _embed(confusion_matrix(result)) if own else None,
        "stress": _embed(stress_curves(result)) if any(row["stressor"] for row in result["scores"]) else None,
        "stress_losses": _stress_losses(result),
        "domains": _embed(domain_scores(own, chance)) if own and "domains" in own else None,
        "worst": own.get("worst") if own else None,
        "mean": own["metrics"][HEADLINE_METRIC] if own else None,
        "map": _embed(embedding_map(drawn)) if drawn else None,
    }


def _table(result: dict[str, Any], metric: str, names: dict[str, str]) -> dict[str, Any]:
    """Return one metric as rows of methods and columns of shots; the best of a column is marked.

    Settings that were chosen by the test windows have rows of their own, which are marked and never the best.
    """
    cells = {(row["method"], row["shots"], False): row["metrics"][metric] for row in clean(result)}
    shots = list(dict.fromkeys(key[1] for key in cells))
    cells |= {
        (row["method"], row["shots"], True): row["metrics"][metric]
        for row in result["scores"]
        if row["selection"] == ORACLE and not row["stressor"]
    }
    known = {key: cell["value"] for key, cell in cells.items() if cell["value"] is not None and key[0] in names}
    pick = min if metric in LOWER_IS_BETTER else max
    best = {k: pick((v for (_, s, oracle), v in known.items() if s == k and not oracle), default=None) for k in shots}
    rows = []
    for method, oracle in [(m, o) for m in names for o in (False, True)]:
        line = [cells.get((method, k, oracle)) for k in shots]
        if any(cell is not None for cell in line):
            marked = [
                cell is not None and not oracle and cell["value"] == best[k]
                for cell, k in zip(line, shots, strict=True)
            ]
            rows.append(
                {
                    "name": names[method],
                    "oracle": oracle,
                    "cells": [_cell(cell, mark) for cell, mark in zip(line, marked, strict=True)],
                }
            )
    return {
        "metric": METRIC_NAMES[metric],
        "main": metric in (HEADLINE_METRIC, "auc", "average_precision"),
        "columns": ["all windows" if k == ALL else f"{k} shot{'s' if k > 1 else ''}" for k in shots],
        "rows": rows,
        "chance": result["chance"].get(metric),
        "lower": metric in LOWER_IS_BETTER,
    }


def _cell(estimate: dict[str, Any] | None, best: bool) -> dict[str, Any] | None:
    if estimate is None or estimate["value"] is None:
        return None
    return {
        "value": f"{estimate['value']:.3f}",
        "interval": f"{estimate['low']:.3f} to {estimate['high']:.3f}",
        "best": best,
    }


def _differences(result: dict[str, Any], names: dict[str, str]) -> list[dict[str, Any]]:
    rows = []
    for row in result["differences"]:
        for metric in (HEADLINE_METRIC, "auc", "average_precision"):
            estimate = row["metrics"].get(metric)
            if estimate is None or estimate["value"] is None:
                continue
            significant = estimate["p_holm"] is not None and estimate["p_holm"] < 0.05
            sign = "open"
            if significant and estimate["low"] > 0:
                sign = "better"
            elif significant and estimate["high"] < 0:
                sign = "worse"
            rows.append(
                {
                    "method": names.get(row["method"], row["method"]),
                    "probe": row["method"].rpartition("/")[2],
                    "reference": names.get(row["reference"], row["reference"]),
                    "shots": row["shots"],
                    "metric": METRIC_NAMES[metric],
                    "value": f"{estimate['value']:+.3f}",
                    "interval": f"{estimate['low']:+.3f} to {estimate['high']:+.3f}",
                    "p": "" if estimate["p_holm"] is None else f"{estimate['p_holm']:.2g}",
                    "verdict": sign,
                }
            )
    return rows


def _retrieval(found: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return each task of the retrieval with its metrics as rows."""
    if found is None:
        return []
    return [
        {
            "name": name.replace("_", " "),
            "num_queries": task["num_queries"],
            "candidates": task["candidates"],
            "rows": [
                {
                    "metric": RETRIEVAL_NAMES.get(metric, metric),
                    "cell": _cell(estimate, False),
                    "chance": f"{estimate['chance']:.3f}" if "chance" in estimate else "",
                }
                for metric, estimate in task["metrics"].items()
            ],
        }
        for name, task in found["tasks"].items()
    ]


def _stress_losses(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return, by stressor and method, the score on windows as they are, under the most of it, and what is lost."""
    rows = []
    for stressor in STRESSORS:
        found = [row for row in result["scores"] if row["stressor"] == stressor]
        for method in dict.fromkeys(row["method"] for row in found):
            curve = sorted((row for row in found if row["method"] == method), key=lambda row: row["severity"])
            first, last = (row["metrics"][HEADLINE_METRIC] for row in (curve[0], curve[-1]))
            rows.append(
                {
                    "stressor": STRESSORS[stressor].title,
                    "most": f"{curve[-1]['severity']:g} {STRESSORS[stressor].unit}",
                    "method": METHOD_NAMES[method],
                    "clean": _cell(first, False),
                    "stressed": _cell(last, False),
                    "lost": f"{last['value'] - first['value']:+.3f}",
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
