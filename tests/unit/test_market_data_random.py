"""Random trading of every kind: what is derived agrees with the engine after every block."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from engine_world import ORACLES, market
from market_data_world import WatchedWorld

from execution.derived import Derived
from protocol.actions import (
    BUY,
    ORDER_FLAGS,
    STOP,
    TAKE_PROFIT,
    TRAILING,
    TWAP_SLICE_MS,
    Bracket,
    Cancel,
    CancelAll,
    CancelClient,
    MarketOrder,
    MassQuote,
    Modify,
    Oco,
    OraclePrice,
    Order,
    Reduce,
    SetProtection,
    TriggerOrder,
    Twap,
)
from protocol.events import FILLED, RESTING, WAITING, Fill
from protocol.genesis import Limits
from protocol.messages_trading import KIND_ORDER, KIND_TRIGGER, KIND_TWAP


class Flow:
    """Random actions around a mark that wanders."""

    def __init__(self, seed: int) -> None:
        print("seed", seed)
        self.rng = random.Random(seed)
        limits = Limits(orders_per_account=12, fills_per_action=6)
        self.world = WatchedWorld(
            [market(0), market(1, lot_micro=7_000)], limits, accounts=5, dollars=3_000,
            checked=False,
        )  # fmt: skip
        self.mark = 1_000

    def price(self, side: int) -> int:
        return self.mark + (-1 if side == BUY else 1) * self.rng.randint(-6, 12)

    def trigger(self, number: int, side: int, lots: int, flags: int) -> TriggerOrder:
        rng = self.rng
        kind = rng.choice((STOP, TAKE_PROFIT, TRAILING))
        away = rng.randint(1, 15)
        above = (kind == STOP) == (side == BUY)
        ticks = away if kind == TRAILING else self.mark + (away if above else -away)
        limit = self.price(side) if rng.random() < 0.4 else 0
        return TriggerOrder(
            number, side, lots, kind, ticks, limit, 0 if limit else 50_000, self.client(), flags
        )

    def client(self) -> int:
        return self.rng.choice((0, 0, self.rng.randint(1, 12)))

    def action(self, account: int) -> Any:
        rng, engine = self.rng, self.world.engine
        number, side, lots = rng.randrange(2), rng.randrange(2), rng.randint(1, 60)
        flags = rng.choice((0, 0, 0, rng.randint(0, ORDER_FLAGS)))
        orders = engine.orders_of(account)
        held = engine.state.accounts[account]
        ids = [one[1] for one in orders] + [*held.triggers, *held.twaps, rng.randint(1, 99)]
        one = rng.choice(ids)
        kind = rng.randrange(100)
        order = Order(
            number, side, self.price(side), lots, rng.choice((0, 0, 0, 1, 2, 3)), self.client(),
            flags, self.world.time_ms + 200 if rng.random() < 0.1 else 0,
        )  # fmt: skip
        if kind < 45:
            return order
        if kind < 52:
            return MarketOrder(number, side, lots, 20_000, self.client(), flags)
        if kind < 62:
            return rng.choice((Cancel(number, one), CancelClient(number, rng.randint(1, 12))))
        if kind < 70:
            return rng.choice((Reduce(number, one, rng.randint(1, 30)),
                               Modify(number, one, self.price(side), lots)))  # fmt: skip
        if kind < 76:
            bids = [(self.mark - 3 - n, lots) for n in range(rng.randrange(3))]
            asks = [(self.mark + 3 + n, lots) for n in range(rng.randrange(3))]
            return MassQuote(number, bids, asks)
        if kind < 84:
            return self.trigger(number, side, lots, flags)
        if kind < 89:
            second = self.trigger(number, side, lots, 0)
            first = order if rng.random() < 0.5 else self.trigger(number, side, lots, 0)
            return Oco(first, second)
        if kind < 94:
            exits = [self.trigger(number, 1 - side, 0, 0) for _ in range(2)]
            return Bracket(order, *exits)
        if kind < 97:
            return Twap(number, side, lots, TWAP_SLICE_MS * 2, flags, self.client())
        return rng.choice((CancelAll(number), SetProtection(number, rng.randrange(3), 40)))

    def block(self) -> None:
        raws = [
            self.world.batch(account, *(self.action(account) for _ in range(4)))
            for account in self.rng.choices(self.world.accounts, k=5)
        ]
        if self.rng.random() < 0.5:
            self.mark += self.rng.randint(-4, 4)
            prices = [OraclePrice(number, self.mark) for number in range(2)]
            raws += [self.world.batch(0, *prices, by=oracle) for oracle in ORACLES]
        self.world.block(raws)


def check_orders(world: WatchedWorld) -> Counter[int]:
    """What lives, and under which client ids, is what the engine has."""
    assert world.derived is not None
    engine, found, kinds = world.engine, {}, Counter[int]()
    for account in engine.state.accounts.values():
        for order in account.orders.values():
            found[order.order_id] = (KIND_ORDER, RESTING, order.remaining_lots, account.number)
        for trigger_id, key in account.triggers.items():
            size = engine.state.triggers.rows[key].size_lots
            found[trigger_id] = (KIND_TRIGGER, WAITING, size, account.number)
        for twap_id, key in account.twaps.items():
            row = engine.state.twaps.rows[key]
            left = row.size_lots - row.done_lots
            found[twap_id] = (KIND_TWAP, WAITING, left, account.number)
        for client_id, order_id in account.clients.items():
            assert world.status(account=account.number, client_id=client_id).order_id == order_id
    assert {one.order_id for one in world.derived.orders.living()} == set(found)
    for order_id, wanted in found.items():
        status = world.status(order_id)
        assert (status.kind, status.status, status.remaining_lots, status.account) == wanted
        if status.kind != KIND_TRIGGER:
            assert status.size_lots >= status.filled_lots + status.remaining_lots
        kinds[status.kind] += 1
    return kinds


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_orders_fills_and_candles_agree_with_the_engine(seed: int) -> None:
    flow = Flow(seed)
    world = flow.world
    filled: Counter[int] = Counter()
    worth: Counter[int] = Counter()
    kinds: Counter[int] = Counter()
    lots, results = [0, 0], 0
    for _ in range(120):
        flow.block()
        if flow.rng.random() < 0.05:
            assert world.derived is not None
            world.derived = Derived(world.chain, list(world.derived.freeze()), world.derived.feed)
        for fill in world.of(Fill):
            lots[fill.market] += fill.size_lots
            for order_id in (fill.maker_order, fill.taker_order):
                filled[order_id] += fill.size_lots
                worth[order_id] += fill.size_lots * fill.price_ticks
        for batch, event in world.last.executed:
            for action, result in zip(batch.actions, event.results, strict=True):
                if isinstance(action, Order | MarketOrder) and result.order_id:
                    status = world.status(result.order_id)
                    assert status.size_lots == action.size_lots
                    assert status.client_id == action.client_id
                    assert status.status == result.status or result.status == RESTING
                    results += result.status == FILLED
        kinds += check_orders(world)
    assert world.derived is not None
    for order_id, count in filled.items():
        status = world.status(order_id)
        assert (status.filled_lots, status.filled_ticks_lots) == (count, worth[order_id])
    for number in range(2):
        day = world.derived.market_data.day(number, world.time_ms)
        assert day.lots == lots[number]
    world.engine.check()
    assert results > 20 and all(kinds[kind] > 20 for kind in (0, 1, 2)), (results, kinds)
