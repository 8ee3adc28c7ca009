"""What a run was made with: versions, code state, devices, job. No secrets: variables are named one by one."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import torch

PACKAGES = ("imuvid", "torch", "deepspeed", "webdataset", "transformers", "numpy", "simplejpeg", "decord", "av")
VARIABLES = (
    "WORLD_SIZE",
    "SLURM_JOB_ID",
    "SLURM_JOB_NAME",
    "SLURM_JOB_NODELIST",
    "SLURM_NTASKS",
    "SLURM_RESTART_COUNT",
    "OMP_NUM_THREADS",
)


def describe_environment() -> dict:
    """Return versions, git state, devices and the job's shape, as plain JSON values."""
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": versions,
        "git": _git_state(),
        "cpus": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def _git_state() -> dict | None:
    """Commit of the code and whether files differ from it; None where the package is not in a git checkout."""
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        run = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True, timeout=10)
        return run.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
