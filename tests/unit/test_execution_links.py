"""One-cancels-other pairs and brackets: what takes what out, and what grows with what."""

from __future__ import annotations

from typing import Any

import pytest
from engine_world import START_MS
from msgspec.structs import replace
from waiting_world import A, B, C, D, WaitingWorld, ask, bid, trigger

from protocol.actions import (
    BUY,
    CANCEL_ONLY,
    FOK,
    GTC,
    IOC,
    POST_ONLY,
    REDUCE_ONLY,
    SELL,
    STOP,
    TAKE_PROFIT,
    TRAILING,
    Bracket,
    Cancel,
    CancelAll,
    MarketOrder,
    Modify,
    Oco,
    Order,
    Reduce,
    TriggerOrder,
)
from protocol.errors import Code
from protocol.events import (
    CANCELLED,
    FILLED,
    REASON_CANCELLED,
    REASON_EXPIRED,
    REASON_FIRED,
    REASON_LINKED,
    RESTING,
    WAITING,
    Fill,
    OrderChanged,
    OrderOpened,
    Result,
    TriggerChanged,
    TriggerFired,
    TriggerOpened,
)
from protocol.genesis import Limits

LIMIT = {"limit_ticks": 1_500}
"""Fired sells rest out of the way."""


def links(world: WaitingWorld) -> list[tuple[int, int]]:
    """(trigger, link) of the triggers that opened in the last block."""
    return [(event.trigger_id, event.link) for event in world.of(TriggerOpened)]


def long(world: WaitingWorld, account: int, lots: int) -> None:
    """Give an account a long position at 1000."""
    world.one(D, ask(1_000, lots))
    assert world.one(account, bid(1_000, lots)).status == FILLED


def nothing_waits(world: WaitingWorld) -> bool:
    return not [key for key in world.mirror if key[:1] == b"t"]


# -- one cancels other


def test_an_oco_of_two_triggers_fires_one_and_drops_the_other() -> None:
    for mark, winner in ((1_100, 0), (900, 1)):
        world = WaitingWorld()
        pair = Oco(
            trigger(SELL, 5, TAKE_PROFIT, 1_100, client_id=1, **LIMIT),
            trigger(SELL, 5, STOP, 900, client_id=2, **LIMIT),
        )
        result = world.one(A, pair)
        first, second = result.order_id, result.order_id + 1
        assert result == Result(0, WAITING, first, 0, 5)
        assert links(world) == [(first, second), (second, first)]
        world.mark(mark)
        ids = (first, second)
        assert world.fired() == [ids[winner]]
        assert world.triggers() == [
            (ids[winner], 0, REASON_FIRED),
            (ids[1 - winner], 0, REASON_LINKED),
        ]
        kinds = [
            type(e) for e in world.events if type(e) in (TriggerChanged, OrderOpened, TriggerFired)
        ]
        assert kinds == [TriggerChanged, TriggerChanged, OrderOpened, TriggerFired]
        assert nothing_waits(world)
        # The loser's client id is free, the winner's belongs to its order.
        codes = [world.one(A, bid(800, 1, client=n)).code for n in (1, 2)]
        assert codes[winner] == Code.DUPLICATE_CLIENT_ID and codes[1 - winner] == 0


def test_both_of_an_oco_due_at_once_fire_only_the_first() -> None:
    world = WaitingWorld()
    pair = Oco(trigger(SELL, 5, STOP, 950, **LIMIT), trigger(SELL, 5, STOP, 940, **LIMIT))
    first = world.one(A, pair).order_id
    world.mark(930)
    assert world.fired() == [first]
    assert nothing_waits(world)


def oco_with_order(world: WaitingWorld, lots: int = 10) -> tuple[int, int]:
    """A resting sell at 1100 with a stop at 900."""
    result = world.one(
        A, Oco(ask(1_100, lots, 1), trigger(SELL, lots, STOP, 900, client_id=2, **LIMIT))
    )
    assert result == Result(0, RESTING, result.order_id, 0, lots)
    assert links(world) == [(result.order_id + 1, result.order_id)]
    return result.order_id, result.order_id + 1


def test_the_first_fill_of_an_order_drops_its_stop() -> None:
    world = WaitingWorld()
    _, stop = oco_with_order(world)
    assert world.one(B, Order(0, BUY, 1_100, 3, IOC)).filled_lots == 3
    assert world.triggers() == [(stop, 0, REASON_LINKED)]
    kinds = [type(e) for e in world.events]
    assert kinds.index(Fill) < kinds.index(TriggerChanged)
    assert world.one(B, Order(0, BUY, 1_100, 7, IOC)).filled_lots == 7
    assert world.triggers() == []
    world.mark(800)
    assert world.fired() == []


def test_a_stop_that_fires_takes_the_order_out_first() -> None:
    world = WaitingWorld()
    order, stop = oco_with_order(world)
    world.one(B, bid(880, 20))
    world.mark(900)
    assert world.fired() == [stop]
    assert world.orders() == [(order, 0, REASON_LINKED)]
    kinds = [
        type(e) for e in world.events if type(e) in (TriggerChanged, OrderChanged, TriggerFired)
    ]
    assert kinds == [TriggerChanged, OrderChanged, TriggerFired]


@pytest.mark.parametrize("which", ["order", "stop", "all", "expiry", "reduce"])
def test_cancelling_one_of_an_oco_drops_the_other(which: str) -> None:
    world = WaitingWorld()
    order, stop = oco_with_order(world)
    if which == "order":
        world.one(A, Cancel(0, order))
    elif which == "reduce":
        world.one(A, Reduce(0, order, 10))
    elif which == "stop":
        world.one(A, Cancel(0, stop))
        assert world.orders() == [(order, 0, REASON_LINKED)]
        assert world.triggers() == [(stop, 0, REASON_CANCELLED)]
    elif which == "all":
        world.one(A, CancelAll(0))
    else:
        world.one(A, CancelAll(0))
        expiring = ask(1_100, 5, expires_ms=world.time_ms + 1_000)
        order = world.one(A, Oco(expiring, trigger(SELL, 5, STOP, 900))).order_id
        stop = order + 1
        world.wait(2_000)
        assert world.orders() == [(order, 0, REASON_EXPIRED)]
    if which != "stop":
        assert world.triggers() == [(stop, 0, REASON_LINKED)]
    assert nothing_waits(world) and not world.engine.orders_of(A)


def test_an_order_that_is_made_smaller_keeps_its_stop() -> None:
    world = WaitingWorld()
    order, stop = oco_with_order(world)
    assert world.one(A, Reduce(0, order, 4)).remaining_lots == 6
    assert world.one(A, Modify(0, order, 1_100, 5)).remaining_lots == 5
    assert world.triggers() == []
    # A new order would have another id.
    assert world.one(A, Modify(0, order, 1_110, 5)).code == Code.BAD_LINK
    world.mark(900)
    assert world.fired() == [stop]


def test_an_order_that_fills_at_once_opens_no_second() -> None:
    world = WaitingWorld()
    world.one(B, bid(990, 4))
    result = world.one(A, Oco(ask(990, 10), trigger(SELL, 10, STOP, 900)))
    assert (result.status, result.filled_lots, result.remaining_lots) == (RESTING, 4, 6)
    assert links(world) == [] and nothing_waits(world)
    assert world.one(B, Order(0, BUY, 990, 6, IOC)).filled_lots == 6


def test_a_refused_first_order_opens_nothing() -> None:
    world = WaitingWorld(dollars=10)
    assert world.one(A, Oco(ask(1_100, 1_000), trigger(SELL, 5, STOP, 900))).code == (
        Code.INSUFFICIENT_MARGIN
    )
    assert nothing_waits(world)


FIRST = ask(1_100, 5)
SECOND = trigger(SELL, 5, STOP, 900)


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        (replace(FIRST, market=1), SECOND, Code.BAD_LINK),
        (replace(FIRST, side=BUY), SECOND, Code.BAD_LINK),
        (replace(FIRST, tif=IOC), SECOND, Code.BAD_LINK),
        (replace(FIRST, tif=FOK), SECOND, Code.BAD_LINK),
        (replace(FIRST, tif=9), SECOND, Code.BAD_LINK),
        (replace(FIRST, client_id=4), replace(SECOND, client_id=4), Code.DUPLICATE_CLIENT_ID),
        (replace(FIRST, client_id=9), SECOND, Code.DUPLICATE_CLIENT_ID),
        (FIRST, replace(SECOND, client_id=9), Code.DUPLICATE_CLIENT_ID),
        (replace(FIRST, price_ticks=0), SECOND, Code.BAD_PRICE),
        (FIRST, replace(SECOND, size_lots=0), Code.BAD_SIZE),
        (FIRST, replace(SECOND, trigger_ticks=1_000), Code.WOULD_FIRE),
        (trigger(SELL, 5, TAKE_PROFIT, 1_000), SECOND, Code.WOULD_FIRE),
        (trigger(SELL, 0, TAKE_PROFIT, 1_100), SECOND, Code.BAD_SIZE),
        (replace(FIRST, market=7), replace(SECOND, market=7), Code.UNKNOWN_MARKET),
    ],
)
def test_legs_that_do_not_belong_together_are_refused(
    first: Order | TriggerOrder, second: TriggerOrder, code: Code
) -> None:
    world = WaitingWorld()
    world.one(A, bid(900, 1, client=9))
    assert world.one(A, Oco(first, second)) == Result(code)
    assert nothing_waits(world) and len(world.engine.orders_of(A)) == 1


