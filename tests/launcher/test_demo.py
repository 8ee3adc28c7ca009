"""The demo from end to end with the repository's own configs, cut down to half a minute."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import launcher.demo
from launcher.demo import run_demo

pytestmark = pytest.mark.slow

SMALLER = {
    "shards/simulated.yaml": [
        "source.simulated.num_subjects=4",
        "source.simulated.duration_s=12",
        "source.simulated.video_size=64",
        "split.val_subjects=[healthy-0-0003]",
        "frames.num=4",
        "frames.size=32",
    ],
    "shards/simulated_pd.yaml": ["source.simulated.num_subjects=4", "source.simulated.duration_s=40"],
    "pretrain/demo.yaml": [
        "data.batch_size=8",
        "train.epochs=2",
        "train.log_every_steps=1",
        "model.imu_tower.cnn.channels=[8]",
        "model.imu_tower.cnn.kernel_sizes=[5]",
        "model.video_tower.cnn.channels=[8]",
        "model.video_tower.cnn.time_strides=[1]",
    ],
    "ood/demo.yaml": ["shots=[1]", "num_bootstrap=100", "shards.protocol.num_folds=2"],
}


def test_recordings_go_in_and_a_report_comes_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    for name, words in SMALLER.items():
        path = tmp_path / "configs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        config = OmegaConf.merge(OmegaConf.load(launcher.demo.CONFIGS / name), OmegaConf.from_dotlist(words))
        OmegaConf.save(config, path)
    monkeypatch.setattr(launcher.demo, "CONFIGS", tmp_path / "configs")

    result = run_demo(tmp_path / "out", nproc=2)

    report = Path(result["report"])
    page = report.read_text()
    assert "Loss and retrieval during the pretraining" in page
    results = json.loads((report.parent / "report.json").read_text())["results"]
    scores = results["simulated_pd/grouped-2-folds"]["scores"]
    assert {row["method"] for row in scores} >= {"pretrained/linear", "random/linear", "handmade/linear"}
    out = capsys.readouterr().out
    assert "balanced accuracy [95 % interval]" in out
    assert str(report) in out

    # A second call finds shards and run done, and only evaluates again.
    again = run_demo(tmp_path / "out", nproc=2)
    assert again["results"] == result["results"]
    metrics = (tmp_path / "out/run/metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in metrics if json.loads(line)["split"] == "train"]
    assert steps == list(range(1, max(steps) + 1))
