"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in a hook of the same name
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several processes, each file is run by one of them, and all that needs the Slurm cluster by one, first."""
    in_cluster = [item.get_closest_marker("cluster") is not None for item in items]
    for item, needs_cluster in zip(items, in_cluster, strict=True):
        item.add_marker(pytest.mark.xdist_group("cluster" if needs_cluster else str(item.path)))
    items[:] = [item for _, item in sorted(zip(in_cluster, items, strict=True), key=lambda pair: not pair[0])]


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
