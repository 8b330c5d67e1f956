"""What became of an order is told truthfully as long as it is kept."""

from __future__ import annotations

from typing import Any

import pytest
from engine_world import market
from market_data_world import WatchedWorld

from execution.order_status import OrderStatus
from protocol.actions import (
    BUY,
    FOK,
    IOC,
    POST_ONLY,
    REDUCE_ONLY,
    SELL,
    STOP,
    STP_DECREMENT,
    TAKE_PROFIT,
    TWAP_SLICE_MS,
    Bracket,
    Cancel,
    CancelAll,
    MarketOrder,
    MassQuote,
    Modify,
    Oco,
    Order,
    Reduce,
    TriggerOrder,
    Twap,
)
from protocol.errors import Code, Rejected
from protocol.events import (
    CANCELLED,
    FILLED,
    REASON_CANCELLED,
    REASON_DONE,
    REASON_FIRED,
    REASON_LINKED,
    REASON_REDUCE_ONLY,
    REASON_REDUCED,
    REASON_REPLACED,
    REASON_SELF_TRADE,
    RESTING,
    WAITING,
)
from protocol.messages_trading import FIRED, KIND_ORDER, KIND_TRIGGER, KIND_TWAP

A, B, C = 16, 17, 18


@pytest.fixture
def world() -> WatchedWorld:
    return WatchedWorld([market(0), market(1)], accounts=3, checked=False)


def test_an_order_from_its_rest_to_its_last_fill(world: WatchedWorld) -> None:
    placed = world.one(A, Order(0, BUY, 1_000, 10, client_id=7))
    opened_ms = world.time_ms
    status = world.status(placed.order_id)
    assert (status.status, status.kind, status.account, status.client_id) == (RESTING, 0, A, 7)
    assert (status.size_lots, status.filled_lots, status.remaining_lots) == (10, 0, 10)
    world.one(B, Order(0, SELL, 999, 4, IOC))
    status = world.status(account=A, client_id=7)
    assert (status.status, status.filled_lots, status.remaining_lots) == (RESTING, 4, 6)
    world.one(C, Order(0, SELL, 1_000, 6, IOC))
    status = world.status(placed.order_id)
    assert (status.status, status.filled_lots, status.remaining_lots) == (FILLED, 10, 0)
    assert status.filled_ticks_lots == 10 * 1_000
    assert (status.opened_ms, status.changed_ms) == (opened_ms, world.time_ms)
    assert status.height == world.height


def test_an_order_that_never_rested_is_known_by_its_client_id(world: WatchedWorld) -> None:
    world.act(A, Order(0, SELL, 1_000, 3), Order(0, SELL, 1_001, 5))
    taken = world.one(B, Order(0, BUY, 1_001, 6, FOK, client_id=9))
    status = world.status(account=B, client_id=9)
    assert (status.order_id, status.status) == (taken.order_id, FILLED)
    assert (status.size_lots, status.filled_lots) == (6, 6)
    assert status.filled_ticks_lots == 3 * 1_000 + 3 * 1_001 and status.price_ticks == 1_001
    part = world.one(C, Order(0, BUY, 1_001, 8, IOC, client_id=9))
    status = world.status(part.order_id)
    assert (status.status, status.size_lots, status.filled_lots) == (CANCELLED, 8, 2)
    assert status.code == Code.OK and world.status(account=C, client_id=9) == status
    none = world.one(C, Order(0, BUY, 1_001, 8, IOC, client_id=9))
    status = world.status(account=C, client_id=9)
    assert (status.order_id, status.status, status.code) == (
        none.order_id, CANCELLED, Code.NO_LIQUIDITY,
    )  # fmt: skip


