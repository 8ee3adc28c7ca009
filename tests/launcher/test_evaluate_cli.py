"""The words of ``imuvid evaluate``."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from imuvid.errors import UserError
from imuvid.ood.config import OODConfig
from launcher.evaluate_cli import evaluate, executor, split_arguments

CONFIG = str(Path(__file__).parents[2] / "configs/ood/hapt.yaml")


def test_the_first_yaml_divides_the_command_line():
    found = split_arguments(["a", "b/latest", "configs/x.yaml", "generic.layout=my.yaml", "seed=1"])
    assert found == ([Path("a"), Path("b/latest")], Path("configs/x.yaml"), ["generic.layout=my.yaml", "seed=1"])
    with pytest.raises(typer.BadParameter, match="no config among the arguments"):
        split_arguments(["a", "generic.layout=my.yaml"])


def test_a_watch_takes_its_checkpoints_from_the_run():
    with pytest.raises(UserError, match="leave out a/b"):
        evaluate(["a/b", CONFIG], watch=Path("run"), poll_s=1, limit_h=1, json_file=None)
    with pytest.raises(UserError, match="give a checkpoint before the config"):
        evaluate([CONFIG], watch=None, poll_s=1, limit_h=1, json_file=None)


def test_one_worker_needs_no_other_process():
    assert executor(OODConfig(workers=1)) is None
    execute = executor(OODConfig(workers=2))
    assert sorted(execute(divmod, [(7, 2), (9, 4)], 0, 0.0)) == [(0, (3, 1)), (1, (2, 1))]
