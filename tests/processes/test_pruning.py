"""Validators that prune while others trade: each disk alone still proves what everybody owns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from cluster_world import Cluster, SteadyTrader, eventually

from client.exit_state import ClaimFile, claim_file
from cluster.supervisor import Supervisor
from cluster.testnet import TestnetOptions, create_testnet
from node.process_keeper import rebuilt_from_disk
from node.store_reading import StoreReading
from protocol.genesis import Pace, SettlementRules
from store.testnet import CONFIG_FOLDER, DATA_FOLDER

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]

PACE = Pace(20, 5, 30, 500, 2_000, 1 << 20)
"""Empty blocks come quickly, so that there soon are more than are kept."""
PATIENCE_S = 240.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pruning(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """A testnet whose validators keep few blocks."""
    options = TestnetOptions(
        free_ports=True, traders=4, ledger_pace=PACE, retain_blocks=100,
        settlement=SettlementRules(window_ms=500, clock_ms=500),
    )  # fmt: skip
    testnet = create_testnet(tmp_path_factory.mktemp("pruning") / "testnet", options)
    for entry in testnet.of_role("node"):
        config = testnet.directory / CONFIG_FOLDER / f"{entry.name}.toml"
        config.write_text(f"snapshot_interval = 50\n{config.read_text()}")
    supervisor = Supervisor(testnet, report=lambda line: None)
    async with supervisor:
        await supervisor.wait_ready(PATIENCE_S)
        yield Cluster(testnet, supervisor)


async def test_a_disk_that_was_pruned_proves_exits_offline(
    pruning: Cluster, tmp_path: Path
) -> None:
    supervisor, testnet = pruning.supervisor, pruning.testnet
    late, pruner = "validator-3", "validator-0"
    await supervisor.stop(late)
    async with pruning.exchange() as exchange:
        trading = SteadyTrader(exchange, "trader-00")
        trading.start()
        view = await exchange.ledger.newest_batch()
        while view is None:
            await asyncio.sleep(0.1)
            view = await exchange.ledger.newest_batch()

        async def old_blocks_are_gone() -> bool:
            trading.check()
            for name in ("validator-0", "validator-1", "validator-2"):
                if await pruning.number(name, "blocks_from") <= view.ledger_height + 50:
                    return False
            return True

        await eventually("the first batches are gone everywhere", old_blocks_are_gone, PATIENCE_S)
        assert await pruning.number(pruner, "kept_batch") > 1
        kept = await pruning.number(pruner, "kept_batch")
        blocks_from = await pruning.number(pruner, "blocks_from")

        # One that begins with a snapshot has the state from the others.
        await supervisor.restart(late)

        async def has_a_state() -> bool:
            trading.check()
            return await pruning.number(late, "kept_batch") >= kept

        await eventually("the late one keeps a state", has_a_state, PATIENCE_S)
        assert await pruning.number(late, "blocks_from") > 1
        assert "ledger taken from a snapshot" in pruning.log(late)
        await trading.stop()
        trader = await exchange.trader("trader-01")
        await (await trader.cancel_all()).wait("final", 60_000)
        worth = (await exchange.account_of(trader.key.address)).equity_uusd
        account = trader.account
    for name in (pruner, late):
        await supervisor.kill(name)
        data = testnet.directory / DATA_FOLDER / name
        reading = StoreReading(data, pruning.chain)
        first = reading.ledger.batch(1)
        assert first is not None and reading.block(first.ledger_height) is None
        assert reading.retained_from() > 1
        reading.close()
        state = await asyncio.to_thread(rebuilt_from_disk, data, pruning.chain)
        found = claim_file(state, account)
        assert found.value_uusd == worth and state.batch > 1
        out = tmp_path / f"{name}.json"
        out.write_bytes(msgspec.json.encode(found))
        assert msgspec.json.decode(out.read_bytes(), type=ClaimFile) == found
        await supervisor.restart(name)
    await supervisor.wait_ready(PATIENCE_S)
    assert await pruning.number(pruner, "blocks_from") >= blocks_from
    assert await pruning.number(pruner, "kept_batch") >= kept
