"""A copy of the run's checkpoints in an object store, for storage that may be lost with its machine.

    URL/NAME/checkpoints/step-00001000/...   MANIFEST.json last
                         latest              replaced last

Copies are made by a thread of rank 0, of the newest checkpoint whenever it is free: training never waits for the store,
and a store that fails costs a line in the log.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import threading
from pathlib import Path

from imuvid.data.storage import Store, sync_path
from imuvid.errors import UserError
from imuvid.manifest import MANIFEST_NAME, manifest_problem
from imuvid.training.checkpoint import LATEST_NAME

log = logging.getLogger(__name__)


class Mirror:
    """Copies checkpoints below ``location``/``name``/checkpoints.

    Args:
        location: URL (or folder) for the runs' copies.
        name: of the run.
        keep: number of newest copies that stay.
        copied: names of the checkpoints that earlier starts may have copied, oldest first.
    """

    def __init__(self, location: str, name: str, keep: int, copied: list[str]):
        self._root, self._keep = f"{location.rstrip('/')}/{name}/checkpoints", keep
        self._next: Path | None = None
        self._copied = copied
        self._changed = threading.Condition()
        self._busy = False
        threading.Thread(target=self._run, daemon=True).start()

    def copy(self, checkpoint: Path) -> None:
        """Have a published checkpoint copied, in place of one that waits."""
        with self._changed:
            self._next = checkpoint
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> None:
        """Wait until the last checkpoint is copied; where it is not in time, say so."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._next is None and not self._busy, timeout_s):
                log.warning(f"{self._root}: the last checkpoint is not copied after {timeout_s:g} s")

    def fetch(self, folder: Path) -> Path | None:
        """Bring the newest copy below ``folder``, and return it; None where there is none.

        Raises:
            UserError: it is damaged.
            OSError: it cannot be reached.
        """
        try:
            name = Path(Store(self._root).read(LATEST_NAME).decode(errors="replace").strip()).name
        except FileNotFoundError:
            return None
        staging, final = folder / f".{name}.tmp", folder / name
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        (staging / MANIFEST_NAME).write_bytes(self._store(name, MANIFEST_NAME).read(MANIFEST_NAME))
        try:
            files = list(json.loads((staging / MANIFEST_NAME).read_text())["files"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self._root}/{name}: damaged {MANIFEST_NAME}: {error}") from error
        for file in files:
            target = staging / file
            if staging.resolve() not in target.resolve().parents:
                raise UserError(f"{self._root}/{name}: damaged {MANIFEST_NAME}: it names {file}")
            target.parent.mkdir(parents=True, exist_ok=True)
            self._store(name, file).fetch(target.name, target)
        problem = manifest_problem(staging)
        if problem:
            raise UserError(f"{self._root}/{name}: damaged copy: {problem}")
        os.replace(staging, final)
        sync_path(folder)
        return final

    def _store(self, name: str, file: str) -> Store:
        below = Path(file).parent
        return Store("/".join([self._root, name, *below.parts]))

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._next is not None)
                checkpoint, self._next, self._busy = self._next, None, True
            assert checkpoint is not None
            try:
                self._put(checkpoint)
            except FileNotFoundError:
                log.warning(f"{self._root}: {checkpoint.name} was not copied before a newer one took its place")
            except Exception as error:
                log.warning(f"{self._root}: {checkpoint.name} is not copied: {error}")

    def _put(self, checkpoint: Path) -> None:
        name = checkpoint.name
        files = [*json.loads((checkpoint / MANIFEST_NAME).read_text())["files"], MANIFEST_NAME]
        for file in files:
            self._store(name, file).put(Path(file).name, checkpoint / file)
        Store(self._root).write(LATEST_NAME, f"{name}\n".encode())
        self._copied = [*(each for each in self._copied if each != name), name]
        while len(self._copied) > self._keep:
            old = self._copied.pop(0)
            with contextlib.suppress(FileNotFoundError):  # it was never copied
                manifest = json.loads(self._store(old, MANIFEST_NAME).read(MANIFEST_NAME))
                for file in [MANIFEST_NAME, *manifest["files"]]:
                    self._store(old, file).delete(Path(file).name)