def test_what_fills_and_then_rests_counts_both(world: WatchedWorld) -> None:
    world.one(A, Order(0, SELL, 1_000, 3))
    placed = world.one(B, Order(0, BUY, 1_001, 8, client_id=4))
    status = world.status(placed.order_id)
    assert (status.status, status.client_id) == (RESTING, 4)
    assert (status.size_lots, status.filled_lots, status.remaining_lots) == (8, 3, 5)
    assert status.filled_ticks_lots == 3_000
    world.one(B, Reduce(0, placed.order_id, 2))
    status = world.status(placed.order_id)
    assert (status.remaining_lots, status.reason) == (3, REASON_REDUCED)
    world.one(B, Cancel(0, placed.order_id))
    status = world.status(placed.order_id)
    assert (status.status, status.reason, status.remaining_lots) == (
        CANCELLED, REASON_CANCELLED, 0,
    )  # fmt: skip


def test_a_market_order(world: WatchedWorld) -> None:
    world.one(A, Order(0, SELL, 1_000, 3))
    taken = world.one(B, MarketOrder(0, BUY, 9, 10_000, client_id=3))
    status = world.status(account=B, client_id=3)
    assert (status.order_id, status.status, status.size_lots) == (taken.order_id, CANCELLED, 9)
    assert (status.filled_lots, status.price_ticks) == (3, 0)


def test_a_modified_order_leads_to_the_next(world: WatchedWorld) -> None:
    first = world.one(A, Order(0, BUY, 990, 5, POST_ONLY, client_id=2)).order_id
    assert world.one(A, Modify(0, first, 990, 4)).order_id == first
    status = world.status(first)
    assert (status.status, status.remaining_lots, status.replaced_by) == (RESTING, 4, 0)
    second = world.one(A, Modify(0, first, 991, 6)).order_id
    assert second != first
    old, new = world.status(first), world.status(second)
    assert (old.status, old.reason, old.replaced_by) == (CANCELLED, REASON_REPLACED, second)
    assert (new.status, new.replaces, new.client_id) == (RESTING, first, 2)
    assert world.status(account=A, client_id=2) == new, "the newest has the client id"
    gone = world.one(A, Order(0, BUY, 980, 5)).order_id
    world.one(B, Order(0, SELL, 1_000, 2))
    taken = world.one(A, Modify(0, gone, 1_000, 2)).order_id
    assert world.status(taken).status == FILLED and world.status(taken).replaces == gone


def test_quotes_replace_each_other(world: WatchedWorld) -> None:
    first = world.one(A, MassQuote(0, [(990, 5), (989, 6)], [(1_010, 5)])).order_id
    assert [world.status(first + n).status for n in range(3)] == [RESTING] * 3
    world.one(A, MassQuote(0, [(991, 5)], []))
    assert {world.status(first + n).reason for n in range(3)} == {REASON_REPLACED}


def test_self_trade_and_reduce_only_say_why(world: WatchedWorld) -> None:
    own = world.one(A, Order(0, SELL, 1_000, 5)).order_id
    world.one(A, Order(0, BUY, 1_000, 5))
    assert world.status(own).reason == REASON_SELF_TRADE
    world.one(A, CancelAll(0))
    maker = world.one(A, Order(0, SELL, 1_000, 3)).order_id
    taker = world.one(A, Order(0, BUY, 1_000, 5, flags=STP_DECREMENT, client_id=8))
    status = world.status(account=A, client_id=8)
    assert (status.size_lots, status.filled_lots, status.remaining_lots) == (5, 0, 2)
    assert (world.status(maker).status, status.order_id) == (CANCELLED, taker.order_id)
    world.one(B, Order(0, SELL, 1_000, 2))
    exits = [world.one(A, Order(0, SELL, 1_010, 2, flags=REDUCE_ONLY)).order_id for _ in range(2)]
    world.one(B, Order(0, BUY, 1_010, 1))
    filled, shrunk = world.status(exits[0]), world.status(exits[1])
    assert (filled.filled_lots, filled.remaining_lots) == (1, 1)
    assert (shrunk.remaining_lots, shrunk.reason, shrunk.status) == (1, REASON_REDUCE_ONLY, RESTING)


def trigger(side: int, kind: int, ticks: int, lots: int, **fields: Any) -> TriggerOrder:
    return TriggerOrder(0, side, lots, kind, ticks, **({"slippage_ppm": 100_000} | fields))


