"""An evaluation job for each checkpoint that is kept (``evaluate.every``), submitted while the run goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from imuvid.errors import UserError
from imuvid.manifest import MANIFEST_NAME
from imuvid.training.config import PretrainConfig

SCRIPT = Path(__file__).parents[1] / "slurm" / "evaluate.sh"
RECORD_NAME = "evaluations.json"
"""File in the run folder: the job of each checkpoint."""


def check_evaluations(config: PretrainConfig) -> None:
    """Refuse what could not be evaluated.

    Raises:
        UserError: no such config or script, or the checkpoints would be gone by then.
    """
    every, train = config.evaluate.every, config.train
    if not every:
        return
    if every < 0 or every % train.checkpoint_every_steps:
        raise UserError(
            f"evaluate.every={every}: must be a multiple of train.checkpoint_every_steps={train.checkpoint_every_steps}"
        )
    if not train.keep_every_steps or every % train.keep_every_steps:
        raise UserError(
            f"evaluate.every={every}: such a checkpoint may be gone before its job begins: set"
            f" train.keep_every_steps={every}"
        )
    if config.evaluate.config is None or not Path(config.evaluate.config).is_file():
        raise UserError(
            f"evaluate.config={config.evaluate.config}: there is no such file; name a config of configs/ood"
        )
    if not SCRIPT.is_file():
        raise UserError(
            f"{SCRIPT}: is not there: evaluate.every needs imuvid installed from its folder (pip install -e)"
        )


class Evaluations:
    """Submits ``slurm/evaluate.sh`` once for each checkpoint of a multiple of ``evaluate.every`` steps, and the last.

    The jobs of a run bear one name, and come one after another. What was submitted is in ``evaluations.json``, so that
    a run that is started again submits nothing twice.

    Args:
        config: of the run.
    """

    def __init__(self, config: PretrainConfig):
        self._every, self._config = config.evaluate.every, config.evaluate
        self._folder = Path(config.runs_dir) / config.name
        self._name = f"imuvid-evaluate-{config.name}"
        self._failed: set[str] = set()

    def submit_new(self, finished: bool = False) -> None:
        """Submit what has come since the last call; what fails costs a line, never the run.

        Args:
            finished: whether the run is over, so that its newest checkpoint is the last.
        """
        if not self._every:
            return
        try:
            self._submit_new(finished)
        except (OSError, ValueError) as error:
            print(f"imuvid: checkpoints are not evaluated: {error}", file=sys.stderr, flush=True)

    def _submit_new(self, finished: bool) -> None:
        there = sorted(path for path in (self._folder / "checkpoints").glob("step-*") if path.name[5:].isdigit())
        wanted = [path for path in there if int(path.name[5:]) % self._every == 0 or (finished and path == there[-1])]
        submitted = self._submitted()
        for checkpoint in wanted:
            name = checkpoint.name
            if name in submitted or name in self._failed or not (checkpoint / MANIFEST_NAME).is_file():
                continue
            job = self._queued().get(name) or self._submit(checkpoint)
            if job is None:
                self._failed.add(name)
                continue
            submitted[name] = job
            temporary = self._folder / f"{RECORD_NAME}.tmp"
            temporary.write_text(json.dumps(submitted, indent=1) + "\n")
            temporary.replace(self._folder / RECORD_NAME)
            print(f"imuvid: {name} is evaluated by job {job}", flush=True)

    def _submitted(self) -> dict[str, str]:
        path = self._folder / RECORD_NAME
        return json.loads(path.read_text()) if path.is_file() else {}

    def _queued(self) -> dict[str, str]:
        """Jobs of this run that were submitted just before the run was killed, by checkpoint."""
        words = ["squeue", "--noheader", f"--name={self._name}", "--format=%k %i"]
        shown = subprocess.run(words, capture_output=True, text=True, check=False).stdout
        return dict(line.split()[:2] for line in shown.splitlines() if len(line.split()) == 2)

    def _submit(self, checkpoint: Path) -> str | None:
        options = [f"--job-name={self._name}", f"--comment={checkpoint.name}", "--dependency=singleton"]
        words = [str(checkpoint.resolve()), str(self._config.config), *self._config.words]
        # The variables of this job would be taken for those of the new one.
        ours = ("SLURM_", "SRUN_", "IMUVID_START")
        environ = {k: v for k, v in os.environ.items() if not k.startswith(ours) or k == "SLURM_CONF"}
        done = subprocess.run(
            ["sbatch", "--parsable", *options, *self._config.sbatch, str(SCRIPT), *words],
            capture_output=True,
            text=True,
            check=False,
            env=environ,
        )
        if done.returncode:
            print(f"imuvid: {checkpoint.name} is not evaluated: {done.stderr.strip()}", file=sys.stderr, flush=True)
            return None
        return done.stdout.strip().split(";")[0]
