"""The report in sentences: what was done, and what came out, whichever way it came out."""

from __future__ import annotations

from typing import Any

from imuvid.ood.datasets.base import Windows
from imuvid.ood.predictions import HANDMADE, RANDOM
from imuvid.ood.probes import ProbeConfig, feature_rule, selection_rule
from imuvid.ood.protocols import Fold, ProtocolConfig
from imuvid.ood.summary import ALL

METHOD_NAMES = {
    "pretrained": "pretrained encoder",
    "random": "random-initialised encoder",
    "handmade": "hand-made features",
    "majority": "majority class",
}

SENSORS_RULE = {
    "apart": "each goes through the encoder alone, and their features stand side by side.",
    "together": "the encoder combines them.",
}


def describe(
    config: ProtocolConfig, windows: Windows, folds: list[Fold], probe: ProbeConfig, num_draws: int, sensors: str
) -> list[str]:
    """Return the protocol, one sentence each."""
    sizes = f"{windows.provenance['window_s']:g} s at {windows.rate_hz:g} Hz, {' + '.join(windows.positions)}"
    if config.kind == "subject-split":
        split = (
            f"Subjects {', '.join(config.train_subjects)} train the probes, subjects {', '.join(config.test_subjects)} "
            f"test them: {len(folds[0].train)} and {len(folds[0].test)} windows."
        )
    else:
        what = "one subject" if config.kind == "leave-one-subject-out" else f"one of {len(folds)} groups of subjects"
        split = (
            f"{what.capitalize()} is tested at a time, the probes being trained on the others; the predictions of the "
            f"{len(folds)} folds are pooled: {sum(len(fold.test) for fold in folds)} windows."
        )
    return [
        f"Windows of {sizes}, without overlap, inside labelled stretches.",
        split,
        f"{feature_rule(probe)} They are classified by logistic regression (L2, classes weighted equally). "
        f"Selection rule: {selection_rule(probe)}.",
        f"k shots: k windows of each class, drawn from the training subjects, {num_draws} draws, the same for every "
        "method and written in draws.json; every draw is tested on all test windows.",
        *(["Several sensors: " + SENSORS_RULE[sensors]] if len(windows.positions) > 1 else []),
        "Each draw has a random-initialised encoder of its own, of the same architecture.",
    ]


def score_table(results: dict[str, Any]) -> list[str]:
    """Return the balanced accuracies with their intervals as lines of a text table, one block a data set."""
    lines = []
    for name, result in results.items():
        scores = {(row["method"], row["shots"]): row["metrics"]["balanced_accuracy"] for row in result["scores"]}
        shots = [row["shots"] for row in result["scores"] if row["method"] == "pretrained"]
        chance = result["chance"]["balanced_accuracy"]
        lines.append(
            f"{name}: balanced accuracy [95 % interval], {result['num_test_windows']} test windows of"
            f" {len(result['test_subjects'])} subjects, chance {chance:.3f}"
        )
        lines.append(f"{'shots':>8}" + "".join(f"{METHOD_NAMES[m]:>28}" for m in ("pretrained", "random", "handmade")))
        for shot in shots:
            cells = [scores.get((method, shot)) for method in ("pretrained", "random", "handmade")]
            text = [f"{c['value']:.3f} [{c['low']:.3f}, {c['high']:.3f}]" if c else "" for c in cells]
            lines.append(f"{shot:>8}" + "".join(f"{cell:>28}" for cell in text))
    return lines


def statements(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one finding per data set, reference and number of shots that matters most (fewest, 10, all).

    Returns:
        dicts with ``dataset``, ``text`` and ``verdict``: better, worse or open.
    """
    findings = []
    for name, result in results.items():
        shots = [row["shots"] for row in result["scores"] if row["method"] == "pretrained"]
        chosen = [s for i, s in enumerate(shots) if i == 0 or s in (10, ALL)]
        for row in result["differences"]:
            if row["shots"] in chosen:
                findings.append({"dataset": name, **_statement(name, result, row)})
    return findings


def _statement(name: str, result: dict[str, Any], row: dict[str, Any]) -> dict[str, str]:
    estimate = row["metrics"]["balanced_accuracy"]
    own = next(s for s in result["scores"] if s["method"] == row["method"] and s["shots"] == row["shots"])
    score = own["metrics"]["balanced_accuracy"]["value"]
    reference = {RANDOM: "the random-initialised encoder", HANDMADE: "hand-made features"}[row["reference"]]
    shots = row["shots"]
    task = "all training windows" if shots == ALL else f"{shots} window{'s' if shots > 1 else ''} per class"
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    if low > 0:
        verdict, text = "better", f"beats {reference} by {value:.3f} [{low:.3f}, {high:.3f}]"
    elif high < 0:
        verdict, text = "worse", f"falls behind {reference} by {-value:.3f} [{-high:.3f}, {-low:.3f}]"
    else:
        verdict = "open"
        text = f"does not differ clearly from {reference}: {value:+.3f} [{low:+.3f}, {high:+.3f}] includes 0"
    won = ""
    if estimate["num_draws"] > 1:
        won = f"; it is ahead in {estimate['draws_won']} of {estimate['num_draws']} draws"
    caution = " Few subjects: the interval is not to be trusted." if result["warnings"] else ""
    return {
        "verdict": verdict,
        "text": f"{name}, {task}: the pretrained encoder, balanced accuracy {score:.3f}, {text}{won}.{caution}",
    }
