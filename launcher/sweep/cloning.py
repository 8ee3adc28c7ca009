"""Population-based training: a trial takes over weights, optimiser and stream state of another."""

from __future__ import annotations

import shutil
from pathlib import Path

from imuvid.errors import UserError
from imuvid.training.checkpoint import LATEST_NAME, find_checkpoint

TRIES = 3


def copy_newest_checkpoint(donor: Path, run: Path) -> Path | None:
    """Make ``run`` a run folder that goes on from the newest sound checkpoint of ``donor``, which trains on.

    Returns:
        The copy; None where the donor has no checkpoint, and ``run`` begins at the beginning.

    Raises:
        UserError: the donor's checkpoints go faster than they can be copied.
    """
    shutil.rmtree(run, ignore_errors=True)
    checkpoints = run / "checkpoints"
    checkpoints.mkdir(parents=True)
    for _ in range(TRIES):
        newest, _ = find_checkpoint(donor / "checkpoints")
        if newest is None:
            return None
        copied = checkpoints / newest.name
        try:
            shutil.copytree(newest, copied)
        except (OSError, shutil.Error):  # the donor keeps few, and this one has gone meanwhile
            shutil.rmtree(copied, ignore_errors=True)
            continue
        (checkpoints / LATEST_NAME).write_text(newest.name + "\n")
        return copied
    raise UserError(f"{donor}: its checkpoints go before they are copied: raise train.keep_checkpoints")