def test_a_pair_needs_room_for_both() -> None:
    world = WaitingWorld(limits=Limits(triggers_per_account=2))
    pair = Oco(trigger(SELL, 5, TAKE_PROFIT, 1_100), SECOND)
    assert world.one(A, SECOND).code == 0
    assert world.one(A, pair).code == Code.TOO_MANY_TRIGGERS
    assert world.one(A, Oco(FIRST, SECOND)).code == 0
    assert world.one(A, Oco(FIRST, SECOND)).code == Code.TOO_MANY_TRIGGERS
    assert world.one(B, pair).code == 0


# -- brackets


def bracket(price: int = 990, lots: int = 10, **fields: Any) -> Bracket:
    """A buy with a take-profit at 1100 and a stop at 900."""
    return Bracket(
        bid(price, lots, **fields),
        trigger(SELL, 0, TAKE_PROFIT, 1_100, client_id=11),
        trigger(SELL, 0, STOP, 900, client_id=12),
    )


def test_exits_wait_unarmed_until_the_parent_fills() -> None:
    world = WaitingWorld()
    result = world.one(A, bracket())
    parent = result.order_id
    assert result == Result(0, RESTING, parent, 0, 10)
    opened = world.of(TriggerOpened)
    assert [(e.trigger_id, e.size_lots, e.flags, e.link) for e in opened] == [
        (parent + 1, 0, REDUCE_ONLY, parent + 2),
        (parent + 2, 0, REDUCE_ONLY, parent + 1),
    ]
    world.mark(1_200)
    assert world.fired() == []
    world.mark(990)
    assert world.one(B, Order(0, SELL, 990, 4, IOC)).filled_lots == 4
    assert world.triggers() == [(parent + 1, 4, 0), (parent + 2, 4, 0)]
    assert world.one(B, Order(0, SELL, 990, 3, IOC)).filled_lots == 3
    assert world.triggers() == [(parent + 1, 7, 0), (parent + 2, 7, 0)]
    world.one(C, bid(1_090, 50))
    world.mark(1_100)
    assert world.fired() == [parent + 1]
    assert world.of(TriggerFired)[0].result.filled_lots == 7
    assert world.position(A)[0] == 0
    # What the parent would still fill would have no exit any more.
    assert world.triggers() == [(parent + 1, 0, REASON_FIRED), (parent + 2, 0, REASON_LINKED)]
    assert world.orders() == [(parent, 0, REASON_LINKED)]
    assert nothing_waits(world)


def test_exits_armed_beyond_the_mark_fire_in_the_next_block() -> None:
    world = WaitingWorld()
    parent = world.one(A, bracket(price=990)).order_id
    world.mark(1_100)
    world.one(C, bid(980, 50))
    world.one(B, Order(0, SELL, 990, 10, IOC))
    assert world.fired() == []
    world.wait(0)
    assert world.fired() == [parent + 1]


def test_exits_of_a_parent_far_from_the_mark_need_not_suit_it_yet() -> None:
    world = WaitingWorld()
    exits = trigger(SELL, 0, TAKE_PROFIT, 950), trigger(SELL, 0, STOP, 850)
    parent = world.one(A, Bracket(bid(900, 10), *exits)).order_id
    assert world.fired() == []
    world.mark(900)
    world.one(B, Order(0, SELL, 900, 10, IOC))
    world.one(C, bid(945, 50))
    world.mark(950)
    assert world.fired() == [parent + 1]


