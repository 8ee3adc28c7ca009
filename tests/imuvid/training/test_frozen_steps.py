"""An external encoder that is frozen at first: until when, after an interruption too, and under ZeRO."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from tests.imuvid.models.small import THIS
from tests.imuvid.training.jobs import Job, train
from tests.tiny_dataset import write_tiny_dataset

pytestmark = pytest.mark.slow
FROZEN_STEPS = 5


def test_it_is_trained_from_its_step_on_whatever_comes_in_between(tmp_path):
    data = write_tiny_dataset(tmp_path / "data")
    external = f"{{factory: '{THIS}:Series', feature_dim: 6, frozen: false, frozen_steps: {FROZEN_STEPS}}}"
    words = [f"data.path={data}", f"runs_dir={tmp_path}", "model.imu_tower.kind=external"]
    words += [f"model.imu_tower.external={external}", "train.epochs=2", "train.validate_every_epochs=2"]
    words += ["train.checkpoint_every_steps=1", "train.keep_every_steps=1"]
    jobs = [
        Job([*words, "name=whole"]),
        Job([*words, "name=broken"], stop_after=3),
        Job([*words, "name=broken"]),
        Job([*words, "name=sharded", "engine.zero_stage=3"]),
    ]
    outcomes = train(tmp_path, 2, jobs)
    assert not [outcome.error for outcome in outcomes if outcome.error]
    assert [outcome.step for outcome in outcomes] == [11, 3, 11, 11]

    def weights(run: str, step: int) -> dict[str, torch.Tensor]:
        return load_file(tmp_path / run / f"checkpoints/step-{step:08d}/encoder/model.safetensors")

    for run in ("whole", "broken", "sharded"):
        first, then = weights(run, 1), weights(run, FROZEN_STEPS)
        assert not torch.equal(first["absent"], then["absent"])  # what is new learns
        for name in first.keys() - {"absent"}:  # weights and running statistics
            assert torch.equal(first[name], then[name]), (run, name)
        after = weights(run, FROZEN_STEPS + 1)
        assert not torch.equal(then["encoder.module.net.0.weight"], after["encoder.module.net.0.weight"]), run
    for name, expected in weights("whole", 11).items():
        assert torch.equal(weights("broken", 11)[name], expected), name
