"""``imuvid doctor`` between the hosts of a real Slurm cluster."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.cluster.slurm_cluster import SlurmCluster
from tests.cluster.test_pretrain import REPOSITORY

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_it_measures_between_hosts_and_names_a_wrong_interface(slurm_cluster: SlurmCluster, tmp_path: Path):
    def visit(name: str, **more: str) -> dict:
        env: Mapping[str, str] = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **more}
        command = ["srun", "--nodes=2", "--ntasks-per-node=1", "--kill-on-bad-exit=0", sys.executable, "-m"]
        words = ["launcher.cli", "doctor", "--timeout-s=40", f"--json={tmp_path / name}"]
        if more:
            with pytest.raises(RuntimeError, match="exit code 1"):
                slurm_cluster.run(*command, *words, env=env)
        else:
            slurm_cluster.run(*command, *words, env=env)
        return json.loads((tmp_path / name).read_text())

    report = visit("good.json")
    assert (report["hosts"], report["ranks"], report["broken"]) == (["n1", "n2"], 2, False)
    assert report["figures"]["network_gb_s"] > 0
    assert "node_gb_s" not in report["figures"]
    report = visit("bad.json", GLOO_SOCKET_IFNAME="ib7")
    broken = [f"{each['subject']}: {each['text']}" for each in report["findings"] if each["verdict"] == "broken"]
    assert broken == ["GLOO_SOCKET_IFNAME: 'ib7' is no interface of n1: it has lo, eth0; unset or mend it"]
