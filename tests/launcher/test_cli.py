"""The command line: help with examples, one line and the right exit code for every way to fail."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from launcher import cli

REPOSITORY = Path(__file__).parents[2]


def commands(group=None, path=()) -> list[list[str]]:
    group = group or typer.main.get_command(cli.app)
    found = []
    for name, command in group.commands.items():
        words = [*path, name]
        found += commands(command, words) if hasattr(command, "commands") else [words]
    return found


@pytest.fixture
def run(monkeypatch, capsys):
    """run(words) -> (exit code, stdout, stderr), in this process and as no rank."""
    for name in ("RANK", "WORLD_SIZE", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    # Wide, so that nothing is wrapped, and plain.
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("TERMINAL_WIDTH", "400")

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["imuvid", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return caught.value.code or 0, captured.out, captured.err

    return run


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_help_shows_an_example_and_json(run, words):
    code, output, _ = run(*words, "--help")
    assert code == 0
    examples = [line for line in output.splitlines() if f"imuvid {' '.join(words)}" in line and "Usage" not in line]
    assert examples, output
    assert "--json" in output


def test_help_names_every_command(run):
    _, output, _ = run("--help")
    for words in commands():
        assert words[0] in output


def test_no_command_shows_the_help(run):
    _, output, errors = run()
    assert "pretrain" in output + errors


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["pretrain"],
        ["pretrain", "c.yaml", "--nproc", "two"],
        ["pretrain", "c.yaml", "--nproc", "0"],
        ["pretrain", "c.yaml", "--nonsense"],
        ["evaluate", "only-one"],
        ["shards", "verify"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_2(run, words):
    code, _, errors = run(*words)
    assert code == 2
    assert "Traceback" not in errors
    assert "Usage" in errors


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["pretrain", "nowhere.yaml"], ["nowhere.yaml"]),
        (["pretrain", "CONFIG", "data.batchsize=3"], ["data.batchsize", "did you mean 'data.batch_size'"]),
        (["pretrain", "CONFIG", "data.batch_size=many"], ["data.batch_size=many"]),
        (["pretrain", "CONFIG", "data.path=/nowhere"], ["/nowhere", "dataset.json"]),
        (["pretrain", "CONFIG", "data.path=DATASET", "--nproc", "3"], ["batch_size", "3 ranks"]),
        (["pretrain", "CONFIG", "data.path=DATASET", "model.objective.kind=clip"], ["'clip'", "sigmoid", "infonce"]),
        (["evaluate", "nowhere", "OOD"], ["nowhere"]),
        (["shards", "build", "nowhere.yaml"], ["nowhere.yaml"]),
        (["shards", "manifest", "kinetics", ".", "out.csv"], ["kinetics", "utd_mhad"]),
    ],
    ids=lambda value: " ".join(value) if "--" in "".join(value) or len(value) > 1 else "",
)
def test_a_users_mistake_is_one_line_and_exits_2(run, tiny_dataset, words, parts):
    places = {
        "CONFIG": REPOSITORY / "configs/pretrain/utd_mhad_cpu.yaml",
        "OOD": REPOSITORY / "configs/ood/hapt.yaml",
    }
    words = [str(places.get(word, word)).replace("DATASET", str(tiny_dataset)) for word in words]
    if "--nproc" in words or "model.objective.kind=clip" in words:
        words.append("data.batch_size=8")
    code, _, errors = run(*words)
    assert code == 2, errors
    assert errors.startswith("imuvid: ")
    assert errors.count("\n") == 1
    for part in parts:
        assert part in errors


def broken(*_):
    raise RuntimeError("the disk is on fire\nand the house")


def test_a_failure_is_one_line_and_exits_1(run, monkeypatch, tmp_path):
    monkeypatch.setattr("shards.verify.verify", broken)
    code, _, errors = run("shards", "verify", tmp_path)
    assert code == 1
    assert errors == "imuvid: RuntimeError: the disk is on fire (--debug shows where)\n"


@pytest.mark.parametrize("place", [0, 2])
def test_debug_shows_the_traceback_wherever_it_stands(monkeypatch, tmp_path, place):
    monkeypatch.setattr("shards.verify.verify", broken)
    words = ["shards", "verify", str(tmp_path)]
    words.insert(place, "--debug")
    monkeypatch.setattr(sys, "argv", ["imuvid", *words])
    with pytest.raises(RuntimeError, match="on fire"):
        cli.main()


def test_json_holds_the_result_also_of_a_check_that_fails(run, tiny_dataset, tmp_path):
    copied = shutil.copytree(tiny_dataset, tmp_path / "copy")
    os.truncate(copied / "00001.tar", 9000)
    report = tmp_path / "new" / "folder" / "report.json"
    code, output, errors = run("shards", "verify", copied, "--json", report)
    assert (code, errors) == (1, "")
    assert "00001.tar" in output
    assert "00001.tar" in json.dumps(json.loads(report.read_text()))


def test_a_rank_says_which_it_is(run, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setattr(os, "_exit", sys.exit)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setattr("imuvid.training.preemption.install", lambda: None)
    _, _, errors = run("pretrain", "nowhere.yaml")
    assert errors.startswith("imuvid: rank 3: nowhere.yaml")
    code, _, errors = run("pretrain", "nowhere.yaml", "--nproc", "2")
    assert code == 2
    assert "leave them out under srun" in errors


def test_help_answers_without_loading_anything_heavy():
    code = "import sys; import launcher.cli; print({'torch', 'deepspeed', 'numpy', 'pyarrow'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
