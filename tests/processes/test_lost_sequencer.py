"""The only sequencer loses its data directory: it must not order a second log from height 1."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import aiohttp
import pytest
from cluster_world import SteadyTrader, eventually, running_cluster

from cluster.testnet import TestnetOptions

pytestmark = pytest.mark.timeout(300)

NAME = "sequencer-0"


async def test_a_sequencer_alone_that_lost_its_log_stops_and_nothing_is_ordered_anew(
    tmp_path: Path,
) -> None:
    options = TestnetOptions(validators=1, traders=2, free_ports=True)
    async with running_cluster(tmp_path, options) as cluster, cluster.exchange() as exchange:
        trading = SteadyTrader(exchange, "trader-00")
        trading.start()

        async def settled() -> bool:
            trading.check()
            return await cluster.number("validator-0", "batches_settled") > 0

        await eventually("a batch is settled", settled)
        await trading.stop()

        async def executed() -> bool:
            ordered = await cluster.number(NAME, "height")
            return await cluster.number("execution-0", "height") == ordered

        await eventually("everything is executed", executed)
        height = await cluster.number("execution-0", "height")
        # While nothing can be asked, the sequencer waits and says why.
        await cluster.supervisor.stop("validator-0")
        await cluster.supervisor.kill(NAME)
        data = cluster.testnet.data_path(NAME)
        await asyncio.to_thread(shutil.rmtree, data)
        await cluster.supervisor.restart(NAME)
        await cluster.supervisor.wait_ready(60.0, [NAME])
        url = f"http://{cluster.testnet.process(NAME).observe}/readyz"
        async with aiohttp.ClientSession() as http, http.get(url) as answer:
            assert answer.status == 503
            assert "the base layer has not told yet" in await answer.text()
        # It is told, and stops.
        await cluster.supervisor.restart("validator-0")

        async def stopped() -> bool:
            return cluster.supervisor.state(NAME) == "failed"

        await eventually(f"{NAME} ends for good", stopped)
        assert cluster.supervisor.exit_status(NAME) == 5
        assert "but here it ends at block 0" in cluster.log(NAME)
        assert await cluster.number("execution-0", "height") == height
        assert await cluster.number("execution-0", "log_refused") == 0
