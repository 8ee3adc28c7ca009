"""Checkpoints that either exist whole or not at all.

    checkpoints/step-00001000/engine/        model and optimiser, as DeepSpeed writes them
                              stream.json    position in the sequence of samples
                              encoder/       the IMU tower, for every later use
                              video_encoder/ the video tower, to embed the videos of datasets without pictures
                              MANIFEST.json  size and sha256 of every file: written last
    checkpoints/latest                       name of the newest one: changed last, atomically

A checkpoint is written under a temporary name, and renamed when its manifest is on the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch.distributed as dist

from imuvid.data.storage import sync_path
from imuvid.distributed import rank
from imuvid.errors import UserError

MANIFEST_NAME = "MANIFEST.json"
LATEST_NAME = "latest"


@dataclass
class StreamState:
    """Where the run is in the sequence of samples; with the config that is all that the order depends on."""

    step: int
    """Steps done; the next one to do has this number."""
    samples_seen: int
    """Over all ranks and epochs."""
    seed: int
    batch_size: int
    """Global."""
    fingerprint: str
    """Of the dataset (DatasetInfo.fingerprint); of a mixture, weight * fingerprint of each, joined by +."""
    corrupt: dict[str, str] = field(default_factory=dict)
    """Corrupt samples that were replaced by now, with the reasons; no more than data.max_corrupt."""
    format: int = 1


def save_checkpoint(
    folder: Path,
    state: StreamState,
    write_engine: Callable[[Path], None],
    write_encoder: Callable[[Path], None],
    keep: int,
    write_video_encoder: Callable[[Path], None] | None = None,
) -> Path:
    """Write checkpoint ``state.step`` below ``folder`` and make it the latest. Every rank must call it.

    Args:
        folder: the run's ``checkpoints``, on storage that all ranks share.
        state: position in the stream.
        write_engine: writes this rank's part into the given folder; called on every rank.
        write_encoder: writes the encoder into the given folder; called on every rank, writes on rank 0.
        keep: number of checkpoints that stay; older ones are deleted.
        write_video_encoder: as ``write_encoder``; None where there is no tower of pictures.

    Raises:
        OSError: on every rank alike, where any could not write (full disk, read-only folder); the previous
            checkpoint stays the latest.
    """
    name = f"step-{state.step:08d}"
    staging, final = folder / f".{name}.tmp", folder / name
    with _agreed(f"checkpoint {final} could not be started"):
        if rank() == 0:
            for stale in folder.glob(".step-*.tmp"):
                shutil.rmtree(stale, ignore_errors=True)
            (staging / "engine").mkdir(parents=True)
    with _agreed(f"checkpoint {final} could not be written"):
        write_engine(staging / "engine")
        write_encoder(staging / "encoder")
        if write_video_encoder is not None:
            write_video_encoder(staging / "video_encoder")
        if rank() == 0:
            (staging / "stream.json").write_text(json.dumps(asdict(state), indent=1, sort_keys=True) + "\n")
    with _agreed(f"checkpoint {final} could not be published"):
        if rank() == 0:
            _write_manifest(staging)
            shutil.rmtree(final, ignore_errors=True)
            os.replace(staging, final)
            sync_path(folder)
            pointer = folder / f".{LATEST_NAME}.tmp"
            pointer.write_text(name + "\n")
            sync_path(pointer)
            os.replace(pointer, folder / LATEST_NAME)
            sync_path(folder)
            # Of those up to this one: what lies beyond it was damaged, or this one would not have been written again.
            for old in sorted(c for c in folder.glob("step-*") if c <= final)[:-keep]:
                shutil.rmtree(old, ignore_errors=True)
    return final


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint below ``folder`` whose manifest holds, None if there is none.

    ``latest`` is looked at first; where what it names is damaged, the next older sound one is taken.
    """
    candidates = sorted(folder.glob("step-*"), reverse=True)
    pointer = folder / LATEST_NAME
    if pointer.is_file():
        named = folder / Path(pointer.read_text(errors="replace").strip()).name
        if named in candidates:
            candidates = candidates[candidates.index(named) :]
    return next((c for c in candidates if manifest_problem(c) is None), None)


def manifest_problem(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint folder in one line, None if every file is as its manifest says."""
    try:
        files = json.loads((checkpoint / MANIFEST_NAME).read_text())["files"]
        for name, expected in files.items():
            path = checkpoint / name
            if path.stat().st_size != expected["size"]:
                return f"{path}: has {path.stat().st_size} bytes instead of {expected['size']}"
            if _sha256(path) != expected["sha256"]:
                return f"{path}: its content has changed"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{checkpoint}: no valid {MANIFEST_NAME}: {error}"
    return None


def read_stream_state(checkpoint: Path) -> StreamState:
    """Read ``stream.json``; UserError where it is damaged."""
    try:
        return StreamState(**json.loads((checkpoint / "stream.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{checkpoint}/stream.json: damaged: {error}") from error


class _agreed:
    """Context in which an OSError on one rank becomes one on all, so that none waits for another."""

    def __init__(self, what: str):
        self.what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if error is not None and not isinstance(error, (OSError, RuntimeError)):
            return
        # torch.save reports a full disk as a RuntimeError.
        problems: list[str | None] = [None] * (dist.get_world_size() if dist.is_initialized() else 1)
        mine = f"rank {rank()}: {error}" if error is not None else None
        if dist.is_initialized():
            dist.all_gather_object(problems, mine)
        else:
            problems = [mine]
        failed = [problem for problem in problems if problem is not None]
        if failed:
            raise OSError(f"{self.what}: {failed[0].splitlines()[0]}") from error


def _write_manifest(folder: Path) -> None:
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        sync_path(path)
        files[str(path.relative_to(folder))] = {"size": path.stat().st_size, "sha256": _sha256(path)}
    manifest = folder / MANIFEST_NAME
    manifest.write_text(json.dumps({"format": 1, "files": files}, indent=1, sort_keys=True) + "\n")
    sync_path(manifest)
    for directory in {path.parent for path in folder.rglob("*")}:
        sync_path(directory)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
