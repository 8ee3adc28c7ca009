"""The report in sentences: what was done, and what came out, whichever way it came out."""

from __future__ import annotations

from typing import Any

from imuvid.ood.names import ORACLE
from imuvid.ood.probes import feature_rule, selection_rule
from imuvid.ood.protocols.folds import natural_order
from imuvid.ood.protocols.task import Task
from imuvid.ood.statistics import LEVEL
from imuvid.ood.summary import ALL

METHOD_NAMES = {
    "pretrained/linear": "pretrained encoder",
    "pretrained/knn": "pretrained encoder, kNN",
    "pretrained/finetune": "pretrained encoder, fine-tuned",
    "random/linear": "random-initialised encoder",
    "random/knn": "random-initialised encoder, kNN",
    "random/finetune": "supervised from scratch",
    "handmade/linear": "hand-made features",
    "handmade/forest": "hand-made features, random forest",
    "raw/knn": "raw signal, kNN",
    "none/majority": "majority class",
    "pretrained/zero-shot-text": "zero-shot by text",
    "pretrained/zero-shot-source-video": "zero-shot by video of source recordings",
    "pretrained/zero-shot-target-video": "zero-shot by video of the target's other people",
}
"""Representation and probe to how a person calls them."""

SENSORS_RULE = {
    "apart": "each goes through the encoder alone, and their features stand side by side.",
    "together": "the encoder combines them.",
}


def describe(task: Task, sensors: str) -> list[str]:
    """Return the protocol, one sentence each."""
    windows, folds, settings = task.windows, task.folds, task.settings
    sizes = f"{windows.provenance['window_s']:g} s at {windows.rate_hz:g} Hz, {' + '.join(windows.positions)}"
    tested = sum(len(fold.test) for fold in folds)
    if len(folds) == 1:
        people = [
            ", ".join(sorted(set(windows.subject[rows].tolist()), key=natural_order))
            for rows in (folds[0].train, folds[0].test)
        ]
        split = (
            f"Subjects {people[0]} train the probes, subjects {people[1]} test them: {len(folds[0].train)} and "
            f"{len(folds[0].test)} windows."
        )
    else:
        split = (
            f"{task.protocol}: {len(folds)} folds, each tested by probes that were trained on others; their "
            f"predictions are pooled: {tested} windows."
        )
    training = settings.finetune
    return [
        f"Windows of {sizes}, without overlap, inside labelled stretches.",
        split,
        f"{feature_rule(settings.probe)} They are classified by logistic regression (L2, classes weighted equally), "
        f"kNN ({settings.probe.neighbours}, weighted by distance) and, hand-made ones, by a random forest. "
        f"Selection rule: {selection_rule(settings.probe)}.",
        f"k shots: k windows of each class, drawn from the training subjects, {settings.num_draws} draws, the same for "
        "every method and written in draws.json; every draw is tested on all test windows.",
        f"Fine-tuning and training from scratch: {training.steps} updates of {training.batch_size} windows, classes "
        f"drawn equally, AdamW, {training.encoder_lr:g} and {training.lr:g} for the encoder, {training.lr:g} for the "
        "classifier.",
        *(["Several sensors: " + SENSORS_RULE[sensors]] if len(windows.positions) > 1 else []),
        "Each draw has a random-initialised encoder of its own, of the same architecture.",
    ]


COLUMNS = ("pretrained/linear", "random/linear", "handmade/linear", "handmade/forest", "random/finetune")


def score_table(results: dict[str, Any]) -> list[str]:
    """Return the balanced accuracies with their intervals as lines of a text table, one block a task."""
    lines = []
    for name, result in results.items():
        scores = {
            (row["method"], row["shots"]): row["metrics"]["balanced_accuracy"]
            for row in reversed(result["scores"])
            if not row["stressor"] and row["selection"] != ORACLE
        }
        shots = list(dict.fromkeys(row["shots"] for row in result["scores"] if row["method"] == COLUMNS[0]))
        chance = result["chance"]["balanced_accuracy"]
        leaky = "" if result["strict"] else ", LEAKY PROTOCOL"
        lines.append(
            f"{name}: balanced accuracy [95 % interval], {result['num_test_windows']} test windows of"
            f" {len(result['test_subjects'])} subjects, chance {chance:.3f}{leaky}"
        )
        columns = [method for method in COLUMNS if any(key[0] == method for key in scores)]
        lines.append(f"{'shots':>8}" + "".join(f"{METHOD_NAMES[m]:>34}" for m in columns))
        for shot in shots:
            cells = [scores.get((method, shot)) for method in columns]
            text = [f"{c['value']:.3f} [{c['low']:.3f}, {c['high']:.3f}]" if c else "" for c in cells]
            lines.append(f"{shot:>8}" + "".join(f"{cell:>34}" for cell in text))
    return lines


def statements(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one finding per task, baseline and number of shots that matters most (fewest, 10, all).

    Returns:
        dicts with ``dataset`` (the task), ``shots``, ``reference``, ``text`` and ``verdict``: better, worse or open.
    """
    findings = []
    for name, result in results.items():
        rows = [row for row in result["differences"] if row["method"] == "pretrained/linear"]
        shots = list(dict.fromkeys(row["shots"] for row in rows))
        chosen = [s for i, s in enumerate(shots) if i == 0 or s in (10, ALL)]
        for row in rows:
            if row["shots"] in chosen and row["reference"] != "none/majority":
                about = {"dataset": name, "shots": row["shots"], "reference": row["reference"]}
                findings.append(about | _statement(name, result, row))
    return findings


def _statement(name: str, result: dict[str, Any], row: dict[str, Any]) -> dict[str, str]:
    estimate = row["metrics"]["balanced_accuracy"]
    own = next(
        s
        for s in result["scores"]
        if (s["method"], s["shots"], s["selection"], s["stressor"])
        == (row["method"], row["shots"], row["selection"], "")
    )
    score = own["metrics"]["balanced_accuracy"]["value"]
    reference = METHOD_NAMES[row["reference"]]
    shots = row["shots"]
    task = "all training windows" if shots == ALL else f"{shots} window{'s' if shots > 1 else ''} per class"
    value, low, high, p = (estimate[key] for key in ("value", "low", "high", "p_holm"))
    if value > 0 and low > 0 and p < 1 - LEVEL:
        verdict, text = "better", f"beats {reference} by {value:.3f} [{low:.3f}, {high:.3f}]"
    elif value < 0 and high < 0 and p < 1 - LEVEL:
        verdict, text = "worse", f"falls behind {reference} by {-value:.3f} [{-high:.3f}, {-low:.3f}]"
    else:
        verdict = "open"
        text = f"does not beat {reference}: {value:+.3f} [{low:+.3f}, {high:+.3f}], which is no clear difference"
    won = ""
    if estimate["num_draws"] > 1:
        won = f"; it is ahead in {estimate['draws_won']} of {estimate['num_draws']} draws"
    caution = " Few subjects: the interval is not to be trusted." if result["warnings"] else ""
    leaky = "" if result["strict"] else " LEAKY PROTOCOL: test subjects were trained on."
    return {
        "verdict": verdict,
        "text": f"{name}, {task}: the pretrained encoder, balanced accuracy {score:.3f}, {text} (corrected p "
        f"{p:.3g}){won}.{caution}{leaky}",
    }
