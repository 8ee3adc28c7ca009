"""A Ray cluster inside a Slurm allocation: the tasks of one srun step, one a machine, are its nodes.

Task 0 starts the head and runs the sweep, the others join it; all of it ends with the sweep. The head's address and the
cluster's password pass through a file in the sweep's folder that only its owner can read.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from imuvid.errors import UserError
from launcher.local import die_with, free_port
from launcher.slurm import expand_hosts
from launcher.sweep.config import SAME_PRIORITY

logger = logging.getLogger(__name__)

HEAD_NAME = "ray-head.json"
START_LIMIT_S = 180.0
POLL_S = 0.5
NODE_STARTS = 4
"""How often a machine joins again after its Ray node was lost, or did not come up."""
UP_WORDS = b"Ray runtime started"
# Random ones, where Ray has fixed ones: another cluster may be on the machine.
_FREE_PORTS = {
    f"--{name}-port": "0" for name in ("node-manager", "object-manager", "min-worker", "max-worker", "metrics-export")
}


class Head(NamedTuple):
    """Where a sweep joins the cluster."""

    address: str
    """HOST:PORT."""
    machines: int
    """That the cluster has once all have joined."""


@contextlib.contextmanager
def ray_cluster(folder: Path, dashboard: bool) -> Iterator[Head | None]:
    """Be a node of the cluster; for task 0, give its head to run a sweep on.

    Args:
        folder: of the sweep, which all machines see.
        dashboard: whether the head has Ray's dashboard, on its loopback.

    Yields:
        The head in task 0; None in the other tasks, once the sweep is over.

    Raises:
        UserError: this is no task of an srun step, a machine has no private address, or the head does not come up.
    """
    environ = dict(os.environ)
    missing = [name for name in ("SLURM_PROCID", "SLURM_JOB_ID", "SLURM_STEP_NODELIST") if name not in environ]
    if missing:
        raise UserError("--in-allocation is for the tasks of an srun step: submit slurm/sweep.sh by sbatch")
    hosts = expand_hosts(environ["SLURM_STEP_NODELIST"])
    own = environ.get("SLURMD_NODENAME", socket.gethostname())
    address = private_address(own, alone=len(hosts) == 1)
    folder.mkdir(parents=True, exist_ok=True)
    if environ["SLURM_PROCID"] == "0":
        with _head(folder / HEAD_NAME, environ, address, dashboard) as head:
            yield Head(head, len(hosts))
    else:
        _join(folder / HEAD_NAME, environ, address)
        yield None


def private_address(host: str, alone: bool) -> str:
    """Return the address that Ray listens on.

    Args:
        host: name of this machine in the cluster.
        alone: whether it is the only one: then loopback.

    Raises:
        UserError: the name stands for a public address, or for loopback among several machines.
    """
    if alone:
        return "127.0.0.1"
    try:
        found = ipaddress.ip_address(socket.gethostbyname(host))
    except OSError as error:
        raise UserError(f"{host}: its address is not known: {error}") from error
    if found.is_loopback or not found.is_private:
        kind = "loopback" if found.is_loopback else "a public address"
        raise UserError(f"{host} is {found}, {kind}: start Ray where it is safe and pass ray.address=HOST:PORT")
    return str(found)


@contextlib.contextmanager
def _head(path: Path, environ: Mapping[str, str], address: str, dashboard: bool) -> Iterator[str]:
    token = secrets.token_hex(32)
    _use_token(token)
    if address == "127.0.0.1":
        # Ray, here and in the sweep, takes another address than loopback unless it is told that there is no cluster.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    node, port = _start_head(environ, address, dashboard)
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump({"step": _step(environ), "address": f"{address}:{port}", "token": token}, file)
        yield f"{address}:{port}"
    finally:
        path.unlink(missing_ok=True)
        _end_node(node)


def _start_head(environ: Mapping[str, str], address: str, dashboard: bool) -> tuple[subprocess.Popen[bytes], int]:
    """Start the head's node and wait until it is up; on a busy machine Ray gives up on its own processes too early."""
    options = [
        "--head",
        "--ray-client-server-port=0",
        f"--include-dashboard={str(dashboard).lower()}",
        "--dashboard-host=127.0.0.1",
    ]
    for tries_left in range(NODE_STARTS - 1, -1, -1):
        port = free_port()
        node = _start_node([*options, f"--port={port}"], environ, address)
        if _is_up(node):
            return node, port
        _end_node(node)
        logger.warning("the head of Ray does not come up at %s:%d: %d tries are left", address, port, tries_left)
    raise UserError(f"the head of Ray does not come up at {address}: its logs are below /tmp/ray")


