"""Contract 3: a pretraining by the command line, its mistakes, and that no interruption changes what comes out."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from imuvid.manifest import manifest_problem
from imuvid.models.encoder import load_encoder
from imuvid.training.engine_state import SavedState
from tests.tiny_dataset import write_tiny_dataset

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[3]
CONFIG = """
data: {batch_size: 8, num_workers: 1}
model:
  imu_tower: {cnn: {channels: [8], kernel_sizes: [5]}}
  video_tower: {cnn: {channels: [8], time_strides: [2]}}
  head: {dim: 8}
train: {epochs: 18, log_every_steps: 1, checkpoint_every_steps: 20, validate_every_epochs: 6}
"""
NUM_STEPS = 99  # 18 epochs of 44 windows by 8


class Run:
    """``imuvid pretrain`` on two ranks, in a process of its own."""

    def __init__(self, folder: Path, dataset: Path, *words: str, nproc: int = 2):
        config = folder / "config.yaml"
        config.write_text(CONFIG)
        self.folder = folder / "run"
        words = (f"data.path={dataset}", f"runs_dir={folder}", "name=run", *words)
        command = ["pretrain", str(config), "--nproc", str(nproc), "--json", str(folder / "result.json"), *words]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "launcher.cli", *command],
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self) -> tuple[int, str, str]:
        """Return exit code, stdout, stderr."""
        try:
            output, errors = self.process.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode, output, errors

    def wait_for_step(self, step: int) -> None:
        """Wait until the log shows that ``step`` is done in this start (the log holds earlier starts', too)."""
        deadline = time.monotonic() + 90
        while not (lines := steps_of(self.folder)) or lines[-1] < step:
            assert self.process.poll() is None, self.end()
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def ranks(self) -> list[int]:
        """Process numbers of the ranks, in their order."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return sorted(map(int, children))


def lines_of(folder: Path, split: str = "train") -> list[dict]:
    path = folder / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    lines = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
    return [line for line in lines if line["split"] == split]


def steps_of(folder: Path) -> list[int]:
    return [line["step"] for line in lines_of(folder)]


def weights_of(folder: Path, step: int) -> tuple[dict, dict]:
    """(encoder's tensors, whole model's tensors) of a checkpoint."""
    checkpoint = folder / f"checkpoints/step-{step:08d}"
    engine = SavedState(checkpoint / "engine")
    kinds = ("parameter", "exp_avg", "exp_avg_sq")
    whole = {f"{kind}/{name}": engine.whole(kind, name) for name in engine.shapes["parameters"] for kind in kinds}
    whole |= {name: engine.whole("buffer", name) for name in engine.shapes["buffers"]}
    return load_file(checkpoint / "encoder/model.safetensors"), whole


@pytest.fixture(scope="module")
def undisturbed(tiny_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("a")
    run = Run(folder, tiny_dataset)
    return run.folder, *run.end()


@pytest.fixture(scope="module")
def disturbed(tiny_dataset, tmp_path_factory):
    """A run that is told to end, loses a rank, is preempted, and then comes to its end: (folder, [(what, ...)])."""
    folder = tmp_path_factory.mktemp("b")
    story = []
    for what, step in ((signal.SIGTERM, 12), (signal.SIGKILL, 47), (signal.SIGUSR1, 64), (None, NUM_STEPS)):
        run = Run(folder, tiny_dataset)
        if what is not None:
            run.wait_for_step(step)
            os.kill(run.ranks()[1] if what == signal.SIGKILL else run.process.pid, what)
        code, output, errors = run.end()
        latest = (run.folder / "checkpoints/latest").read_text().strip()
        story.append((code, output, errors, int(latest.removeprefix("step-")), steps_of(run.folder)[-1]))
    return run.folder, story


def test_a_run_leaves_what_it_promises(undisturbed, tiny_dataset):
    folder, code, output, errors = undisturbed
    assert (code, errors) == (0, ""), errors
    assert f"{NUM_STEPS} steps of 8 windows on 2 ranks (cpu, fp32, ZeRO 0); 44 training windows" in output
    assert f"step {NUM_STEPS}/{NUM_STEPS} (100%)" in output
    assert {"config.yaml", "environment.json", "metrics.jsonl", "checkpoints"} <= {p.name for p in folder.iterdir()}
    checkpoints = sorted(p.name for p in (folder / "checkpoints").iterdir())
    assert checkpoints == ["latest", "step-00000060", "step-00000080", "step-00000099"]
    last = folder / "checkpoints/step-00000099"
    assert {p.name for p in last.iterdir()} == {
        *("engine", "stream.json", "encoder", "video_encoder", "shared_space", "MANIFEST.json")
    }
    assert manifest_problem(last) is None
    assert {p.name for p in (last / "encoder").iterdir()} == {"model.safetensors", "config.json"}
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__
    assert json.loads((folder.parent / "result.json").read_text())["finished"] is True
    encoder = load_encoder(folder / "checkpoints/latest")
    assert encoder.config.provenance["step"] == NUM_STEPS
    assert encoder.config.provenance["train_subjects"] == ["strain0", "strain1", "strain2"]
    assert encoder.config.positions == ["wrist"]


def test_the_log_has_every_step_and_the_loss_falls(undisturbed):
    folder, *_ = undisturbed
    lines = lines_of(folder)
    assert [line["step"] for line in lines] == list(range(1, NUM_STEPS + 1))
    assert {"loss", "lr", "epoch", "samples_per_s", "data_wait_share", "temperature", "bias"} <= set(lines[0])
    losses = [line["loss"] for line in lines]
    assert np.mean(losses[-20:]) < 0.9 * np.mean(losses[:20])
    assert lines[-1]["epoch"] == pytest.approx(18)
    assert all(0 <= line["data_wait_share"] <= 1 for line in lines)
    shares = ("forward_share", "backward_share", "optimizer_share", "communication_share")
    assert all(line[name] > 0 for line in lines for name in shares)
    assert all(sum(line[name] for name in shares) <= 1 for line in lines)
    for line in lines:
        assert line["samples_per_s"] == pytest.approx(2 * line["samples_per_s_per_device"])
        assert line["model_tflops_per_device"] > 0
        assert 0.1 < line["memory_gb"] < 10
        assert 1 <= line["effective_rank_imu"] <= 4  # windows of a rank
    validations = lines_of(folder, "val")
    assert [line["step"] for line in validations] == [33, 66, 99]
    for name in ("r_at_1", "r_at_5", "median_rank", "mrr"):
        assert {f"{name}_imu_to_video", f"{name}_video_to_imu"} <= set(validations[0])
    assert validations[0]["chance_r_at_1"] == pytest.approx(1 / validations[0]["num_candidates"])
    events = EventAccumulator(str(folder)).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, NUM_STEPS + 1))
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(losses)


def test_each_interruption_ends_as_it_should(disturbed):
    terminated, killed, preempted, last = disturbed[1]
    term, said, _, term_step, logged = terminated
    kill, _, errors, kill_step, _ = killed
    usr1, _, _, usr1_step, _ = preempted
    assert term == 143
    assert 12 <= term_step == logged < NUM_STEPS
    assert f"stopped by SIGTERM at step {term_step}: checkpoint" in said
    assert kill == 137
    assert "rank 1 of 2 ended with code 137" in errors
    assert kill_step in (20, 40)  # the last multiples of 20; that of 40 may have been on its way to the disk
    assert usr1 == 85
    assert 64 <= usr1_step < NUM_STEPS
    assert last[0] == 0, last[2]
    assert f"resumed at step {usr1_step} from" in last[1]


def test_an_interrupted_run_ends_with_the_same_weights_bit_for_bit(undisturbed, disturbed):
    for expected, found in zip(weights_of(undisturbed[0], NUM_STEPS), weights_of(disturbed[0], NUM_STEPS), strict=True):
        assert expected.keys() == found.keys()
        for name in expected:
            assert torch.equal(expected[name], found[name]), name


def test_an_interrupted_run_logs_what_the_undisturbed_one_does(undisturbed, disturbed):
    expected, found = lines_of(undisturbed[0]), lines_of(disturbed[0])
    assert [line["step"] for line in found] == list(range(1, NUM_STEPS + 1))
    for name in ("lr", "loss", "epoch", "temperature"):
        assert [line[name] for line in found] == [line[name] for line in expected], name
    assert lines_of(disturbed[0], "val") == lines_of(undisturbed[0], "val")
    events = EventAccumulator(str(disturbed[0])).Reload().Scalars("train/loss")
    assert [event.step for event in events] == list(range(1, NUM_STEPS + 1))


def test_a_run_that_is_there_is_gone_on_with_only_as_it_was_begun(undisturbed, tiny_dataset, tmp_path):
    folder = undisturbed[0]
    message = mistake(folder, tiny_dataset, "optimizer.lr=0.5")
    assert "optimizer.lr" in message
    assert "name=" in message
    changed = shutil.copytree(tiny_dataset, tmp_path / "changed")
    info = changed / "dataset.json"
    info.write_text(re.sub(r'("00001.tar": )"[0-9a-f]*"', r'\1"0"', info.read_text()))
    assert f"{changed} has changed since" in mistake(folder, changed)
    assert steps_of(folder)[-1] == NUM_STEPS


def mistake(folder: Path, dataset: Path, *words: str) -> str:
    words = (f"data.path={dataset}", f"runs_dir={folder.parent}", *words)
    command = [sys.executable, "-m", "launcher.cli", "pretrain", str(folder / "config.yaml"), "--nproc", "2", *words]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 2, run.stderr
    assert run.stderr.startswith("imuvid: ")
    assert run.stderr.count("\n") == 1, run.stderr
    return run.stderr


def test_a_damaged_shard_is_named_and_ends_the_run(tiny_dataset, tmp_path):
    copied = shutil.copytree(tiny_dataset, tmp_path / "copy")
    raw = bytearray((copied / "00001.tar").read_bytes())
    raw[5] ^= 1
    (copied / "00001.tar").write_bytes(raw)
    code, _, errors = Run(tmp_path, copied, "data.max_corrupt=0", nproc=1).end()
    assert code == 1
    assert "00001.tar: sample r006-000013: checksum differs" in errors
    assert "Traceback" not in errors


VARIANTS = {
    "ZeRO 0": [],
    "ZeRO 1": ["engine.zero_stage=1"],
    "ZeRO 2": ["engine.zero_stage=2"],
    "ZeRO 3": ["engine.zero_stage=3"],
    "bf16": ["engine.dtype=bf16"],
    "bf16 with ZeRO 3": ["engine.dtype=bf16", "engine.zero_stage=3"],
}
MORE = {
    "fp16": ["engine.dtype=fp16"],
    "fp16 in two parts with ZeRO 2": ["engine.dtype=fp16", "engine.zero_stage=2", "engine.accumulate=2"],
    "in two parts": ["engine.accumulate=2", "optimizer.schedule=wsd"],
    "off-load with ZeRO 3": ["engine.offload=true", "engine.zero_stage=3", "optimizer.schedule=constant"],
    "computed again": ["engine.activation_checkpointing=true", "optimizer.layer_decay=0.7"],
}
MORE["computed again"] += ["model.imu_tower.kind=patchtst", "model.imu_tower.patchtst.context_length=20"]
RANK = """
import json, os, shutil, sys
from pathlib import Path
import torch.distributed as dist
from imuvid import config as configs
from imuvid.training.config import PretrainConfig
from imuvid.training.loop import pretrain

# DeepSpeed holds on to the first process group of its process: all runs here share it.
start, end = dist.init_process_group, dist.destroy_process_group
dist.init_process_group = lambda *a, **k: dist.is_initialized() or start(*a, **k)
dist.destroy_process_group = lambda: None
folder, variants = Path(sys.argv[1]), json.loads(sys.argv[2])
for number, (name, words) in enumerate(variants.items()):
    for again in range(3 if number == 0 else 2):
        result = pretrain(configs.load(PretrainConfig, folder / "config.yaml", [f"name={name}", *words]))
        assert result.finished and result.step == 6
        if again == 0 and os.environ["RANK"] == "0":
            checkpoints = Path(result.folder) / "checkpoints"
            (checkpoints / "step-00000006").rename(Path(result.folder) / "first")
end()
sys.stdout.flush()
os._exit(0)  # as a rank of the command line leaves
"""


@pytest.fixture(scope="module")
def variants(tiny_dataset, tmp_path_factory):
    """Every variant trained for six steps, and again from its third, all in one process a rank; the first once more."""
    folder = tmp_path_factory.mktemp("variants")
    words = [f"data.path={tiny_dataset}", f"runs_dir={folder}", "data.num_workers=0", "train.epochs=1.09"]
    words += ["train.checkpoint_every_steps=3", "engine.timeout_s=60"]
    # ZeRO 3 leaves tensors of up to 100,000 elements whole: the second kernel has more.
    words += ["model.imu_tower.cnn.channels=[160,160]", "model.imu_tower.cnn.kernel_sizes=[5,5]"]
    (folder / "config.yaml").write_text(CONFIG)
    arguments = [str(folder), json.dumps({name: words + more for name, more in (VARIANTS | MORE).items()})]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCH_EXTENSIONS_DIR": str(folder / "extensions")}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, *arguments],
            cwd=REPOSITORY,
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [rank.communicate(timeout=400)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(output[-3000:] for output in outputs)
    return folder, outputs[0]


def test_nothing_is_compiled_at_the_start(variants):
    # A process killed meanwhile would leave a lock for which all later ones wait for ever.
    assert not (variants[0] / "extensions").exists()


def test_starting_a_finished_run_again_does_nothing(variants):
    folder, output = variants
    assert f"run {folder / 'ZeRO 0'}: resumed at step 6" in output
    assert "finished: 0 steps" in output
    assert [line["step"] for line in lines_of(folder / "ZeRO 0")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("name", [*VARIANTS, *MORE])
def test_every_variant_resumes_to_the_same_weights(variants, name):
    folder, output = variants
    assert f"run {folder / name}: resumed at step 3" in output
    first = load_file(folder / name / "first/encoder/model.safetensors")
    again = load_file(folder / name / "checkpoints/step-00000006/encoder/model.safetensors")
    assert first.keys() == again.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)
    if "fp16" in name:  # the run learns from the first step on that does not overflow, which is in its second half
        lines = lines_of(folder / name)
        assert sum(line["overflows"] for line in lines[:3]) == 3
        assert lines[-1]["gradient_norm"] > 0
        assert lines[-1]["bad_steps"] == 0
    states = [SavedState(folder / name / part / "engine") for part in ("first", "checkpoints/step-00000006")]
    assert states[0].loss_scale == states[1].loss_scale
    assert states[0].loss_scale["steps"] == (6 if "fp16" in name else 0)
    load_encoder(folder / name / "checkpoints/latest")


@pytest.mark.parametrize("name", list(VARIANTS)[1:])
def test_sharding_does_not_change_what_is_learnt(variants, name):
    folder, _ = variants
    plain = load_file(folder / "ZeRO 0/first/encoder/model.safetensors")
    sharded = load_file(folder / name / "first/encoder/model.safetensors")
    assert plain.keys() == sharded.keys()
    tolerance = 1e-2 if "bf16" in name else 1e-4  # bf16 has 8 bits of mantissa
    for key in plain:
        if key.endswith("running_mean"):
            continue
        # The validity of the sensors is constant in these windows, and batch normalisation takes away what it adds: the
        # gradient of its weights is nothing but rounding, of which Adam makes steps of full size, seen in the mean too.
        learnt = slice(0, 6) if key == "convolutions.0.weight" else slice(None)
        a, b = (weights[key][:, learnt] if weights[key].ndim > 1 else weights[key] for weights in (plain, sharded))
        torch.testing.assert_close(b, a, rtol=tolerance, atol=tolerance)
    losses, expected = ([line["loss"] for line in lines_of(folder / run)] for run in (name, "ZeRO 0"))
    assert losses == pytest.approx(expected, rel=tolerance)


def test_a_mixture_counts_its_datasets_and_is_resumed_where_it_was_stopped(tiny_dataset, tmp_path):
    second = write_tiny_dataset(tmp_path / "second", 20, 6, 7, people="p")
    mixture = f"data.mixture=[{{path: {tiny_dataset}, weight: 3}},{{path: {second}, weight: 1}}]"
    words = ["data.path=null", mixture, "train.epochs=3", "train.checkpoint_every_steps=4"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for folder in (whole, stopped):
        folder.mkdir()
    code, _, errors = Run(whole, tiny_dataset, *words).end()
    assert (code, errors) == (0, ""), errors
    run = Run(stopped, tiny_dataset, *words)
    run.wait_for_step(9)
    os.kill(run.process.pid, signal.SIGTERM)
    run.end()
    code, output, errors = Run(stopped, tiny_dataset, *words, nproc=2).end()
    assert (code, errors) == (0, ""), errors
    assert "resumed at step" in output
    lines = lines_of(stopped / "run")
    assert [line["loss"] for line in lines] == [line["loss"] for line in lines_of(whole / "run")]
    last = lines[-1]  # 24 steps of 8 = 192 = 3 epochs of 44 + 20
    assert (last["step"], last["samples/0_tiny"], last["samples/1_tiny"]) == (24, 144, 48)
    assert (last["epochs/0_tiny"], last["epochs/1_tiny"]) == (pytest.approx(144 / 44), pytest.approx(48 / 20))
    encoder = load_encoder(stopped / "run/checkpoints/step-00000024/encoder").config
    assert encoder.provenance["train_windows"] == 64
    assert len(encoder.provenance["fingerprint"].split("+")) == 2
