"""The doctor's visit: mistakes of the network are named before they become a hang, and figures are measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.doctor import device_findings, nccl_findings, network_findings, same_everywhere
from tests.tiny_dataset import write_tiny_dataset

REPOSITORY = Path(__file__).parents[2]
INTERFACES = ["lo", "eth0", "eth1", "ib0"]
TWO_NODES = {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "n1"}
HOSTS = {"n1": ["10.0.0.1"], "n2": ["10.0.0.2"], "loop": ["127.0.1.1", "::1"], "localhost": ["127.0.0.1"]}


def broken(environ: dict[str, str], hostname: str = "n2") -> list[str]:
    found = network_findings(environ, INTERFACES, hostname, lambda host: HOSTS.get(host, []))
    assert all(finding.verdict == "broken" for finding in found)
    return [f"{finding.subject}: {finding.text}" for finding in found]


@pytest.mark.parametrize(
    ("value", "is_there"),
    [
        ("eth0", True),
        ("eth", True),  # a prefix
        ("=eth", False),
        ("=eth1", True),
        ("eno1,ib", True),
        ("ens3", False),
        ("^lo,docker", True),
        ("^lo,eth,ib", False),
    ],
)
def test_nccl_interfaces_are_prefixes_unless_told_otherwise(value, is_there):
    found = broken({"NCCL_SOCKET_IFNAME": value})
    assert (found == []) == is_there
    if not is_there:
        assert "no interface of n2: it has lo, eth0, eth1, ib0" in found[0]


@pytest.mark.parametrize(
    ("value", "is_there"), [("eth0", True), ("eth0,eth1", True), ("eth", False), ("eth0,x", False)]
)
def test_gloo_interfaces_are_names(value, is_there):
    assert (broken({"GLOO_SOCKET_IFNAME": value}) == []) == is_there


def test_names_that_lead_nowhere_are_found_where_there_are_several_nodes():
    assert broken(TWO_NODES) == []
    assert (
        "this host's own name: loop is 127.0.1.1 on loop, which no other host reaches" in broken(TWO_NODES, "loop")[0]
    )
    assert broken({**TWO_NODES, "GLOO_SOCKET_IFNAME": "eth0"}, "loop") == []
    assert "MASTER_ADDR: localhost is 127.0.0.1 on n2" in broken({**TWO_NODES, "MASTER_ADDR": "localhost"})[0]
    assert "MASTER_ADDR: gone is not known on n2" in broken({**TWO_NODES, "MASTER_ADDR": "gone"})[0]
    one = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    assert broken(one, "loop") == []


def test_ranks_need_devices():
    eight = {"LOCAL_WORLD_SIZE": "8"}
    assert [f.verdict for f in device_findings(eight, 8, "auto")] == ["good"]
    assert [f.verdict for f in device_findings(eight, 4, "auto")] == ["broken"]
    assert [f.verdict for f in device_findings(eight, 1, "auto")] == ["good"]  # --gpus-per-task=1
    assert [f.verdict for f in device_findings(eight, 0, "cuda")] == ["broken"]
    assert [f.verdict for f in device_findings(eight, 0, "auto")] == ["good"]
    assert [f.verdict for f in device_findings(eight, 8, "cpu")] == ["doubtful"]
    assert [f.subject for f in nccl_findings({"NCCL_IB_DISABLE": "1"}, True)] == ["NCCL_IB_DISABLE"]
    assert nccl_findings({"NCCL_IB_DISABLE": "1"}, False) == []


def test_hosts_with_other_versions_are_named():
    same, other = {"torch": "2.9", "numpy": "2"}, {"torch": "2.8", "numpy": "2"}
    assert same_everywhere([("n1", same), ("n1", same), ("n2", same)]) == []
    found = same_everywhere([("n1", same), ("n2", other)])
    assert [f.text for f in found] == ["n1 and n2 have torch 2.9 and 2.8: install one environment for both"]


def visit(*words: str, **environ: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "launcher.cli", "doctor", *words]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environ}
    run = subprocess.run(command, capture_output=True, text=True, timeout=150, cwd=REPOSITORY, env=env, check=False)
    return run.returncode, run.stdout, run.stderr


@pytest.mark.slow
def test_a_visit_measures_what_a_training_needs(tmp_path: Path):
    dataset = write_tiny_dataset(tmp_path / "dataset")
    words = [str(REPOSITORY / "configs/pretrain/demo.yaml"), f"data.path={dataset}", "data.batch_size=8"]
    code, output, errors = visit(*words, "--nproc", "2", "--json", str(tmp_path / "doctor.json"))
    assert (code, errors) == (0, "")
    report = json.loads((tmp_path / "doctor.json").read_text())
    assert (report["ranks"], report["backend"], report["broken"]) == (2, "gloo", False)
    for name in ("node_gb_s", "latency_us", "read_gb_s", "decode_per_core_s", "samples_per_s"):
        assert report["figures"][name] > 0
    assert "all-reduce: " in output
    assert "bottleneck: " in output
    (tmp_path / "dataset/00001.tar").unlink()
    code, output, _ = visit(*words, "--nproc", "2")
    assert code == 1
    assert "00001.tar" in output


@pytest.mark.slow
def test_a_wrong_interface_is_one_line_and_no_wait():
    code, output, _ = visit("--nproc", "2", GLOO_SOCKET_IFNAME="eno9")
    assert code == 1
    assert "broken    GLOO_SOCKET_IFNAME: 'eno9' is no interface of" in output
