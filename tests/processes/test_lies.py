"""Real processes that lie: every lie of a prover bites, is disputed by an honest challenger beside
one that is in league with the liar, and goes; an honest prover posts what is right."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest
import pytest_asyncio
from cluster_world import DEADLINE_S, Cluster, audited, eventually, running_cluster

from client.sdk import Exchange
from client.submission import Submission, results_of
from client.trader import Trader
from cluster.defaults import CHALLENGER_BALANCE_UUSD, MARKETS, PROVER_BALANCE_UUSD, SETTLEMENT
from cluster.testnet import TestnetOptions
from protocol.dispute import STEPS_PER_BLOCK
from protocol.markets import FUNDING_SAMPLE_MS
from protocol.settlement import account_number

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

RULES = msgspec.structs.replace(SETTLEMENT, window_ms=15_000, clock_ms=15_000)
"""Clocks on which only who does not answer loses, also where processes wait for a core."""
LIAR, HONEST = "prover-0", "prover-1"
MARGIN = "1000"


async def done(*submissions: Submission) -> None:
    """Everything was executed and nothing refused."""
    for submission in submissions:
        results_of(await submission.executed())


class Scenes:
    """What gives a liar occasion for its lie; each may be played again and again."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self._opened: set[str] = set()

    async def trader(self, number: int) -> Trader:
        return await self.exchange.trader(f"trader-{number:02}")

    async def prices(self, market: str, ticks: int) -> None:
        number = self.exchange.market(market).market
        await done(*await self.exchange.set_oracle({number: ticks}))

    async def trades(self) -> None:
        """Somebody buys from somebody."""
        seller, buyer = await self.trader(0), await self.trader(1)
        await done(await seller.place("BTC-PERP", "sell", size="0.01", price="60000"))
        await done(await buyer.place("BTC-PERP", "buy", size="0.01", price="60000", tif="ioc"))

    async def rushes(self) -> None:
        """Two sell at one price, and somebody buys from the first: all in a block."""
        sellers, buyer = [await self.trader(n) for n in (0, 2)], await self.trader(1)
        sent = [await one.place("BTC-PERP", "sell", size="0.01", price="60000") for one in sellers]
        sent.append(await buyer.place("BTC-PERP", "buy", size="0.01", price="60000", tif="ioc"))
        await done(*sent)

    async def pays_funding(self) -> None:
        """Prices are fresh, so that samples are taken and payments made."""
        await self.prices("BTC-PERP", 600_000)
        await asyncio.sleep(0.5)

    async def deposits(self) -> None:
        """Money comes in."""
        await self.exchange.ledger.deposit((await self.trader(3)).key, 1_000_000)
        await asyncio.sleep(0.5)

    async def leans(self) -> None:
        """Somebody stands between initial and maintenance margin."""
        await self._leveraged("GOOG-PERP", "14", "577", 4)
        await self.prices("GOOG-PERP", 56_000)

    async def fails(self) -> None:
        """Somebody falls below maintenance, and bids wait for what is sold."""
        await self._leveraged("AAPL-PERP", "14", "585", 5)
        if "bids" not in self._opened:
            self._opened.add("bids")
            bidder = await self.trader(1)
            await done(await bidder.place("AAPL-PERP", "buy", size="14", price="538"))
        await self.prices("AAPL-PERP", 53_800)

    async def breaks(self) -> None:
        """Somebody loses more than they have, against two who are short."""
        await self._leveraged("ETH-PERP", "6.2", "3000", 6)
        await self.prices("ETH-PERP", 282_000)

    async def _leveraged(self, market: str, size: str, price: str, number: int) -> None:
        """A subaccount of a trader buys from two others, with little money."""
        if market in self._opened:
            return
        self._opened.add(market)
        for seller in [await self.trader(n) for n in (0, 2)]:
            await done(await seller.place(market, "sell", size=f"{float(size) / 2:g}", price=price))
        owner = await self.trader(number)
        sub = account_number(owner.account, 1)
        await done(await owner.transfer(sub, MARGIN))
        bold = Trader(self.exchange, owner.key, sub)
        await done(await bold.place(market, "buy", size=size, price=price, tif="ioc"))


ONCE = (Scenes.leans, Scenes.fails, Scenes.breaks)
"""What does not come again: it must not fall into a batch of the honest prover."""

