"""The tutorial, command by command as it stands, on recordings of simulated people."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shards.simulate.files import ensure_recording
from shards.simulate.record import SimulatedConfig
from tests.docs.blocks import REPOSITORY, blocks, commands
from tests.docs.stand_ins import GRAVITY, write_rows

PAGE = REPOSITORY / "docs/tutorial.md"
# Less of the same: what the page says of minutes is seconds here.
SHORTER = {
    "pretrain": ["train.epochs=2", "data.batch_size=8", "train.checkpoint_every_minutes=0"],
    "evaluate": ["shots=[1]", "num_draws=2", "num_bootstrap=50"],
}


def write_recordings(folder: Path) -> None:
    config = SimulatedConfig(
        num_subjects=3, duration_s=24.0, video_size=96, positions=["head", "wrist"], work_dir=str(folder / "work")
    )
    for index, name in enumerate(("anna", "ben", "cleo")):
        made = ensure_recording(config, index)
        (folder / f"{name}-1.mp4").write_bytes((made / "video.mp4").read_bytes())
        with np.load(made / "imu.npz") as arrays:
            for position in config.positions:
                columns = [arrays[f"{position}_times_s"] * 1000]
                columns += (arrays[f"{position}_acc"] / GRAVITY).T.tolist()
                columns += np.rad2deg(arrays[f"{position}_gyro"]).T.tolist()
                header = ["t_ms", "ax", "ay", "az", "gx", "gy", "gz"]
                write_rows(folder / f"{name}-1-{position}.csv", header, np.column_stack(columns).tolist())


def write_clinic(folder: Path) -> None:
    config = SimulatedConfig(
        num_subjects=4, duration_s=40.0, render=False, positions=["wrist"], imu_rate_hz=50.0, population="parkinson"
    )
    config.work_dir = str(folder / "work")
    for index in range(config.num_subjects):
        made = ensure_recording(config, index)
        segments = json.loads((made / "truth.json").read_text())["segments"]
        with np.load(made / "imu.npz") as arrays:
            times_s = arrays["wrist_times_s"]
            readings = np.column_stack([arrays["wrist_acc"] / GRAVITY, np.rad2deg(arrays["wrist_gyro"])])
        moves = [any("walk" in s["label"] and s["start_s"] <= t < s["end_s"] for s in segments) for t in times_s]
        rows = [[*row, "walking" if walks else "other"] for row, walks in zip(readings.tolist(), moves, strict=True)]
        write_rows(folder / f"clinic/P{index}_1.csv", ["ax", "ay", "az", "gx", "gy", "gz", "state"], rows)


@pytest.mark.slow
def test_each_step_does_what_the_page_says(tmp_path):
    (tmp_path / "clinic").mkdir()
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    (tmp_path / "recordings.csv").write_text(blocks(PAGE, "csv")[0].text)
    mine, clinic = (block.text for block in blocks(PAGE, "yaml"))
    (tmp_path / "mine.yaml").write_text(mine)
    (tmp_path / "clinic/dataset.yaml").write_text(clinic)
    write_recordings(tmp_path)
    write_clinic(tmp_path)

    for block in blocks(PAGE, "bash"):
        for program, *words in commands(block.text):
            if program == "imuvid":
                run([*words, *SHORTER.get(words[0], [])], tmp_path)

    assert (tmp_path / "mine.html").is_file()
    report = next((tmp_path / "runs/mine/report").rglob("report.json"))
    assert "clinic/leave-one-subject-out" in json.loads(report.read_text())["results"]
    assert list(report.parent.glob("report.html"))
    assert {path.name for path in (tmp_path / "encoders/mine").iterdir()} >= {"model.safetensors", "encoder.onnx"}


def run(words: list[str], folder: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "XDG_CONFIG_HOME": str(folder / "config")}
    command = [sys.executable, "-m", "launcher.cli", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
