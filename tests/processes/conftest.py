"""One running testnet for all tests of a module."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from cluster_world import Cluster, running_cluster


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def testnet_cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """Four validators, a sequencer, an execution node and a prover."""
    async with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster
