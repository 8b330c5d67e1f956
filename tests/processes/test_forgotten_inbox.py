"""A chain that forgets old batches and inbox entries: who starts again later goes on from what is
left, or ends with a word."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from cluster_world import Cluster, SteadyTrader, eventually, running_cluster

from client.sdk import Exchange
from cluster.testnet import TestnetOptions
from protocol.errors import Code, RemoteFault
from protocol.genesis import SettlementRules
from protocol.messages import InboxRequest, InboxView
from store.testnet import DATA_FOLDER

pytestmark = pytest.mark.timeout(600)

OPTIONS = TestnetOptions(
    free_ports=True, traders=4, challengers=1,
    settlement=SettlementRules(window_ms=500, clock_ms=500, keep_batches=4),
)  # fmt: skip
PATIENCE_S = 240.0


async def first_entry_forgotten(exchange: Exchange) -> bool:
    """Whether the ledger has forgotten the first inbox entry."""
    try:
        await exchange.channel("node").ask(InboxView, InboxRequest, 0, 1)
    except RemoteFault as fault:
        return fault.code == Code.NOT_RETAINED
    return False


async def fails_with(cluster: Cluster, name: str, words: str) -> None:
    """Start a process, which ends for good, and says why."""
    await cluster.supervisor.restart(name)

    async def failed() -> bool:
        return cluster.supervisor.state(name) == "failed"

    await eventually(f"{name} ends for good", failed, PATIENCE_S)
    assert cluster.supervisor.exit_status(name) == 2
    assert words in cluster.log(name)[-2000:]


async def test_who_starts_again_goes_on_behind_what_is_forgotten_or_says_why_not(
    tmp_path: Path,
) -> None:
    async with running_cluster(tmp_path, OPTIONS) as cluster, cluster.exchange() as exchange:
        trading = SteadyTrader(exchange, "trader-00")
        trading.start()

        async def forgotten() -> bool:
            trading.check()
            return await first_entry_forgotten(exchange)

        await eventually("the first inbox entry is forgotten", forgotten, PATIENCE_S)
        await trading.stop()
        for name in ("sequencer-0", "execution-0"):
            await cluster.supervisor.restart(name)
            await cluster.supervisor.wait_ready(PATIENCE_S, [name])
        key = (await exchange.trader("trader-01")).key
        await exchange.ledger.deposit_and_wait(key, 1_000_000, timeout_ms=60_000)
        for name in ("sequencer-0", "execution-0"):
            assert "older inbox entries are forgotten" in cluster.log(name), name

        # Nothing was kept yet from which it could go on.
        assert not (cluster.testnet.directory / DATA_FOLDER / "challenger-0/final-state").exists()
        await fails_with(cluster, "challenger-0", "has forgotten")
        await cluster.supervisor.stop("execution-0")
        data = cluster.testnet.directory / DATA_FOLDER / "execution-0"
        await asyncio.to_thread(shutil.rmtree, data)
        await fails_with(cluster, "execution-0", "has forgotten inbox entries 0 to")
