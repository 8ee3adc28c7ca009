"""Where unfinished work on a dataset lies, and who may do it."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imuvid.data.storage import Store
from imuvid.errors import UserError

WORK_FOLDER = ".build"
"""What unfinished work keeps within the dataset's folder; removed when the dataset is complete."""
LOCK = "lock"
"""Name of the file in the work folder that who works there holds a lock of."""


class Busy(UserError):
    """Another process holds the work folder."""


def work_path(store: Store, work_dir: str | None = None) -> Path:
    """Return the local folder of unfinished work on a dataset: within its own, in ``work_dir``, or in the user's cache.

    Args:
        store: of the dataset.
        work_dir: folder for the work folders of all datasets; None = the dataset's own or, where that is in an object
            store, the user's cache.
    """
    if work_dir is not None:
        base = Path(work_dir).expanduser()
    elif store.local is not None:
        return store.local / WORK_FOLDER
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imuvid"
    return base / hashlib.sha256(store.location.encode()).hexdigest()[:16]


@contextmanager
def work_folder(work: Path, store: Store, shared: bool = False) -> Iterator[None]:
    """Make the folder of unfinished work and hold it: for this process alone, or ``shared`` with parts of a build.

    Raises:
        Busy: another process holds it.
        UserError: it cannot be made.
    """
    try:
        if store.local is not None:
            store.local.mkdir(parents=True, exist_ok=True)
        work.mkdir(parents=True, exist_ok=True)
        lock = (work / LOCK).open("w")
    except OSError as error:
        raise UserError(f"{work}: cannot be written to: {error.strerror}: choose another 'out'") from error
    with lock:
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            raise Busy(f"{store}: another command is writing there: wait for it, or choose another 'out'") from error
        yield
