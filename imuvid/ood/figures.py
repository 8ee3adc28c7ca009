"""Figures of the report, as SVG text that needs no file beside it."""

from __future__ import annotations

import io
import math
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imuvid.ood.names import ORACLE
from imuvid.ood.statements import METHOD_NAMES
from imuvid.ood.stress import STRESSORS
from imuvid.ood.summary import ALL, HEADLINE_METRIC

# Okabe and Ito's colours, told apart by colour-blind readers; the markers tell the methods apart in print.
STYLE = {
    "pretrained/linear": ("#0072b2", "o"),
    "pretrained/finetune": ("#56b4e9", "D"),
    "handmade/linear": ("#d55e00", "s"),
    "handmade/forest": ("#cc79a7", "v"),
    "random/linear": ("#6b7280", "^"),
    "random/finetune": ("#009e73", "P"),
}
IN_BARS = ("pretrained/linear", "handmade/linear", "random/linear")
"""Methods of the bars by class, of three that can be told apart there."""
MODELS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6b7280", "#111827")
"""Colours of compared checkpoints, and of the groups of a map."""
MARKERS = "os^DvPX*"
MAX_GROUPS = 12
"""Groups of a map that have a colour of their own; where there are more, the rest is grey."""
METRIC_NAMES = {
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro-F1",
    "auc": "AUC",
    "average_precision": "average precision",
    "ece": "calibration error (ECE)",
}
_SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "imuvid",
    "svg.fonttype": "path",
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


