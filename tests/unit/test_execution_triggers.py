"""Stops, take-profits and trailing stops: when they fire, in which order, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from engine_world import ORACLES, START_MS, World, market
from msgspec.structs import replace
from waiting_world import A, B, C, D, WaitingWorld, ask, bid, trigger

from execution.leaves import decode_trigger, trigger_key
from protocol.actions import (
    ALL_MARKETS,
    BUY,
    CANCEL_ONLY,
    HALTED,
    OPEN,
    POST_ONLY_MODE,
    REDUCE_ONLY,
    REDUCE_ONLY_MODE,
    SELL,
    STOP,
    TAKE_PROFIT,
    TRAILING,
    Cancel,
    CancelAll,
    CancelClient,
    OraclePrice,
    Order,
)
from protocol.errors import Code
from protocol.events import (
    CANCELLED,
    FILLED,
    REASON_CANCELLED,
    REASON_FIRED,
    RESTING,
    WAITING,
    Fill,
    OrderOpened,
    Result,
    TriggerChanged,
    TriggerFired,
    TriggerOpened,
)
from protocol.genesis import Limits
from protocol.settlement import account_number


def book_of_two_sides(world: World, account: int = D) -> None:
    """Depth on both sides of 1000, far enough for every slippage bound here."""
    world.act(account, *(bid(1_000 - 10 * n, 500) for n in range(1, 15)))
    world.act(account, *(ask(1_000 + 10 * n, 500) for n in range(1, 15)))


def moved(world: World, *ticks: int) -> list[int]:
    """Triggers that fired as the mark went through these prices."""
    fired: list[int] = []
    for one in ticks:
        world.mark(one)
        fired += [event.trigger_id for event in world.of(TriggerFired)]
    return fired


# -- firing


@pytest.mark.parametrize(
    ("side", "kind", "ticks", "before", "at"),
    [
        (SELL, STOP, 950, 951, 950),
        (BUY, STOP, 1_050, 1_049, 1_050),
        (SELL, TAKE_PROFIT, 1_050, 1_049, 1_050),
        (BUY, TAKE_PROFIT, 950, 951, 950),
        (SELL, STOP, 950, 951, 900),
        (BUY, STOP, 1_050, 1_049, 1_100),
    ],
)
def test_a_trigger_fires_when_the_mark_touches_it(
    side: int, kind: int, ticks: int, before: int, at: int
) -> None:
    world = WaitingWorld()
    book_of_two_sides(world)
    result = world.one(A, trigger(side, 7, kind, ticks, client_id=5))
    assert result == Result(0, WAITING, result.order_id, 0, 7)
    assert world.of(TriggerOpened) == [
        TriggerOpened(0, result.order_id, A, 5, side, kind, ticks, 0, 100_000, 7, 0, 0, 0)
    ]
    assert moved(world, before) == []
    assert moved(world, at) == [result.order_id]
    kinds = [type(e) for e in world.events if not isinstance(e, (Fill,))]
    assert kinds.index(TriggerChanged) < kinds.index(TriggerFired)
    assert world.triggers() == [(result.order_id, 0, REASON_FIRED)]
    (fired,) = world.of(TriggerFired)
    assert fired.mark_ticks == at
    assert (fired.result.code, fired.result.status, fired.result.filled_lots) == (0, FILLED, 7)
    assert fired.result.order_id > result.order_id
    assert world.position(A)[0] == (7 if side == BUY else -7)
    assert all(fill.taker_order == fired.result.order_id for fill in world.of(Fill))
    # The client id is free again, since nothing rests.
    assert world.one(A, bid(900, 1, client=5)).code == 0


def test_a_fired_limit_order_rests_with_what_the_trigger_had() -> None:
    world = WaitingWorld()
    expires_ms = START_MS + 5_000
    waiting = world.one(
        A,
        trigger(SELL, 9, STOP, 950, limit_ticks=960, client_id=3, flags=4, expires_ms=expires_ms),
    )
    world.mark(940)
    (opened,) = world.of(OrderOpened)
    (fired,) = world.of(TriggerFired)
    assert opened == OrderOpened(0, fired.result.order_id, A, 3, SELL, 960, 9, 4, expires_ms)
    assert fired.result == Result(0, RESTING, opened.order_id, 0, 9)
    assert opened.order_id == waiting.order_id + 1
    assert world.one(A, CancelClient(0, 3)) == Result(0, CANCELLED, opened.order_id)


def test_a_refused_order_ends_the_trigger_with_its_code() -> None:
    world = WaitingWorld(dollars=100)
    first = world.one(A, trigger(SELL, 900, STOP, 950, limit_ticks=900)).order_id
    world.act(A, bid(500, 1))
    second = world.one(A, trigger(SELL, 5, STOP, 950, flags=REDUCE_ONLY)).order_id
    third = world.one(A, trigger(SELL, 5, STOP, 950)).order_id
    # What stood behind the first goes to an order elsewhere, and no order opened a position.
    world.act(A, replace(bid(500, 500), market=1))
    assert moved(world, 900) == [first, second, third]
    codes = [(e.trigger_id, e.result.code) for e in world.of(TriggerFired)]
    assert codes == [
        (first, Code.INSUFFICIENT_MARGIN),
        (second, Code.NOT_REDUCING),
        (third, Code.NO_LIQUIDITY),
    ]
    assert world.one(A, Cancel(0, first)).code == Code.UNKNOWN_ORDER


def test_triggers_fire_by_market_and_placement() -> None:
    world = WaitingWorld()
    ids = [
        world.one(A, trigger(SELL, 1, STOP, 900, market=1, limit_ticks=950)).order_id,
        world.one(B, trigger(SELL, 1, STOP, 940, limit_ticks=950)).order_id,
        world.one(A, trigger(BUY, 1, TAKE_PROFIT, 930, limit_ticks=700)).order_id,
        world.one(A, trigger(SELL, 1, STOP, 990, limit_ticks=950)).order_id,
        world.one(C, trigger(SELL, 1, TRAILING, 5, limit_ticks=950)).order_id,
    ]
    prices = [OraclePrice(0, 880), OraclePrice(1, 880)]
    world.block([world.batch(0, *prices, by=oracle) for oracle in ORACLES])
    assert world.fired() == [*ids[1:], ids[0]]


def test_what_the_budget_leaves_over_fires_whatever_the_mark_does_then() -> None:
    world = WaitingWorld(limits=Limits(triggers_per_block=2))
    stops = [world.one(A, trigger(SELL, 1, STOP, 950, limit_ticks=1_500)).order_id for _ in "abc"]
    trail = world.one(B, trigger(SELL, 1, TRAILING, 30, limit_ticks=1_500)).order_id
    gone = world.one(B, trigger(SELL, 1, STOP, 950, limit_ticks=1_500)).order_id
    other = world.one(A, trigger(SELL, 1, STOP, 940, market=1, limit_ticks=1_500)).order_id
    assert moved(world, 940) == stops[:2]
    assert decode_trigger(world.mirror[trigger_key(0, trail)]).due
    # What is due can be cancelled, and what is placed meanwhile is not due.
    assert world.one(B, Cancel(0, gone)).code == 0
    assert world.fired() == [stops[2], trail]
    world.mark(1_000)
    late = world.one(A, trigger(SELL, 1, STOP, 945, limit_ticks=1_500)).order_id
    assert world.wait(0) and world.fired() == []
    world.mark(940, 1)
    assert world.fired() == [other]
    assert moved(world, 945) == [late]


def test_due_triggers_outlast_a_mark_that_comes_back() -> None:
    world = WaitingWorld(limits=Limits(triggers_per_block=1))
    ids = [world.one(A, trigger(SELL, 1, STOP, 950, limit_ticks=1_500)).order_id for _ in range(3)]
    trail = world.one(A, trigger(SELL, 1, TRAILING, 50, limit_ticks=1_500)).order_id
    assert moved(world, 950, 1_000, 1_200, 1_200) == [*ids, trail]


def test_fills_of_triggers_leave_half_of_the_block_to_others() -> None:
    world = WaitingWorld(limits=Limits(fills_per_block=6))
    world.act(D, *(bid(980 - n, 1) for n in range(12)))
    ids = [world.one(A, trigger(SELL, 2, STOP, 950)).order_id for _ in range(4)]
    world.act(D, *(bid(940 - n, 1) for n in range(2)))
    world.mark(950)
    assert world.fired() == ids[:2]
    assert len(world.of(Fill)) == 4
    world.wait(0)
    assert world.fired() == ids[2:]


@pytest.mark.parametrize("mode", [CANCEL_ONLY, HALTED, POST_ONLY_MODE])
def test_a_market_that_takes_no_orders_fires_nothing_until_it_does(mode: int) -> None:
    world = WaitingWorld(guardians=1)
    book_of_two_sides(world)
    low = world.one(A, trigger(SELL, 1, STOP, 950)).order_id
    high = world.one(A, trigger(SELL, 1, TAKE_PROFIT, 1_050)).order_id
    world.vote(0, mode)
    assert moved(world, 940, 1_060, 1_040) == []
    world.mark(950)
    world.vote(0, OPEN)
    assert world.fired() == [low]
    assert moved(world, 1_050) == [high]


def test_due_triggers_wait_for_the_market_to_open() -> None:
    world = WaitingWorld(guardians=1, limits=Limits(triggers_per_block=1))
    ids = [world.one(A, trigger(SELL, 1, STOP, 950, limit_ticks=1_500)).order_id for _ in range(3)]
    assert moved(world, 950) == ids[:1]
    world.vote(0, HALTED)
    assert moved(world, 1_000) == []
    world.vote(0, OPEN)
    assert world.fired() == ids[1:2]
    world.wait(0)
    assert world.fired() == ids[2:]


def test_a_reduce_only_market_closes_positions_by_triggers_and_opens_none() -> None:
    world = WaitingWorld(guardians=1)
    book_of_two_sides(world)
    world.one(A, Order(0, BUY, 1_010, 10, 1))
    closing = world.one(A, trigger(SELL, 25, STOP, 950)).order_id
    opening = world.one(B, trigger(SELL, 25, STOP, 950)).order_id
    world.vote(0, REDUCE_ONLY_MODE)
    assert moved(world, 950) == [closing, opening]
    results = [event.result for event in world.of(TriggerFired)]
    assert results[0].filled_lots == 10
    assert results[1].code == Code.NOT_REDUCING
    assert world.position(A)[0] == 0


def test_a_stale_market_fires_nothing() -> None:
    world = WaitingWorld(markets=[market(0, oracle_age_ms=1_000), market(1)])
    world.mark(1_000)
    stop = world.one(A, trigger(SELL, 1, STOP, 950, limit_ticks=1_500)).order_id
    world.one(A, bid(500, 1))
    world.wait(2_000)
    assert world.one(A, trigger(SELL, 1, STOP, 950)).code == Code.STALE_MARKET
    closing = world.one(A, trigger(SELL, 1, STOP, 900, flags=REDUCE_ONLY))
    assert (closing.code, closing.status) == (0, WAITING)
    assert moved(world, 940) == [stop]


def test_what_is_due_waits_for_fresh_prices() -> None:
    world = WaitingWorld([market(0, oracle_age_ms=1_000), market(1)], Limits(triggers_per_block=1))
    world.mark(1_000)
    ids = [world.one(A, trigger(SELL, 1, STOP, 950, limit_ticks=1_500)).order_id for _ in range(2)]
    assert moved(world, 950) == ids[:1]
    world.wait(2_000)
    assert world.fired() == []
    assert moved(world, 1_000) == ids[1:]


# -- trailing


def test_a_trailing_stop_follows_the_best_mark() -> None:
    world = WaitingWorld()
    book_of_two_sides(world)
    sell = world.one(A, trigger(SELL, 1, TRAILING, 30)).order_id
    assert moved(world, 990, 1_010, 1_040, 1_020, 1_011) == []
    assert moved(world, 1_010) == [sell]
    buy = world.one(A, trigger(BUY, 1, TRAILING, 30)).order_id
    assert moved(world, 1_020, 1_000, 980, 1_009) == []
    assert moved(world, 1_010) == [buy]


def test_each_trailing_stop_has_its_own_best_mark() -> None:
    world = WaitingWorld()
    ids: list[int] = []
    for mark in (1_050, 1_020, 1_000):
        world.mark(mark)
        ids.append(world.one(A, trigger(SELL, 1, TRAILING, 100, limit_ticks=1_500)).order_id)
    # Bests are 1050, 1020 and 1000; then the last two see 1030.
    world.mark(1_030)
    best = [decode_trigger(world.mirror[trigger_key(0, one)]).best_ticks for one in ids]
    assert best == [1_050, 1_020, 1_030], "only the newest record is written"
    # Without the newest, its record is the next one's.
    assert world.one(A, Cancel(0, ids[2])).code == 0
    assert decode_trigger(world.mirror[trigger_key(0, ids[1])]).best_ticks == 1_030
    assert moved(world, 951) == []
    assert moved(world, 950) == [ids[0]]
    assert moved(world, 931) == []
    assert moved(world, 930) == [ids[1]]


def test_following_the_mark_writes_one_record_however_many_follow() -> None:
    world = WaitingWorld(twins=False)
    for _ in range(20):
        world.one(A, trigger(SELL, 1, TRAILING, 900, limit_ticks=1_500))
    world.mark(1_100)
    written = [key for key in world.last.changes if key[:1] == b"t"]
    assert len(written) == 1


def test_a_stop_does_not_see_a_mark_that_came_before_it() -> None:
    world = WaitingWorld(twins=False)
    first = world.one(A, trigger(SELL, 1, TRAILING, 30, limit_ticks=1_500)).order_id
    world.mark(1_010)
    world.one(A, Cancel(0, first))
    world.mark(1_000)
    stop = world.one(A, trigger(SELL, 1, TRAILING, 20, limit_ticks=1_500)).order_id
    # The mark that the first one saw last is new to this one.
    assert moved(world, 1_010, 991) == []
    assert moved(world, 990) == [stop]


# -- leaving


def test_cancels_by_id_client_and_market() -> None:
    world = WaitingWorld()
    ids = [
        world.one(A, trigger(SELL, 1, STOP, 900 + n, client_id=n, market=n % 2)).order_id
        for n in range(6)
    ]
    assert world.one(A, Cancel(1, ids[0])).code == Code.UNKNOWN_ORDER
    assert world.one(B, Cancel(0, ids[0])).code == Code.UNKNOWN_ORDER
    assert world.one(A, Cancel(0, ids[0])) == Result(0, CANCELLED, ids[0])
    assert world.triggers() == [(ids[0], 0, REASON_CANCELLED)]
    assert world.one(A, CancelClient(0, 1)).code == Code.UNKNOWN_ORDER
    assert world.one(A, CancelClient(1, 1)) == Result(0, CANCELLED, ids[1])
    assert world.one(A, CancelAll(0)).code == 0
    assert world.triggers() == [(one, 0, REASON_CANCELLED) for one in (ids[2], ids[4])]
    assert world.one(A, CancelAll(ALL_MARKETS)).code == 0
    assert world.triggers() == [(one, 0, REASON_CANCELLED) for one in (ids[3], ids[5])]
    assert not [key for key in world.mirror if key[:1] == b"t"]
    assert moved(world, 800) == []


@pytest.mark.parametrize("order_id", [-1, 0, 1 << 63, (1 << 64) - 1, -(1 << 63)])
def test_ids_that_cannot_be_are_unknown(order_id: int) -> None:
    world = WaitingWorld()
    world.one(A, trigger(SELL, 1, STOP, 900))
    assert world.one(A, Cancel(0, order_id)).code == Code.UNKNOWN_ORDER


def test_a_halted_market_keeps_its_triggers() -> None:
    world = WaitingWorld(guardians=1)
    here = world.one(A, trigger(SELL, 1, STOP, 900)).order_id
    there = world.one(A, trigger(SELL, 1, STOP, 900, market=1)).order_id
    world.vote(0, HALTED)
    assert world.one(A, CancelAll(ALL_MARKETS)).code == 0
    assert world.triggers() == [(there, 0, REASON_CANCELLED)]
    assert world.one(A, Cancel(0, here)).code == Code.MARKET_HALTED


# -- refusals


GOOD: dict[str, Any] = {"side": SELL, "lots": 5, "kind": STOP, "ticks": 900}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"market": 2}, Code.UNKNOWN_MARKET),
        ({"market": -1}, Code.UNKNOWN_MARKET),
        ({"side": 2}, Code.WRONG_TYPE),
        ({"side": -1}, Code.WRONG_TYPE),
        ({"kind": 3}, Code.BAD_TRIGGER),
        ({"kind": -1}, Code.BAD_TRIGGER),
        ({"ticks": 0}, Code.BAD_TRIGGER),
        ({"ticks": -5}, Code.BAD_TRIGGER),
        ({"ticks": 1 << 31}, Code.BAD_TRIGGER),
        ({"limit_ticks": -1}, Code.BAD_TRIGGER),
        ({"limit_ticks": 1 << 31}, Code.BAD_TRIGGER),
        ({"limit_ticks": 900, "slippage_ppm": 1}, Code.BAD_SLIPPAGE),
        ({"slippage_ppm": 0}, Code.BAD_SLIPPAGE),
        ({"slippage_ppm": 500_001}, Code.BAD_SLIPPAGE),
        ({"slippage_ppm": -1}, Code.BAD_SLIPPAGE),
        ({"lots": 0}, Code.BAD_SIZE),
        ({"lots": -1}, Code.BAD_SIZE),
        ({"lots": 1_000_001}, Code.BAD_SIZE),
        ({"lots": 1}, Code.BELOW_MIN_NOTIONAL),
        ({"lots": 1_000_000, "limit_ticks": 1 << 28}, Code.NOTIONAL_LIMIT),
        ({"flags": 16}, Code.BAD_FLAGS),
        ({"flags": -1}, Code.BAD_FLAGS),
        ({"expires_ms": -1}, Code.BAD_EXPIRY),
        ({"expires_ms": START_MS}, Code.ACTION_EXPIRED),
        ({"client_id": 7}, Code.DUPLICATE_CLIENT_ID),
        ({"client_id": 8}, Code.DUPLICATE_CLIENT_ID),
        ({"ticks": 1_000}, Code.WOULD_FIRE),
        ({"side": BUY, "ticks": 1_000}, Code.WOULD_FIRE),
        ({"kind": TAKE_PROFIT, "ticks": 1_000}, Code.WOULD_FIRE),
        ({"side": BUY, "kind": TAKE_PROFIT, "ticks": 1_000}, Code.WOULD_FIRE),
    ],
)
def test_bad_triggers_are_refused_and_leave_nothing(changes: dict[str, Any], code: Code) -> None:
    world = WaitingWorld([market(0, min_notional_uusd=2_000_000), market(1)])
    world.act(A, bid(900, 5, client=7), trigger(SELL, 5, STOP, 900, client_id=8))
    fields = GOOD | changes
    args = [fields.pop(name) for name in ("side", "lots", "kind", "ticks")]
    before = dict(world.mirror)
    assert world.one(A, trigger(*args, **fields)) == Result(code)
    changed = [key for key, value in world.mirror.items() if before.get(key) != value]
    assert {key[:1] for key in changed} <= {b"g", b"n"}
    assert world.of(TriggerOpened) == []


def test_expiry_holds_to_the_last_block_that_may_execute_it() -> None:
    world = WaitingWorld()
    next_ms = world.time_ms + 10
    assert world.one(A, trigger(SELL, 1, STOP, 900, expires_ms=next_ms)).code == 0


@pytest.mark.parametrize(
    ("mode", "code", "reducing"),
    [
        (CANCEL_ONLY, Code.MARKET_CANCEL_ONLY, Code.MARKET_CANCEL_ONLY),
        (HALTED, Code.MARKET_HALTED, Code.MARKET_HALTED),
        (REDUCE_ONLY_MODE, Code.MARKET_REDUCE_ONLY, Code.OK),
        (POST_ONLY_MODE, Code.OK, Code.OK),
    ],
)
def test_modes_of_the_market_refuse_triggers(mode: int, code: Code, reducing: Code) -> None:
    world = WaitingWorld(guardians=1)
    world.one(A, bid(500, 1))
    world.vote(0, mode)
    assert world.one(A, trigger(SELL, 1, STOP, 900)).code == code
    assert world.one(A, trigger(SELL, 1, STOP, 900, flags=REDUCE_ONLY)).code == reducing


def test_an_isolated_account_has_triggers_in_its_market_alone() -> None:
    from protocol.actions import Transfer

    world = WaitingWorld()
    isolated = account_number(A, 0, 1)
    assert world.one(A, Transfer(isolated, 100_000_000)).code == 0
    raw = world.batch(
        isolated, trigger(SELL, 1, STOP, 900), trigger(SELL, 1, STOP, 900, market=1), by=_key(A)
    )
    assert [r.code for r in world.send(raw).results] == [Code.ISOLATED_ACCOUNT, 0]


def _key(account: int) -> bytes:
    return account.to_bytes(32, "big")
