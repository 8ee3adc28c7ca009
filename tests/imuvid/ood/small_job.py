"""A small evaluation that the tests of the job share: six people, one task, the least of everything."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from imuvid.ood.cache import CacheConfig
from imuvid.ood.config import OODConfig
from imuvid.ood.datasets.hapt import HAPTConfig
from imuvid.ood.finetune import FinetuneConfig
from imuvid.ood.probes import ProbeConfig
from imuvid.ood.protocols.folds import ProtocolConfig
from tests.imuvid.ood.fakes import write_encoder, write_hapt


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page and its maps take longer than all the rest; they have tests of their own."""
    monkeypatch.setattr("imuvid.ood.results.render", lambda report, maps: "")
    monkeypatch.setattr("imuvid.ood.job.embedding_maps", lambda tasks, seed: {})


def prepare_job(root: Path, **changes) -> tuple[Path, OODConfig]:
    """Write a data set and a checkpoint; return the checkpoint and the config."""
    if not (root / "hapt").exists():
        write_hapt(root / "hapt")
    checkpoint = write_encoder(root / "run")
    config = OODConfig(
        datasets=["hapt"],
        hapt=HAPTConfig(str(root / "hapt"), protocol=ProtocolConfig("grouped-folds", num_folds=3)),
        shots=[1],
        num_draws=2,
        num_bootstrap=50,
        finetune=FinetuneConfig(steps=0),
        probe=ProbeConfig(trees=3),
        cache=CacheConfig(str(root / "cache")),
        device="cpu",
    )
    return checkpoint, dataclasses.replace(config, **changes)
