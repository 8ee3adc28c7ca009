"""The command ``imuvid evaluate``: one checkpoint, several to compare, or those of a run as they come."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imuvid.errors import UserError
from launcher.options import JsonFile, write_json

if TYPE_CHECKING:
    from imuvid.ood.config import OODConfig
    from imuvid.ood.parts import Execute

Arguments = Annotated[list[str], typer.Argument(metavar="CHECKPOINT... CONFIG [KEY=VALUE]...")]


def evaluate(
    arguments: Arguments,
    watch: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Evaluate each checkpoint of a run as it appears, once.")
    ] = None,
    poll_s: Annotated[float, typer.Option(min=0.1, help="With --watch: between looks, seconds.")] = 30.0,
    limit_h: Annotated[
        float, typer.Option(min=0, help="With --watch: longest wait for the next checkpoint, hours; 0: none.")
    ] = 24.0,
    json_file: JsonFile = None,
) -> None:
    """Judge encoders on out-of-distribution data sets; writes a report. Goes on where it was killed.

    CHECKPOINT is a checkpoint folder, its encoder/ folder, RUN/checkpoints/latest, or what imuvid export wrote.

    One:         imuvid evaluate runs/first/checkpoints/latest configs/ood/hapt.yaml hapt.root=/data/hapt

    Compared:    imuvid evaluate runs/a/checkpoints/latest runs/b/checkpoints/latest configs/ood/hapt.yaml out=a_and_b

    As they come:  imuvid evaluate --watch runs/first configs/ood/hapt.yaml
    """
    from imuvid import config as configs
    from imuvid.ood.compare import evaluate_all
    from imuvid.ood.config import OODConfig
    from imuvid.ood.job import evaluate as evaluate_one
    from imuvid.ood.watch import watch as watch_run

    checkpoints, config, words = split_arguments(arguments)
    settings = configs.load(OODConfig, config, words)
    execute = executor(settings)
    if watch is not None:
        if checkpoints:
            raise UserError(f"--watch takes the checkpoints of {watch}: leave out {checkpoints[0]}")
        results = watch_run(watch, settings, execute, poll_s, 3600 * limit_h)
        for result in results:
            print(result.html)
        write_json(json_file, [result.report for result in results])
        return
    if not checkpoints:
        raise UserError("evaluate: give a checkpoint before the config, or --watch RUN")
    if len(checkpoints) == 1:
        result = evaluate_one(checkpoints[0], settings, execute)
        report, lines = result.report, result.lines()
    else:
        comparison = evaluate_all(checkpoints, settings, execute)
        report, lines = comparison.comparison, comparison.lines()
    for line in lines:
        print(line)
    write_json(json_file, report)


def split_arguments(arguments: list[str]) -> tuple[list[Path], Path, list[str]]:
    """Return checkpoints, the config and the words of a command line: the first YAML file divides them.

    Raises:
        BadParameter: there is no YAML file.
    """
    for place, word in enumerate(arguments):
        if word.endswith((".yaml", ".yml")) and "=" not in word:
            return [Path(path) for path in arguments[:place]], Path(word), arguments[place + 1 :]
    raise typer.BadParameter("no config among the arguments: give a YAML file such as configs/ood/hapt.yaml")


def executor(config: OODConfig) -> Execute | None:
    """Return what runs the parts of an evaluation: processes here, a Ray cluster, or None for this process."""
    from shards.workers import num_workers, run_jobs

    if config.executor == "ray":
        from launcher.ray_jobs import run_jobs_on_ray

        return run_jobs_on_ray
    workers = num_workers(config.workers)
    if workers == 1:
        return None
    return lambda function, jobs, _, limit_s: run_jobs(function, jobs, workers, limit_s)