CASES: list[tuple[str, Callable[[Scenes], Awaitable[None]]]] = [
    ("mints-cash:1", Scenes.trades),
    ("drops-fill:1", Scenes.trades),
    ("skips-price-time-priority:1", Scenes.rushes),
    ("hides-best-order:1", Scenes.trades),
    ("misprices-funding:1", Scenes.pays_funding),
    ("liquidates-healthy:1", Scenes.leans),
    ("spares-unhealthy:1", Scenes.fails),
    ("deleverages-wrong-account:1", Scenes.breaks),
    ("ignores-inbox:1", Scenes.deposits),
    ("invents-withdrawal:1", Scenes.trades),
    ("mints-cash:1+answers-late", Scenes.trades),
    ("mints-cash:1+answers-garbage", Scenes.trades),
    ("mints-cash:1+answers-nothing", Scenes.trades),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """Two provers, of which one will lie, and a challenger beside one that plays to lose."""
    btc = msgspec.structs.replace(MARKETS[0], funding_interval_ms=FUNDING_SAMPLE_MS)
    options = TestnetOptions(
        free_ports=True, validators=1, traders=8, provers=2, challengers=2, settlement=RULES,
        markets=(btc, *MARKETS[1:]),
    )  # fmt: skip
    async with running_cluster(tmp_path_factory.mktemp("lies"), options) as made:
        await lie(made, "challenger-1", "plays-to-lose")
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scenes(cluster: Cluster) -> AsyncIterator[Scenes]:
    async with cluster.exchange() as exchange:
        yield Scenes(exchange)


async def lie(cluster: Cluster, name: str, how: str) -> None:
    """Start a process again as one that lies so."""
    path = cluster.testnet.config_path(name)
    kept = [line for line in path.read_text().splitlines() if not line.startswith("byzantine")]
    await cluster.supervisor.stop(name)
    path.write_text("\n".join([f'byzantine = "{how}"', *kept]) + "\n")
    await cluster.supervisor.restart(name)
    await cluster.supervisor.wait_ready(DEADLINE_S, [name])


async def balances(cluster: Cluster, *names: str) -> list[int]:
    """Free money on the ledger."""
    async with cluster.exchange() as exchange:
        keys = [cluster.testnet.key(name).address for name in names]
        return [(await exchange.ledger.balance(key)).balance_uusd for key in keys]


def larger_witnesses(cluster: Cluster) -> int:
    """Witnesses that the honest challenger has answered with."""
    return cluster.log("challenger-0").count("text=Prove")


@pytest.mark.parametrize(("how", "scene"), CASES, ids=[how for how, _ in CASES])
async def test_a_lie_is_caught_and_goes(
    cluster: Cluster, scenes: Scenes, how: str, scene: Callable[[Scenes], Awaitable[None]]
) -> None:
    removed = await cluster.number("validator-0", "removed_batches")
    wrong = await cluster.number("challenger-0", "wrong_batches")
    answered = larger_witnesses(cluster)
    await lie(cluster, LIAR, how)
    if scene in ONCE:
        cluster.supervisor.send_signal(HONEST, signal.SIGSTOP)

    async def told() -> bool:
        await scene(scenes)
        return await cluster.number(LIAR, "lies_told") == 1

    await eventually("there is occasion for the lie", told)
    cluster.supervisor.send_signal(HONEST, signal.SIGCONT)

    loop = asyncio.get_running_loop()
    began_s = loop.time()

    async def gone() -> bool:
        return await cluster.number(LIAR, "lies_caught") == 1

    await eventually("the lie is removed", gone)
    assert await cluster.number("challenger-0", "wrong_batches") == wrong + 1
    assert await cluster.number("validator-0", "removed_batches") > removed
    status = await cluster.status(LIAR)
    step, size = int(status["lie_at_step"]), status["largest_proof_bytes"]
    print(
        f"{how}: step {step}, largest proof {size} bytes, gone after {loop.time() - began_s:.1f} s"
    )
    if how.startswith("hides"):  # what it shows holds: it takes a larger witness to refute it
        assert larger_witnesses(cluster) > answered
    if "+" not in how:  # it is played down to where it was told, not to the end of its block
        assert step < STEPS_PER_BLOCK // 2
    number = await cluster.number("validator-0", "last_batch")

    async def goes_on() -> bool:
        await scenes.trades()
        final = await cluster.number("validator-0", "last_batch") > number
        return final and await cluster.number("challenger-0", "batch") > number

    await eventually("an honest prover settles in its place", goes_on)
    status = await cluster.status("challenger-0")
    assert (status["lost"], status["wrong_batches"]) == ("", wrong + 1)


async def test_data_that_was_not_ordered_is_refused(cluster: Cluster, scenes: Scenes) -> None:
    removed = await cluster.number("validator-0", "removed_batches")
    await lie(cluster, LIAR, "posts-other-data")

    async def refused() -> bool:
        await scenes.trades()
        codes = str((await cluster.status(LIAR))["lies_refused"]).split()
        assert not [one for one in codes if one.endswith("=0")], "a lie about data was taken"
        return len(codes) >= 3

    await eventually("the ledger refuses what was not ordered", refused)
    assert await cluster.number("validator-0", "removed_batches") == removed


async def test_everything_is_right_in_the_end(cluster: Cluster, scenes: Scenes) -> None:
    """Nothing that was a lie is final; the money is all there, and liars have paid."""
    await lie(cluster, LIAR, "answers-nothing")
    number = await cluster.number("validator-0", "last_batch")

    async def final() -> bool:
        await scenes.trades()
        return await cluster.number("validator-0", "final_batch") > number

    await eventually("what is right becomes final", final)
    assert (await cluster.status("validator-0"))["conserved"] == "yes"
    report = await audited(cluster)
    assert report.roots_agree and report.money_conserved
    liar, colluding, honest = await balances(cluster, LIAR, "challenger-1", "challenger-0")
    print(f"free in the end: liar {liar}, in league {colluding}, honest challenger {honest} uusd")
    assert liar < PROVER_BALANCE_UUSD - len(CASES) // 2 * RULES.prover_bond_uusd
    assert colluding < CHALLENGER_BALANCE_UUSD < honest
    assert "dispute: moved" in cluster.log("challenger-1"), "the one in league did not play"
