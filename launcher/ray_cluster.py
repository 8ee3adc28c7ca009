"""Joining a Ray cluster, or starting one on this machine's loopback."""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import Any

import ray
from ray._private import ray_constants
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray.exceptions import AuthenticationError

from imuvid.errors import UserError

logger = logging.getLogger(__name__)

CONNECT_LIMIT_S = 10.0
"""Longest wait for the host of an address, seconds."""
START_TRIES = 3
JOIN_LIMIT_S = 180.0
JOIN_POLL_S = 0.5


def connect(address: str | None, cpus: int, dashboard: bool = False) -> None:
    """Join the cluster at an address or, without, start one on this machine that ends with this process.

    Args:
        address: HOST:PORT; None for $RAY_ADDRESS, and without that for a cluster of this machine's own.
        cpus: of the cluster that is started here.
        dashboard: whether that one has Ray's dashboard, on loopback.

    Raises:
        UserError: the cluster does not answer, or none can be started.
    """
    word = f"ray.address={address}" if address else f"RAY_ADDRESS={os.environ.get('RAY_ADDRESS')}"
    address = address or os.environ.get("RAY_ADDRESS")
    if address is not None:
        _check_reachable(address, word)
        # As `ray start` does; left to itself, Ray uses the machine's token only where it is told no address.
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    own: dict[str, Any] = {} if address else {"num_cpus": cpus, "include_dashboard": dashboard}
    if address is None:
        _stay_on_loopback()
    for tries_left in range(START_TRIES - 1, -1, -1):
        try:
            ray.init(address=address or "local", log_to_driver=False, configure_logging=False, **own)
            return
        except AuthenticationError as error:
            raise UserError(
                f"{word}: the Ray cluster there takes no one without its token: set RAY_AUTH_MODE=token, and"
                " RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
            ) from error
        # On a busy machine some of Ray's own processes start too late for the others; it says so by a bare Exception.
        except Exception as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            if not tries_left:
                raise UserError(f"Ray at {address or 'this machine'} does not start: {first}") from error
            logger.warning("Ray did not start (%s): trying again", first)


def wait_for_machines(number: int) -> None:
    """Wait until so many machines have joined the cluster; those that do not come in time are done without."""
    deadline = time.monotonic() + JOIN_LIMIT_S
    while (joined := sum(node["Alive"] for node in ray.nodes())) < number:
        if time.monotonic() > deadline:
            logger.warning("%d of %d machines have joined the Ray cluster: going on with those", joined, number)
            return
        time.sleep(JOIN_POLL_S)


def _stay_on_loopback() -> None:
    """Have Ray listen on 127.0.0.1: on Linux it takes the machine's address even where it is told otherwise."""
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False


def _check_reachable(address: str, word: str) -> None:
    """Raise UserError where nothing listens at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_LIMIT_S).close()
    except OSError as error:
        raise UserError(f"{word}: no Ray cluster answers there: {error}") from error
