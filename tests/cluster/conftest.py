"""The Slurm cluster that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.slurm_cluster import ClusterUnavailable, SlurmCluster


@pytest.fixture(scope="session")
def _running_cluster() -> Iterator[SlurmCluster]:
    try:
        cluster = SlurmCluster(num_nodes=2)
    except ClusterUnavailable as error:
        pytest.skip(f"no Slurm cluster: {error}")
    with cluster:
        yield cluster


@pytest.fixture
def slurm_cluster(_running_cluster: SlurmCluster) -> Iterator[SlurmCluster]:
    """Two hosts, n1 and n2, of two CPUs each, without any job."""
    yield _running_cluster
    _running_cluster.clear()
