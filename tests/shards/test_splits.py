"""Identifiers without names, the secret salt, and splits that stay as they are when data is added."""

from __future__ import annotations

import json
import stat

import pytest

from imuvid.errors import UserError
from shards.config import SplitConfig, SubjectsConfig, check
from shards.splits import Identities, public_config, salt_of, split_by_hash
from tests.shards.recordings import build_config


def test_secret_salt_is_made_once_and_only_its_user_can_read_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    salt = salt_of(SubjectsConfig())
    path = tmp_path / "config" / "imuvid" / "salt"
    assert salt == salt_of(SubjectsConfig())
    assert len(salt) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["salt"]


def test_damaged_secret_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "imuvid").mkdir()
    (tmp_path / "imuvid" / "salt").write_text("")
    with pytest.raises(UserError, match="holds no salt"):
        salt_of(SubjectsConfig())


def test_identifiers_hang_on_the_salt_and_hide_the_name():
    one, other = Identities("a", SplitConfig()), Identities("b", SplitConfig())
    assert one.subject("Ada") == one.subject("Ada") != other.subject("Ada")
    assert one.subject(None) is None
    assert "Ada" not in str(one.subject("Ada")) + one.recording("Ada")
    assert len(one.recording("Ada")) == 13


def test_shares_of_the_hash_are_those_asked_for():
    splits = [split_by_hash(f"s{i:012x}", 0.2, 0.1) for i in range(5000)]
    assert splits.count("val") / 5000 == pytest.approx(0.2, abs=0.02)
    assert splits.count("test") / 5000 == pytest.approx(0.1, abs=0.02)


def test_subject_decides_and_recording_where_there_is_none():
    identities = Identities("x", SplitConfig(val=0.3, test=0.3))
    for subject in map(str, range(20)):
        assert len({identities.split_of(f"rec{i}", subject) for i in range(10)}) == 1
    assert len({identities.split_of(f"rec{i}", None) for i in range(50)}) == 3


def test_lists_rule_where_there_are_any():
    identities = Identities("x", SplitConfig(val=0.9, test=0.1, val_subjects=["7"], test_subjects=["8"]))
    assert [identities.split_of("r", name) for name in ("7", "8", "1", None)] == ["val", "test", "train", "train"]


def test_public_config_tells_no_place_name_or_salt(tmp_path):
    config = build_config(tmp_path / "manifest.csv", tmp_path / "out", "split.val_subjects=[Ada]")
    described = public_config(config, Identities("test-salt", config.split))
    text = json.dumps(described)
    assert str(tmp_path) not in text
    assert "manifest.csv" not in text
    assert "Ada" not in text
    assert "test-salt" not in text
    assert described["source"]["paired"]["time_unit"] == "s"
    for word, same in [("build.workers=7", True), ("window.hop_s=0.5", False), ("split.val_subjects=[Eva]", False)]:
        other = build_config(tmp_path / "manifest.csv", tmp_path / "out", "split.val_subjects=[Ada]", word)
        assert (public_config(other, Identities("test-salt", other.split))["digest"] == described["digest"]) == same


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("source.kind=gropo", "source.kind=gropo: must be one of gopro, aria, ego4d, paired, simulated"),
        ("source.kind=gopro", "source.gopro: the section of this kind of source is missing"),
        ("window.length_s=0", "window.length_s=0.0: must be above 0"),
        ("window.min_share=0", "window.min_share=0.0: must be above 0 and at most 1"),
        ("frames.fit=stretch", "frames.fit=stretch: must be one of crop, pad, squash"),
        ("split.test=0.95", "split.test=0.95: must be 0 to 1, with split.val at most 1"),
        ("positions=[head,head]", "must not name a position twice"),
        ("name=a/b", "name=a/b: must hold letters"),
    ],
)
def test_values_out_of_range_are_named(tmp_path, word, message):
    with pytest.raises(UserError, match=message):
        check(build_config(tmp_path / "m.csv", tmp_path, word))


def test_subject_in_both_lists_is_refused(tmp_path):
    config = build_config(tmp_path / "m.csv", tmp_path, "split.val_subjects=[a,b]", "split.test_subjects=[b]")
    with pytest.raises(UserError, match="subject 'b' is listed in val_subjects and in test_subjects"):
        check(config)
