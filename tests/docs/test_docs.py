"""What README and docs show works: links lead somewhere, commands and configs are understood, Python runs."""

from __future__ import annotations

import importlib.util
import re
import runpy
from pathlib import Path

import click
import pytest
import typer.main
import yaml
from omegaconf import OmegaConf

from imuvid import config as configs
from imuvid.errors import UserError
from imuvid.ood.config import OODConfig
from imuvid.ood.datasets.generic import GenericLayout
from imuvid.training.config import PretrainConfig
from launcher.cli import app
from launcher.evaluate_cli import split_arguments
from launcher.sweep.config import SweepConfig
from shards.config import BuildConfig
from shards.embed_imu import EmbedConfig
from tests.docs import stand_ins
from tests.docs.blocks import PAGES, REPOSITORY, anchors, blocks, commands, links

CONFIGS = {"shards build": BuildConfig, "pretrain": PretrainConfig, "evaluate": OODConfig, "sweep": SweepConfig}
SCRIPTS = {"pretrain.sh": "pretrain", "evaluate.sh": "evaluate", "build_shards.sh": "shards build", "sweep.sh": "sweep"}
NOT_OURS = {"cp", "deepspeed", "ego4d", "export", "hf", "mkdocs", "srun", "tensorboard", "torchrun", "touch"}


def names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(REPOSITORY)) for page in pages]


@pytest.mark.parametrize("name", names(PAGES))
def test_links_lead_somewhere(name):
    page = REPOSITORY / name
    for link in links(page):
        target, _, anchor = link.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue  # no network here
        path = page if not target else (page.parent / target).resolve()
        assert path.exists(), f"{name}: {link}"
        if anchor:
            assert anchor in anchors(path), f"{name}: {link}"


@pytest.mark.parametrize("name", names(PAGES))
def test_commands_are_understood(name):
    for block in blocks(REPOSITORY / name, "bash"):
        for words in commands(block.text):
            try:
                check_command(words)
            except (click.UsageError, UserError, AssertionError) as error:
                pytest.fail(f"{block.place}: {' '.join(words)}: {error}")


def check_command(words: list[str]) -> None:
    program, rest = words[0], words[1:]
    if program == "imuvid":
        check_imuvid(rest)
    elif program == "sbatch":
        script = next(word for word in rest if word.endswith(".sh"))
        assert (REPOSITORY / script).is_file()
        after = rest[rest.index(script) + 1 :]
        check_imuvid([*SCRIPTS[Path(script).name].split(), *after])
    elif program == "make":
        targets = re.findall(r"^(\S+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        assert rest[0] in targets
    elif program == "python":
        assert rest[0] == "-m"
        assert importlib.util.find_spec(rest[1]) is not None
    elif program == "pip" or rest[:2] == ["pip", "install"] or program.startswith("DS_"):
        extras = re.findall(r"\[([\w,]+)\]", " ".join(words))
        known = re.findall(r'^        "(\w+)":', (REPOSITORY / "setup.py").read_text(), re.MULTILINE)
        assert set(",".join(extras).split(",")) - {""} <= set(known)
    else:
        assert program in NOT_OURS, "no command that is known here"


def check_imuvid(words: list[str]) -> None:
    if any("|" in word for word in words) or "..." in words:
        return  # a list of commands in a sentence
    command: click.Command = typer.main.get_command(app)
    context = click.Context(command)
    name: list[str] = []
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, f"there is no command '{words[0]}'"
        command, words = found, words[1:]
        name.append(str(command.name))
    parsed = command.make_context(" ".join(name), list(words)).params
    which = " ".join(name)
    if which == "evaluate":
        _, parsed["config"], parsed["words"] = split_arguments(parsed["arguments"])
    given = list(parsed.get("words") or [])
    if which in CONFIGS and (REPOSITORY / parsed["config"]).is_file():
        load(CONFIGS[which], REPOSITORY / parsed["config"], given)
    elif which in CONFIGS:
        assert not str(parsed["config"]).startswith("configs/"), "there is no such config"
        for word in given:
            load(CONFIGS[which], None, [word])
    elif which == "embed":
        configs.load(EmbedConfig, None, given)


def load(kind: type, path: Path | None, words: list[str]) -> None:
    """Load a config; what a user has yet to fill in is no mistake."""
    try:
        configs.load(kind, path, words)
    except UserError as error:
        if "no value for" not in str(error):
            raise


@pytest.mark.parametrize("name", [name for name in names(PAGES) if blocks(REPOSITORY / name, "yaml")])
def test_configs_are_understood(name, tmp_path):
    problems = []
    for block in blocks(REPOSITORY / name, "yaml"):
        content = yaml.safe_load(block.text)
        path = tmp_path / "block.yaml"
        OmegaConf.save(OmegaConf.create(content), path)
        kind = kind_of(content)
        try:
            load(kind, path, [])
        except UserError as error:
            problems.append(f"{block.place}: {error}")
    assert problems == []


def kind_of(content: dict) -> type:
    if "source" in content or "gates" in content:
        return BuildConfig
    if "space" in content:
        return SweepConfig
    if "sensors" in content:
        return GenericLayout
    return OODConfig if "datasets" in content else PretrainConfig


RUNNING = [name for name in names(PAGES) if blocks(REPOSITORY / name, "python")]


@pytest.mark.parametrize("name", RUNNING)
def test_python_runs(name, tmp_path, monkeypatch, tiny_dataset):
    """The blocks of a page, one after another, in a folder with the files that the page speaks of."""
    stand_ins.lay_out(name, tmp_path, tiny_dataset)
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "page.py"
    text = ""
    for block in blocks(REPOSITORY / name, "python"):
        text += "\n" * (block.line - text.count("\n")) + block.text  # at its own line: a failure names it
    script.write_text(text)
    left = runpy.run_path(str(script), run_name="page")  # the assertions are the page's own
    assert left["__name__"] == "page"  # run to its end


def test_errors_that_are_explained_exist():
    """Every fragment in the tables of errors.md is in a message of the program."""
    program = "".join(
        re.sub(r'"\s*\n\s*f?"', "", path.read_text())
        for package in ("imuvid", "shards", "launcher")
        for path in (REPOSITORY / package).rglob("*.py")
    )
    rows = re.findall(r"^\| (`.+?`) \|", (REPOSITORY / "docs/errors.md").read_text(), re.MULTILINE)
    missing = []
    for row in rows:
        for shown in re.findall(r"`([^`]+)`", row):
            parts = [part.strip() for part in re.split(r"\.\.\.|\bN\b|\bM\b|'", shown)]
            missing += [shown for part in parts if len(part) > 2 and part not in program]
    assert not missing
    assert len(rows) > 10
