"""What a preview says of an order is what the engine then does with it, over random flow."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from compiled_modules import fields
from engine_world import ORACLES, World, market, signer

from execution.fees import Fees
from execution.preview import Preview, preview
from execution.report import margin_report
from execution.state import State
from margin import Account, Exposure, Market
from protocol.actions import (
    BUY,
    FOK,
    GTC,
    IOC,
    POST_ONLY,
    REDUCE_ONLY,
    STP_MASTER,
    CancelAll,
    MarketOrder,
    OraclePrice,
    Order,
    SetLeverage,
    SetProtection,
    Transfer,
)
from protocol.errors import Code
from protocol.events import BatchExecuted, Fill, FundingPaid, OrderChanged
from protocol.genesis import FeeTier, Limits, MarginTier
from protocol.settlement import account_number

SEEDS = range(1, 1 + int(os.environ.get("TRILEMMA_MARGIN_SEEDS", "8")))
STEPS = 500
TIERS = [MarginTier(200_000_000, 200_000, 100_000)]


class PreviewFlow:
    """Random orders of several masters, two of them with a sub-account."""

    def __init__(self, seed: int) -> None:
        print("seed", seed)
        self.rng = Random(seed)
        markets = [
            market(0, margin_tiers=TIERS, fee_tiers=[FeeTier(1_000_000, 300, -100)]),
            market(1, maker_fee_ppm=-200, max_position_lots=700, max_open_interest_lots=700),
        ]
        limits = Limits(orders_per_account=6, fills_per_action=5)
        self.world = World(markets, limits, accounts=5, dollars=700, checked=False)
        self.marks = [1_000, 1_000]
        self.owners = {number: number for number in self.world.accounts}
        for master in self.world.accounts[:2]:
            sub = account_number(master, 1)
            assert self.world.one(master, Transfer(sub, 300_000_000)).code == 0
            self.owners[sub] = master

    @property
    def state(self) -> State:
        """The state that the engine works on."""
        state: State = self.world.engine._state
        return state

    def other(self) -> None:
        """Something that is no order: prices, settings, cancels."""
        rng, world = self.rng, self.world
        account = rng.choice(list(self.owners))
        kind = rng.randrange(10)
        if kind < 5:
            number = rng.randrange(2)
            step = rng.choice((3, 30))
            self.marks[number] = max(500, self.marks[number] + rng.randint(-step, step))
            price = OraclePrice(number, self.marks[number])
            world.block([world.batch(0, price, by=oracle) for oracle in ORACLES])
        elif kind < 7:
            self.act(account, SetProtection(rng.randrange(2), rng.choice((1, 2, 3)), 60_000))
        elif kind < 8:
            self.act(account, SetLeverage(rng.randrange(2), rng.choice((0, 2, 5))))
        elif kind < 9:
            self.act(account, CancelAll(rng.randrange(2)))
        else:
            # The fee tiers count full days: the next block is tomorrow's.
            world.height += 8_640_000
            world.nonce += 86_400_000
            world.block([])

    def act(self, account: int, action: Any) -> BatchExecuted:
        """Execute an action of an account in a block of its own."""
        raw = self.world.batch(account, action, by=signer(self.owners[account]))
        return self.world.send(raw)

    def order(self, account: int) -> Order | MarketOrder:
        """A random order, bad ones among them."""
        rng = self.rng
        number = rng.randrange(2) if rng.random() < 0.99 else 7
        flags = rng.choice((0, 0, REDUCE_ONLY)) | rng.choice((0, 0, 2, 4, 6))
        flags |= rng.choice((0, 0, STP_MASTER, 1 << 9 if rng.random() < 0.05 else 0))
        lots = rng.choice((rng.randint(0, 30), rng.randint(1, 90), rng.randint(1, 900)))
        side = rng.randrange(2)
        if rng.random() < 0.2:
            slippage = rng.choice((0, 2_000, 20_000, 20_000, 500_000, 10**9))
            return MarketOrder(number, side, lots, slippage, flags=flags)
        price = self.marks[min(number, 1)] + (rng.randint(-15, 8) * (1 if side == BUY else -1))
        tif = rng.choice((GTC, GTC, GTC, GTC, IOC, POST_ONLY, FOK))
        return Order(
            number, side, price, lots, tif, rng.choice((0, 0, 0, rng.randint(1, 9))), flags
        )


def picture(state: State) -> list[object]:
    """Everything that a preview might change, taken apart to plain values."""
    found: list[object] = [state.next_order_id, state.fills_left, len(state.events)]
    found += [len(table.rows) for table in state.tables.values()]
    for account in state.accounts.values():
        found += plain(account, fields(Account))
        for e in account.exposures.values():
            found += plain(e, fields(Exposure))
        for order in account.orders.values():
            found += plain(order, fields(type(order)))
    for where in state.markets:
        found += plain(where, [name for name in fields(Market) if name != "book"])
        found.append([(order.order_id, order.remaining_lots) for order in where.book.walk(0)])
        found.append([(order.order_id, order.remaining_lots) for order in where.book.walk(1)])
    return found


def plain(thing: object, names: Any) -> list[object]:
    values = [getattr(thing, name) for name in names]
    return [list(v.items()) if isinstance(v, dict) else v for v in values]


def test_a_preview_says_what_the_engine_does(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[str] = Counter()
    for seed in SEEDS:
        # Books are shallow here: with one order copied at first, more are needed often.
        monkeypatch.setattr("execution.preview.FIRST_ORDERS", 1 + seed % 2 * 7)
        flow = PreviewFlow(seed)
        for _ in range(STEPS):
            if flow.rng.random() < 0.15:
                flow.other()
                continue
            account = flow.rng.choice(list(flow.owners))
            compare(flow, account, flow.order(account), seen)
    for what in (
        "fill", "rest", "refused", "several fills", "maker gone", "own gone", "reduce-only",
        "fill or kill", "market order", "insufficient_margin", "position_limit", "not_reducing",
        "not_fillable", "self_trade", "would_take", "too_many_orders", "open_interest_limit",
        "unknown_market", "bad_flags", "bad_slippage", "duplicate_client_id", "below margin",
        "tier",
    ):  # fmt: skip
        assert seen[what], f"never saw {what}"


def compare(
    flow: PreviewFlow, account: int, action: Order | MarketOrder, seen: Counter[str]
) -> None:
    """Preview an order, execute it, and hold one against the other."""
    state = flow.state
    tier = Fees(state).tier
    before = picture(state)
    answer = preview(state, account, action, tier)
    assert picture(state) == before, "the preview changed the state"
    margin_before = margin_report(state.risk, state.accounts[account])
    real = flow.act(account, action)
    events = [
        event for event in flow.world.events if not isinstance(event, (BatchExecuted, FundingPaid))
    ]
    assert real.code == 0
    assert real.results == [answer.result]
    assert events == answer.events
    assert answer.before == margin_before
    assert answer.after == margin_report(state.risk, state.accounts[account])
    note(flow, account, action, answer, seen)


def note(
    flow: PreviewFlow,
    account: int,
    action: Order | MarketOrder,
    answer: Preview,
    seen: Counter[str],
) -> None:
    """Count what happened."""
    fills = [event for event in answer.events if isinstance(event, Fill)]
    gone = [event for event in answer.events if isinstance(event, OrderChanged)]
    assert answer.fees_uusd == sum(fill.taker_fee_uusd for fill in fills)
    assert sum(fill.size_lots for fill in fills) == answer.result.filled_lots
    seen[Code(answer.result.code).label] += 1
    seen["fill"] += bool(fills)
    seen["several fills"] += len(fills) > 2
    seen["rest"] += bool(answer.result.remaining_lots)
    seen["refused"] += bool(answer.result.code)
    seen["maker gone"] += any(event.account != account for event in gone)
    seen["own gone"] += any(event.account == account for event in gone)
    seen["reduce-only"] += bool(fills and action.flags & REDUCE_ONLY)
    seen["fill or kill"] += bool(fills and isinstance(action, Order) and action.tif == FOK)
    seen["market order"] += bool(fills and isinstance(action, MarketOrder))
    seen["below margin"] += answer.after.equity_uusd < answer.after.initial_uusd
    seen["tier"] += bool(fills and flow.state.accounts[account].tier)
