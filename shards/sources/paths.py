"""Files that a config names by themselves, by the folder that they are in, or by a glob, and what they are called."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from imuvid.errors import UserError


def find_files(key: str, entries: Iterable[str], suffixes: tuple[str, ...], what: str) -> dict[Path, str]:
    """Return each file that a list of paths names, once, and the name of its recording.

    The name is the path below the folder (or glob) that the file was found by first.

    Args:
        key: of the list in the config, for messages.
        entries: of the list; see :func:`expand`.
        suffixes: of the files that are meant, in lower case, with the dot.
        what: is looked for, for messages.

    Raises:
        UserError: there are no entries, or :func:`expand` raises.
    """
    found: dict[Path, str] = {}
    for entry in entries:
        for path, root in expand(key, entry, suffixes):
            name = re.sub(r"[^A-Za-z0-9_-]+", "-", str(path.relative_to(root).with_suffix("")))
            found.setdefault(path.resolve(), name)
    if not found:
        raise UserError(f"{key}: names no {what}: list files, folders or globs")
    return found


def sorted_by_name(key: str, paths: Iterable[Path], names: Mapping[Path, str]) -> list[Path]:
    """Return files sorted by the names of their recordings.

    Raises:
        UserError: two would have the same name.
    """
    by_name: dict[str, Path] = {}
    for path in paths:
        other = by_name.setdefault(names[path], path)
        if other != path:
            raise UserError(
                f"{key}: {other} and {path} would both be recording '{names[path]}': "
                "name the folder that holds both, or rename one"
            )
    return [by_name[name] for name in sorted(by_name)]


def expand(key: str, entry: str, suffixes: tuple[str, ...]) -> list[tuple[Path, Path]]:
    """Return (file, folder that its name is relative to) for an entry of a list of paths.

    Args:
        key: of the list in the config, for messages.
        entry: a file (whatever it is called), a folder (searched through all levels) or a glob (``**`` spans levels).
        suffixes: of the files that are meant, in lower case, with the dot.

    Raises:
        UserError: there is no such file or folder, or no file that is meant in it.
    """
    path = Path(entry).expanduser()
    if path.is_file():
        return [(path, path.parent)]
    if path.is_dir():
        root, matches = path, path.rglob("*")
    elif glob.has_magic(entry):
        parts = path.parts
        fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
        root = Path(*parts[:fixed])
        matches = (Path(match) for match in glob.iglob(str(path), recursive=True))
    else:
        raise UserError(f"{key}: there is no file or folder {path}")
    # Disks that a Mac has touched hold a "._NAME" without content beside each file.
    files = [
        match
        for match in matches
        if match.suffix.lower() in suffixes and not match.name.startswith(".") and match.is_file()
    ]
    if not files:
        raise UserError(f"{key}: there is no {' or '.join(suffixes)} file in {path}")
    return [(file, root) for file in files]
