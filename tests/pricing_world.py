"""A state with its pricing, funding and fees alone: blocks of prices, books and positions."""

from __future__ import annotations

from typing import Any

from engine_world import START_MS, make_chain, market

from execution import leaves as lv
from execution.fees import Fees
from execution.funding import Funding
from execution.pricing import Pricing
from execution.state import State
from margin.account import Account
from margin.market import Market
from matching.book import Resting
from protocol.actions import BUY, SELL
from protocol.codec import encode
from protocol.events import Event
from protocol.genesis import Chain
from protocol.markets import MarketConfig

MAKER = 16
"""The account whose orders make the books."""


class Machine:
    """A state and the parts under test, as the engine puts them together."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.pricing = Pricing(state)
        self.funding = Funding(state)
        self.fees = Fees(state)

    def block(
        self, height: int, time_ms: int, reports: dict[tuple[int, int], lv.OracleLeaf]
    ) -> tuple[list[Event], dict[bytes, bytes | None]]:
        """Run a block with these oracle prices; returns its events and leaf changes."""
        state = self.state
        state.begin(height, time_ms)
        for (number, oracle), leaf in reports.items():
            state.oracle_prices[number][oracle] = leaf
            state.written[lv.oracle_key(number, oracle)] = encode(leaf)
        self.pricing.begin_block()
        self.funding.run()
        self.fees.fold()
        changes = state.commit()
        return state.events, changes


class PricingWorld:
    """Drives a `Machine`. With `twins`, each block also runs on a machine restored from the leaves
    before it, which must give the same events and changes."""

    def __init__(
        self, markets: list[MarketConfig] | None = None, twins: bool = True, **genesis: Any
    ) -> None:
        self.chain: Chain = make_chain(markets or [market(0)], **genesis)
        self.machine = Machine(State(self.chain))
        self.twins = twins
        self.height = 0
        self.time_ms = START_MS
        self.events: list[Event] = []
        self.changes: dict[bytes, bytes | None] = {}
        self.account(MAKER)

    @property
    def state(self) -> State:
        """The state under test."""
        return self.machine.state

    @property
    def pricing(self) -> Pricing:
        """The pricing under test."""
        return self.machine.pricing

    @property
    def funding(self) -> Funding:
        """The funding under test."""
        return self.machine.funding

    def market(self, number: int = 0) -> Market:
        """A market."""
        return self.state.markets[number]

    def row(self, number: int = 0) -> lv.PricingLeaf:
        """Pricing row of a market; the default where it has none."""
        return self.state.pricing.get(lv.pricing_key(number)) or lv.PricingLeaf()

    def mark(self, number: int = 0) -> int:
        """Mark of a market."""
        return self.market(number).mark_ticks

    def of(self, kind: type) -> list[Any]:
        """Events of one kind in the last block."""
        return [event for event in self.events if type(event) is kind]

    def block(self, dt_ms: int = 20, *prices: int | None, **options: Any) -> None:
        """A block `dt_ms` later; oracle n reports `prices[n]` for `market` (default 0)."""
        self.height += 1
        self.time_ms += dt_ms
        number = options.get("market", 0)
        late_ms = options.get("late_ms", 0)
        confidence = options.get("confidence_ppm", 0)
        reports = {
            (number, oracle): lv.OracleLeaf(ticks, self.time_ms - late_ms, self.time_ms, confidence)
            for oracle, ticks in enumerate(prices)
            if ticks is not None
        }
        twin = None
        if self.twins:
            leaves = list(self.state.leaves().items())
            twin = Machine(State.restore(self.chain, reversed(leaves)))
        self.events, self.changes = self.machine.block(self.height, self.time_ms, reports)
        if twin is not None:
            events, changes = twin.block(self.height, self.time_ms, reports)
            assert events == self.events
            assert changes == self.changes
            assert twin.state.leaves() == self.state.leaves()
            for mine, other in zip(self.state.markets, twin.state.markets, strict=True):
                assert (mine.mode, mine.scaled_ppm) == (other.mode, other.scaled_ppm)

    def all(self, ticks: int, dt_ms: int = 20, **options: Any) -> None:
        """A block in which all three oracles report a price."""
        self.block(dt_ms, ticks, ticks, ticks, **options)

    def account(self, number: int) -> Account:
        """An account, made when missing (it holds no cash)."""
        state = self.state
        found = state.accounts.get(number)
        if found is None:
            found = state.accounts[number] = Account(number, number.to_bytes(20, "big"))
            state.by_address[found.address] = number
            state.dirty_accounts[found] = None
            state.commit()
        return found

    def rest(self, side: int, ticks: int, lots: int, number: int = 0) -> Resting:
        """An order of `MAKER` in the book, as the previous block left it."""
        state, maker = self.state, self.account(MAKER)
        order = Resting(number, state.next_order_id, MAKER, 0, side, ticks, lots)
        state.next_order_id += 1
        maker.orders[order.order_id] = order
        state.markets[number].book.add(order)
        state.risk.count_resting(maker, order)
        state.dirty_orders[order] = None
        state.commit()
        return order

    def quote(self, bid: int, ask: int, lots: int = 1_000, number: int = 0) -> None:
        """Make one bid and one ask the whole book (0: none on that side)."""
        state, maker = self.state, self.account(MAKER)
        for order in list(state.markets[number].book.orders.values()):
            state.risk.refresh(maker)
            left = state.markets[number].book.cancel(order)
            del maker.orders[order.order_id]
            state.risk.release(maker, order, left)
            state.dirty_orders[order] = None
        state.commit()
        if bid:
            self.rest(BUY, bid, lots, number)
        if ask:
            self.rest(SELL, ask, lots, number)

    def trade(self, buyer: int, seller: int, ticks: int, lots: int, number: int = 0) -> None:
        """A trade between two accounts, as the previous block's last act."""
        state, market = self.state, self.state.markets[number]
        cash = market.product.value_uusd(lots, ticks)
        for account, signed in ((self.account(buyer), lots), (self.account(seller), -lots)):
            self.touch(account)
            e = account.exposure(number)
            before = max(e.size_lots, 0)
            state.risk.move(account, e, market, signed, -cash if signed > 0 else cash)
            market.open_interest_lots += max(e.size_lots, 0) - before
            state.dirty_accounts[account] = state.dirty_exposures[e] = None
        state.dirty_markets[market] = None
        state.commit()

    def touch(self, account: Account) -> None:
        """What trading does before it uses an account's totals."""
        if account.version != self.state.risk.version:
            self.pricing.settle(account)
            self.machine.fees.tier(account)
            self.state.risk.refresh(account)

    def vote(self, guardian: int, number: int, mode: int) -> int:
        """A guardian's vote, in the previous block."""
        code = self.pricing.vote(guardian, number, mode)
        self.state.commit()
        return code

    def cash(self) -> dict[int, int]:
        """Cash by account, where there is any."""
        return {n: a.cash_uusd for n, a in self.state.accounts.items() if a.cash_uusd}
