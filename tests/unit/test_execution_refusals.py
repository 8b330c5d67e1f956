"""Makers of whose orders all count: an action ends after a bounded number of them."""

from __future__ import annotations

from typing import Any

from engine_world import World, market

from protocol.actions import BUY, FOK, GTC, IOC, SELL, Order, SetProtection
from protocol.errors import Code
from protocol.events import (
    CANCELLED,
    FILLED,
    REASON_MARGIN,
    REASON_PROTECTION,
    RESTING,
    Fill,
    OrderChanged,
    Result,
)
from protocol.genesis import Limits

POOR = (16, 17, 18)
RICH, TAKER = 19, 20

LIMITS = Limits(fills_per_action=8, refusals_per_action=2)
"""A maker that is refused counts as four of an action's eight fills."""


def world(limits: Limits = LIMITS, poor: tuple[int, ...] = POOR, orders: int = 2) -> World:
    """Makers with small bids at 1000 that their large one at 990 forbids to fill, and a rich maker
    who bids at 999."""
    free = {"taker_fee_ppm": 0, "maker_fee_ppm": 0}
    found = World([market(0, **free)], limits, accounts=5, dollars=100)
    for owner in poor:
        found.act(owner, Order(0, BUY, 990, 890), *(Order(0, BUY, 1_000, 5),) * orders)
    found.one(RICH, Order(0, BUY, 999, 20))
    found.mark(1_200)
    return found


def sell(w: World, lots: int = 5, tif: int = IOC, price: int = 999) -> Result:
    return w.one(TAKER, Order(0, SELL, price, lots, tif))


def refused(w: World) -> list[int]:
    """Whose orders were taken out for want of margin in the last block, each time."""
    return [e.account for e in w.of(OrderChanged) if e.reason == REASON_MARGIN]


def test_a_refused_maker_counts_as_its_part_of_the_fills_however_many_orders_it_has() -> None:
    w = world()
    assert w.chain.genesis.limits.refusal_fills == 4
    # Four and one for the first, four for the second: more than eight.
    assert sell(w).status == CANCELLED
    assert refused(w) == [16, 16, 17]
    result = sell(w)
    assert (result.status, result.code) == (CANCELLED, Code.NO_LIQUIDITY)
    assert refused(w) == [17, 18]
    assert sell(w) == Result(0, FILLED, result.order_id + 1, 5)
    assert refused(w) == [18]


def test_what_is_left_rests_only_where_nothing_more_would_be_met() -> None:
    w = world()
    result = sell(w, tif=GTC, price=1_000)
    assert (result.status, result.code) == (CANCELLED, Code.NO_LIQUIDITY)
    w = world(poor=(16, 17), orders=1)
    result = sell(w, tif=GTC, price=1_000)
    assert (result.status, result.remaining_lots, refused(w)) == (RESTING, 5, [16, 17])


def test_fill_or_kill_counts_alike() -> None:
    w = world(poor=(16, 17), orders=1)
    assert sell(w, tif=FOK) == Result(Code.NOT_FILLABLE)
    assert refused(w) == []
    w = world(poor=(16,))
    assert sell(w, tif=FOK).status == FILLED
    assert refused(w) == [16, 16]


def test_protection_that_takes_everything_out_counts_alike() -> None:
    w = world(poor=())
    for owner in POOR:
        w.act(owner, SetProtection(0, 1, 1_000), *(Order(0, BUY, 1_000, 5),) * 3)
    result = sell(w, lots=15, price=1_000)
    assert (result.status, result.filled_lots) == (CANCELLED, 10)
    assert [e.maker_account for e in w.of(Fill)] == [16, 17]
    gone = [e.account for e in w.of(OrderChanged) if e.reason == REASON_PROTECTION]
    assert gone == [16, 16, 17, 17]
    assert sell(w, lots=10, tif=FOK, price=999).status == FILLED


def test_protection_ends_a_fill_or_kill_order_as_it_would_end_another() -> None:
    w = world(poor=())
    for owner in POOR:
        w.act(owner, SetProtection(0, 1, 1_000), Order(0, BUY, 1_000, 5))
    assert sell(w, lots=15, tif=FOK, price=1_000) == Result(Code.NOT_FILLABLE)
    assert sell(w, lots=10, tif=FOK, price=1_000).status == FILLED


def test_the_blocks_fills_are_counted_alike() -> None:
    w = world(Limits(fills_per_action=8, refusals_per_action=2, fills_per_block=9))
    batches = [w.batch(TAKER, *(Order(0, SELL, 999, 5, IOC),) * 2)]
    w.block(batches)
    (_, second) = _results(w)
    assert second == Result(Code.BUSY)


def _results(w: World) -> Any:
    return w.last.executed[0][1].results


def test_by_default_few_enough_are_met_to_be_shown() -> None:
    limits = Limits()
    assert -(-limits.fills_per_action // limits.refusal_fills) <= limits.refusals_per_action == 64
