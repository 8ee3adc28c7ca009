"""The main job in miniature, in one call: simulated recordings -> shards -> pretraining -> OOD report."""

from __future__ import annotations

import time
from pathlib import Path

from imuvid import config as configs
from imuvid.errors import UserError
from launcher.local import run_local

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def run_demo(out: Path, nproc: int) -> dict:
    """Run the demo below ``out`` and return where its results lie; steps that are done already are not done again.

    Args:
        out: folder for recordings, shards, run and report.
        nproc: training processes.

    Raises:
        UserError: the configs of the repository are not beside the package.
    """
    from imuvid.ood.config import OODConfig
    from imuvid.ood.job import evaluate
    from shards.build import build
    from shards.config import BuildConfig

    if not CONFIGS.is_dir():
        raise UserError(f"{CONFIGS}: the demo needs the configs of the repository: run it from a clone")
    began = time.monotonic()
    work = f"source.simulated.work_dir={out / 'recordings'}"
    for number, name in enumerate(("simulated", "simulated_pd"), start=1):
        _say(f"[{number}/4] recordings and shards: configs/shards/{name}.yaml")
        settings = configs.load(BuildConfig, CONFIGS / f"shards/{name}.yaml", [f"out={out / name}", work])
        for line in build(settings).lines():
            _say(line)

    _say("[3/4] pretraining: configs/pretrain/demo.yaml")
    config = CONFIGS / "pretrain/demo.yaml"
    code = run_local(["pretrain", str(config), f"data.path={out / 'simulated'}", f"runs_dir={out}", "name=run"], nproc)
    if code:
        raise RuntimeError(f"the pretraining ended with code {code}")

    _say("[4/4] out-of-distribution evaluation: configs/ood/demo.yaml")
    checkpoint = out / "run/checkpoints/latest"
    protocol = configs.load(OODConfig, CONFIGS / "ood/demo.yaml", [f"shards.root={out / 'simulated_pd'}"])
    result = evaluate(checkpoint, protocol)
    for line in result.lines():
        _say(line)
    seconds = time.monotonic() - began
    _say(f"demo finished in {seconds:.0f} s; open {result.html}")
    return {"report": str(result.html), "seconds": seconds, "checkpoint": str(checkpoint), **result.report}


def _say(text: str) -> None:
    print(text, flush=True)