def test_a_trigger_leads_to_the_order_that_it_entered(world: WatchedWorld) -> None:
    waiting = world.one(A, trigger(SELL, STOP, 950, 4, client_id=6, flags=0)).order_id
    status = world.status(account=A, client_id=6)
    assert (status.order_id, status.kind, status.status) == (waiting, KIND_TRIGGER, WAITING)
    assert (status.price_ticks, status.remaining_lots) == (950, 4)
    world.one(B, Order(0, BUY, 948, 3))
    world.mark(949)
    fired = world.status(waiting)
    assert (fired.status, fired.reason, fired.code) == (FIRED, REASON_FIRED, Code.OK)
    entered = world.status(fired.replaced_by)
    assert (entered.kind, entered.replaces, entered.client_id) == (KIND_ORDER, waiting, 6)
    assert (entered.status, entered.size_lots, entered.filled_lots) == (CANCELLED, 4, 3)
    assert world.status(account=A, client_id=6) == entered


def test_a_trigger_with_a_limit_rests_and_a_refused_one_says_so(world: WatchedWorld) -> None:
    limited = world.one(
        A, trigger(SELL, STOP, 950, 4, client_id=6, limit_ticks=960, slippage_ppm=0)
    ).order_id
    world.one(A, Order(0, BUY, 900, 1))
    reducing = world.one(A, trigger(SELL, STOP, 950, 4, flags=REDUCE_ONLY)).order_id
    world.mark(950)
    entered = world.status(account=A, client_id=6)
    assert (entered.status, entered.replaces) == (RESTING, limited)
    assert (entered.size_lots, entered.price_ticks) == (4, 960)
    refused = world.status(reducing)
    assert (refused.status, refused.code, refused.replaced_by) == (FIRED, Code.NOT_REDUCING, 0)


def test_a_pair_and_a_bracket(world: WatchedWorld) -> None:
    first = world.one(
        A, Oco(Order(0, SELL, 1_010, 2, client_id=1), trigger(SELL, STOP, 950, 2))
    ).order_id
    world.one(B, Order(0, BUY, 1_010, 1))
    assert (world.status(first).filled_lots, world.status(first + 1).reason) == (1, REASON_LINKED)
    world.one(A, CancelAll(0))
    world.one(B, Order(0, SELL, 1_000, 3))
    parent = world.one(
        A,
        Bracket(
            Order(0, BUY, 1_000, 5, client_id=2),
            trigger(SELL, TAKE_PROFIT, 1_050, 0),
            trigger(SELL, STOP, 950, 0),
        ),
    ).order_id
    assert (world.status(parent).size_lots, world.status(parent).filled_lots) == (5, 3)
    assert [world.status(parent + n).size_lots for n in (1, 2)] == [3, 3]
    world.one(B, Order(0, SELL, 1_000, 2))
    assert [world.status(parent + n).remaining_lots for n in (1, 2)] == [5, 5]
    assert world.status(parent).status == FILLED
    world.one(B, Order(0, BUY, 948, 9))
    world.mark(949)
    assert world.status(parent + 1).reason == REASON_LINKED
    stopped = world.status(world.status(parent + 2).replaced_by)
    assert (stopped.size_lots, stopped.filled_lots) == (5, 4), "reduce-only: the position was 4"


def test_a_twap_counts_what_its_slices_filled(world: WatchedWorld) -> None:
    world.one(B, Order(0, SELL, 1_000, 100))
    twap = world.one(A, Twap(0, BUY, 4, 2 * TWAP_SLICE_MS, client_id=5)).order_id
    status = world.status(account=A, client_id=5)
    assert (status.kind, status.status, status.filled_lots) == (KIND_TWAP, WAITING, 0)
    world.act(A, Order(0, BUY, 1_000, 7, IOC))
    status = world.status(twap)
    assert (status.filled_lots, status.filled_ticks_lots) == (2, 2_000), "not the order beside it"
    slices = [world.status(n) for n in range(twap + 1, twap + 3)]
    assert [one.replaces for one in slices] == [twap, 0]
    assert [one.filled_lots for one in slices] == [2, 7]
    world.one(A, Cancel(0, twap))
    status = world.status(twap)
    assert (status.status, status.reason, status.filled_lots) == (CANCELLED, REASON_CANCELLED, 2)


