"""The command ``imuvid sweep``."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from launcher.options import JsonFile, Words, write_json


def sweep_command(
    config: Path,
    words: Words = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the sweep of that name.")] = False,
    confirm: Annotated[
        int | None, typer.Option(min=2, help="Then train best and default with so many seeds, and compare them.")
    ] = None,
    in_allocation: Annotated[
        bool, typer.Option("--in-allocation", help="On the tasks of an srun step, one a machine: they are its cluster.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Search hyper-parameters by Ray Tune: trials are runs as `imuvid pretrain` starts them, judged on validation data.

    On one machine:  imuvid sweep configs/sweep/demo.yaml

    On a cluster:  sbatch --nodes 4 --gpus-per-node 8 slurm/sweep.sh CONFIG [KEY=VALUE]...
    """
    from imuvid import config as configs
    from launcher.sweep.config import SweepConfig

    settings = configs.load(SweepConfig, config, words or [])
    machines = 1
    with contextlib.ExitStack() as stack:
        if in_allocation:
            from launcher.sweep.allocation import ray_cluster

            head = stack.enter_context(ray_cluster(settings.folder, settings.ray.dashboard))
            if head is None:
                return  # a machine of the cluster, and the sweep is over
            settings.ray.address, machines = head
        # Only now: Ray takes the password of its cluster from the environment when it is imported.
        from launcher.sweep.confirm import confirm_best
        from launcher.sweep.results import write_results
        from launcher.sweep.run import sweep

        print(configs.to_yaml(settings), end="", flush=True)
        result = sweep(settings, resume, machines=machines)
        summary = write_results(settings, result, str(config))
        if confirm is not None and result.complete and summary.best is not None:
            confirmation = confirm_best(settings, summary.best, confirm)
            summary = write_results(settings, result, str(config), confirmation)
    for line in summary.lines():
        print(line)
    write_json(json_file, summary)
    if result.exit_code:
        raise typer.Exit(result.exit_code)
