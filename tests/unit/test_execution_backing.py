"""What must stand behind a trigger: margin or something to reduce, and room; and small orders."""

from __future__ import annotations

from typing import Any

import pytest
from engine_world import DOLLAR, market, signer
from msgspec.structs import replace
from waiting_world import A, B, C, D, WaitingWorld, ask, bid, trigger

from protocol.actions import (
    ALL_MARKETS,
    BUY,
    IOC,
    REDUCE_ONLY,
    SELL,
    STOP,
    TAKE_PROFIT,
    TRAILING,
    Bracket,
    CancelAll,
    Oco,
    Order,
    SetLeverage,
    Transfer,
    TriggerOrder,
)
from protocol.errors import Code
from protocol.events import WAITING, Result, TriggerFired, TriggerOpened
from protocol.genesis import Limits
from protocol.settlement import account_number

STOP_LOSS = trigger(SELL, 10, STOP, 900)
CLOSING = replace(STOP_LOSS, flags=REDUCE_ONLY)


def long(world: WaitingWorld, account: int, lots: int) -> None:
    """Give an account a long position at 1000."""
    world.one(D, ask(1_000, lots))
    assert world.one(account, Order(0, BUY, 1_000, lots, IOC)).filled_lots == lots


def family(world: WaitingWorld, *accounts: int) -> None:
    """Let sub-accounts of A begin, with ten dollars each."""
    for account in accounts:
        assert world.one(A, Transfer(account, 10 * DOLLAR)).code == 0


def sent(world: WaitingWorld, account: int, *actions: Any) -> list[Code]:
    """Codes of actions of an account of A's."""
    answer = world.send(world.batch(account, *actions, by=signer(A)))
    return [Code(result.code) for result in answer.results]


# -- margin


def test_a_trigger_that_may_open_needs_the_margin_of_its_size() -> None:
    world = WaitingWorld(dollars=10)
    stop = trigger(SELL, 100, STOP, 900)  # $100 at 10 %
    assert world.one(A, replace(stop, size_lots=101)).code == Code.INSUFFICIENT_MARGIN
    assert world.one(A, stop).status == WAITING
    # What rests needs margin of its own.
    assert world.one(B, bid(900, 1)).code == 0
    assert world.one(B, stop).code == Code.INSUFFICIENT_MARGIN
    assert world.one(B, replace(stop, size_lots=98)).code == 0


def test_the_margin_is_that_of_the_mark_and_the_leverage() -> None:
    world = WaitingWorld(dollars=10)
    far = trigger(BUY, 100, STOP, 5_000)
    assert world.one(A, far).code == 0
    assert world.one(A, SetLeverage(0, 5)).code == 0
    assert world.one(A, CancelAll(0)).code == 0
    assert world.one(A, far).code == Code.INSUFFICIENT_MARGIN
    assert world.one(A, replace(far, size_lots=50)).code == 0
    assert world.one(A, CancelAll(0)).code == 0
    world.mark(2_000)
    assert world.one(A, replace(far, size_lots=50)).code == Code.INSUFFICIENT_MARGIN


def test_what_closes_a_position_as_a_whole_needs_no_margin() -> None:
    world = WaitingWorld(dollars=11)
    long(world, A, 100)
    world.mark(960)
    stop = trigger(SELL, 100, STOP, 900)
    codes = [
        world.one(A, one).code
        for one in (stop, replace(stop, size_lots=101), trigger(BUY, 1, STOP, 1_100))
    ]
    assert codes == [0, Code.INSUFFICIENT_MARGIN, Code.INSUFFICIENT_MARGIN]


@pytest.mark.parametrize("large", [0, 1])
def test_each_leg_of_a_pair_needs_its_margin(large: int) -> None:
    world = WaitingWorld(dollars=10)
    legs = [trigger(SELL, 5, TAKE_PROFIT, 1_100), trigger(SELL, 5, STOP, 900)]
    legs[large] = replace(legs[large], size_lots=101)
    assert world.one(A, Oco(legs[0], legs[1])).code == Code.INSUFFICIENT_MARGIN
    order = ask(1_100, 101 if large == 0 else 5)
    assert world.one(A, Oco(order, legs[1])).code == Code.INSUFFICIENT_MARGIN
    assert world.of(TriggerOpened) == [] and not world.engine.orders_of(A)


# -- something to reduce


def test_a_reduce_only_trigger_needs_a_position_or_an_order_in_its_market() -> None:
    world = WaitingWorld()
    assert world.one(A, CLOSING).code == Code.NOT_REDUCING
    assert world.one(A, replace(bid(990, 1), market=1)).code == 0
    assert world.one(A, CLOSING).code == Code.NOT_REDUCING
    for resting in (bid(990, 1), ask(1_010, 1)):
        assert world.one(A, resting).code == 0
        assert world.one(A, CLOSING).status == WAITING
        assert world.one(A, CancelAll(ALL_MARKETS)).code == 0
        assert world.one(A, CLOSING).code == Code.NOT_REDUCING
    long(world, A, 1)
    assert world.one(A, CLOSING).status == WAITING


def test_a_pair_of_reduce_only_triggers_needs_one_too() -> None:
    world = WaitingWorld()
    pair = Oco(trigger(SELL, 10, TAKE_PROFIT, 1_100, flags=REDUCE_ONLY), CLOSING)
    assert world.one(A, pair).code == Code.NOT_REDUCING
    long(world, A, 10)
    assert world.one(A, pair).status == WAITING


# -- room


