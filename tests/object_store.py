"""A real S3 server on loopback, in a process of its own: what talks to it does so over HTTP, as to any object store."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from typing import Any

import pytest

START_LIMIT_S = 60


class S3Server:
    """Started when made; ``stop`` ends the process, and ``start`` starts an empty one on the same port."""

    def __init__(self) -> None:
        self.port = 0
        self.start()

    @property
    def endpoint(self) -> str:
        """URL of the server."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the process and wait until it answers."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        alarm = threading.Timer(START_LIMIT_S, self.process.kill)
        alarm.start()
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            found = re.search(r"Running on http://127\.0\.0\.1:(\d+)", line)
            if found:
                self.port = int(found[1])
                break
        alarm.cancel()
        if not self.port or self.process.poll() is not None:
            pytest.fail(f"the S3 server did not start: {''.join(lines)[-500:]}")
        # It writes a line a request; nobody may have to wait for a full pipe.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()

    def client(self) -> Any:
        """Return Amazon's own client of this server: an independent view of what is stored."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name="us-east-1",
        )

    def make_bucket(self, name: str) -> str:
        """Make an empty bucket and return its URL."""
        self.client().create_bucket(Bucket=name)
        return f"s3://{name}"

    def environment(self) -> dict[str, str]:
        """Return the environment variables by which any S3 client finds this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextlib.contextmanager
def s3_server() -> Iterator[S3Server]:
    """Start an S3 server, set the environment variables by which clients find it, and end it; skip without moto."""
    pytest.importorskip("moto", reason="moto is not installed: pip install 'imuvid[test]'")
    pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'imuvid[s3]'")
    server = S3Server()
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in server.environment().items():
                patch.setenv(name, value)
            for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
                patch.delenv(name, raising=False)
            _forget_environment()
            yield server
    finally:
        server.stop()
        _forget_environment()


def _forget_environment() -> None:
    """End the fork server of earlier tests: its children would have the environment that it was started in."""
    forkserver._forkserver._stop()


class Proxy:
    """A bad line to the server: passes bytes on, but misbehaves at the first ``bad`` connections.

    Args:
        port: of the server.
        bad: number of connections that are bad.
        after: bytes of an answer that a bad connection passes on before it ends; None = it never answers at all.
    """

    def __init__(self, port: int, bad: int, after: int | None):
        self._port, self._bad, self._after = port, bad, after
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        self.answered = 0
        """Bytes that the server sent."""
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """End all connections."""
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                bad = self.connections <= self._bad
                self._sockets.append(client)
                if bad and self._after is None:
                    continue
                server = socket.create_connection(("127.0.0.1", self._port))
                self._sockets.append(server)
                threading.Thread(target=_pass_on, args=(client, server, None), daemon=True).start()
                limit = self._after if bad else None
                threading.Thread(target=_pass_on, args=(server, client, limit, self._count), daemon=True).start()

    def _count(self, number: int) -> None:
        self.answered += number


def _pass_on(
    source: socket.socket, target: socket.socket, limit: int | None, count: Callable[[int], None] | None = None
) -> None:
    with contextlib.suppress(OSError):
        passed = 0
        while data := source.recv(1 << 16):
            data = data if limit is None else data[: limit - passed]
            target.sendall(data)
            passed += len(data)
            if count is not None:
                count(len(data))
            if passed == limit:
                break
    for each in (source, target):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
