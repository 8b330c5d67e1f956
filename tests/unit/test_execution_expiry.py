"""Expiries: orders good till a time, triggers, and everything in a future that has expired."""

from __future__ import annotations

from typing import Any

from engine_world import START_MS, market
from waiting_world import A, B, C, WaitingWorld, ask, bid, trigger

import execution.schedules as schedules
from protocol.actions import (
    BUY,
    IOC,
    SELL,
    STOP,
    TAKE_PROFIT,
    TWAP_SLICE_MS,
    Bracket,
    Cancel,
    Oco,
    Order,
    ScheduleCancel,
    Twap,
)
from protocol.errors import Code
from protocol.events import (
    REASON_EXPIRED,
    REASON_LINKED,
    REASON_MARKET_CLOSED,
    Fill,
    OrderChanged,
    TriggerChanged,
    TwapChanged,
)
from protocol.genesis import Limits, MarketConfig


def gone(world: WaitingWorld) -> list[tuple[int, int]]:
    """(id, reason) of what left in the last block, in order."""
    found = []
    for event in world.events:
        if isinstance(event, OrderChanged) and not event.remaining_lots:
            found.append((event.order_id, event.reason))
        elif isinstance(event, TriggerChanged) and not event.size_lots:
            found.append((event.trigger_id, event.reason))
        elif isinstance(event, TwapChanged) and event.reason:
            found.append((event.twap_id, event.reason))
    return found


def test_an_order_goes_with_the_first_block_after_its_time() -> None:
    world = WaitingWorld()
    time_ms = world.time_ms + 1_000
    order = world.one(A, bid(900, 5, expires_ms=time_ms)).order_id
    world.until(time_ms)
    assert gone(world) == []
    assert world.one(B, Order(0, SELL, 900, 2, IOC)).code == Code.NO_LIQUIDITY
    assert gone(world) == [(order, REASON_EXPIRED)]


def test_orders_and_triggers_expire_by_time_then_id() -> None:
    world = WaitingWorld()
    base = world.time_ms + 1_000
    results = world.act(
        A,
        bid(900, 1, expires_ms=base + 2),
        trigger(SELL, 1, STOP, 800, expires_ms=base + 1),
        bid(900, 1, expires_ms=base),
        trigger(SELL, 1, STOP, 800, expires_ms=base),
        bid(900, 1, expires_ms=base + 1),
        bid(900, 1),
    )
    ids = [result.order_id for result in results]
    world.until(base + 10)
    order = [ids[2], ids[3], ids[1], ids[4], ids[0]]
    assert gone(world) == [(one, REASON_EXPIRED) for one in order]
    assert len(world.engine.orders_of(A)) == 1


def test_expiries_beyond_the_budget_wait_but_never_trade() -> None:
    world = WaitingWorld(limits=Limits(expiries_per_block=2))
    time_ms = world.time_ms + 1_000
    orders = [bid(900 + n, 1, expires_ms=time_ms) for n in range(4)]
    stop = trigger(SELL, 1, STOP, 950, expires_ms=time_ms, limit_ticks=1_500)
    ids = [result.order_id for result in world.act(A, *orders, stop)]
    world.skipped_ms += 5_000
    raw = world.batch(B, Order(0, SELL, 902, 5, IOC))
    world.block([raw])
    # Two by the clock, the best one as it is met.
    assert gone(world) == [(one, REASON_EXPIRED) for one in (ids[0], ids[1], ids[3], ids[2])]
    assert world.of(Fill) == []
    world.mark(940)
    assert gone(world) == [(ids[4], REASON_EXPIRED)]


def test_a_trigger_that_is_due_and_expired_does_not_fire() -> None:
    world = WaitingWorld(limits=Limits(expiries_per_block=1, triggers_per_block=1))
    time_ms = world.time_ms + 1_000
    stop = trigger(SELL, 1, STOP, 950, expires_ms=time_ms, limit_ticks=1_500)
    ids = [r.order_id for r in world.act(A, stop, stop, stop, stop)]
    world.until(time_ms)
    world.skipped_ms -= 9
    world.mark(940)
    assert world.fired() == []
    assert gone(world) == [(ids[0], REASON_EXPIRED), (ids[1], REASON_EXPIRED)]
    world.wait(0)
    assert world.fired() == []
    assert gone(world) == [(ids[2], REASON_EXPIRED), (ids[3], REASON_EXPIRED)]