def test_a_parent_that_fills_at_once_opens_armed_exits() -> None:
    world = WaitingWorld()
    world.one(B, ask(990, 4))
    result = world.one(A, bracket())
    assert (result.status, result.filled_lots, result.remaining_lots) == (RESTING, 4, 6)
    assert [e.size_lots for e in world.of(TriggerOpened)] == [4, 4]
    world.one(B, Order(0, SELL, 990, 6, IOC))
    assert world.triggers() == [(result.order_id + 1, 10, 0), (result.order_id + 2, 10, 0)]
    world.one(C, bid(880, 50))
    world.mark(900)
    assert world.fired() == [result.order_id + 2]
    assert world.position(A)[0] == 0


@pytest.mark.parametrize(("tif", "status"), [(IOC, CANCELLED), (GTC, RESTING), (FOK, FILLED)])
def test_what_an_immediate_parent_fills_has_exits(tif: int, status: int) -> None:
    world = WaitingWorld()
    world.one(B, ask(990, 4))
    lots = 4 if tif == FOK else 10
    action = replace(bracket(), parent=Order(0, BUY, 990, lots, tif))
    result = world.one(A, action)
    assert (result.code, result.status, result.filled_lots) == (0, status, 4)
    assert [e.size_lots for e in world.of(TriggerOpened)] == [4, 4]


def test_a_refused_parent_leaves_nothing() -> None:
    world = WaitingWorld()
    world.one(B, ask(990, 4))
    for parent, code in (
        (Order(0, BUY, 980, 10, IOC), Code.NO_LIQUIDITY),
        (Order(0, BUY, 990, 10, FOK), Code.NOT_FILLABLE),
        (Order(0, BUY, 990, 10, POST_ONLY), Code.WOULD_TAKE),
        (Order(0, BUY, 0, 10), Code.BAD_PRICE),
        (Order(0, BUY, 980, 900_000), Code.INSUFFICIENT_MARGIN),
    ):
        assert world.one(A, replace(bracket(), parent=parent)).code == code
        assert nothing_waits(world) and not world.engine.orders_of(A)
        assert world.one(A, bid(500, 1, client=11)).code == 0, "its client ids are free"
        world.one(A, CancelAll(0))


def test_exits_go_with_a_parent_that_never_filled() -> None:
    world = WaitingWorld()
    parent = world.one(A, bracket()).order_id
    world.one(A, Cancel(0, parent))
    assert world.orders() == [(parent, 0, REASON_CANCELLED)]
    assert world.triggers() == [(parent + 1, 0, REASON_LINKED), (parent + 2, 0, REASON_LINKED)]
    assert nothing_waits(world)


def test_exits_stay_when_the_rest_of_the_parent_goes() -> None:
    world = WaitingWorld()
    parent = world.one(A, bracket()).order_id
    world.one(B, Order(0, SELL, 990, 4, IOC))
    world.one(A, Cancel(0, parent))
    assert world.triggers() == []
    world.one(C, bid(880, 50))
    world.mark(900)
    assert world.fired() == [parent + 2]
    assert world.position(A)[0] == 0


def test_cancelling_an_exit_drops_the_other_and_frees_the_parent() -> None:
    for filled in (0, 4):
        world = WaitingWorld()
        parent = world.one(A, bracket()).order_id
        if filled:
            world.one(B, Order(0, SELL, 990, filled, IOC))
        world.one(A, Cancel(0, parent + 1))
        assert world.triggers() == [
            (parent + 1, 0, REASON_CANCELLED), (parent + 2, 0, REASON_LINKED),
        ]  # fmt: skip
        assert world.one(B, Order(0, SELL, 990, 6, IOC)).filled_lots == 6
        assert world.triggers() == []
        assert world.position(A)[0] == filled + 6


def test_a_trailing_exit_follows_from_the_first_fill_on() -> None:
    world = WaitingWorld()
    action = replace(bracket(), stop=trigger(SELL, 0, TRAILING, 50, limit_ticks=1_500))
    parent = world.one(A, action).order_id
    world.mark(1_090)
    world.mark(990)
    earlier = world.one(C, trigger(SELL, 1, TRAILING, 70, **LIMIT)).order_id
    world.mark(1_015)
    world.mark(990)
    world.one(B, Order(0, SELL, 990, 10, IOC))
    later = world.one(C, trigger(SELL, 1, TRAILING, 45, **LIMIT)).order_id
    # The exit is the oldest, but was armed between the others: bests are 1015, 1010 and 1010.
    world.mark(1_010)
    for mark, fired in ((966, []), (965, [later]), (961, []), (960, [parent + 2])):
        world.mark(mark)
        assert world.fired() == fired
    world.mark(945)
    assert world.fired() == [earlier]


