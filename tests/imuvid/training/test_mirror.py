"""Checkpoints are copied to an object store, brought back from it, and training never waits for it."""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path

import pytest

from imuvid.data import object_store
from imuvid.errors import UserError
from imuvid.manifest import manifest_problem
from imuvid.training.mirror import Mirror
from tests.imuvid.training.test_checkpoint import save
from tests.object_store import s3_server


def names(client, bucket: str) -> set[str]:
    return {each["Key"] for each in client.list_objects_v2(Bucket=bucket).get("Contents", [])}


@pytest.mark.slow
def test_the_newest_are_copied_and_come_back_whole(tmp_path):
    with s3_server() as server:
        url = server.make_bucket("mirror")
        mirror = Mirror(url, "run", 2, [])
        assert mirror.fetch(tmp_path / "empty") is None
        for step in (10, 20, 30):
            mirror.copy(save(tmp_path / "own", step))
            mirror.wait(60)
        kept = names(server.client(), "mirror")
        assert {key.split("/")[2] for key in kept} == {"step-00000020", "step-00000030", "latest"}
        back = Mirror(url, "run", 2, []).fetch(tmp_path / "new")
        assert back == tmp_path / "new/step-00000030"
        assert manifest_problem(back) is None
        own = tmp_path / "own/step-00000030"
        for path in own.rglob("*"):
            if path.is_file():
                assert (back / path.relative_to(own)).read_bytes() == path.read_bytes()
        server.client().put_object(Bucket="mirror", Key="run/checkpoints/step-00000030/engine/weights.pt", Body=b"x")
        with pytest.raises(UserError, match=r"damaged copy: .*weights\.pt: has 1 bytes"):
            mirror.fetch(tmp_path / "third")
        assert not (tmp_path / "third/step-00000030").exists()


def test_a_store_that_fails_costs_a_line(tmp_path, caplog, monkeypatch):
    def fails(*_: object, **__: object) -> None:
        time.sleep(0.2)
        raise object_store.StorageError("s3://nowhere: cannot be written")

    monkeypatch.setattr("imuvid.training.mirror.Store.put", fails)
    mirror = Mirror(str(tmp_path / "copies"), "run", 2, [])
    checkpoint = save(tmp_path / "own", 10)
    with caplog.at_level(logging.WARNING):
        began = time.monotonic()
        mirror.copy(checkpoint)
        assert time.monotonic() - began < 0.1
        mirror.wait(10)
    assert "step-00000010 is not copied: s3://nowhere: cannot be written" in caplog.text
    assert manifest_problem(checkpoint) is None


def test_a_store_that_stalls_is_waited_for_no_longer_than_said(tmp_path, caplog, monkeypatch):
    stalled = threading.Event()

    def stalls(*_: object, **__: object) -> None:
        stalled.wait(30)

    monkeypatch.setattr("imuvid.training.mirror.Store.put", stalls)
    mirror = Mirror(str(tmp_path / "copies"), "run", 2, [])
    with caplog.at_level(logging.WARNING):
        mirror.copy(save(tmp_path / "own", 10))
        mirror.copy(save(tmp_path / "own", 20))  # training goes on, and does not wait either
        began = time.monotonic()
        mirror.wait(0.3)
        assert time.monotonic() - began < 2
    stalled.set()
    assert "the last checkpoint is not copied after 0.3 s" in caplog.text


@pytest.mark.parametrize("name", ["../../escaped", "/etc/escaped"])
def test_a_manifest_does_not_lead_out_of_the_folder(tmp_path, name):
    copies = tmp_path / "copies/run/checkpoints"
    (copies / "step-00000010").mkdir(parents=True)
    (copies / "latest").write_text("step-00000010\n")
    text = json.dumps({"files": {name: {"size": 1, "sha256": "0"}}})
    (copies / "step-00000010/MANIFEST.json").write_text(text)
    with pytest.raises(UserError, match="escaped"):
        Mirror(str(tmp_path / "copies"), "run", 2, []).fetch(Path(tmp_path / "new"))
