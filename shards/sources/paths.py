"""Files that a config names by themselves, by the folder that they are in, or by a glob."""

from __future__ import annotations

import glob
from pathlib import Path

from imuvid.errors import UserError


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
