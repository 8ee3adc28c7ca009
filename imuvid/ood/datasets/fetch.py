"""Downloads of public data sets from their publishers: goes on where it was broken off, checks, unpacks."""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
import re
import shutil
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from dataclasses import dataclass
from email.message import Message
from pathlib import Path, PurePosixPath
from typing import IO, Any

from imuvid.errors import UserError
from imuvid.ood.datasets.recording import Card, Download

logger = logging.getLogger(__name__)

RECEIPT = "fetched.json"
"""Beside the files: size and checksums of each download."""
PARTIAL = ".partial"
TRIES = 5
"""Connections that may break without a byte gained in between."""
WAIT_S = 1.0
"""Pause before the second try, doubled each time, seconds."""
TIMEOUT_S = 60.0
"""Longest silence of a server, seconds."""
CHUNK = 2**20
REPORT_S = 10.0
"""Time between lines about the progress, seconds."""


@dataclass
class FetchReport:
    """What was fetched, or what is to be done by hand."""

    key: str
    folder: str
    files: list[str]
    """Names of the downloads that are there and whole."""
    steps: list[str]
    """What to do, where the publisher's terms allow no download by a program."""

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        if self.steps:
            return self.steps
        return [
            f"{self.folder}: {', '.join(self.files)} fetched and unpacked; imuvid datasets check {self.key} reads it"
        ]


def fetch(card: Card, folder: Path) -> FetchReport:
    """Download and unpack a data set where its terms allow it; else say how to get it. May be called again at any time.

    Args:
        card: of the data set.
        folder: to be made or completed.

    Raises:
        UserError: the server refuses, the connection keeps breaking, a checksum is not the published one, or the disk
            cannot be written.
    """
    terms = f"{card.title}: {card.licence}; cite {card.citation}"
    if not card.downloads:
        steps = [terms, f"Page: {card.homepage}", card.steps, f"Then: imuvid datasets check {card.key} FOLDER"]
        return FetchReport(card.key, str(folder), [], steps)
    logger.info("%s", terms)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for download in card.downloads:
            path = folder / download.name
            if not _is_whole(path):
                _download(download, path)
            if zipfile.is_zipfile(path):
                unpack(path, folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error}): mend it, or fetch into another folder") from error
    return FetchReport(card.key, str(folder), [download.name for download in card.downloads], [])


