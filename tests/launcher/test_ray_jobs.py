"""Building on Ray: the same results and bytes as local processes, with the same protection from bad jobs."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from imuvid.errors import UserError
from launcher.ray_jobs import run_jobs_on_ray
from shards.build import build
from tests.shards.recordings import build_config, make_recordings
from tests.shards.test_build import contents
from tests.shards.test_workers import misbehave

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _workers_find_the_tests(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path or os.getcwd() for path in sys.path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_results_come_with_the_number_of_their_job_and_bad_jobs_cost_themselves():
    jobs = [("fine",), ("hang",), ("crash",), ("good",), ("exit",)]
    results = dict(run_jobs_on_ray(misbehave, jobs, 2, timeout_s=2.0))
    assert [results[i] for i in (0, 3)] == ["fine", "good"]
    assert [results[i].reason for i in (1, 2, 4)] == ["timeout", "crash", "crash"]
    with pytest.raises(UserError, match="mend it"):
        list(run_jobs_on_ray(misbehave, [("mistake",)], 1))


def test_a_dataset_built_on_ray_has_the_same_bytes(tmp_path):
    manifest = make_recordings(tmp_path, {"ada-1": 2.0, "eva-1": 1.4, "ida-1": 2.2})
    build(build_config(manifest, tmp_path / "local"))
    build(build_config(manifest, tmp_path / "ray", "build.executor=ray"), run_jobs_on_ray)
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")


def test_a_cluster_that_is_started_by_hand_is_used(tmp_path, monkeypatch):
    manifest = make_recordings(tmp_path, {"ada-1": 2.0, "eva-1": 1.4})
    ray = os.path.join(os.path.dirname(sys.executable), "ray")
    port = 6400 + os.getpid() % 1000  # Ray keeps those from 10002 on for itself
    command = [ray, "start", "--head", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=2", "--block"]
    head = subprocess.Popen([*command, "--include-dashboard=false"], stdout=subprocess.DEVNULL, cwd=tmp_path)
    try:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        deadline = time.monotonic() + 60
        status = [ray, "health-check", "--address", f"127.0.0.1:{port}"]
        while subprocess.run(status, capture_output=True).returncode and time.monotonic() < deadline:
            time.sleep(0.5)
        summary = build(build_config(manifest, tmp_path / "out", "build.executor=ray"), run_jobs_on_ray)
        assert summary.counts["recordings"] == 2
    finally:
        head.terminate()
        head.wait(timeout=30)


def test_a_cluster_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UserError, match=r"RAY_ADDRESS=127\.0\.0\.1:1: no Ray cluster answers there"):
        list(run_jobs_on_ray(misbehave, [("fine",)], 1))