def few_shot_curves(result: dict[str, Any], style: dict[str, tuple[str, str]], names: dict[str, str]) -> str:
    """Return one panel a metric: score against shots with its band, the probe on all windows at the right.

    Args:
        result: of one task, of report.json.
        style: colour and marker of each method.
        names: of the methods, for people.
    """
    metrics = [name for name in METRIC_NAMES if name in result["scores"][0]["metrics"]]
    metrics = metrics[:2] if result["positive"] is None else ["auc", "average_precision"]
    scores = [row for row in clean(result) if row["method"] in style]
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(9.4, 3.9), layout="constrained")
        axes = figure.subplots(1, 2).ravel()
        for axis, name in zip(axes, metrics, strict=True):
            _few_shot_panel(axis, scores, result["chance"].get(name), name, style, names)
        handles, labels = axes[0].get_legend_handles_labels()
        columns = len(labels) if len(labels) < 5 else -(-len(labels) // 2)
        figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside upper center", ncols=columns)
        return _svg(figure)


def clean(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the scores on windows as they are whose settings were chosen without looking at them, one a method and
    number of shots: by the first rule."""
    kept: dict[tuple[str, Any], dict[str, Any]] = {}
    for row in result["scores"]:
        if not row["stressor"] and row["selection"] != ORACLE:
            kept.setdefault((row["method"], row["shots"]), row)
    return list(kept.values())


def _few_shot_panel(
    axis: Axes,
    scores: list[dict[str, Any]],
    chance: float | None,
    metric: str,
    style: dict[str, tuple[str, str]],
    names: dict[str, str],
) -> None:
    shots = sorted({row["shots"] for row in scores if row["shots"] != ALL})
    place = {k: i for i, k in enumerate([*shots, ALL])}
    scores = [row for row in scores if row["metrics"][metric]["value"] is not None]
    used = [method for method in style if any(row["method"] == method for row in scores)]
    for number, method in enumerate(used):
        colour, marker = style[method]
        rows = [row for row in scores if row["method"] == method]
        curve = [row for row in rows if row["shots"] != ALL]
        x = [place[row["shots"]] for row in curve]
        value, low, high = ([row["metrics"][metric][key] for row in curve] for key in ("value", "low", "high"))
        axis.plot(x, value, color=colour, marker=marker, markersize=4, label=names.get(method, method))
        axis.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
        for row in rows:
            if row["shots"] == ALL:
                estimate = row["metrics"][metric]
                reach = [[estimate["value"] - estimate["low"]], [estimate["high"] - estimate["value"]]]
                at = place[ALL] + 0.11 * (number - (len(used) - 1) / 2)
                axis.errorbar(
                    at, estimate["value"], np.abs(reach), color=colour, marker=marker, markersize=4, capsize=2
                )
    if chance is not None:
        axis.axhline(chance, color="#9ca3af", linestyle=":", label="chance")
    axis.set_xticks(list(place.values()), [str(k) for k in place])
    axis.set_xlabel("labelled training windows per class")
    axis.set_title(METRIC_NAMES[metric])
    lowest = [row["metrics"][metric]["low"] for row in scores]
    bottom = min([low for low in [*lowest, chance] if low is not None], default=0.0)
    axis.set_ylim(max(0.0, math.floor(10 * bottom - 0.5) / 10), 1.02)
    axis.grid(axis="y")
    axis.set_axisbelow(True)


def stress_curves(result: dict[str, Any]) -> str:
    """Return one panel a stressor: balanced accuracy against severity, with bands; severity 0 at the left."""
    rows = [row for row in result["scores"] if row["stressor"]]
    present = [name for name in STRESSORS if any(row["stressor"] == name for row in rows)]
    columns = min(len(present), 3 if len(present) < 7 else 4)
    num_rows = -(-len(present) // columns)
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(9.4, 2.5 * num_rows + 0.4), layout="constrained")
        axes = figure.subplots(num_rows, columns, squeeze=False, sharey=True).ravel()
        for axis, name in zip(axes, present, strict=False):
            for method in dict.fromkeys(row["method"] for row in rows):
                colour, marker = STYLE[method]
                curve = sorted(
                    (row for row in rows if (row["stressor"], row["method"]) == (name, method)),
                    key=lambda row: row["severity"],
                )
                x = [row["severity"] for row in curve]
                value, low, high = (
                    [row["metrics"][HEADLINE_METRIC][k] for row in curve] for k in ("value", "low", "high")
                )
                axis.plot(x, value, color=colour, marker=marker, markersize=4, label=METHOD_NAMES[method])
                axis.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
            axis.axhline(result["chance"][HEADLINE_METRIC], color="#9ca3af", linestyle=":", label="chance")
            axis.set_title(STRESSORS[name].title)
            axis.set_xlabel(STRESSORS[name].unit)
            axis.set_ylim(0, 1.02)
            axis.grid(axis="y")
        for axis in axes[len(present) :]:
            axis.set_visible(False)
        for axis in axes[::columns]:
            axis.set_ylabel("balanced accuracy")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside upper center", ncols=len(labels))
        return _svg(figure)


def headline_intervals(results: dict[str, Any]) -> str:
    """Return the balanced accuracies of all strict tasks with their intervals, one row a task: a forest plot."""
    tasks = {name: clean(result) for name, result in results.items() if result["strict"]}
    methods = [m for m in STYLE if any(row["method"] == m for rows in tasks.values() for row in rows)]
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(9.4, 0.9 + (0.16 + 0.13 * len(methods)) * len(tasks)), layout="constrained")
        axis = figure.subplots()
        for row_number, (name, rows) in enumerate(tasks.items()):
            for number, method in enumerate(methods):
                found = [r["metrics"][HEADLINE_METRIC] for r in rows if (r["method"], r["shots"]) == (method, ALL)]
                if found and found[0]["value"] is not None:
                    colour, marker = STYLE[method]
                    reach = [[found[0]["value"] - found[0]["low"]], [found[0]["high"] - found[0]["value"]]]
                    at = row_number + 0.75 * (number - (len(methods) - 1) / 2) / len(methods)
                    label = METHOD_NAMES[method] if row_number == 0 else None
                    axis.errorbar(
                        found[0]["value"],
                        at,
                        xerr=np.abs(reach),
                        color=colour,
                        marker=marker,
                        markersize=4,
                        capsize=2,
                        linewidth=1.2,
                        label=label,
                    )
            chance = results[name]["chance"][HEADLINE_METRIC]
            axis.plot([chance, chance], [row_number - 0.45, row_number + 0.45], color="#9ca3af", linestyle=":")
        axis.set_yticks(range(len(tasks)), [_readable(name).replace("/", "\n", 1) for name in tasks])
        axis.invert_yaxis()
        axis.set_xlim(0, 1.02)
        axis.set_xlabel("balanced accuracy, all labelled training windows; 95 % intervals; dotted: chance")
        axis.grid(axis="x")
        axis.set_axisbelow(True)
        handles, labels = axis.get_legend_handles_labels()
        figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside upper center", ncols=min(3, len(labels)))
        return _svg(figure)


def domain_scores(row: dict[str, Any], chance: float) -> str:
    """Return the balanced accuracy of each domain that was left out, worst first."""
    domains = sorted(row["domains"].items(), key=lambda item: item[1]["value"])
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(6.4, 0.8 + 0.3 * len(domains)), layout="constrained")
        axis = figure.subplots()
        for number, (_, estimate) in enumerate(domains):
            reach = [[estimate["value"] - estimate["low"]], [estimate["high"] - estimate["value"]]]
            colour = "#d55e00" if number == 0 else "#0072b2"
            axis.errorbar(estimate["value"], number, xerr=np.abs(reach), fmt="o", color=colour, markersize=5, capsize=2)
        axis.axvline(chance, color="#9ca3af", linestyle=":")
        axis.set_yticks(range(len(domains)), [_readable(name) for name, _ in domains])
        axis.invert_yaxis()
        axis.set_xlim(0, 1.02)
        axis.set_xlabel("balanced accuracy")
        axis.grid(axis="x")
        return _svg(figure)


def embedding_map(drawn: dict[str, Any]) -> str:
    """Return maps of the feature space, PCA and t-SNE side by side, one row for what the points are coloured by."""
    colours = drawn["colours"]
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(9.4, 3.3 * len(colours)), layout="constrained")
        axes = figure.subplots(len(colours), len(drawn["points"]), squeeze=False)
        for line, (what, values) in zip(axes, colours.items(), strict=True):
            names, counts = np.unique(values, return_counts=True)
            shown = sorted(names[np.argsort(-counts, kind="stable")][:MAX_GROUPS])
            rest = ~np.isin(values, shown)
            for axis, (method, points) in zip(line, drawn["points"].items(), strict=True):
                xy = np.asarray(points)
                axis.scatter(*xy[rest].T, s=5, color="#d1d5db", linewidths=0, label="others" if rest.any() else None)
                for number, name in enumerate(shown):
                    colour, marker = MODELS[number % len(MODELS)], MARKERS[(number // len(MODELS)) % len(MARKERS)]
                    chosen = np.array(values) == name
                    label = _readable(str(name)) or "unknown"
                    axis.scatter(*xy[chosen].T, s=9, color=colour, marker=marker, alpha=0.75, linewidths=0, label=label)
                axis.set_title(f"{method}, by {_readable(what)}")
                axis.set_xticks([])
                axis.set_yticks([])
                for side in ("left", "bottom"):
                    axis.spines[side].set_color("#e5e7eb")
            line[-1].legend(
                frameon=False,
                fontsize=7,
                loc="center left",
                bbox_to_anchor=(1.0, 0.5),
                markerscale=1.6,
                handletextpad=0.2,
            )
        return _svg(figure)


def class_recall(result: dict[str, Any]) -> str:
    """Return the recall of each class by the linear probes, with intervals."""
    classes = result["classes"]
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(4.8, 0.9 + 0.42 * len(classes)), layout="constrained")
        axis = figure.subplots()
        for i, method in enumerate(IN_BARS):
            colour = STYLE[method][0]
            recalls = next((r["recall"] for r in clean(result) if (r["method"], r["shots"]) == (method, ALL)), None)
            if recalls is None:
                continue
            value, low, high = ([recalls[name][key] or 0.0 for name in classes] for key in ("value", "low", "high"))
            reach = [np.abs(np.subtract(value, low)), np.abs(np.subtract(high, value))]
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
    row = next(r for r in clean(result) if (r["method"], r["shots"]) == ("pretrained/linear", ALL))
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
