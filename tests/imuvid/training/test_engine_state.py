"""A checkpoint goes on at any number of ranks and any ZeRO stage, as if nothing had changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from imuvid.errors import UserError
from imuvid.models.tensor_file import write_tensors
from imuvid.training.engine_state import SavedState
from tests.imuvid.training.jobs import Job, train
from tests.imuvid.training.test_run import lines_of, weights_of

STEPS, SHARE = 8, 2


@pytest.fixture(scope="module")
def trained(tiny_dataset, tmp_path_factory):
    """One run undisturbed, one at 1, 2, 4 and 1 ranks, one at ZeRO 0, 1, 2, 3, 2, 1, 3, 0, each for a while."""
    folder = tmp_path_factory.mktemp("reshaped")
    words = [f"data.path={tiny_dataset}", f"runs_dir={folder}", "data.num_workers=0", f"train.epochs={STEPS * 8 / 44}"]
    words += ["train.validate_every_epochs=100", "engine.timeout_s=60"]
    # ZeRO 3 leaves tensors of up to 100,000 elements whole: the second kernel has more.
    words += ["model.imu_tower.cnn.channels=[160,160]", "model.imu_tower.cnn.kernel_sizes=[5,5]"]

    def job(name: str, stage: int, stop_after: int = 0) -> Job:
        return Job([*words, f"name={name}", f"engine.zero_stage={stage}"], stop_after)

    worlds = train(folder, 1, [job("worlds", 0, SHARE)])
    two = [job("worlds", 1, SHARE), job("whole", 0)]
    two += [job("stages", stage, 1) for stage in (0, 1, 2, 3, 2, 1, 3)] + [job("stages", 0)]
    second, whole, *stages = train(folder, 2, two)
    worlds += [second, *train(folder, 4, [job("worlds", 3, SHARE)])]
    (folder / "other/stages").mkdir(parents=True)
    (folder / "other/stages/checkpoints").symlink_to(folder / "stages/checkpoints")
    other = Job([*words, "name=stages", f"runs_dir={folder / 'other'}", "model.head.dim=16"])
    last, refused = train(folder, 1, [job("worlds", 0), other])
    return folder, whole, {"worlds": [*worlds, last], "stages": stages}, refused


@pytest.mark.slow
@pytest.mark.parametrize("name", ["worlds", "stages"])
def test_the_loss_and_the_order_go_on_as_if_nothing_had_changed(trained, name):
    folder, whole, starts, _ = trained
    assert [start.step for start in starts[name]] == ([2, 4, 6, 8] if name == "worlds" else [1, 2, 3, 4, 5, 6, 7, 8])
    assert [samples for start in starts[name] for samples in start.samples] == whole.samples
    expected, found = ([line["loss"] for line in lines_of(folder / run)] for run in ("whole", name))
    assert len(found) == STEPS
    assert found == pytest.approx(expected, rel=2e-5)
    for expected_part, found_part in zip(
        weights_of(folder / "whole", STEPS), weights_of(folder / name, STEPS), strict=True
    ):
        assert expected_part.keys() == found_part.keys()
        for key in expected_part:
            # The gradient of the first kernel has a part that is nothing but rounding: see test_run.
            if "convolutions.0" not in key and not key.endswith("running_mean"):
                torch.testing.assert_close(found_part[key], expected_part[key], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_state_of_another_model_is_refused_in_one_line(trained):
    message = trained[-1].error
    assert "is the state of another model" in message
    assert "head" in message
    assert "\n" not in message


def state(folder: Path, stretches: dict[str, torch.Tensor]) -> SavedState:
    shapes = {"parameters": {"a": [2, 3]}, "buffers": {}}
    (folder / "state.json").write_text(json.dumps({"format": 1, "updates": 3, **shapes}))
    for number, (key, tensor) in enumerate(stretches.items()):
        write_tensors(folder / f"part-{number}.safetensors", {key: tensor})
    return SavedState(folder)


def test_stretches_of_any_ranks_are_put_together(tmp_path):
    saved = state(tmp_path, {"parameter/a@4": torch.tensor([4.0, 5]), "parameter/a@0": torch.arange(4.0)})
    assert saved.whole("parameter", "a").tolist() == [0, 1, 2, 3, 4, 5]
    assert saved.whole("exp_avg", "a").tolist() == [0] * 6


@pytest.mark.parametrize("start", [0, 4], ids=["end missing", "beginning missing"])
def test_a_missing_stretch_is_said(tmp_path, start):
    saved = state(tmp_path, {f"parameter/a@{start}": torch.zeros(2)})
    with pytest.raises(UserError, match=r"of parameter a elements from \d on are missing"):
        saved.whole("parameter", "a")
