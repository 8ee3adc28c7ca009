"""Ego4D: which videos, and which split each person is in."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from imuvid.errors import UserError
from shards.sources.ego4d import Ego4DConfig, Ego4DSource
from tests.shards.sources.ego4d_files import UID, VideoSpec, annotations, listed, read, split_files, uid, write_ego4d


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos 0 and 1 of person 1, 2 and 3 of person 2, 4 of person 3, 5 and 6 of nobody known, 7 (person 1) no IMU."""
    people = [1, 1, 2, 2, 3, None, None, 1]
    specs = [
        VideoSpec(uid(n), person, "cmu" if n < 4 else "unict", 0.2, has_imu=n != 7, imu=n != 7)
        for n, person in enumerate(people)
    ]
    return write_ego4d(tmp_path_factory.mktemp("ego4d"), specs)


def test_videos_with_imu_that_are_downloaded_and_pass_the_filters(many: Path, tmp_path: Path, caplog):
    assert list(listed(many)) == [uid(n) for n in range(7)]
    assert set(listed(many).values()) == {None}
    assert list(listed(many, universities=["unict"])) == [uid(4), uid(5), uid(6)]
    assert list(listed(many, max_recordings=2)) == [uid(0), uid(1)]
    (tmp_path / "uids.txt").write_text(f"{uid(3)}\n{uid(5)} {uid(7)}\nno-longer-there\n")
    assert list(listed(many, uids=str(tmp_path / "uids.txt"))) == [uid(3), uid(5)]
    assert "1 of its 4 videos are not in ego4d.json" in caplog.text
    hidden = many / "v2" / "video_540ss" / f"{uid(0)}.mp4"
    hidden.rename(hidden.with_suffix(".part"))
    assert uid(0) not in listed(many)
    assert "1 of 7 videos with IMU are not in" in caplog.text
    hidden.with_suffix(".part").rename(hidden)
    source = pickle.loads(pickle.dumps(Ego4DSource(Ego4DConfig(root=str(many)))))
    assert len(pickle.loads(pickle.dumps(source.list()))) == 7


def test_folders_of_versions_and_sizes(tmp_path: Path):
    root = write_ego4d(tmp_path, [VideoSpec(UID)], "full_scale", "v1")
    assert read(root).video == root / "v1" / "full_scale" / f"{UID}.mp4"
    write_ego4d(root, [VideoSpec(UID)], "full_scale", "v2")
    assert read(root).video == root / "v2" / "full_scale" / f"{UID}.mp4"
    write_ego4d(root, [VideoSpec(UID)], "video_540ss", "v2")
    assert read(root).video == root / "v2" / "video_540ss" / f"{UID}.mp4"
    (root / "v2_1" / "annotations").mkdir(parents=True)
    assert read(root).video == root / "v2" / "video_540ss" / f"{UID}.mp4"
    assert read(root, video="full_scale", version="v1").video == root / "v1" / "full_scale" / f"{UID}.mp4"
    with pytest.raises(UserError, match=r"no folder .*v1/video_540ss"):
        read(root, video="video_540ss", version="v1")
    with pytest.raises(UserError, match=r"no folder .*v3/imu"):
        read(root, version="v3")


def test_a_person_is_in_one_split_and_held_out_wins(many: Path, tmp_path: Path):
    train, val, test = [uid(0), uid(2), uid(4), uid(5)], [uid(1), uid(5)], {"clips": [{"video_uid": uid(3)}]}
    files = split_files(tmp_path, train=annotations(*train), val=val, test=test)
    expected = {0: "val", 1: "val", 2: "test", 3: "test", 4: "train", 5: "val"}
    assert listed(many, split_files=files) == {uid(n): split for n, split in expected.items()}
    assert listed(many, split_files=files, unlisted="train") == {
        uid(n): s for n, s in (expected | {6: "train"}).items()
    }
    assert listed(many, split_files=files, unlisted="hash") == {uid(n): s for n, s in (expected | {6: None}).items()}
    source = Ego4DSource(Ego4DConfig(root=str(many), split_files=files))
    assert source.open(source.list()[0]).split == "val"


def test_unlisted_videos_follow_their_person_and_held_out_videos_need_no_imu(many: Path, tmp_path: Path):
    text = tmp_path / "train.txt"
    text.write_text(f"{uid(0)}\n{uid(2)}\n")
    files = {"train": str(text)} | split_files(tmp_path, test=[uid(7)])
    assert listed(many, split_files=files) == {uid(0): "test", uid(2): "train"}
    followed = {0: "test", 1: "test", 2: "train", 3: "train", 4: None, 5: None, 6: None}
    assert listed(many, split_files=files, unlisted="hash") == {uid(n): split for n, split in followed.items()}


def test_mistakes_of_the_user(many: Path, tmp_path: Path):
    strange = tmp_path / "strange.json"
    strange.write_text('{"version": "v2"}')
    broken = tmp_path / "broken.json"
    broken.write_text('["' + uid(0))
    for config, message in (
        ({"root": str(tmp_path / "nowhere")}, "there is no .*ego4d.json"),
        ({"universities": ["mit"]}, "no 'mit' in ego4d.json, only cmu, unict"),
        ({"unlisted": "test"}, "unlisted=test: must be one of skip, train, hash"),
        ({"max_recordings": 0}, "max_recordings=0"),
        ({"uids": str(tmp_path / "nowhere.txt")}, "ego4d.uids: there is no file"),
        ({"uids": str(strange)}, "names no video of ego4d.json"),
        ({"uids": str(broken)}, "broken.json: cannot be read"),
        ({"split_files": {"training": str(strange)}}, "'training' is none of train, val, test"),
        ({"split_files": {"val": str(strange)}}, r"names no video of ego4d.json \(ego4d.split_files.val\)"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            listed(**({"root": many} | config))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"videos": 3}',
        '{"videos": [{"has_imu": true}]}',
        '{"videos": [{"video_uid": "../x"}]}',
        "[" * 99999,
    ],
)
def test_damaged_metadata(tmp_path: Path, content: str):
    (tmp_path / "ego4d.json").write_text(content)
    with pytest.raises(UserError, match=r"ego4d\.json: is no ego4d\.json"):
        listed(tmp_path)


def test_participants_that_a_table_made_floats_of(tmp_path: Path):
    root = write_ego4d(tmp_path, [VideoSpec(UID)])
    path = root / "ego4d.json"
    for number, subject in ((12.0, "12"), ("12", "12"), (float("nan"), None), (0, "0"), (None, None)):
        content = json.loads(path.read_text())
        content["videos"][0]["fb_participant_id"] = number
        path.write_text(json.dumps(content))
        assert read(root).subject == subject
