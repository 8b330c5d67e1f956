"""Faults in the middle of trading: an execution node killed in a cascade of liquidations, and a
client killed that has left a cancel with the sequencer."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from cluster_world import DEADLINE_S, ROLES, ROOT, Cluster, audited, eventually, running_cluster

from client.proof_fetch import fetch_receipt
from client.sdk import Exchange
from client.stream import EventStream
from client.submission import Submission, results_of
from client.trader import Trader
from cluster.testnet import TestnetOptions
from protocol.codec import encode
from protocol.events import BlockEvents, Event, LiquidationBegun, LiquidationEnded, Receipt
from protocol.genesis import Limits
from protocol.messages import decode_answer
from protocol.messages_trading import DiffPush, SubscribeDiffs
from protocol.settlement import account_number

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

MARKET = "GOOG-PERP"
VICTIMS = 12
FALLEN_TICKS = 53_100
GUARDED = """
import asyncio, sys
from client.sdk import Exchange

async def trade(directory, guarded):
    async with Exchange.connect(directory) as exchange:
        trader = await exchange.trader(sys.argv[2])
        if guarded:
            await exchange.cancel_on_disconnect(trader.key, trader.account)
        placed = await trader.place("BTC-PERP", "buy", size="0.01", price="50000")
        waits = await trader.trigger("BTC-PERP", "sell", size="0.01", kind="stop", at="40000")
        for submission in (placed, waits):
            assert (await submission.executed()).results[0].code == 0
        print("ready", flush=True)
        await asyncio.sleep(600)

asyncio.run(trade(sys.argv[1], sys.argv[3] == "guarded"))
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """Two execution nodes, and a budget of liquidation that is soon used up in each block."""
    options = TestnetOptions(
        free_ports=True, traders=32, executions=2, limits=Limits(liquidation_items_per_block=4)
    )
    async with running_cluster(tmp_path_factory.mktemp("trading"), options) as made:
        yield made


def only(cluster: Cluster, name: str) -> Exchange:
    """A client that asks one execution node alone."""
    testnet = cluster.testnet
    addresses = {role: testnet.addresses(role) for role in ROLES}
    addresses["execution"] = [testnet.process(name).public]
    return Exchange(cluster.chain, addresses, testnet=testnet, patience_ms=60_000)


async def done(*submissions: Submission) -> None:
    """Everything was executed and nothing refused."""
    for submission in submissions:
        results_of(await submission.executed())


async def leveraged(exchange: Exchange) -> list[int]:
    """Accounts with hardly more than the initial margin, all long at 577; bids wait below."""
    seller, bidder = [await exchange.trader(f"trader-{n}") for n in (30, 31)]
    size = str(14 * VICTIMS)
    await done(await seller.place(MARKET, "sell", size=size, price="577"))
    await done(await bidder.place(MARKET, "buy", size=size, price="531"))
    accounts = []
    for number in range(VICTIMS):
        owner = await exchange.trader(f"trader-{number:02}")
        sub = account_number(owner.account, 1)
        await done(await owner.transfer(sub, "1000"))
        bought = await Trader(exchange, owner.key, sub).place(
            MARKET, "buy", size="14", price="577", tif="ioc"
        )
        await done(bought)
        accounts.append(sub)
    return accounts


async def recorded(cluster: Cluster, name: str, next_seq: int) -> list[Event]:
    """Every event of an execution node from the first on."""
    found: list[Event] = []
    async with only(cluster, name) as exchange:
        stream = EventStream(exchange.channel("execution"), 1)
        async for block in stream.blocks():
            found += block.events
            if block.next_seq >= next_seq:
                return found
    raise AssertionError("the stream ended")


async def diffs(cluster: Cluster, name: str, height: int) -> list[bytes]:
    """What each block up to `height` changed in the state, as an execution node tells it."""
    found: list[bytes] = []
    async with only(cluster, name) as exchange:
        endpoint = await exchange.channel("execution").session()
        request_id = endpoint.next_request_id()
        request = encode(SubscribeDiffs(request_id, 1))
        async for frame in endpoint.subscribe(request, request_id):
            push = decode_answer(frame)
            assert isinstance(push, DiffPush)
            found.append(push.diff)
            if len(found) == height:
                return found
    raise AssertionError("the stream ended")


