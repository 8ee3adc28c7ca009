"""slurm/build_shards.sh on a real Slurm cluster: a job array on two hosts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from imuvid.config import to_yaml
from shards.build import build
from shards.verify import verify
from tests.cluster.slurm_cluster import SlurmCluster
from tests.shards.recordings import build_config, make_recordings
from tests.shards.test_build import contents

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
REPOSITORY = Path(__file__).parents[2]


def test_an_array_on_two_hosts_builds_the_same_bytes(slurm_cluster: SlurmCluster, tmp_path: Path):
    manifest = make_recordings(tmp_path, {f"p{i % 3}-{i}": 1.4 + 0.2 * (i % 4) for i in range(9)})
    words = ["samples_per_shard=5", "build.workers=1"]
    build(build_config(manifest, tmp_path / "local", *words))
    (tmp_path / "config.yaml").write_text(to_yaml(build_config(manifest, tmp_path / "out", *words)))
    program = tmp_path / "imuvid"
    program.write_text(f'#!/bin/sh\necho "on $(hostname)"\nexec {sys.executable} -m launcher.cli "$@"\n')
    program.chmod(0o755)
    env = {"IMUVID": str(program), "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    script = REPOSITORY / "slurm/build_shards.sh"
    job = slurm_cluster.submit(script, str(tmp_path / "config.yaml"), nodes=1, env=env, options=["--array=4-7"])
    for task in range(4, 8):
        slurm_cluster.wait_for(f"{job}_{task}", ["COMPLETED"], timeout_s=180)
    logs = [slurm_cluster.log(f"{job}_{task}") for task in range(4, 8)]
    assert {line for log in logs for line in log.splitlines() if line.startswith("on n")} == {"on n1", "on n2"}
    assert sum("the last one assembles the dataset" in log for log in logs) == 3
    assert contents(tmp_path / "out") == contents(tmp_path / "local")
    assert verify(tmp_path / "out").problems == []