def test_an_expired_trigger_takes_its_partner_out() -> None:
    world = WaitingWorld()
    time_ms = world.time_ms + 1_000
    first = world.one(
        A, Oco(ask(1_100, 5), trigger(SELL, 5, STOP, 900, expires_ms=time_ms))
    ).order_id
    world.until(time_ms + 1)
    assert gone(world) == [(first + 1, REASON_EXPIRED), (first, REASON_LINKED)]


def test_an_expired_parent_takes_its_exits_out_unless_it_filled() -> None:
    world = WaitingWorld()
    time_ms = world.time_ms + 1_000
    parts = trigger(SELL, 0, TAKE_PROFIT, 1_100), trigger(SELL, 0, STOP, 900)
    one, two = (
        world.one(A, Bracket(bid(990 - n, 5, expires_ms=time_ms), *parts)).order_id
        for n in range(2)
    )
    world.one(B, Order(0, SELL, 990, 2, IOC))
    world.until(time_ms + 1)
    assert gone(world) == [
        (one, REASON_EXPIRED), (two, REASON_EXPIRED),
        (two + 1, REASON_LINKED), (two + 2, REASON_LINKED),
    ]  # fmt: skip


def test_notes_of_orders_that_are_gone_are_swept_out(monkeypatch: Any) -> None:
    monkeypatch.setattr(schedules, "SPARE_NOTES", 8)
    world = WaitingWorld(twins=False)
    kept = [world.one(A, bid(900, 1, expires_ms=START_MS + 3_600_000)).order_id for _ in range(3)]
    for _ in range(100):
        result = world.one(A, bid(900, 1, expires_ms=START_MS + 7_200_000))
        assert world.one(A, Cancel(0, result.order_id)).code == 0
    notes = world.engine._phases.schedules._expiring
    assert len(notes) < 30
    world.until(START_MS + 3_600_001)
    assert gone(world) == [(one, REASON_EXPIRED) for one in kept]


def dated() -> list[MarketConfig]:
    future = market(1, expires_ms=START_MS + 60_000, settle_window_ms=10_000)
    return [market(0), future]


def test_an_expired_future_is_emptied_in_bounded_pieces() -> None:
    world = WaitingWorld(dated(), limits=Limits(expiries_per_block=3))
    world.mark(1_000, 1)
    orders = [r.order_id for r in world.act(
        A, Order(1, SELL, 1_100, 1), Order(1, BUY, 900, 1), Order(1, SELL, 1_050, 1),
        Order(1, BUY, 950, 1), bid(900, 1),
    )]  # fmt: skip
    stops = [
        r.order_id
        for r in world.act(
            B, *[trigger(SELL, 1, STOP, 900, market=1)] * 2, trigger(SELL, 1, STOP, 900)
        )
    ]
    pair = world.one(
        C,
        Oco(trigger(SELL, 1, TAKE_PROFIT, 1_200, market=1), trigger(SELL, 1, STOP, 800, market=1)),
    ).order_id
    twap = world.one(C, Twap(1, BUY, 10, 100 * TWAP_SLICE_MS)).order_id
    world.until(START_MS + 55_000)
    world.mark(1_000, 1)
    left: list[tuple[int, int]] = []
    world.until(START_MS + 60_010)
    left += gone(world)
    for _ in range(6):
        world.wait(0)
        assert len(gone(world)) <= 4
        left += gone(world)
    closed = REASON_MARKET_CLOSED
    assert left == [
        (orders[3], closed), (orders[1], closed), (orders[2], closed), (orders[0], closed),
        (stops[0], closed), (stops[1], closed), (pair, closed), (pair + 1, REASON_LINKED),
        (twap, closed),
    ]  # fmt: skip
    assert [o[1] for o in world.engine.orders_of(A)] == [orders[4]]
    assert world.one(B, Cancel(0, stops[2])).code == 0
    assert world.one(B, trigger(SELL, 1, STOP, 900, market=1)).code == Code.MARKET_EXPIRED
    assert world.one(B, Twap(1, BUY, 10, TWAP_SLICE_MS)).code == Code.MARKET_EXPIRED


def test_a_switch_and_an_expiry_in_one_block() -> None:
    world = WaitingWorld()
    time_ms = world.time_ms + 10_000
    order, other = (r.order_id for r in world.act(A, bid(900, 1, expires_ms=time_ms), bid(900, 1)))
    assert world.one(A, ScheduleCancel(time_ms)).code == 0
    world.until(time_ms + 5)
    assert [one for one, _ in gone(world)] == [order, other]
