"""``imuvid shards``: the commands as a user gives them, one after the other, on one dataset."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from imuvid.config import to_yaml
from imuvid.data.dataset_json import read_dataset_info
from imuvid.data.dataset_tables import read_index
from tests.shards.recordings import build_config, make_recordings

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def imuvid(*words: object, code: int = 0) -> str:
    """Run the command line in a process of its own; return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"}
    result = subprocess.run(
        [sys.executable, "-m", "launcher.cli", *map(str, words)], capture_output=True, text=True, env=environment
    )
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    manifest = make_recordings(folder, {"ada-1": 2.0, "eva-1": 1.4, "ida-1": 2.2, "uta-1": 1.2})
    path = folder / "config.yaml"
    path.write_text(to_yaml(build_config(manifest, folder / "data", "build.workers=1")))
    return path


@pytest.fixture(scope="module")
def dataset(config) -> Path:
    output = imuvid("shards", "build", config, "--json", config.parent / "build.json")
    assert "in 1 shards" in output
    assert json.loads((config.parent / "build.json").read_text())["counts"]["recordings"] == 4
    return config.parent / "data"


def test_parts_are_built_one_by_one_and_the_last_assembles(config, dataset, tmp_path):
    words = ["shards", "build", config, f"out={tmp_path / 'parts'}", "--part"]
    assert "the last one assembles the dataset" in imuvid(*words, "1/2")
    assert "in 1 shards" in imuvid(*words, "0/2")
    assert (tmp_path / "parts/00000.tar").read_bytes() == (dataset / "00000.tar").read_bytes()
    assert "expected I/N with I from 0 to N - 1" in imuvid(*words, "2/2", code=2)


def test_a_dataset_is_verified_inspected_and_changed(dataset, tmp_path):
    assert "no problem" in imuvid("shards", "verify", dataset)
    page = tmp_path / "page.html"
    assert str(page) in imuvid("shards", "inspect", dataset, "--out", page, "--samples", 4)
    assert page.read_text().count("data:image/jpeg") >= 4

    copied = shutil.copytree(dataset, tmp_path / "copy")
    imuvid("shards", "split", copied, "--val", 0.5, "--test", 0.25)
    assert set(read_index(copied)["split"].to_pylist()) <= {"train", "val", "test"}
    imuvid("shards", "filter", copied, "gates.max_frozen=0.9")
    assert read_dataset_info(copied).config["gates"]["max_frozen"] == 0.9
    some = tmp_path / "some"
    imuvid("shards", "filter", copied, "--out", some, "--where", "start_s == 0", "--json", tmp_path / "some.json")
    assert json.loads((tmp_path / "some.json").read_text())["counts"]["samples"] == 4
    rest = tmp_path / "rest"
    imuvid("shards", "filter", copied, "--out", rest, "--where", "start_s > 0")
    assert "recording r" in imuvid("shards", "merge", some, rest, "--out", tmp_path / "both", code=2)
    assert "no problem" in imuvid("shards", "verify", some)


def test_mistakes_are_one_line(config, dataset, tmp_path):
    for words in (
        ["sync"],
        ["sync", "notes.txt"],
        ["sync", "--config", config, "nobody"],
        ["inspect", tmp_path],
        ["merge", dataset, "--out", tmp_path / "x"],
        ["split", dataset],
        ["filter", dataset],
        ["filter", dataset, "--out", tmp_path / "x", "--where", "__import__('os')"],
        ["embed", dataset, tmp_path / "x", "--with", tmp_path],
    ):
        output = imuvid("shards", *words, code=2)
        assert len([line for line in output.splitlines() if line.startswith("imuvid: ")]) == 1, output
        assert "Traceback" not in output


def test_sync_says_why_it_does_not_know(config):
    output = imuvid("shards", "sync", "--config", config, "ada-1")
    assert "ada-1: not known (no_gyro" in output


def test_sync_of_real_files(realdata, tmp_path):
    files = [realdata / "gopro_gpmf" / "karma.mp4", realdata / "aria_vrs" / "aea_recording.vrs"]
    output = imuvid("shards", "sync", *files, "--json", tmp_path / "sync.json")
    # Its camera hangs in a gimbal: what it turns by is not what it sees.
    assert "karma: not known (stabilised" in output or "karma: not known (no_agreement" in output
    found = json.loads((tmp_path / "sync.json").read_text())["recordings"]
    assert [entry["name"] for entry in found] == ["karma", "aea_recording"]