def damaged_downloads(folder: Path) -> list[str]:
    """Return a line for each download whose content is no longer what was fetched."""
    lines = []
    for name, entry in sorted(_receipt(folder).items()):
        path = folder / name
        if path.is_file() and _digest(path, "sha256") != entry.get("sha256"):
            lines.append(f"{path}: its checksum is no longer that of the download: delete it and fetch again")
    return lines


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a ZIP archive, and archives at the top of it, into a folder; what is there in full is left alone.

    Raises:
        UserError: the archive is damaged, or a member's name leads out of the folder.
    """
    try:
        with zipfile.ZipFile(archive) as content:
            for member in content.infolist():
                name = PurePosixPath(member.filename)
                if name.is_absolute() or ".." in name.parts or "\\" in member.filename:
                    raise UserError(
                        f"{archive}: member '{member.filename}' leads out of the folder: it is not unpacked"
                    )
                target = folder / name
                if member.is_dir():
                    continue
                if not target.is_file() or target.stat().st_size != member.file_size:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    partial = target.with_name(target.name + PARTIAL)
                    with content.open(member) as source, partial.open("wb") as file:
                        shutil.copyfileobj(source, file, CHUNK)
                    os.replace(partial, target)
                if len(name.parts) == 1 and zipfile.is_zipfile(target):
                    unpack(target, folder)
    # zipfile's answers to damage, to a compression that it does not know and to a password.
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{archive}: cannot be unpacked ({error}): delete it and fetch again") from error


def _download(download: Download, path: Path) -> None:
    partial = path.with_name(path.name + PARTIAL)
    failures, size = 0, None
    while size is None:
        before = partial.stat().st_size if partial.is_file() else 0
        reason = "the connection broke"
        try:
            size = _go_on(download.url, partial)
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 429:
                raise UserError(f"{download.url}: the server says {error.code} {error.reason}: see the page") from error
            reason = f"the server says {error.code}"
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        if size is None:
            gained = (partial.stat().st_size if partial.is_file() else 0) > before
            failures = 0 if gained else failures + 1
            if failures >= TRIES:
                raise UserError(
                    f"{download.url}: {reason}, {TRIES} times in a row: try again later, it goes on where it was"
                )
            logger.info("%s: %s, going on", path.name, reason)
            time.sleep(WAIT_S * 2 ** max(0, failures - 1))
    entry = {"url": download.url, "size": size, "sha256": _digest(partial, "sha256")}
    if download.md5 is not None and _digest(partial, "md5") != download.md5:
        partial.unlink()
        raise UserError(
            f"{download.url}: its MD5 is not the published {download.md5}: fetch again; if it stays so, the publisher "
            "has changed the file"
        )
    os.replace(partial, path)
    _state_of(partial).unlink(missing_ok=True)
    receipt = _receipt(path.parent) | {path.name: entry}
    (path.parent / RECEIPT).write_text(json.dumps(receipt, indent=1) + "\n")


def _go_on(url: str, partial: Path) -> int | None:
    """Get what is missing of a file; return its size once it is whole, None if the connection ended before.

    The version of the file (ETag or time of change) is kept beside it, so that parts of two versions are never joined.
    """
    state = _state_of(partial)
    offset = partial.stat().st_size if partial.is_file() else 0
    version = _version(state)
    request = urllib.request.Request(url, headers={"User-Agent": "imuvid", "Accept-Encoding": "identity"})
    if offset and version is not None:  # without one, it is not known that the rest would belong to the same file
        request.add_header("Range", f"bytes={offset}-")
        request.add_header("If-Range", version)
    try:
        response = _OPENER.open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        if error.headers.get("Content-Range") == f"bytes */{offset}":
            return offset  # there is nothing more: the program was stopped between the last byte and the check
        partial.unlink()
        return None
    with response:
        if response.status != 206:
            offset = 0
        total = _total(response.headers, offset, response.status == 206)
        strong = response.headers.get("ETag", "")
        version = strong if strong and not strong.startswith("W/") else response.headers.get("Last-Modified")
        state.write_text(json.dumps({"version": version}))
        got = _copy(response, partial, offset, total)
    return got if total is None or got == total else None


def _version(state: Path) -> str | None:
    try:
        return json.loads(state.read_text())["version"] if state.is_file() else None
    except (ValueError, KeyError, TypeError):
        return None  # stopped while it was written: begin anew


def _copy(response: Any, partial: Path, offset: int, total: int | None) -> int:
    """Append a response to a file from ``offset`` on; return the file's size."""
    got, since, told = offset, time.monotonic(), time.monotonic()
    with partial.open("r+b" if offset else "wb") as file:
        file.seek(offset)
        file.truncate()
        while True:
            try:
                chunk = response.read1(CHUNK)
            except http.client.IncompleteRead as error:
                file.write(error.partial)
                raise
            if not chunk:
                return got
            file.write(chunk)
            got += len(chunk)
            if time.monotonic() - told > REPORT_S:
                told = time.monotonic()
                rate = (got - offset) / (told - since)
                left = f", {(total - got) / rate:.0f} s left" if total is not None and rate > 0 else ""
                logger.info("%s: %.0f MB at %.1f MB/s%s", partial.name, got / 1e6, rate / 1e6, left)


def _total(headers: Message, offset: int, is_part: bool) -> int | None:
    """Return the size of the whole file, where the server says it."""
    if is_part:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", ""))
        if match is None or int(match[1]) != offset:
            raise http.client.HTTPException("the server sends another part than the one asked for")
        return int(match[2])
    length = headers.get("Content-Length")
    return int(length) if length is not None else None


class _KeepEncryption(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise UserError(f"{req.full_url}: the server leads to {newurl}, which is not encrypted: see the page")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_KeepEncryption)


def _is_whole(path: Path) -> bool:
    entry = _receipt(path.parent).get(path.name)
    return entry is not None and path.is_file() and path.stat().st_size == entry.get("size")


def _receipt(folder: Path) -> dict[str, dict]:
    path = folder / RECEIPT
    try:
        return json.loads(path.read_text()) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path}: is not valid JSON: delete it and fetch again") from error


def _state_of(partial: Path) -> Path:
    return partial.with_name(partial.name + ".json")


def _digest(path: Path, kind: str) -> str:
    digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
