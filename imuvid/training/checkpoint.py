"""Checkpoints that either exist whole or not at all: where they are, and which one a run goes on from.

    checkpoints/step-00001000/engine/        model and optimiser, for any number of ranks (engine_state)
                              stream.json    position in the sequence of samples
                              encoder/       the IMU tower, for every later use
                              video_encoder/ the video tower, to embed the videos of datasets without pictures
                              MANIFEST.json  size and sha256 of every file: written last
    checkpoints/latest                       name of the newest one: changed last, atomically

A checkpoint is written under a temporary name, and renamed when its manifest is on the disk (checkpoint_writer).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from imuvid.errors import UserError
from imuvid.manifest import manifest_problem
from imuvid.training.guard import GuardState

LATEST_NAME = "latest"
FINISHED_NAME = "finished.json"
"""File of a run folder that says which step was the last one to do."""
STREAM_FORMAT = 2


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
    validation_due: bool = False
    """Whether a signal came before the validation of this step was through."""
    guard: GuardState = field(default_factory=GuardState)
    """Steps that were left out, and what is needed to judge the next ones."""
    format: int = STREAM_FORMAT


def checkpoint_name(step: int) -> str:
    """Return the name of the folder of a checkpoint."""
    return f"step-{step:08d}"


def write_finished(run: Path, step: int) -> None:
    """Say in a run folder that all its steps are done, for those who wait for its checkpoints."""
    (run / FINISHED_NAME).write_text(json.dumps({"step": step}) + "\n")


def read_finished(run: Path) -> int | None:
    """Return the last step of a run that has done all its steps, else None."""
    try:
        return int(json.loads((run / FINISHED_NAME).read_text())["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def find_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """Return the newest checkpoint below ``folder`` whose manifest holds, and what is wrong with newer ones.

    ``latest`` is looked at first; where what it names is damaged, the next older sound one is taken. None where there
    is no sound one.
    """
    candidates = sorted(folder.glob("step-*"), reverse=True)
    pointer = folder / LATEST_NAME
    if pointer.is_file():
        named = folder / Path(pointer.read_text(errors="replace").strip()).name
        if named in candidates:
            candidates = candidates[candidates.index(named) :]
    problems: list[str] = []
    for candidate in candidates:
        problem = manifest_problem(candidate)
        if problem is None:
            return candidate, problems
        problems.append(problem)
    return None, problems


def read_stream_state(checkpoint: Path) -> StreamState:
    """Read ``stream.json``; UserError where it is damaged or of another version of this program."""
    try:
        fields = json.loads((checkpoint / "stream.json").read_text())
        if fields["format"] != STREAM_FORMAT:
            raise UserError(
                f"{checkpoint}: a checkpoint of format {fields['format']}, this program goes on from {STREAM_FORMAT}:"
                " finish the run with the version that began it; its encoder can be used all the same"
            )
        return StreamState(**{**fields, "guard": GuardState(**fields["guard"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{checkpoint}/stream.json: damaged: {error}") from error