def test_several_brackets_keep_apart() -> None:
    world = WaitingWorld()
    plain = replace(
        bracket(),
        take_profit=trigger(SELL, 0, TAKE_PROFIT, 1_100),
        stop=trigger(SELL, 0, STOP, 900),
    )
    one, two = (world.one(A, plain).order_id for _ in range(2))
    world.one(B, Order(0, SELL, 990, 13, IOC))
    assert world.triggers() == [
        (one + 1, 10, 0),
        (one + 2, 10, 0),
        (two + 1, 3, 0),
        (two + 2, 3, 0),
    ]
    world.one(A, Cancel(0, two))
    world.one(A, Cancel(0, one + 1))
    world.one(C, bid(880, 50))
    world.mark(900)
    assert world.fired() == [two + 2]
    assert world.position(A)[0] == 10


PARENT = bid(990, 10)
PROFIT = trigger(SELL, 0, TAKE_PROFIT, 1_100)
EXIT = trigger(SELL, 0, STOP, 900)


@pytest.mark.parametrize(
    ("parent", "profit", "stop", "code"),
    [
        ({}, {"market": 1}, {}, Code.BAD_LINK),
        ({}, {}, {"market": 1}, Code.BAD_LINK),
        ({}, {"side": BUY}, {}, Code.BAD_LINK),
        ({}, {}, {"side": BUY}, Code.BAD_LINK),
        ({}, {"size_lots": 1}, {}, Code.BAD_LINK),
        ({}, {}, {"size_lots": 10}, Code.BAD_LINK),
        ({}, {"kind": STOP}, {}, Code.BAD_LINK),
        ({}, {}, {"kind": TAKE_PROFIT}, Code.BAD_LINK),
        ({}, {}, {"kind": 7}, Code.BAD_TRIGGER),
        ({}, {}, {"slippage_ppm": 0}, Code.BAD_SLIPPAGE),
        ({}, {"flags": 64}, {}, Code.BAD_FLAGS),
        ({}, {}, {"expires_ms": START_MS}, Code.ACTION_EXPIRED),
        ({}, {"client_id": 3}, {"client_id": 3}, Code.DUPLICATE_CLIENT_ID),
        ({"client_id": 3}, {"client_id": 3}, {}, Code.DUPLICATE_CLIENT_ID),
        ({}, {"client_id": 9}, {}, Code.DUPLICATE_CLIENT_ID),
        ({"side": 2}, {"side": -1}, {"side": -1}, Code.WRONG_TYPE),
        ({"market": 7}, {"market": 7}, {"market": 7}, Code.UNKNOWN_MARKET),
    ],
)
def test_exits_that_do_not_suit_the_parent_are_refused(
    parent: dict[str, Any], profit: dict[str, Any], stop: dict[str, Any], code: Code
) -> None:
    world = WaitingWorld()
    world.one(A, bid(900, 1, client=9))
    action = Bracket(replace(PARENT, **parent), replace(PROFIT, **profit), replace(EXIT, **stop))
    assert world.one(A, action) == Result(code)
    assert nothing_waits(world) and len(world.engine.orders_of(A)) == 1


def test_a_bracket_needs_room_for_both_exits() -> None:
    world = WaitingWorld(limits=Limits(triggers_per_account=3))
    assert world.one(A, bracket()).code == 0
    assert world.one(A, Bracket(PARENT, PROFIT, EXIT)).code == Code.TOO_MANY_TRIGGERS
    assert len(world.engine.orders_of(A)) == 1


def test_a_closed_market_takes_no_bracket() -> None:
    world = WaitingWorld(guardians=1)
    world.vote(0, CANCEL_ONLY)
    assert world.one(A, bracket()).code == Code.MARKET_CANCEL_ONLY


def test_exits_close_no_more_than_the_position() -> None:
    world = WaitingWorld()
    world.one(C, bid(850, 500))
    parent = world.one(A, bracket()).order_id
    world.one(B, Order(0, SELL, 990, 10, IOC))
    assert world.one(A, MarketOrder(0, SELL, 6, 500_000)).filled_lots == 6
    world.mark(900)
    assert world.fired() == [parent + 2]
    assert world.of(TriggerFired)[0].result.filled_lots == 4
    assert world.position(A)[0] == 0