async def test_an_execution_node_killed_in_a_cascade_of_liquidations(cluster: Cluster) -> None:
    name, seen, next_seq = "execution-0", list[Event](), 1
    gaps: list[BlockEvents] = []

    def watch(block: BlockEvents) -> None:
        nonlocal next_seq
        if block.first_seq != next_seq:
            gaps.append(block)
        next_seq = block.next_seq
        seen.extend(block.events)

    def count(kind: type) -> int:
        return sum(isinstance(event, kind) for event in seen)

    async with only(cluster, name) as exchange:
        exchange.watchers.append(watch)
        await exchange.follow(1)
        accounts = await leveraged(exchange)
        falling = asyncio.ensure_future(fall(exchange))
        try:
            await eventually("the cascade begins", lambda: _true(count(LiquidationEnded) >= 2))
            await cluster.supervisor.kill(name)
            begun, ended = count(LiquidationBegun), count(LiquidationEnded)
            assert begun == VICTIMS and ended < VICTIMS, (begun, ended)
            await asyncio.sleep(0.3)  # the log goes on without it
            await cluster.supervisor.restart(name)
            await cluster.supervisor.wait_ready(DEADLINE_S, [name])
            await eventually("all are sold", lambda: _true(count(LiquidationEnded) >= VICTIMS))
        finally:
            falling.cancel()
            await asyncio.gather(falling, return_exceptions=True)
        assert exchange.reconnects >= 1, "the subscriber did not notice, so the fault did not bite"
        assert not gaps
        await same_state(cluster, list(seen))
        receipts = [event for event in seen if isinstance(event, Receipt)]
        assert {receipt.account for receipt in receipts} == set(accounts)
        assert [receipt.number for receipt in receipts] == list(range(len(receipts)))
        proven = await fetch_receipt(exchange, len(receipts) - 1)
        assert proven.proof.receipt == receipts[-1]
    report = await audited(cluster)
    assert report.roots_agree and report.money_conserved


async def fall(exchange: Exchange) -> None:
    """Report the fallen price again and again, so that there are blocks."""
    number = exchange.market(MARKET).market
    while True:
        await exchange.set_oracle({number: FALLEN_TICKS})
        await asyncio.sleep(0.05)


async def _true(value: bool) -> bool:
    return value


async def same_state(cluster: Cluster, seen: list[Event]) -> None:
    """The killed node and the other one tell the same from the first event on, which is what the
    subscriber saw over the kill, and answer the same questions alike."""
    both = [await recorded(cluster, f"execution-{n}", len(seen) + 1) for n in range(2)]
    assert both[0][: len(seen)] == both[1][: len(seen)] == seen

    async def level() -> bool:
        first, second = [await cluster.status(f"execution-{n}") for n in range(2)]
        return first["height"] == second["height"]

    await eventually("both are at the same block", level)
    height = await cluster.number("execution-0", "height")
    first, second = [await diffs(cluster, f"execution-{n}", height) for n in range(2)]
    assert first == second
    answers = []
    for number in range(2):
        async with only(cluster, f"execution-{number}") as exchange:
            feed = await exchange.questions.liquidations()
            stats = await exchange.questions.stats()
            answers.append((feed.entries, stats, (await exchange.book(MARKET)).checksum))
    assert answers[0] == answers[1]


async def killed_client(cluster: Cluster, name: str, how: str) -> None:
    """Run a client that trades in a process of its own, and kill it when its orders rest."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", GUARDED, str(cluster.testnet.directory), name, how,
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert await asyncio.wait_for(process.stdout.readline(), DEADLINE_S) == b"ready\n"
    finally:
        process.send_signal(signal.SIGKILL)
        assert await process.wait() == -signal.SIGKILL


async def test_a_killed_client_leaves_no_orders_where_it_asked_for_that(cluster: Cluster) -> None:
    async with cluster.exchange() as exchange:
        guarded, other = [await exchange.trader(f"trader-{n}") for n in (20, 21)]

        async def held(trader: Trader) -> tuple[int, int]:
            orders, standing = await trader.orders(), await trader.standing()
            return len(orders.orders), len(standing.triggers)

        await asyncio.gather(
            killed_client(cluster, "trader-21", "careless"),
            killed_client(cluster, "trader-20", "guarded"),
        )

        async def gone() -> bool:
            return await held(guarded) == (0, 0)

        await eventually("the orders of the killed client are gone", gone)
        assert await held(other) == (1, 1)