def test_a_twap_to_its_end() -> None:
    world = WatchedWorld([market(0)], accounts=3, checked=False)
    world.one(B, Order(0, SELL, 1_000, 100))
    twap = world.one(A, Twap(0, BUY, 4, TWAP_SLICE_MS)).order_id
    world.block([])
    status = world.status(twap)
    assert (status.status, status.reason) == (FILLED, REASON_DONE)
    assert (status.filled_lots, status.filled_ticks_lots, status.remaining_lots) == (4, 4_000, 0)


def test_one_block_of_everything(world: WatchedWorld) -> None:
    """Several orders under one client id in one batch: the newest has it."""
    results = world.act(
        A,
        Order(0, BUY, 990, 1, client_id=1),
        Cancel(0, 1),
        Order(0, BUY, 991, 2, client_id=1),
        Order(1, BUY, 999, 2, IOC, client_id=3),
    )
    assert world.status(account=A, client_id=1).order_id == results[2].order_id
    assert world.status(results[0].order_id).status == CANCELLED
    assert world.status(account=A, client_id=3).code == Code.NO_LIQUIDITY


# --- what is kept


def refusal(orders: OrderStatus, *asked: int) -> Code:
    with pytest.raises(Rejected) as refused:
        orders.view(0, *asked)
    return refused.value.code


def test_unknown_is_not_the_same_as_forgotten(world: WatchedWorld) -> None:
    assert world.derived is not None
    world.derived.orders = orders = OrderStatus(kept=3)
    for number in range(1, 6):
        placed = world.one(A, Order(0, BUY, 990, 1, client_id=number)).order_id
        world.one(A, Cancel(0, placed))
    living = world.one(B, Order(0, BUY, 990, 1, client_id=1)).order_id
    assert refusal(orders, 1, 0, 0) == refusal(orders, 2, 0, 0) == Code.NOT_RETAINED
    assert orders.view(0, 3, 0, 0).status == CANCELLED
    assert refusal(orders, living + 1, 0, 0) == Code.UNKNOWN_ORDER
    assert refusal(orders, 0, A, 1) == refusal(orders, 0, A, 99) == Code.NOT_RETAINED
    assert refusal(orders, 0, B, 99) == Code.UNKNOWN_ORDER, "of B nothing is forgotten"
    assert refusal(orders, 0, 0, 0) == refusal(orders, -1, 0, 0) == Code.UNKNOWN_ORDER
    assert orders.view(0, 0, B, 1).order_id == living
    for _ in range(9):
        world.one(C, Order(0, SELL, 1_001, 1, IOC))
    assert orders.view(0, living, 0, 0).status == RESTING, "what lives is always known"
    parts = list(orders.frozen(2))
    again = OrderStatus(kept=3)
    for part in parts:
        again.restore(part)
    assert list(again.frozen(2)) == parts and len(parts) == 4
    for asked in ((1, 0, 0), (0, A, 1), (0, B, 99), (living + 99, 0, 0)):
        assert refusal(again, *asked) == refusal(orders, *asked)


def test_a_client_id_used_again_is_the_newest_also_after_a_restart(world: WatchedWorld) -> None:
    assert world.derived is not None
    first = world.one(A, Order(0, BUY, 990, 1, client_id=1)).order_id
    world.one(A, Cancel(0, first))
    second = world.one(A, Order(0, BUY, 990, 1, client_id=1)).order_id
    again = OrderStatus()
    for part in world.derived.orders.frozen(1):
        again.restore(part)
    for orders in (again, world.derived.orders):
        assert orders.view(0, 0, A, 1).order_id == second
        assert orders.view(0, first, 0, 0).status == CANCELLED
