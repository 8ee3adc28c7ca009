"""Writes checkpoints while training goes on.

    start     every rank hands over copies of its part, and trains on; a thread of each writes, syncs and sums its files
    finish    when all have written: rank 0 writes the manifest, renames the folder, and replaces ``latest``

What fails on one rank fails on all of them, in :meth:`CheckpointWriter.finish`, and the previous checkpoint stays.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch.distributed as dist

from imuvid.data.storage import sync_path
from imuvid.distributed import rank, world_size
from imuvid.manifest import FileSums, file_sums, write_manifest
from imuvid.training.checkpoint import LATEST_NAME, StreamState, checkpoint_name

Parts = dict[str, Callable[[Path], None]]
"""What writes a file, or a folder that no other rank writes to, at the path given; by its name in the checkpoint."""
_NICENESS = 10


class CheckpointWriter:
    """Writes one checkpoint at a time below ``folder``; every rank has one and calls it alike.

    Args:
        folder: the run's ``checkpoints``, on storage that all ranks share.
        keep: number of newest checkpoints that stay.
        keep_every: those of steps that are a multiple of it stay too; 0 for none.
        group: of the ranks' decisions; None for the default one.
    """

    def __init__(self, folder: Path, keep: int, keep_every: int = 0, group: dist.ProcessGroup | None = None):
        self._folder, self._keep, self._keep_every, self._group = folder, keep, keep_every, group
        self._thread: threading.Thread | None = None
        self._name = ""
        self._sums: FileSums = {}
        self._error: BaseException | None = None

    @property
    def pending(self) -> bool:
        """Whether a checkpoint was started that is not published yet; the same on all ranks."""
        return self._thread is not None

    @property
    def writing(self) -> bool:
        """Whether this rank's thread is not through with its part."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, state: StreamState, parts: Parts) -> None:
        """Begin to write a checkpoint; returns at once.

        Args:
            state: position in the stream; written by rank 0.
            parts: this rank's; what they write must not change any more.
        """
        assert not self.pending
        self._name, self._sums, self._error = checkpoint_name(state.step), {}, None
        if rank() == 0:
            text = json.dumps(asdict(state), indent=1, sort_keys=True) + "\n"
            parts = parts | {"stream.json": lambda path: _write_text(path, text)}
        self._thread = threading.Thread(target=self._write, args=(parts,), daemon=True)
        self._thread.start()

    def finish(self) -> Path:
        """Wait until all ranks have written their parts, make the checkpoint the latest and return its folder.

        Raises:
            OSError: on every rank alike, where any could not write (full disk, read-only folder); the previous
                checkpoint stays the latest.
        """
        assert self._thread is not None
        self._thread.join()
        self._thread = None
        final = self._folder / self._name
        try:
            everyone = self._agree(self._sums, self._error, f"checkpoint {final} could not be written")
            error: BaseException | None = None
            if rank() == 0:
                try:
                    self._publish(final, {name: sum_ for sums in everyone for name, sum_ in sums.items()})
                except OSError as caught:
                    error = caught
            self._agree({}, error, f"checkpoint {final} could not be published")
        except OSError:
            if rank() == 0:
                clear_staging(self._folder)
            raise
        return final

    def _write(self, parts: Parts) -> None:
        try:
            with contextlib.suppress(OSError):  # Linux has one for each thread; training goes first
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
            staging = self._staging
            for name, write in parts.items():
                target = staging / name
                target.parent.mkdir(parents=True, exist_ok=True)
                write(target)
                written = [path for path in sorted(target.rglob("*")) if path.is_file()] or [target]
                self._sums |= file_sums(staging, written)
        except BaseException as error:
            self._error = error

    @property
    def _staging(self) -> Path:
        return self._folder / f".{self._name}.tmp"

    def _publish(self, final: Path, sums: FileSums) -> None:
        write_manifest(self._staging, sums)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(self._staging, final)
        sync_path(self._folder)
        pointer = self._folder / f".{LATEST_NAME}.tmp"
        pointer.write_text(final.name + "\n")
        sync_path(pointer)
        os.replace(pointer, self._folder / LATEST_NAME)
        sync_path(self._folder)
        # Of those up to this one: what lies beyond it was damaged, or this one would not have been written again.
        for old in sorted(c for c in self._folder.glob("step-*") if c <= final)[: -self._keep]:
            if not self._stays(old.name):
                shutil.rmtree(old, ignore_errors=True)

    def _stays(self, name: str) -> bool:
        digits = name.removeprefix("step-")
        return self._keep_every > 0 and digits.isdigit() and int(digits) % self._keep_every == 0

    def _agree(self, sums: FileSums, error: BaseException | None, what: str) -> list[FileSums]:
        """Return every rank's sums; an error of one rank becomes one of all, so that none waits for another."""
        if error is not None and not isinstance(error, Exception):
            raise error
        mine = (sums, f"rank {rank()}: {error}" if error is not None else None)
        everyone: list[tuple[FileSums, str | None]] = [mine] * world_size()
        if dist.is_initialized():
            dist.all_gather_object(everyone, mine, group=self._group)
        failed = [problem for _, problem in everyone if problem is not None]
        if failed:
            raise OSError(f"{what}: {failed[0].splitlines()[0]}") from error
        return [sums for sums, _ in everyone]


def clear_staging(folder: Path) -> None:
    """Remove what was left of checkpoints that were not completed; while none is being written, on one rank."""
    for stale in folder.glob(".step-*.tmp"):
        shutil.rmtree(stale, ignore_errors=True)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text)
