"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before torch is imported: tests run in two processes, and a core each gives the same sums everywhere.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def realdata() -> Path:
    """Folder of the real recordings and data sets; the test is skipped where IMUVID_REALDATA is unset."""
    root = os.environ.get("IMUVID_REALDATA")
    if not root:
        pytest.skip("IMUVID_REALDATA is not set: the real recordings are not at hand")
    path = Path(root)
    if not path.is_dir():
        pytest.fail(f"IMUVID_REALDATA={root} is not a folder")
    return path


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small dataset in shard format 1; not to be changed."""
    from tests.tiny_dataset import write_tiny_dataset

    return write_tiny_dataset(tmp_path_factory.mktemp("tiny") / "dataset")
