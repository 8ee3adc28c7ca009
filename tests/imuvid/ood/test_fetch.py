"""Downloads from a server on loopback that behaves as servers do: ranges, breaks, new versions, refusals."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import json
import threading
import time
import zipfile

import numpy as np
import pytest

from imuvid.errors import UserError
from imuvid.ood.datasets import fetch as module
from imuvid.ood.datasets.catalog import CARDS
from imuvid.ood.datasets.fetch import damaged_downloads, fetch, unpack
from imuvid.ood.datasets.recording import Download
from tests.imuvid.ood.official.writer import zipped

CONTENT = np.random.default_rng(0).bytes(300_000)


class Server(http.server.ThreadingHTTPServer):
    """One file. Attributes are changed by the tests."""

    content, version = CONTENT, '"one"'
    ranges, breaks_after, breaks, refuses, hangs = True, 100_000, 0, [], False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str | None] = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/file.bin"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.requests.append(asked)
        if server.refuses:
            return self.send_error(server.refuses.pop(0))
        if server.hangs:
            time.sleep(2)
        start = 0
        if asked and server.ranges and self.headers.get("If-Range") == server.version:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(server.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(server.content)}")
                return self.end_headers()
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        else:
            self.send_response(200)
        body = server.content[start:]
        self.send_header("Content-Length", str(len(body)))
        if server.version:
            self.send_header("ETag", server.version)
        self.end_headers()
        if server.breaks > 0:
            server.breaks -= 1
            self.wfile.write(body[: server.breaks_after])
            self.close_connection = True
        else:
            self.wfile.write(body)
        return None

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(module, "WAIT_S", 0.001)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()


def card(server, **download):
    download = {"md5": hashlib.md5(server.content).hexdigest()} | download
    return dataclasses.replace(CARDS["hapt"], downloads=(Download(server.url, "file.bin", **download),))


def whole(folder):
    return (folder / "file.bin").read_bytes() == CONTENT and not list(folder.glob("*.partial*"))


def test_a_file_is_fetched_once_with_a_receipt(server, tmp_path):
    report = fetch(card(server), tmp_path)
    assert report.files == ["file.bin"]
    assert whole(tmp_path)
    receipt = json.loads((tmp_path / "fetched.json").read_text())["file.bin"]
    assert receipt["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    fetch(card(server), tmp_path)
    assert len(server.requests) == 1


def test_a_broken_connection_goes_on_where_it_was(server, tmp_path):
    server.breaks = 2
    fetch(card(server), tmp_path)
    assert whole(tmp_path)
    assert server.requests == [None, "bytes=100000-", "bytes=200000-"]


def test_a_later_call_goes_on_where_the_first_gave_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TRIES", 2)
    server.breaks, server.refuses = 1, []
    monkeypatch.setattr(
        module.time, "sleep", lambda _: server.refuses.extend([503, 503]) if not server.refuses else None
    )
    with pytest.raises(UserError, match="the server says 503, 2 times in a row: try again later, it goes on where it"):
        fetch(card(server), tmp_path)
    server.refuses.clear()
    fetch(card(server), tmp_path)
    assert whole(tmp_path)
    assert server.requests[-1] == "bytes=100000-"


@pytest.mark.parametrize("version", ['"one"', None])
def test_a_server_without_ranges_or_versions_sends_all_again(server, tmp_path, version):
    server.breaks, server.ranges, server.version = 1, version is None, version
    fetch(card(server), tmp_path)
    assert whole(tmp_path)


def test_parts_of_two_versions_are_never_joined(server, tmp_path, monkeypatch):
    server.breaks, server.content = 1, bytes(300_000)

    def change(_):
        server.content, server.version = CONTENT, '"two"'

    monkeypatch.setattr(module.time, "sleep", change)
    fetch(card(server, md5=hashlib.md5(CONTENT).hexdigest()), tmp_path)
    assert whole(tmp_path)
    assert server.requests == [None, "bytes=100000-"]


def test_stopped_between_the_last_byte_and_the_check(server, tmp_path):
    (tmp_path / "file.bin.partial").write_bytes(CONTENT)
    (tmp_path / "file.bin.partial.json").write_text('{"version": "\\"one\\""}')
    fetch(card(server), tmp_path)
    assert whole(tmp_path)
    assert server.requests == [f"bytes={len(CONTENT)}-"]


def test_what_cannot_be_fetched_gives_one_line(server, tmp_path, monkeypatch):
    server.refuses = [404]
    with pytest.raises(UserError, match="the server says 404 Not Found"):
        fetch(card(server), tmp_path)
    with pytest.raises(UserError, match="its MD5 is not the published 0000"):
        fetch(card(server, md5="0000"), tmp_path)
    assert not (tmp_path / "file.bin").exists()
    monkeypatch.setattr(module, "TRIES", 1)
    monkeypatch.setattr(module, "TIMEOUT_S", 0.2)
    server.hangs = True
    with pytest.raises(UserError, match="timed out"):
        fetch(card(server), tmp_path)
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match=r"[Rr]efused"):
        fetch(card(server), tmp_path)


def test_a_disk_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        fetch(card(server), tmp_path / "file" / "folder")


def test_a_changed_download_is_noticed(server, tmp_path):
    fetch(card(server), tmp_path)
    assert damaged_downloads(tmp_path) == []
    (tmp_path / "file.bin").write_bytes(CONTENT[:-1] + b"?")
    assert "checksum is no longer that of the download" in damaged_downloads(tmp_path)[0]


def test_archives_and_those_within_are_unpacked(server, tmp_path):
    inner = zipped({"data/a.txt": "1"})
    server.content = zipped({"readme.txt": "x", "inner.zip": inner, "deep/kept.zip": inner})
    fetch(card(server), tmp_path)
    assert (tmp_path / "data/a.txt").read_text() == "1"
    assert zipfile.is_zipfile(tmp_path / "deep/kept.zip")
    (tmp_path / "data/a.txt").unlink()
    fetch(card(server), tmp_path)
    assert (tmp_path / "data/a.txt").read_text() == "1"
    assert len(server.requests) == 1


@pytest.mark.parametrize("name", ["../out.txt", "/out.txt", "a/../../out.txt"])
def test_a_member_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    archive = tmp_path / "in" / "a.zip"
    archive.parent.mkdir()
    archive.write_bytes(zipped({name: "x"}))
    with pytest.raises(UserError, match="leads out of the folder"):
        unpack(archive, tmp_path / "in")
    assert not (tmp_path / "out.txt").exists()


def test_a_damaged_archive_gives_one_line(tmp_path):
    content = bytearray(zipped({"a.txt": bytes(np.random.default_rng(0).bytes(5000))}))
    content[1000] ^= 255
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(UserError, match="cannot be unpacked"):
        unpack(tmp_path / "a.zip", tmp_path)
    assert not (tmp_path / "a.txt").exists()


def test_where_the_terms_want_a_click_the_steps_are_given(tmp_path):
    report = fetch(CARDS["weargait_pd"], tmp_path / "new")
    assert any("synapse get -r syn52540892" in line for line in report.lines())
    assert not (tmp_path / "new").exists()
