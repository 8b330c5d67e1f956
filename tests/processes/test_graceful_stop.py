"""SIGTERM under load: every role ends by itself, in good order, within the supervisor's grace."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from cluster_world import DEADLINE_S, ROOT, Cluster, audited, eventually

from cluster.supervisor import Supervisor
from cluster.testnet import TestnetOptions, create_testnet

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]

GRACE_S = 5.0
ROLES = ["challenger-0", "prover-0", "execution-1", "validator-3", "execution-0", "sequencer-0"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    options = TestnetOptions(free_ports=True, traders=16, executions=2, challengers=1)
    testnet = create_testnet(tmp_path_factory.mktemp("cluster") / "testnet", options)
    news: list[str] = []
    supervisor = Supervisor(testnet, report=news.append, stop_grace_s=GRACE_S)
    running = Cluster(testnet, supervisor)
    running.news = news
    async with supervisor:
        await supervisor.wait_ready(DEADLINE_S)
        yield running


async def test_every_role_stops_under_load_without_being_killed(cluster: Cluster) -> None:
    supervisor = cluster.supervisor
    load = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cluster.cli", "--testnet", str(cluster.testnet.directory), "load",
        "--rate", "2000", "--seconds", "600", cwd=ROOT,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for name in ROLES:
            await under_load(cluster)
            began = time.monotonic()
            await supervisor.stop(name)
            print(f"{name} stopped in {time.monotonic() - began:.2f} s")
            assert supervisor.exit_status(name) == 0, cluster.log(name)[-3000:]
            assert not [line for line in cluster.news if "SIGTERM" in line], cluster.news
            assert "Traceback" not in cluster.log(name), cluster.log(name)[-3000:]
            await supervisor.restart(name)
            await supervisor.wait_ready(DEADLINE_S, [name])
    finally:
        load.kill()
        await load.wait()
    # And all of them at once, as when a machine goes down.
    await asyncio.gather(*(supervisor.stop(name) for name in cluster.names))
    assert {supervisor.exit_status(name) for name in cluster.names} == {0}
    for name in cluster.names:
        await supervisor.restart(name)
    await supervisor.wait_ready(DEADLINE_S)
    assert (await audited(cluster)).roots_agree


async def under_load(cluster: Cluster) -> None:
    """Wait until thousands of actions more have been executed."""
    begun = await cluster.number("sequencer-0", "ordered_actions")

    async def flows() -> bool:
        ordered = await cluster.number("sequencer-0", "ordered_actions")
        return ordered - begun > 4_000 or ordered < begun

    await eventually("the load flows", flows)
