"""``imuvid datasets``: the commands as a user gives them."""

from __future__ import annotations

import json
import sys

import pytest

from launcher import cli
from tests.imuvid.ood.test_public_readers import write


@pytest.fixture
def run(monkeypatch, capsys):
    """run(words) -> (exit code, what is printed), in this process and as no rank."""
    monkeypatch.delenv("RANK", raising=False)

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["imuvid", "datasets", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return caught.value.code or 0, captured.out + captured.err

    return run


def test_list_names_every_data_set_and_says_whether_it_was_tried(run, tmp_path):
    code, output = run("list", "--json", tmp_path / "list.json")
    assert code == 0
    records = {record["name"]: record for record in json.loads((tmp_path / "list.json").read_text())}
    assert len(records) == len(output.splitlines()) - 1 == 30
    assert {name for name, record in records.items() if record["tried_on_published_files"]} == {
        *("hapt", "utd_mhad", "spar", "daphnet", "stanford_fog")
    }
    assert records["pamap2"]["common_labels"] == [
        *("cycling", "lying", "running", "sitting", "stairs_down", "stairs_up", "standing", "walking")
    ]


def test_fetch_prints_the_steps_where_a_program_may_not(run, tmp_path):
    code, output = run("fetch", "pads", tmp_path / "pads")
    assert code == 0
    assert "physionet.org" in output
    assert "imuvid datasets check pads" in output


def test_check_counts_and_exits_with_1_where_something_is_missing(run, tmp_path, monkeypatch):
    write("harth", tmp_path / "harth")
    code, output = run("check", "harth", tmp_path / "harth", "--json", tmp_path / "check.json")
    assert code == 1
    assert "2 people, published are 22" in output
    assert json.loads((tmp_path / "check.json").read_text())["subjects"] == 2
    monkeypatch.setenv("IMUVID_REALDATA", str(tmp_path))
    assert run("check", "harth") == (1, output)


@pytest.mark.parametrize("words", [("fetch", "harthh"), ("check", "harthh"), ("check", "harth", "/nowhere")])
def test_mistakes_give_one_line_and_exit_2(run, words):
    code, output = run(*words)
    assert code == 2
    assert output.count("\n") == 1
    assert output.startswith("imuvid: ")
