"""Any number of models on the same tasks: paired differences, computed from their tables of predictions."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from imuvid.errors import UserError
from imuvid.ood.config import OODConfig
from imuvid.ood.job import evaluate
from imuvid.ood.model import FunctionModel
from imuvid.ood.names import FINETUNE, KNN, LINEAR, ORACLE, PRETRAINED
from imuvid.ood.parts import Execute
from imuvid.ood.predictions import METADATA_KEY, merge, read_predictions, task_facts
from imuvid.ood.report import render_comparison
from imuvid.ood.results import PREDICTIONS, REPORT_HTML, EvaluationResult, write_whole
from imuvid.ood.summary import HEADLINE_METRIC, summarise

COMPARISON_JSON = "comparison.json"
PROBES = (LINEAR, FINETUNE, KNN)


@dataclass
class Comparison:
    """What :func:`evaluate_all` leaves behind."""

    out: Path
    """Folder with comparison.json, report.html, and a folder for each model."""
    comparison: dict[str, Any]
    """The content of comparison.json."""

    def lines(self) -> list[str]:
        """Return the mean scores, the differences on all training windows and the place of the page."""
        lines = [f"{model['name']}: {model['headline']['value']:.3f}" for model in self.comparison["models"]]
        for name, result in self.comparison["results"].items():
            for row in result["differences"]:
                estimate = row["metrics"][HEADLINE_METRIC]
                if row["shots"] == "all":
                    lines.append(
                        f"{name}: {row['method']} against {row['reference']}: {estimate['value']:+.3f}"
                        f" [{estimate['low']:+.3f}, {estimate['high']:+.3f}], corrected p {estimate['p_holm']:.3g}"
                    )
        return [*lines, f"{self.out / REPORT_HTML}"]


def evaluate_all(
    models: Sequence[str | Path | FunctionModel], config: OODConfig, execute: Execute | None = None
) -> Comparison:
    """Evaluate models one after another, each into a folder of its own, and compare them.

    Args:
        models: as for :func:`imuvid.ood.job.evaluate`, two or more.
        config: of all of them; ``out`` must be given.
        execute: runs folds in other processes.

    Raises:
        UserError: there is no ``out``, two models have one name, or no task is common to all.
    """
    if config.out is None:
        raise UserError("several models are compared in a folder of their own: give it by out=FOLDER")
    names = model_names(models)
    results = {
        name: evaluate(model, dataclasses.replace(config, out=str(Path(config.out) / name)), execute)
        for name, model in zip(names, models, strict=True)
    }
    comparison = compare(results, config.num_bootstrap, config.seed)
    write_whole(
        Path(config.out),
        {
            COMPARISON_JSON: lambda path: path.write_text(json.dumps(comparison, indent=1, allow_nan=False)),
            REPORT_HTML: lambda path: path.write_text(render_comparison(comparison), encoding="utf-8"),
        },
    )
    return Comparison(Path(config.out), comparison)


def model_names(models: Sequence[str | Path | FunctionModel]) -> list[str]:
    """Return a short name for each model, all different: the parts of their paths that tell them apart.

    Raises:
        UserError: two of them are the same.
    """
    parts = [
        [model.name] if isinstance(model, FunctionModel) else [p for p in Path(model).absolute().parts if p != "/"]
        for model in models
    ]
    if len({tuple(path) for path in parts}) < len(parts):
        raise UserError("one of the models is given twice")
    shared = [part for part in parts[0] if all(part in path for path in parts)]
    names = ["-".join(part for part in path if part not in shared) or path[-1] for path in parts]
    if len(set(names)) < len(names) or set(names) & set(PROBES):
        names = [f"model-{number}" for number in range(1, len(names) + 1)]
    return names


def compare(results: dict[str, EvaluationResult], num_bootstrap: int, seed: int) -> dict[str, Any]:
    """Return scores and paired differences of models, by task; later models against each of those before.

    Every resample of the people and of the draws is the same for all models, so what two of them have in common
    (a hard person, a poor draw) does not widen the interval of their difference.

    Args:
        results: of each model, by its name.
        num_bootstrap: resamples.
        seed: of the resamples.

    Raises:
        UserError: no task is common to all models.
    """
    tables = {name: read_predictions(result.out / PREDICTIONS) for name, result in results.items()}
    keys = [set(task_facts(table)) for table in tables.values()]
    common = [key for key in task_facts(next(iter(tables.values()))) if all(key in of for of in keys)]
    if not common:
        raise UserError("no task is common to all models: evaluate them on the same data sets")
    names = list(results)
    comparisons = {
        (name, probe): tuple((earlier, probe) for earlier in names[:number])
        for number, name in enumerate(names)
        for probe in PROBES
    }
    merged = merge([_as_representation(table, name, common) for name, table in tables.items()])
    notes = []
    if len({tuple(sorted(pc.unique(table["window"]).to_pylist())) for table in tables.values()}) > 1:
        notes.append(
            "The models take windows of different lengths or rates: they were tested on the same people and"
            " recordings, cut differently."
        )
    left_out = sorted(set().union(*keys) - set(common))
    if left_out:
        notes.append(f"Not every model has a result for {', '.join(left_out)}.")
    return {
        "models": [
            {
                "name": name,
                "folder": result.out.name,
                "encoder": result.report["encoder"],
                "headline": result.report["headline"],
            }
            for name, result in results.items()
        ],
        "notes": notes,
        "results": summarise(merged, num_bootstrap, seed, comparisons),
    }


def _as_representation(table: pa.Table, name: str, tasks: list[str]) -> pa.Table:
    """Return the rows of a model itself on windows as they are, under its own name instead of "pretrained"."""
    facts = {key: fact for key, fact in task_facts(table).items() if key in tasks}
    wanted = pc.and_(pc.equal(table["representation"], PRETRAINED), pc.equal(table["stressor"], ""))
    wanted = pc.and_(wanted, pc.not_equal(table["selection"], ORACLE))
    of_tasks = pc.is_in(
        pc.binary_join_element_wise(table["dataset"].cast(pa.string()), table["protocol"].cast(pa.string()), "/"),
        value_set=pa.array(list(facts)),
    )
    rows = table.filter(pc.and_(wanted, of_tasks))
    column = table.schema.get_field_index("representation")
    renamed = pa.array([name] * len(rows), pa.string()).dictionary_encode()
    rows = rows.set_column(column, table.schema.field(column), renamed)
    return rows.replace_schema_metadata({METADATA_KEY: json.dumps(facts).encode()})
