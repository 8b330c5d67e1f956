"""The only validator loses its data directory: nobody must take its second ledger for the first."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from cluster_world import SteadyTrader, eventually, running_cluster

from cluster.testnet import TestnetOptions
from execution.process_light import CHECKPOINT_NAME, NEWEST_SUFFIX

pytestmark = pytest.mark.timeout(300)

NAME = "validator-0"
FOLLOWERS = ("sequencer-0", "execution-0", "prover-0", "challenger-0")


async def test_who_follows_a_validator_that_began_anew_stops_also_after_a_restart(
    tmp_path: Path,
) -> None:
    options = TestnetOptions(validators=1, challengers=1, traders=2, free_ports=True)
    async with running_cluster(tmp_path, options) as cluster, cluster.exchange() as exchange:
        trading = SteadyTrader(exchange, "trader-00")
        trading.start()

        async def settled() -> bool:
            trading.check()
            return await cluster.number(NAME, "batches_settled") > 0

        await eventually("a batch is settled", settled)
        await trading.stop()
        supervisor, testnet = cluster.supervisor, cluster.testnet
        kept = (testnet.data_path("execution-0") / CHECKPOINT_NAME).with_suffix(NEWEST_SUFFIX)
        assert kept.exists()
        # One follower lives through it; the others were down, and know it from their files.
        for name in FOLLOWERS[1:]:
            await supervisor.stop(name)
        await supervisor.kill(NAME)
        await asyncio.to_thread(shutil.rmtree, testnet.data_path(NAME))
        await supervisor.restart(NAME)
        for name in FOLLOWERS[1:]:
            await supervisor.restart(name)

        async def stopped() -> bool:
            return all(supervisor.state(name) == "failed" for name in FOLLOWERS)

        await eventually("all that follow it end for good", stopped)
        for name in FOLLOWERS:
            assert supervisor.exit_status(name) == 5
            assert "the validators certified two ledgers" in cluster.log(name)
