"""The event stream alone is enough: books, cash, positions and keys follow from it exactly."""

from __future__ import annotations

from collections import Counter

import pytest
from engine_flow import Flow
from rich_flow import RichFlow

from client.book import BookMirror
from protocol.actions import BUY, SELL
from protocol.events import (
    LIQUIDATION_BACKSTOP,
    LIQUIDATION_ORDER,
    AgentChanged,
    BadDebt,
    Deposited,
    Event,
    Fill,
    FundingPaid,
    MarkChanged,
    OrderOpened,
    PositionSettled,
    Receipt,
    Transferred,
    WithdrawalQueued,
)
from protocol.settlement import (
    BACKSTOP_ACCOUNT,
    FIRST_ACCOUNT,
    INSURANCE_ACCOUNT,
    POOL_ACCOUNT,
)

FEES = 0
VALUES = {0: 1_000, 1: 1_000, 2: 7_000}
"""Micro-dollars per tick and lot of the markets of the flow."""


class Subscriber:
    """Knows what events say and nothing else."""

    def __init__(self) -> None:
        self.books = [BookMirror(market) for market in VALUES]
        self.cash: Counter[int] = Counter()
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.agents: dict[tuple[int, bytes], int] = {}
        self.marks = dict.fromkeys(VALUES, 1_000)
        self.deposits = self.withdrawals = 0
        self.last_order = self.receipts = 0
        self.kinds: set[int] = set()

    def take(self, event: Event) -> None:
        for book in self.books:
            book.apply(event)
        if isinstance(event, Deposited):
            assert event.index == self.deposits
            self.deposits += 1
            self.cash[event.account] += event.amount_uusd
        elif isinstance(event, WithdrawalQueued):
            assert event.number == self.withdrawals
            self.withdrawals += 1
            self.cash[event.account] -= event.amount_uusd + event.haircut_uusd
            self.cash[INSURANCE_ACCOUNT] += event.haircut_uusd
        elif isinstance(event, Fill):
            self._fill(event)
        elif isinstance(event, OrderOpened):
            assert event.order_id > self.last_order
            self.last_order = event.order_id
        elif isinstance(event, AgentChanged):
            self.agents[event.account, event.agent] = event.expires_ms
        elif isinstance(event, MarkChanged):
            self.marks[event.market] = event.mark_ticks
        elif isinstance(event, FundingPaid):
            self._move(event.account, POOL_ACCOUNT, event.market, 0, event.amount_uusd)
        elif isinstance(event, PositionSettled):
            lots = -event.size_lots
            self._move(event.account, POOL_ACCOUNT, event.market, lots, event.amount_uusd)
        elif isinstance(event, Transferred):
            lots, amount_uusd = -event.size_lots, event.amount_uusd
            if not lots:
                amount_uusd = -amount_uusd
            self._move(event.from_account, event.to_account, event.market, lots, amount_uusd)
        elif isinstance(event, BadDebt):
            self._move(event.account, INSURANCE_ACCOUNT, 0, 0, event.amount_uusd)
            assert event.total_uusd == -self.cash[INSURANCE_ACCOUNT]
        elif isinstance(event, Receipt):
            self._receipt(event)

    def _receipt(self, event: Receipt) -> None:
        assert event.number == self.receipts
        self.receipts += 1
        self.kinds.add(event.kind)
        if event.kind == LIQUIDATION_ORDER:
            return
        if event.insurance_uusd:
            self._move(event.account, INSURANCE_ACCOUNT, 0, 0, -event.insurance_uusd)
        other = event.of_account
        if event.kind == LIQUIDATION_BACKSTOP:
            other = BACKSTOP_ACCOUNT
        elif other == event.account:
            return
        self._move(event.account, other, event.market, event.size_lots, event.amount_uusd)

    def _move(self, account: int, other: int, market: int, lots: int, amount_uusd: int) -> None:
        self.cash[account] += amount_uusd
        self.cash[other] -= amount_uusd
        self.sizes[account, market] += lots
        self.sizes[other, market] -= lots

    def _fill(self, fill: Fill) -> None:
        assert fill.maker_account != fill.taker_account
        assert fill.maker_order < fill.taker_order
        paid = fill.price_ticks * fill.size_lots * VALUES[fill.market]
        sign = 1 if fill.taker_side == BUY else -1
        self.cash[fill.taker_account] -= sign * paid + fill.taker_fee_uusd
        self.cash[fill.maker_account] += sign * paid - fill.maker_fee_uusd
        self.cash[FEES] += fill.maker_fee_uusd
        self.cash[INSURANCE_ACCOUNT if fill.liquidation else FEES] += fill.taker_fee_uusd
        self.sizes[fill.taker_account, fill.market] += sign * fill.size_lots
        self.sizes[fill.maker_account, fill.market] -= sign * fill.size_lots


@pytest.mark.parametrize(
    ("kind", "seed"), [(Flow, 21), (Flow, 22), (RichFlow, 40), (RichFlow, 47), (RichFlow, 49)]
)
def test_books_cash_and_positions_follow_from_the_events_alone(seed: int, kind: type[Flow]) -> None:
    flow = kind(seed)
    engine, seen = flow.world.engine, Subscriber()
    for result in flow.world.past:
        for event in result.events:
            seen.take(event)
    for _ in range(250):
        for event in flow.block(8, 6).events:
            seen.take(event)
        for number, mirror in enumerate(seen.books):
            view = engine.book_view(0, number, 10_000)
            assert mirror.levels(BUY, 10_000) == view.bids
            assert mirror.levels(SELL, 10_000) == view.asks
            assert seen.marks[number] == view.mark_ticks
        for account in (*range(FIRST_ACCOUNT), *flow.world.accounts):
            if account not in engine.state.accounts:
                continue
            view_of = engine.account_view(0, account)
            assert seen.cash[account] == view_of.cash_uusd
            held = {p.market: p.size_lots for p in view_of.positions if p.size_lots}
            assert held == {
                market: size for (owner, market), size in seen.sizes.items()
                if owner == account and size
            }  # fmt: skip
            mine = {
                (book.market, o.order_id, o.client_id, o.side, o.price_ticks, o.remaining_lots)
                for book in seen.books for o in book.orders.values() if o.account == account
            }  # fmt: skip
            assert mine == set(engine.orders_of(account))
        engine.check()
    assert seen.withdrawals and seen.agents and sum(map(abs, seen.sizes.values()))
    assert seen.last_order
    assert kind is Flow or seen.kinds
