"""Figures of the report, as SVG text that needs no file beside it."""

from __future__ import annotations

import io
import math
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imuvid.ood.statements import METHOD_NAMES
from imuvid.ood.summary import ALL

# Okabe and Ito's colours, told apart by colour-blind readers; the markers tell the methods apart in print.
STYLE = {"pretrained/linear": ("#0072b2", "o"), "handmade/linear": ("#d55e00", "s"), "random/linear": ("#6b7280", "^")}
METRIC_NAMES = {
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro-F1",
    "auc": "AUC",
    "average_precision": "average precision",
}
_SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "imuvid",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9ca3af",
    "axes.labelcolor": "#374151",
    "axes.titlesize": 10,
    "xtick.color": "#374151",
    "ytick.color": "#374151",
    "grid.color": "#e5e7eb",
}


def few_shot_curves(result: dict[str, Any]) -> str:
    """Return one panel a metric: score against shots with its band, the linear probe at the right."""
    names = [name for name in METRIC_NAMES if name in result["scores"][0]["metrics"]]
    with matplotlib.rc_context(_SETTINGS):
        num_rows = -(-len(names) // 2)
        figure = Figure(figsize=(9, 3.2 * num_rows + 0.4), layout="constrained")
        axes = figure.subplots(num_rows, 2).ravel()
        for axis, name in zip(axes, names, strict=True):
            _few_shot_panel(axis, result, name)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside upper center", ncols=len(labels))
        return _svg(figure)


def _few_shot_panel(axis: Axes, result: dict[str, Any], metric: str) -> None:
    shots = sorted({row["shots"] for row in result["scores"] if row["shots"] != ALL})
    place = {k: i for i, k in enumerate([*shots, ALL])}
    for method, (colour, marker) in STYLE.items():
        rows = [row for row in result["scores"] if row["method"] == method]
        rows = [row for row in rows if row["metrics"][metric]["value"] is not None]
        curve = [row for row in rows if row["shots"] != ALL]
        x = [place[row["shots"]] for row in curve]
        value, low, high = ([row["metrics"][metric][key] for row in curve] for key in ("value", "low", "high"))
        axis.plot(x, value, color=colour, marker=marker, markersize=4, label=METHOD_NAMES[method])
        axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        for row in rows[len(curve) :]:
            estimate = row["metrics"][metric]
            reach = [[estimate["value"] - estimate["low"]], [estimate["high"] - estimate["value"]]]
            offset = 0.12 * (list(STYLE).index(method) - 1)
            axis.errorbar(
                place[ALL] + offset, estimate["value"], reach, color=colour, marker=marker, markersize=4, capsize=2
            )
    if metric in result["chance"]:
        axis.axhline(result["chance"][metric], color="#9ca3af", linestyle=":", label="chance")
    axis.set_xticks(list(place.values()), [str(k) for k in place])
    axis.set_xlabel("training windows per class")
    axis.set_title(METRIC_NAMES[metric])
    lowest = [row["metrics"][metric]["low"] for row in result["scores"] if row["method"] in STYLE]
    bottom = min([low for low in [*lowest, result["chance"].get(metric)] if low is not None], default=0.0)
    axis.set_ylim(max(0.0, math.floor(10 * bottom - 0.5) / 10), 1.02)
    axis.grid(axis="y")
    axis.set_axisbelow(True)


def class_recall(result: dict[str, Any]) -> str:
    """Return the recall of each class by the linear probes, with intervals."""
    classes = result["classes"]
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(4.8, 0.9 + 0.42 * len(classes)), layout="constrained")
        axis = figure.subplots()
        for i, (method, (colour, _)) in enumerate(STYLE.items()):
            recalls = next((r["recall"] for r in result["scores"] if r["method"] == method and r["shots"] == ALL), None)
            if recalls is None:
                continue
            value, low, high = ([recalls[name][key] or 0.0 for name in classes] for key in ("value", "low", "high"))
            reach = [np.subtract(value, low), np.subtract(high, value)]
            place = np.arange(len(classes)) + 0.26 * (i - 1)
            axis.barh(place, value, 0.24, color=colour, label=METHOD_NAMES[method])
            axis.errorbar(value, place, xerr=reach, fmt="none", ecolor="#111827", elinewidth=0.8, capsize=1.5)
        axis.set_yticks(np.arange(len(classes)), [_readable(name) for name in classes])
        axis.invert_yaxis()
        axis.set_xlim(0, 1.02)
        axis.set_xlabel("recall, linear probe")
        figure.legend(frameon=False, fontsize=8, loc="outside upper center", ncols=3, handlelength=1, columnspacing=1)
        return _svg(figure)


def confusion_matrix(result: dict[str, Any]) -> str:
    """Return the confusion matrix of the pretrained encoder's linear probe, shares of each true class."""
    row = next(r for r in result["scores"] if r["method"] == "pretrained/linear" and r["shots"] == ALL)
    counts = np.array(row["confusion"])
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [_readable(name) for name in result["classes"]]
    size = 1.9 + 0.42 * len(names)
    with matplotlib.rc_context({**_SETTINGS, "axes.spines.left": False, "axes.spines.bottom": False}):
        figure = Figure(figsize=(size, size - 0.3), layout="constrained")
        axis = figure.subplots()
        axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for i, j in np.ndindex(*share.shape):
            if counts[i, j] > 0:
                colour = "white" if share[i, j] > 0.5 else "#374151"
                axis.text(j, i, f"{share[i, j]:.2f}", ha="center", va="center", fontsize=7, color=colour)
        axis.set_xticks(range(len(names)), names, rotation=40, ha="right")
        axis.set_yticks(range(len(names)), names)
        axis.tick_params(length=0)
        axis.set_xlabel("predicted")
        axis.set_ylabel("true")
        return _svg(figure)


def training_curves(training: dict[str, Any]) -> str:
    """Return the loss and, where it was measured, the retrieval on held-out windows against the step."""
    curves = training["curves"]
    losses = {name: curve for name, curve in curves.items() if name.endswith("/loss")}
    recalls = {name: curve for name, curve in curves.items() if name.startswith("val/r_at_")}
    panels = [panel for panel in (("loss", losses), ("retrieval on held-out windows", recalls)) if panel[1]]
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(4.5 * len(panels), 3.0), layout="constrained")
        for axis, (title, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            for name, curve in lines.items():
                marker = "o" if len(curve["step"]) < 30 else None
                label = _curve_name(name)
                axis.plot(curve["step"], curve["value"], label=label, linewidth=1.4, marker=marker, markersize=3)
            axis.set_title(title)
            axis.set_xlabel("step")
            axis.grid(axis="y")
            if title != "loss":
                axis.set_ylim(bottom=0)
                if training["num_candidates"]:
                    axis.axhline(1 / training["num_candidates"], color="#9ca3af", linestyle=":", label="R@1 by chance")
            axis.legend(frameon=False, fontsize=8)
        return _svg(figure)


def _curve_name(name: str) -> str:
    split, _, key = name.partition("/")
    if key == "loss":
        return {"train": "training", "val": "held out"}.get(split, split)
    return key.removeprefix("r_at_").replace("_", ", ", 1).replace("_", " ").join(["R@", ""])


def _readable(name: str) -> str:
    return name.replace("_", " ")


def _svg(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue().decode()
    return text[text.index("<svg") :]  # without the document type, which names an address on the web
