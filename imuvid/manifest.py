"""MANIFEST.json: size and sha256 of every file of a checkpoint folder, written last."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from imuvid.data.storage import sync_path

MANIFEST_NAME = "MANIFEST.json"
FileSums = dict[str, dict[str, int | str]]
"""{"size", "sha256"} of files, by their paths within the folder."""


def file_sums(folder: Path, paths: list[Path]) -> FileSums:
    """Have the disk hold files of a folder, and read back what they are."""
    sums: FileSums = {}
    for path in paths:
        sync_path(path)
        sums[str(path.relative_to(folder))] = {"size": path.stat().st_size, "sha256": _sha256(path)}
    return sums


def write_manifest(folder: Path, sums: FileSums) -> None:
    """Write the manifest of a folder, and have the disk hold it and all names there."""
    manifest = folder / MANIFEST_NAME
    manifest.write_text(json.dumps({"format": 1, "files": sums}, indent=1, sort_keys=True) + "\n")
    sync_path(manifest)
    for directory in {path.parent for path in folder.rglob("*")}:
        sync_path(directory)


def manifest_problem(folder: Path, below: str = "") -> str | None:
    """Return what is wrong with a folder in one line, None if its files are as its manifest says.

    Args:
        folder: with the manifest.
        below: look only at files whose path within the folder begins so; there must be one.
    """
    try:
        files = json.loads((folder / MANIFEST_NAME).read_text())["files"]
        chosen = {name: expected for name, expected in files.items() if name.startswith(below)}
        if not chosen:
            return f"{folder}: {MANIFEST_NAME} names no file {below}"
        for name, expected in chosen.items():
            path = folder / name
            if path.stat().st_size != expected["size"]:
                return f"{path}: has {path.stat().st_size} bytes instead of {expected['size']}"
            if _sha256(path) != expected["sha256"]:
                return f"{path}: its content has changed"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{folder}: no valid {MANIFEST_NAME}: {error}"
    return None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