def _is_up(node: subprocess.Popen[bytes]) -> bool:
    """Wait until `ray start` says that its node is up; False where it ends, or says nothing for long."""
    up = threading.Event()

    def read() -> None:
        assert node.stdout is not None
        for line in node.stdout:
            if UP_WORDS in line:
                up.set()

    threading.Thread(target=read, daemon=True).start()
    deadline = time.monotonic() + START_LIMIT_S
    while not up.wait(POLL_S):
        if node.poll() is not None or time.monotonic() > deadline:
            return False
    return True


def _join(path: Path, environ: Mapping[str, str], address: str) -> None:
    """Be a node until the head's file goes."""
    head = _wait_for_head(path, environ)
    _use_token(head["token"])
    # A warning of Slurm's is for the sweep, in task 0; here it must not kill.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    node: subprocess.Popen[bytes] | None = None
    starts = 0
    try:
        while _read_head(path, environ) is not None:
            if node is None or node.poll() is not None:
                if starts == NODE_STARTS:
                    raise RuntimeError(f"the Ray node of {socket.gethostname()} was lost {NODE_STARTS} times")
                if node is not None:
                    logger.warning("the Ray node of %s was lost: joining again", socket.gethostname())
                    _end_node(node)
                node, starts = _start_node([f"--address={head['address']}"], environ, address), starts + 1
            time.sleep(POLL_S)
    finally:
        if node is not None:
            _end_node(node)


def _start_node(words: list[str], environ: Mapping[str, str], address: str) -> subprocess.Popen[bytes]:
    program = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    resources = [f"--num-cpus={environ['SLURM_CPUS_ON_NODE']}"] if "SLURM_CPUS_ON_NODE" in environ else []
    if "SLURM_GPUS_ON_NODE" in environ:
        resources.append(f"--num-gpus={environ['SLURM_GPUS_ON_NODE']}")
    ports = [f"{name}={port}" for name, port in _FREE_PORTS.items()]
    ports += [f"--dashboard-agent-listen-port={free_port()}", f"--runtime-env-agent-port={free_port()}"]
    die = die_with(os.getpid())

    def on_start() -> None:
        # Slurm's warning comes to every process of the step: the ranks and the sweep act on it, Ray would die of it.
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        if die:
            die()

    return subprocess.Popen(
        [*program, *words, f"--node-ip-address={address}", *resources, *ports],
        env={**os.environ, **SAME_PRIORITY, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if "--head" in words else subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=on_start,
    )


def _end_node(node: subprocess.Popen[bytes]) -> None:
    node.terminate()  # it ends Ray's processes itself
    with contextlib.suppress(subprocess.TimeoutExpired):
        node.wait(timeout=20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(node.pid, signal.SIGKILL)
    node.wait()


def _wait_for_head(path: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    deadline = time.monotonic() + 2 * START_LIMIT_S
    while (head := _read_head(path, environ)) is None:
        if time.monotonic() > deadline:
            raise UserError(f"the head of Ray did not come up within {2 * START_LIMIT_S:.0f} s")
        time.sleep(POLL_S)
    return head


def _read_head(path: Path, environ: Mapping[str, str]) -> dict[str, Any] | None:
    """The head of this step; None before it is there, and after it."""
    try:
        head = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return head if head["step"] == _step(environ) else None


def _step(environ: Mapping[str, str]) -> str:
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    return "/".join(environ.get(name, "0") for name in names)


def _use_token(token: str) -> None:
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token)
