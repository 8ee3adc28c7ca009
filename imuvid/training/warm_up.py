"""Has DeepSpeed compile what it compiles at its first start on a CPU: ``python -m imuvid.training.warm_up``."""

from __future__ import annotations

import os
import socket

from imuvid.training.engine import resolve_device, start_process_group


def main() -> None:
    """Start DeepSpeed once with a single rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    start_process_group(resolve_device("auto", 0), timeout_s=60.0)


if __name__ == "__main__":
    main()