def test_an_account_and_a_market_hold_so_many_triggers() -> None:
    world = WaitingWorld(limits=Limits(triggers_per_account=2, triggers_per_market=3))
    assert [r.code for r in world.act(A, *[trigger(SELL, 1, STOP, 900)] * 3)] == [
        0, 0, Code.TOO_MANY_TRIGGERS,
    ]  # fmt: skip
    assert [r.code for r in world.act(B, *[trigger(SELL, 1, STOP, 900)] * 2)] == [
        0, Code.TOO_MANY_TRIGGERS,
    ]  # fmt: skip
    assert world.one(B, trigger(SELL, 1, STOP, 900, market=1)).code == 0
    world.act(A, CancelAll(ALL_MARKETS))
    assert world.one(C, trigger(SELL, 1, STOP, 900)).code == 0


def test_all_accounts_of_a_master_share_its_triggers() -> None:
    world = WaitingWorld(limits=Limits(triggers_per_account=4))
    sub, isolated = account_number(A, 1), account_number(A, 0, 0)
    family(world, sub, isolated)
    full, stop = Code.TOO_MANY_TRIGGERS, trigger(SELL, 1, STOP, 900)
    pair = Oco(trigger(SELL, 1, TAKE_PROFIT, 1_100), stop)
    assert sent(world, A, stop) == [0]
    assert sent(world, sub, pair, pair, replace(stop, market=1), stop) == [0, full, 0, full]
    assert sent(world, isolated, stop) == [full]
    assert sent(world, A, stop) == [full]
    # Another master has its own, and what leaves makes room for the whole family.
    assert [r.code for r in world.act(B, *[stop] * 5)] == [0, 0, 0, 0, full]
    assert sent(world, sub, CancelAll(0)) == [0]
    assert sent(world, isolated, stop, stop, stop) == [0, 0, full]
    world.mark(900)
    assert len(world.fired()) == 7
    assert sent(world, A, *[trigger(SELL, 1, STOP, 800)] * 4) == [0, 0, 0, full]


def test_exits_of_brackets_count_for_the_whole_family() -> None:
    world = WaitingWorld(limits=Limits(triggers_per_account=3))
    sub = account_number(A, 1)
    family(world, sub)
    entry = bracket(1)
    assert sent(world, sub, entry, entry) == [0, Code.TOO_MANY_TRIGGERS]
    assert sent(world, A, entry) == [Code.TOO_MANY_TRIGGERS]
    assert sent(world, sub, CancelAll(0)) == [0]
    assert sent(world, A, entry) == [0]


# -- small orders


def bracket(lots: int, **stop: Any) -> Bracket:
    """A buy at the mark with a take-profit at 1100 and a stop at 900."""
    exits = trigger(SELL, 0, TAKE_PROFIT, 1_100), trigger(SELL, 0, STOP, 900)
    return Bracket(bid(1_000, lots), exits[0], replace(exits[1], **stop))


def least(uusd: int = 10 * DOLLAR) -> WaitingWorld:
    """A world in which orders must be worth $10, with bids below the mark."""
    world = WaitingWorld([market(0, min_notional_uusd=uusd), market(1)])
    world.act(C, *(bid(price, 100) for price in (950, 890, 860, 800)))
    return world


@pytest.mark.parametrize("limit", [{}, {"limit_ticks": 850, "slippage_ppm": 0}])
def test_the_exit_of_a_few_lots_closes_them(limit: dict[str, int]) -> None:
    world = least()
    world.one(D, ask(1_000, 12))
    assert world.one(B, Order(0, BUY, 1_000, 10, IOC)).filled_lots == 10
    result = world.one(A, bracket(20, **limit))
    assert result.filled_lots == 2
    assert world.one(A, CancelAll(1)).code == 0
    world.mark(900)
    (fired,) = world.of(TriggerFired)
    assert (fired.result.code, fired.result.filled_lots) == (0, 2)
    assert world.position(A)[0] == 0


@pytest.mark.parametrize(
    "stop",
    [
        trigger(SELL, 4, STOP, 900, flags=REDUCE_ONLY),
        trigger(SELL, 4, STOP, 900, flags=REDUCE_ONLY, limit_ticks=880),
        trigger(SELL, 4, TRAILING, 100, flags=REDUCE_ONLY),
    ],
)
def test_a_stop_for_a_small_position_waits_and_closes_it(stop: TriggerOrder) -> None:
    world = least()
    long(world, A, 12)
    assert world.one(A, Order(0, SELL, 950, 8, IOC, flags=REDUCE_ONLY)).filled_lots == 8
    assert world.one(A, replace(stop, flags=0)) == Result(Code.BELOW_MIN_NOTIONAL)
    assert world.one(A, stop).status == WAITING
    world.mark(900)
    assert [e.result.filled_lots for e in world.of(TriggerFired)] == [4]
    assert world.position(A)[0] == 0


def test_a_stop_fires_at_a_mark_at_which_it_is_worth_too_little() -> None:
    world = least()
    long(world, A, 12)
    assert world.one(A, trigger(SELL, 12, STOP, 840)).status == WAITING
    world.mark(810)
    assert [e.result.filled_lots for e in world.of(TriggerFired)] == [12]


def test_exits_are_held_to_the_largest_notional_with_their_parent() -> None:
    world = WaitingWorld(dollars=1_000_000_000)
    huge = replace(bracket(1_000_000), take_profit=trigger(SELL, 0, TAKE_PROFIT, 1 << 28))
    assert world.one(A, huge).code == Code.NOTIONAL_LIMIT
    limited = trigger(SELL, 0, TAKE_PROFIT, 1_100, limit_ticks=1 << 28)
    assert world.one(A, replace(huge, take_profit=limited)).code == Code.NOTIONAL_LIMIT
    assert world.one(A, replace(huge, parent=bid(1_000, 100_000))).code == 0
