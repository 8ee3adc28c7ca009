"""Configurations: what a user writes wrongly is one line that names the place; what is right survives a round trip."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from imuvid import config
from imuvid.errors import UserError
from imuvid.ood.config import OODConfig
from imuvid.training.config import PretrainConfig
from shards.config import BuildConfig

CONFIGS = Path(__file__).parents[2] / "configs"
# What a file may leave to the command line.
WORDS = {
    "pretrain": ["name=a", "data.path=b"],
    "gopro.yaml": ["source.gopro.paths=[a.mp4]"],
    "aria.yaml": ["source.aria.paths=[a.vrs]"],
    "ego4d.yaml": ["source.ego4d.root=a"],
}


@dataclass
class Inner:
    rate_hz: float = 50.0
    channels: list[int] = field(default_factory=lambda: [1, 2])
    weights: str | None = None


@dataclass
class Outer:
    name: str = "???"
    steps: int = 10
    inner: Inner = field(default_factory=Inner)


def mistake(path: Path | None, *words: str) -> str:
    with pytest.raises(UserError) as caught:
        config.load(Outer, path, words)
    message = str(caught.value)
    assert "\n" not in message
    assert "Traceback" not in message
    return message


def write(folder: Path, text: str) -> Path:
    path = folder / "c.yaml"
    path.write_text(text)
    return path


def test_defaults_then_file_then_words_and_the_last_word_wins(tmp_path):
    path = write(tmp_path, "name: a\ninner:\n  rate_hz: 20\n")
    loaded = config.load(Outer, path, ["inner.rate_hz=30", "inner.channels=[3]", "inner.rate_hz=40", "steps=7"])
    assert loaded == Outer("a", 7, Inner(40.0, [3], None))
    assert config.load(Outer, None, ["name=b"]) == Outer("b")


@pytest.mark.parametrize(
    ("text", "word", "wrong", "near"),
    [
        ("name: a\nstep: 3\n", None, "step", "steps"),
        ("name: a\ninner:\n  rate_h: 3\n", None, "inner.rate_h", "inner.rate_hz"),
        ("name: a\n", "inner.chanels=[1]", "inner.chanels", "inner.channels"),
        ("name: a\n", "rate_hz=3", "rate_hz", "inner.rate_hz"),
    ],
)
def test_unknown_key_names_the_nearest_known_one(tmp_path, text, word, wrong, near):
    path = write(tmp_path, text)
    message = mistake(path, *([word] if word else []))
    assert f"unknown key '{wrong}'" in message
    assert f"did you mean '{near}'?" in message
    assert (word or str(path)) in message


@pytest.mark.parametrize(
    ("text", "words", "parts"),
    [
        ("name: a\nsteps: many\n", [], ["c.yaml", "steps", "many"]),
        ("name: a\n", ["inner.rate_hz=fast"], ["inner.rate_hz=fast", "inner.rate_hz"]),
        ("name: a\ninner: 3\n", [], ["c.yaml", "Inner"]),
        ("steps: 3\n", [], ["c.yaml", "name", "key=value"]),
        ("", [], ["c.yaml", "name"]),
        ("name: [\n", [], ["c.yaml", "YAML"]),
        ("- a\n- b\n", [], ["c.yaml", "list"]),
        ("just words\n", [], ["c.yaml"]),
        ("name: a\n", ["steps"], ["'steps'", "key=value"]),
        ("name: a\n", ["=3"], ["'=3'", "key=value"]),
        ("name: a\n", ["inner.channels=[1"], ["inner.channels=[1"]),
        ("name: a\n", ["steps=${nowhere}"], ["nowhere"]),
    ],
)
def test_mistakes_are_one_line_that_names_the_place(tmp_path, text, words, parts):
    message = mistake(write(tmp_path, text), *words)
    for part in parts:
        assert part in message


def test_file_that_is_missing_a_folder_or_binary(tmp_path):
    assert "nowhere.yaml" in mistake(tmp_path / "nowhere.yaml")
    assert str(tmp_path) in mistake(tmp_path)
    (tmp_path / "b.yaml").write_bytes(bytes(range(256)))
    assert "b.yaml" in mistake(tmp_path / "b.yaml")


def test_a_config_holds_no_code(tmp_path):
    trap = tmp_path / "trap"
    mistake(write(tmp_path, f"name: !!python/object/apply:os.mkdir ['{trap}']\n"))
    assert not trap.exists()


def test_written_yaml_loads_back_equal(tmp_path):
    settings = config.load(
        PretrainConfig,
        None,
        ["name='a: b'", "data.path=/x y", "optimizer.lr=3e-4", "model.imu_tower.patchtst.weights=w"],
    )
    path = write(tmp_path, config.to_yaml(settings))
    assert config.load(PretrainConfig, path) == settings
    assert config.to_dict(settings)["optimizer"]["lr"] == 3e-4


KINDS = {"shards": BuildConfig, "pretrain": PretrainConfig, "ood": OODConfig}
SHIPPED = sorted(path for kind in KINDS for path in (CONFIGS / kind).glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_config_of_the_repository_loads(path):
    loaded = config.load(KINDS[path.parent.name], path, WORDS.get(path.name, []) + WORDS.get(path.parent.name, []))
    assert config.to_dict(loaded)


def test_there_are_configs_of_every_kind():
    assert {path.parent.name for path in SHIPPED} == set(KINDS)
