"""An execution node's shell: its streams end with their sessions, its counters never go back."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ledger_world import key_of, make_chain
from pipeline_world import PipelineWorld
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from service_world import until

from execution.process import ExecutionProcess
from execution.process_health import Produced
from net.rpc import Connection
from protocol.actions import BUY, SELL, Order
from protocol.codec import Wire, encode
from protocol.genesis import Chain
from protocol.messages_market_data import SubscribeLiquidations
from protocol.messages_trading import SubscribeDiffs, SubscribeEvents
from store.config import ProcessConfig


def process_of(chain: Chain, data: Path) -> ExecutionProcess:
    """A node that talks with nobody."""
    config = ProcessConfig(
        "execution", "execution-0", 0, Path("g"), Path("k"), data, "127.0.0.1:0",
        validators=["127.0.0.1:1"], sequencers=["127.0.0.1:1"],
    )  # fmt: skip
    return ExecutionProcess(config, chain)


@pytest.mark.parametrize("lost", ["closed", "reset"])
async def test_a_stream_that_waits_for_a_block_ends_with_its_session(
    tmp_path: Path, lost: str
) -> None:
    """Of an idle exchange the next block may be far away, and sessions come and go."""
    chain = make_chain([(key_of("alice"), 0, 500)], sequencers=1)
    process = process_of(chain, tmp_path)
    service = process._service
    await service.start("127.0.0.1", 0)
    assert service._server is not None
    try:
        waiting = service._tasks
        for _ in range(3):
            connection = await Connection("127.0.0.1", service._server.port).open()
            requests: list[Wire] = [
                SubscribeEvents(1, 0, []), SubscribeDiffs(2, 1), SubscribeLiquidations(3, 1, 0)
            ]  # fmt: skip
            streams = [connection.subscribe(encode(one), n) for n, one in enumerate(requests, 1)]
            await until(lambda: len(waiting) == 3)
            if lost == "closed":
                await connection.close()
            else:
                connection.session.reset("test")
            await until(lambda: not waiting)
            for stream in streams:
                with pytest.raises(ConnectionError):
                    await stream.get()
        assert service.fatal is not None and not service.fatal.done()
    finally:
        await service.stop()
        process._store.close()


# --- counters


def traded() -> PipelineWorld:
    """A log of a block with the deposits of genesis, and three with a fill each."""
    world = PipelineWorld()
    world.execute(inbox_height=0)
    for _ in range(3):
        bid, ask = (Order(0, side, 600_000, 100) for side in (BUY, SELL))
        world.execute(world.sign(world.alice, bid), world.sign(world.bob, ask))
    assert world.codes() == [0] * 6
    return world


async def execute(process: ExecutionProcess, world: PipelineWorld, end: int) -> None:
    """Have a node execute the log up to a block, of an inbox that is known."""
    inbox = process._inbox
    inbox._entries, inbox.covered_height = world.ledger.entries(0, 9, 0), 0
    inbox.count = len(inbox._entries)
    for block in world.log.blocks[process._replay.height : end]:
        await process._apply(block)


def scraped(process: ExecutionProcess) -> tuple[float, ...]:
    """Events, fills and liquidations, as Prometheus has them."""
    text = generate_latest(process._service.metrics.registry).decode()
    families = {one.name: one for one in text_string_to_metric_families(text)}
    assert families["trilemma_unmapped_values"].samples[0].value == 0
    names = ("events", "fills", "liquidations")
    return tuple(families[f"trilemma_{name}"].samples[0].value for name in names)


async def test_counters_begin_at_0_and_count_no_block_twice(tmp_path: Path) -> None:
    """What a restart executes again from the snapshot on is no burst of trading."""
    world = traded()
    first = process_of(world.chain, tmp_path)
    assert scraped(first) == (0, 0, 0)
    await execute(first, world, 2)
    first._store.write_snapshot(first._replay.snapshot())
    await execute(first, world, 3)
    whole = first._replay.next_seq
    assert scraped(first) == (whole - 1, 2, 0)
    first._store.sync()
    first._store.close()

    second = process_of(world.chain, tmp_path)
    assert second._replay.height == 2 and scraped(second) == (0, 0, 0)
    await execute(second, world, 3)
    assert second._status()["next_seq"] == whole and scraped(second) == (0, 0, 0)
    await execute(second, world, 4)
    assert scraped(second) == (second._replay.next_seq - whole, 1, 0)
    second._store.close()


def test_receipts_of_liquidations_count_as_fills_do() -> None:
    market_data, feed = SimpleNamespace(fills=7), SimpleNamespace(receipts=3)
    derived = SimpleNamespace(market_data=market_data, feed=feed)
    replay: Any = SimpleNamespace(next_seq=40, derived=derived)
    produced = Produced(replay)
    replay.next_seq, feed.receipts = 44, 5
    produced.known()
    replay.next_seq, market_data.fills, feed.receipts = 50, 8, 6
    assert produced.counts() == (6, 1, 1)
