"""The paper's conditioning from a pretraining to the evaluation of its encoder."""

from __future__ import annotations

import pytest

from imuvid.imu.condition import ConditionConfig
from imuvid.models.encoder import load_encoder
from imuvid.ood.config import OODConfig
from imuvid.ood.datasets.shards import ShardsConfig
from imuvid.ood.job import evaluate
from imuvid.training.checkpoint import find_checkpoint
from tests.imuvid.training.test_run import Run, lines_of
from tests.tiny_dataset import write_tiny_dataset

WORDS = (
    "data.condition.median_samples=5",
    "data.condition.normalise=recording",
    "data.augment.rotate_share=0",
    "train.epochs=2",
)


@pytest.mark.slow
def test_a_run_is_evaluated_as_it_was_trained(tiny_dataset, tmp_path):
    run = Run(tmp_path, tiny_dataset, *WORDS, nproc=1)
    code, _, errors = run.end()
    assert (code, errors) == (0, "")
    assert len(lines_of(run.folder, "val")) == 1
    checkpoint = find_checkpoint(run.folder / "checkpoints")[0]
    assert checkpoint is not None
    assert load_encoder(checkpoint).config.condition == ConditionConfig(5, "recording")
    others = write_tiny_dataset(tmp_path / "others", people="o")
    config = OODConfig(datasets=["shards"], shards=ShardsConfig(str(others)), shots=[1], num_draws=2)
    config.num_bootstrap, config.device = 20, "cpu"
    report = evaluate(checkpoint, config).report
    assert report["encoder"]["condition"] == {"median_samples": 5, "normalise": "recording"}
    [result] = report["results"].values()
    assert result["dataset"] == "tiny"
    methods = {row["method"] for row in result["scores"]}
    assert {"pretrained/linear", "random/linear", "handmade/linear"} <= methods
