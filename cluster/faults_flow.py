"""What a run has beside the testnet: load that is kept, a price source, and bad clients."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from random import Random
from typing import Any

from client.exit_state import rebuilt_from_validators
from client.exits import ShardFrozen, force, taken_in
from client.load import LoadGenerator, LoadOptions
from client.sdk import Exchange
from client.submission import Submission
from cluster.faults_attack import INPUTS, Attack
from cluster.faults_evidence import Fault
from cluster.faults_kinds import Values
from cluster.faults_orders import Orders
from cluster.faults_schedule import LoadSpec, OracleSpec
from protocol.actions import ALL_MARKETS, Action, CancelAll
from protocol.errors import ConfigError, RemoteFault
from protocol.events import BadDebt, BlockEvents
from protocol.keys import Key
from store.config import ROLES
from store.testnet import Testnet

PPM = 1_000_000
CAPACITY_S = 20.0
CAPACITY_PATIENCE_MS = 60_000
SPIKE_ACCOUNTS = 8
SPIKE_BATCH = 5
SPIKE_DRAIN_S = 30.0
PRICE_WAIT_S = 5.0
FORCED_MS = 60_000
CLOSE_S = 60.0
"""How long what still runs may take to end: what is done to a process is seen through."""


class WatchedExchange(Exchange):
    """An exchange that keeps every batch that it signed, in order, and the open bad debt."""

    def __init__(self, testnet: Testnet, patience_ms: int) -> None:
        addresses = {role: testnet.addresses(role) for role in ROLES}
        super().__init__(testnet.chain(), addresses, testnet=testnet, patience_ms=patience_ms)
        self.submissions: list[Submission] = []
        self.bad_debt_uusd = 0
        self.watchers.append(self._debts)

    def sign(
        self, key: Key, account: int, actions: list[Action], *, expires_ms: int = 0
    ) -> Submission:
        """As `Exchange.sign`."""
        submission = super().sign(key, account, actions, expires_ms=expires_ms)
        self.submissions.append(submission)
        return submission

    def _debts(self, block: BlockEvents) -> None:
        for event in block.events:
            if isinstance(event, BadDebt):
                self.bad_debt_uusd = event.total_uusd


class PriceSource:
    """Reports a price of every market again and again: a walk, unless `mode` says otherwise.

    silent: nothing. wild: every report is off by `move_ppm` up or down. drift: each report moves
    the price by `move_ppm` further down. A report that is refused or gets no answer is passed over.
    """

    def __init__(self, exchange: Exchange, spec: OracleSpec, seed: int) -> None:
        self.mode = "walk"
        self.move_ppm = 0
        self.reports: dict[str, int] = {}
        self.withheld = 0
        self._exchange = exchange
        self._spec = spec
        self._rng = Random(seed)
        self._ticks: dict[int, float] = {}

    async def run(self) -> None:
        """Report until cancelled."""
        exchange, spec = self._exchange, self._spec
        for config in exchange.chain.genesis.markets:
            self._ticks[config.market] = float((await exchange.book(config.market, 1)).mark_ticks)
        step = spec.volatility / 100 * (spec.every_s / 86_400) ** 0.5
        while True:
            prices = self._next(step)
            if prices is None:
                self.withheld += 1
            else:
                mode = self.mode
                try:
                    async with asyncio.timeout(PRICE_WAIT_S):
                        await exchange.set_oracle(prices)
                    self.reports[mode] = self.reports.get(mode, 0) + 1
                except (TimeoutError, ConnectionError, RemoteFault):
                    self.withheld += 1
            await asyncio.sleep(spec.every_s)

    def _next(self, step: float) -> dict[int, int] | None:
        share = self.move_ppm / PPM
        for market, ticks in self._ticks.items():
            moved = -share if self.mode == "drift" else self._rng.gauss(0, step)
            self._ticks[market] = max(1.0, ticks * (1 + moved))
        if self.mode == "silent":
            return None
        wild = share if self.mode == "wild" else 0.0
        return {
            market: max(1, round(ticks * (1 + self._rng.choice((-wild, wild)))))
            for market, ticks in self._ticks.items()
        }


async def capacity(testnet: Testnet, spec: LoadSpec, seed: int) -> int:
    """Actions a second that a cluster executes in a closed loop, tried for `CAPACITY_S`."""
    async with WatchedExchange(testnet, CAPACITY_PATIENCE_MS) as exchange:
        options = LoadOptions(
            batch=spec.batch, accounts=spec.accounts, seconds=CAPACITY_S, seed=seed, presign=0,
            settle_s=0.0,
        )  # fmt: skip
        report = await LoadGenerator(exchange, options).run()
    return round(report.tps["executed"])


def raise_error(task: asyncio.Task[Any]) -> None:
    """Raise what a task that nobody awaits has ended with; nothing where it goes on."""
    if task.done() and not task.cancelled():
        task.result()


class Around:
    """The surroundings of one run; `close` ends whatever still runs."""

    def __init__(self, exchange: WatchedExchange, orders: Orders, seed: int) -> None:
        self.prices: PriceSource | None = None
        self.codes: dict[str, int] = {}
        self._exchange = exchange
        self._orders = orders
        self._seed = seed
        self._tasks: list[asyncio.Task[Any]] = []
        self._spikes = 0
        self._pricing: asyncio.Task[Any] | None = None

    def start_prices(self, spec: OracleSpec) -> None:
        """Begin to report prices."""
        self.prices = PriceSource(self._exchange, spec, self._seed)
        self._pricing = self.spawn(self.prices.run())

    async def stop_prices(self) -> asyncio.Task[Any] | None:
        """Report no more prices; returns what reported them, with its error where it had ended."""
        if self._pricing is not None:
            self._pricing.cancel()
            await asyncio.wait([self._pricing])
        return self._pricing

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something until `close`."""
        task = asyncio.ensure_future(work)
        self._tasks.append(task)
        return task

    async def close(self) -> None:
        """End what runs."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_S)

    async def set_oracle(self, mode: str, values: Values) -> Fault:
        """Have the price source do something else until the fault ends."""
        prices = self.prices
        if prices is None:
            raise ConfigError("the experiment has no price source; give it a table [oracle]")
        fault = self._orders.begin(f"oracle-{mode}", ["oracle"], f"the price source: {mode}")
        before = prices.withheld if mode == "silent" else prices.reports.get(mode, 0)
        prices.mode, prices.move_ppm = mode, int(str(values.get("move_ppm", 0)))

        async def honest() -> None:
            prices.mode = "walk"
            count = (prices.withheld if mode == "silent" else prices.reports.get(mode, 0)) - before
            if count > 0:
                fault.evidence["oracle"] = f"{count} reports {mode}"

        return self._orders.until_end(fault, honest)

    async def spike(self, rate: int) -> Fault:
        """Send more load until the fault ends, as other accounts than the first load's."""
        testnet = self._exchange.testnet
        if testnet is None:
            raise ConfigError("a load spike signs with the traders of a testnet directory")
        fault = self._orders.begin("load-spike", ["load"], f"{rate:,} actions a second more")
        self._spikes += 1
        options = LoadOptions(
            rate=rate, batch=SPIKE_BATCH, accounts=SPIKE_ACCOUNTS, seconds=3_600.0,
            seed=self._seed + self._spikes, presign=0, clean_up=False, drain_s=SPIKE_DRAIN_S,
            settle_s=0.0, first_trader=len(testnet.traders) - SPIKE_ACCOUNTS,
        )  # fmt: skip
        generator = LoadGenerator(self._exchange, options)
        running = self.spawn(generator.run())

        async def calm() -> None:
            generator.stop()
            await asyncio.wait([running], timeout=SPIKE_DRAIN_S)
            sent = generator.counts()["submitted"]
            if sent:
                fault.evidence["load"] = f"{sent:,} actions more were sent"
            raise_error(running)

        return self._orders.until_end(fault, calm)

    async def force(self, trader: str) -> Fault:
        """Cancel all orders of a trader through the base layer, and see it taken in; where that is
        ignored until the shard freezes, claim what the trader has."""
        exchange = self._exchange
        fault = self._orders.begin("forced-action", [trader], f"{trader} acts by force")
        owner = exchange.key(trader)

        async def act() -> None:
            account = (await exchange.ledger.balance(owner.address)).account
            forced = await force(exchange, owner, CancelAll(ALL_MARKETS), account, owner)
            entry = f"inbox entry {forced.index}"
            try:
                view = await taken_in(exchange, forced, FORCED_MS)
                fault.evidence[trader] = f"{entry} was taken in by batch {view.header.number}"
            except ShardFrozen:
                state = await rebuilt_from_validators(exchange)
                await exchange.ledger.send(owner, state.claim(account))
                fault.evidence[trader] = f"{entry} was ignored, the shard froze, a claim registered"

        acting = self.spawn(act())

        async def over() -> None:
            await asyncio.wait([acting], timeout=FORCED_MS / 1000)
            raise_error(acting)

        return self._orders.until_end(fault, over)

    async def attack(self, names: list[str], what: str) -> Fault:
        """Send bad input to processes until the fault ends."""
        kinds = list(INPUTS) if what == "all" else [what]
        for kind in kinds:
            if kind not in INPUTS:
                raise ConfigError(f"there is no bad input {kind!r}; there are {', '.join(INPUTS)}")
        self._orders.known(names)
        testnet = self._orders.testnet
        fault = self._orders.begin("bad-input", names, f"bad input to {', '.join(names)}: {what}")
        attacks = [
            Attack(testnet, testnet.process(name), kinds, self._exchange.submissions, self._seed)
            for name in names
        ]
        running = [self.spawn(attack.run()) for attack in attacks]

        async def over() -> None:
            for task in running:
                task.cancel()
            await asyncio.wait(running)
            for name, attack in zip(names, attacks, strict=True):
                for code, count in attack.codes.items():
                    self.codes[code] = self.codes.get(code, 0) + count
                if attack.codes:
                    told = ", ".join(f"{count} {code}" for code, count in attack.codes.items())
                    fault.evidence[name] = told
            for task in running:
                raise_error(task)

        return self._orders.until_end(fault, over)
