"""Environments of the readers that benchmarks/stream.py compares with, and the processes that run in them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
PEERS = ROOT / "build" / "peers"
ENERGON, STREAMING = "megatron-energon==7.4.1", "mosaicml-streaming==0.13.0"
# What its reader imports. Pinned in its metadata are numpy < 2.2 and transformers < 5, which it imports for two names.
WITH_STREAMING = ["numpy==2.1.3", "Brotli==1.2.0", "python-snappy==0.7.3", "cramjam", "xxhash", "zstd", "catalogue"]
PACKAGES = {"energon": [ENERGON], "streaming": ["--no-deps", STREAMING, *WITH_STREAMING]}
# Streaming imports torchvision for image data sets, which are not read here: a call of it is to fail.
STUB = {
    "__init__.py": "",
    "datasets.py": "VisionDataset = object\n",
    "transforms/__init__.py": "",
    "transforms/functional.py": "def to_tensor(picture):\n    raise NotImplementedError\n",
}
NOTES = {
    "energon": f"{ENERGON}, prepared by 'energon prepare', crude samples",
    "streaming": f"{STREAMING} with numpy 2.1.3 and a stub in the place of torchvision, which its reader does not use;"
    " the members of the samples are columns of bytes",
}


def set_up() -> None:
    """Make an environment for each peer that lacks one; torch and simplejpeg are those of the environment of this."""
    for peer, packages in PACKAGES.items():
        home = PEERS / peer
        if python_of(peer):
            continue
        venv.create(home, clear=True, with_pip=True)
        site = home / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
        (site / "parent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
        constraints = [] if peer == "streaming" else ["-c", str(ROOT / "constraints.txt")]
        pip = [str(home / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, *constraints, *packages], check=True, timeout=1200)
        if peer == "streaming":
            for name, content in STUB.items():
                path = site / "torchvision" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content)
        (home / "complete").touch()


def python_of(way: str) -> str | None:
    """Return the interpreter that a way runs in; None for a peer that is not set up."""
    if way not in PACKAGES:
        return sys.executable
    return str(PEERS / way / "bin" / "python") if (PEERS / way / "complete").exists() else None


def prepare(folder: Path) -> None:
    """Let the peers that are set up make what they need beside the tars: an index, a copy in their own format."""
    if python_of("energon"):
        words = "--non-interactive --no-progress --num-workers 1 --split-ratio 1,0,0 --sample-type CrudeWebdataset"
        command = [str(PEERS / "energon" / "bin" / "energon"), "prepare", str(folder), *words.split()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise RuntimeError(f"energon prepare: {done.stderr}")
    if python_of("streaming"):
        Reader("convert", folder, 1, 0, "streaming").close()


class Reader:
    """One way of reading, in a process of its own on the first of our cores; see benchmarks/stream_ways.py."""

    def __init__(self, way: str, folder: Path, batch: int, workers: int, peer: str | None = None):
        python = python_of(peer or way)
        assert python is not None
        script = str(Path(__file__).with_name("stream_ways.py"))
        core = min(os.sched_getaffinity(0))
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.way = way
        self._process = subprocess.Popen(
            ["taskset", "-c", str(core), python, script, way, str(folder), str(batch), str(workers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.shape = self._answer()["shape"]
        """Of what it yields: imu, valid, frames; None where it is another thing."""

    def core_seconds(self, num_batches: int) -> float:
        """Read so many batches; return the user and system time that it took over all threads, seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{num_batches}\n")
        self._process.stdin.flush()
        return self._answer()["core_s"]

    def _answer(self) -> dict:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"reading by '{self.way}' failed with exit status {self._process.wait()}")

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
