"""FLOPs, spread of embeddings, profiler window, live line, environment."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from imuvid.config import load
from imuvid.data.shard_dataset import ShardDataset
from imuvid.errors import UserError
from imuvid.models.spread import effective_rank
from imuvid.training import environment
from imuvid.training.config import PretrainConfig
from imuvid.training.flops import Throughput, flops_per_window, peak_flops
from imuvid.training.meters import MetricsLog
from imuvid.training.profiling import StepProfiler, profile_window
from imuvid.training.start import meta_model
from tests.tiny_dataset import NUM_FRAMES, SIZE


def config_of(*words: str) -> PretrainConfig:
    return load(PretrainConfig, None, ["name=x", *words])


def test_model_flops_are_those_of_the_formula(tiny_dataset):
    config = config_of(
        "model.imu_tower.cnn={channels: [8, 4], kernel_sizes: [5, 3]}",
        "model.video_tower.cnn={channels: [8, 16], time_strides: [1, 2]}",
        "model.head={kind: linear, dim: 6}",
    )
    found = flops_per_window(meta_model(config.model, torch.float32), ShardDataset(tiny_dataset, "train"), NUM_FRAMES)
    # Multiplications and additions of each layer; the backward has two products more, but one for the input's.
    imu = [2 * 8 * 5 * 8 * 10, 2 * 8 * 3 * 4 * 5]  # 20 samples at two halvings
    half = SIZE // 2
    video = [2 * 6 * 27 * 8 * NUM_FRAMES * half**2, 2 * 8 * 27 * 16 * (NUM_FRAMES // 2) * (half // 2) ** 2]
    heads = 2 * (2 * (8 + 4)) * 6 + 2 * 16 * 6
    expected = sum(2 * layers[0] + 3 * layers[1] for layers in (imu, video)) + 3 * heads
    assert found == pytest.approx(expected, rel=1e-9)


def test_the_peak_is_as_stated_else_by_the_name_of_the_gpu(monkeypatch):
    assert peak_flops(torch.device("cpu"), torch.float32, 0.0) is None
    assert peak_flops(torch.device("cpu"), torch.float32, 1.5) == 1.5e12
    gpu = torch.device("cuda", 0)
    for name, dtype, expected in (
        ("NVIDIA H100 80GB HBM3", torch.bfloat16, 989e12),
        ("NVIDIA H100 PCIe", torch.float16, 756e12),
        ("NVIDIA A100-SXM4-40GB", torch.float32, 19.5e12),
        ("NVIDIA A10G", torch.bfloat16, 70e12),
        ("Some GPU", torch.float32, None),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device, name=name: name)
        assert peak_flops(gpu, dtype, 0.0) == expected


def test_utilisation_is_of_one_device_and_left_out_where_its_peak_is_not_known():
    assert Throughput(4, 1e9, 1e12).figures(200) == {
        "samples_per_s": 200,
        "samples_per_s_per_device": 50,
        "model_tflops_per_device": 0.05,
        "model_flops_utilisation": 0.05,
    }
    assert "model_flops_utilisation" not in Throughput(1, 1e9, None).figures(10)
    assert Throughput(2, None, 1e12).figures(10) == {"samples_per_s": 10, "samples_per_s_per_device": 5}


@pytest.mark.parametrize("shape", [(40, 7), (7, 40)])
def test_the_effective_rank_is_the_entropy_of_the_singular_values(shape):
    x = torch.from_numpy(np.random.default_rng(0).standard_normal(shape) * np.linspace(1, 9, shape[1]))
    shares = np.linalg.svd(x.numpy(), compute_uv=False)
    shares = shares / shares.sum()
    assert effective_rank(x.float()).item() == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-4)


def test_collapse_is_a_rank_of_one_and_equal_directions_are_all():
    assert effective_rank(torch.ones(50, 8)).item() == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.eye(8)).item() == pytest.approx(8)
    assert math.isfinite(effective_rank(torch.zeros(5, 3)).item())


@pytest.mark.parametrize("text", ["10", "10:", "a:b", "20:10", "5:5", "620"])
def test_a_window_of_another_form_is_refused(text):
    with pytest.raises(UserError, match="BEGIN:END"):
        profile_window(text)


def test_the_word_of_a_window_is_no_number_in_base_60():
    assert profile_window(config_of("train.profile_steps=10:20").train.profile_steps) == range(10, 20)
    assert profile_window(config_of().train.profile_steps) == range(0)


def test_the_profiler_records_the_steps_of_its_window_alone(tmp_path):
    profiler = StepProfiler(range(3, 5), tmp_path, torch.device("cpu"))
    weight = torch.ones(16, 16)
    for step in range(8):
        profiler.before(step)
        torch.mm(weight, weight)
    profiler.end()
    trace = json.loads((tmp_path / "profile/steps-3-5.trace.json").read_text())
    assert sum(event.get("name") == "aten::mm" for event in trace["traceEvents"]) == 2
    assert "aten::mm" in (tmp_path / "profile/steps-3-5.txt").read_text()


def test_a_run_that_ends_within_the_window_leaves_what_was_recorded(tmp_path):
    profiler = StepProfiler(range(3, 50), tmp_path, torch.device("cpu"))
    profiler.before(3)
    torch.mm(torch.ones(2, 2), torch.ones(2, 2))
    profiler.end()
    assert (tmp_path / "profile/steps-3-50.trace.json").exists()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_the_line_of_a_step_takes_the_place_of_the_last_one_in_a_terminal_alone(tmp_path, monkeypatch, stream):
    out = stream()
    monkeypatch.setattr(sys, "stdout", out)
    log = MetricsLog(tmp_path, 0)
    log.live("step 1")
    log.live("step 2 " + "x" * 500)
    log.say("news")
    log.live("step 3")
    log.close()
    lines = out.getvalue().split("\n")
    if stream is Terminal:
        assert lines[0].startswith("\r\x1b[2Kstep 1\r\x1b[2Kstep 2")
        assert len(lines[0]) < 200  # a longer line than the terminal could not be taken back
        assert lines[1:] == ["news", "\r\x1b[2Kstep 3", ""]
    else:
        assert [line[:6] for line in lines] == ["step 1", "step 2", "news", "step 3", ""]


def test_the_environment_has_what_a_run_was_made_with_and_no_secret(monkeypatch):
    secrets = {
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI",
        "HF_TOKEN": "hf_abcdefgh",
        "WANDB_API_KEY": "0123456789abcdef",
        "SLURM_JWT": "eyJhbGciOi",
        "https_proxy": "http://user:geheim@proxy:3128",
    }
    for name, value in (secrets | {"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "node[1-2]"}).items():
        monkeypatch.setenv(name, value)
    found = environment.describe_environment()
    text = json.dumps(found)
    for name, value in secrets.items():
        assert value not in text
        assert name not in text
    assert found["variables"]["SLURM_JOB_ID"] == "4711"
    assert found["versions"]["torch"] == torch.__version__
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    assert found["git"] is None or found["git"]["commit"] == head
    assert {"cpus", "gpus", "python", "system"} <= found.keys()
