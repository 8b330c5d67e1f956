"""What stands behind all triggers of an account together, and what goes when nothing does."""

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
    Cancel,
    CancelAll,
    MarketOrder,
    Oco,
    Order,
    Transfer,
    TransferPosition,
    Withdraw,
)
from protocol.errors import Code
from protocol.events import (
    REASON_LINKED,
    REASON_UNBACKED,
    WAITING,
    TriggerChanged,
    TriggerOpened,
)
from protocol.settlement import INSURANCE_ACCOUNT, account_number

FULL = Code.INSUFFICIENT_MARGIN
LOSS = trigger(SELL, 100, STOP, 900)
PROFIT = trigger(SELL, 100, TAKE_PROFIT, 1_100)
TO = b"t" * 20


def reducing(*triggers: Any) -> list[Any]:
    return [replace(one, flags=REDUCE_ONLY) for one in triggers]


def least(dollars: int = 20, uusd: int = 10 * DOLLAR) -> WaitingWorld:
    """A world in which orders must be worth $10: 10 lots, $1 of margin."""
    return WaitingWorld(
        [market(0, min_notional_uusd=uusd), market(1, min_notional_uusd=uusd)], dollars=dollars
    )


def long(world: WaitingWorld, account: int, lots: int) -> None:
    """Give an account a long position at 1000."""
    world.one(D, ask(1_000, lots))
    assert world.one(account, Order(0, BUY, 1_000, lots, IOC)).filled_lots == lots


def codes(world: WaitingWorld, account: int, *actions: Any) -> list[int]:
    return [result.code for result in world.act(account, *actions)]


def ids(world: WaitingWorld) -> list[int]:
    return [event.trigger_id for event in world.of(TriggerOpened)]


def dropped(world: WaitingWorld) -> list[tuple[int, int]]:
    """(trigger, reason) of those that left in the last block."""
    return [(e.trigger_id, e.reason) for e in world.of(TriggerChanged) if e.reason]


def leave_free(world: WaitingWorld, account: int, uusd: int) -> None:
    """Withdraw all but so much of what may leave."""
    free = world.engine.withdrawable_uusd(account)
    assert world.one(account, Withdraw(free - uusd, TO)).code == 0


# -- together


def test_triggers_of_a_side_need_margin_together() -> None:
    world = WaitingWorld(dollars=10)
    half = replace(LOSS, size_lots=50)
    assert codes(world, A, half, half, replace(half, size_lots=1)) == [0, 0, FULL]


def test_the_larger_side_of_a_market_counts_and_all_markets() -> None:
    world = WaitingWorld(dollars=10)
    rise = trigger(BUY, 60, STOP, 1_100)
    there = replace(LOSS, size_lots=41, market=1)
    assert codes(world, A, replace(LOSS, size_lots=60), rise, there) == [0, 0, FULL]
    assert codes(world, A, replace(there, size_lots=40), rise) == [0, FULL]


def test_a_linked_pair_counts_once_with_the_larger_of_both() -> None:
    world = WaitingWorld(dollars=10)
    pair = Oco(replace(PROFIT, size_lots=40), replace(LOSS, size_lots=60))
    assert codes(world, A, pair, replace(LOSS, size_lots=41)) == [0, FULL]
    assert codes(world, A, replace(LOSS, size_lots=40)) == [0]
    # A resting order of a pair counts as an order; the trigger for what is beyond it.
    resting = Oco(ask(1_100, 40), replace(LOSS, size_lots=60))
    assert codes(world, B, resting, replace(LOSS, size_lots=40)) == [0, FULL]
    assert codes(world, B, replace(LOSS, size_lots=39)) == [0]


def test_a_stop_and_a_take_profit_for_all_of_a_position_ask_for_nothing() -> None:
    world = least(10)
    long(world, A, 99)
    world.mark(960)  # below initial margin
    assert codes(world, A, *reducing(LOSS, PROFIT)) == [0, 0]
    exact = replace(LOSS, size_lots=99), replace(PROFIT, size_lots=99)
    assert codes(world, A, *exact) == [0, FULL]  # with the two least orders, 2 x 99 are full
    assert codes(world, A, CancelAll(0), *exact, *reducing(LOSS)) == [0, 0, 0, FULL]
    # The other market's need does not matter to what asks for nothing here.
    assert codes(world, A, CancelAll(0), *reducing(LOSS, PROFIT)) == [0, 0, 0]


def test_what_is_covered_no_more_does_not_stand_in_the_way_of_a_stop() -> None:
    world = WaitingWorld(dollars=20)
    long(world, A, 100)
    assert world.one(A, trigger(SELL, 90, STOP, 900, market=1)).code == 0
    world.mark(920)
    assert codes(world, A, LOSS, trigger(SELL, 1, STOP, 900, market=1)) == [0, FULL]


def test_each_reduce_only_trigger_counts_as_the_least_order() -> None:
    """The position's own margin and free equity limit how many wait: 30 lots carry 6 of 10 lots,
    and the $1.7 left beside it, after fees, one more."""
    world = least(5)
    long(world, A, 30)
    one = replace(LOSS, size_lots=1, flags=REDUCE_ONLY)
    assert codes(world, A, *[one] * 9) == [0] * 7 + [FULL] * 2
    # Linked, they count once.
    pair = Oco(*reducing(PROFIT, LOSS))
    assert codes(world, A, CancelAll(0), *[pair] * 8) == [0] * 8 + [FULL]


# -- money leaves


def test_the_newest_triggers_go_when_their_margin_is_withdrawn() -> None:
    world = WaitingWorld(dollars=10)
    part = replace(LOSS, size_lots=30)
    world.act(A, part, part, part)
    first, second, third = ids(world)
    leave_free(world, A, 4 * DOLLAR)
    assert dropped(world) == [(third, REASON_UNBACKED), (second, REASON_UNBACKED)]
    assert world.one(A, Cancel(0, first)).code == 0


def test_what_margin_still_covers_stays() -> None:
    world = WaitingWorld(dollars=10)
    world.act(A, replace(LOSS, size_lots=30), replace(LOSS, size_lots=30, market=1))
    leave_free(world, A, 6 * DOLLAR)
    assert dropped(world) == []
    world.one(A, Withdraw(1, TO))
    assert [reason for _, reason in dropped(world)] == [REASON_UNBACKED]


def test_one_sum_does_not_back_the_triggers_of_one_account_after_another() -> None:
    """The money moves on, the triggers it stood behind do not stay."""
    world = least(2)
    sub = account_number(A, 1)
    stop = trigger(SELL, 10, TAKE_PROFIT, 1_100)
    assert codes(world, A, stop, stop, stop) == [0, 0, FULL]
    world.one(A, Transfer(sub, 2 * DOLLAR))
    assert len(dropped(world)) == 2
    answer = world.send(world.batch(sub, stop, stop, Transfer(A, 2 * DOLLAR), by=signer(A)))
    assert [result.code for result in answer.results] == [0, 0, 0]
    assert len(dropped(world)) == 2
    assert not world.engine.state.triggers.rows


def test_a_transfer_to_a_fund_counts_as_leaving() -> None:
    world = WaitingWorld(dollars=10)
    world.act(A, LOSS)
    world.one(A, Transfer(INSURANCE_ACCOUNT, 1))
    assert len(dropped(world)) == 1


def test_the_side_that_asks_for_less_stays() -> None:
    world = WaitingWorld(dollars=10)
    world.act(A, LOSS, trigger(BUY, 40, STOP, 1_100), replace(LOSS, size_lots=0, market=1))
    sell, buy = ids(world)
    leave_free(world, A, 4 * DOLLAR)
    assert dropped(world) == [(sell, REASON_UNBACKED)]
    assert world.one(A, Cancel(0, buy)).code == 0


def test_a_pair_goes_as_a_whole() -> None:
    world = WaitingWorld(dollars=10)
    world.act(A, Oco(PROFIT, LOSS))
    profit, loss = ids(world)
    leave_free(world, A, 1)
    assert dropped(world) == [(profit, REASON_UNBACKED), (loss, REASON_LINKED)]
    world.act(B, Oco(ask(1_100, 20), LOSS))
    (loss,) = ids(world)
    leave_free(world, B, 1)
    assert dropped(world) == [(loss, REASON_UNBACKED)]
    assert not world.engine.orders_of(B)


@pytest.mark.parametrize("flags", [0, REDUCE_ONLY])
def test_a_stop_and_a_take_profit_survive_every_withdrawal(flags: int) -> None:
    world = least(100)
    long(world, A, 100)
    assert codes(world, A, *(replace(one, flags=flags) for one in (LOSS, PROFIT))) == [0, 0]
    leave_free(world, A, 0)
    assert dropped(world) == []
    for ticks in (1_040, 960):
        world.mark(ticks)
        world.one(A, Transfer(account_number(A, 1), world.engine.withdrawable_uusd(A) or 1))
        assert dropped(world) == []


def test_a_bracket_survives_the_withdrawal_of_all_that_is_free() -> None:
    world = least(10)
    exits = replace(PROFIT, size_lots=0), replace(LOSS, size_lots=0)
    assert world.one(A, Bracket(bid(990, 50), *exits)).code == 0
    leave_free(world, A, 0)
    assert dropped(world) == []
    world.one(D, Order(0, SELL, 990, 30, IOC))
    leave_free(world, A, 0)
    assert dropped(world) == []


def test_losses_and_orders_alone_drop_nothing() -> None:
    world = WaitingWorld(dollars=20)
    world.act(A, trigger(SELL, 150, STOP, 500))
    long(world, A, 150)
    world.act(A, bid(900, 20))
    world.mark(930)
    assert dropped(world) == []
    world.one(A, Order(0, SELL, 900, 10, IOC))
    assert dropped(world) == []


# -- the position leaves


def test_reduce_only_triggers_go_when_the_position_closes() -> None:
    world = WaitingWorld()
    long(world, A, 100)
    world.act(A, *reducing(LOSS, PROFIT, trigger(SELL, 100, TRAILING, 50)))
    waiting = ids(world)
    world.act(A, LOSS)
    world.one(B, bid(1_000, 100))
    assert world.one(A, MarketOrder(0, SELL, 99, 1_000)).filled_lots == 99
    assert dropped(world) == []
    assert world.one(A, MarketOrder(0, SELL, 1, 1_000)).filled_lots == 1
    assert dropped(world) == [(one, REASON_UNBACKED) for one in waiting]
    assert len(world.engine.state.triggers.rows) == 1, "the one that may open stays"


def test_a_position_that_comes_back_in_the_same_block_keeps_them() -> None:
    world = WaitingWorld()
    long(world, A, 100)
    world.act(A, *reducing(LOSS))
    world.one(B, bid(1_000, 100))
    world.one(D, ask(1_001, 100))
    answer = world.act(A, MarketOrder(0, SELL, 100, 1_000), MarketOrder(0, BUY, 10, 10_000))
    assert [result.filled_lots for result in answer] == [100, 10]
    assert dropped(world) == []


def test_an_order_that_may_open_a_position_keeps_them_until_it_goes() -> None:
    world = WaitingWorld()
    long(world, A, 100)
    world.act(A, *reducing(LOSS))
    (stop,) = ids(world)
    world.act(A, bid(950, 10))
    order = world.engine.orders_of(A)[0][1]
    world.one(B, bid(1_000, 100))
    assert world.one(A, MarketOrder(0, SELL, 100, 1_000)).filled_lots == 100
    assert dropped(world) == []
    world.act(A, Cancel(0, order), bid(940, 10))
    assert dropped(world) == [], "replaced in one block"
    world.act(A, CancelAll(1), Cancel(0, world.engine.orders_of(A)[0][1]))
    assert dropped(world) == [(stop, REASON_UNBACKED)]


def test_a_position_that_is_transferred_takes_their_reason_with_it() -> None:
    world = WaitingWorld()
    long(world, A, 100)
    world.act(A, *reducing(LOSS), LOSS)
    closing, _ = ids(world)
    sub = account_number(A, 1)
    world.one(A, Transfer(sub, 100 * DOLLAR))
    assert world.one(A, TransferPosition(sub, 0, 50)).code == 0
    assert dropped(world) == []
    assert world.one(A, TransferPosition(sub, 0, 50)).code == 0
    # The other has margin of its own.
    assert dropped(world) == [(closing, REASON_UNBACKED)]


def test_a_transferred_position_backs_a_stop_no_more() -> None:
    world = WaitingWorld(dollars=12)
    long(world, A, 100)
    world.act(A, LOSS)
    (stop,) = ids(world)
    sub = account_number(A, 1)
    world.block([], [world.deposit(A, 10 * DOLLAR)])
    assert world.one(A, Transfer(sub, 11 * DOLLAR)).code == 0
    assert dropped(world) == []
    assert world.one(A, TransferPosition(sub, 0, 100)).code == 0
    assert dropped(world) == []
    leave_free(world, A, 9 * DOLLAR)
    assert dropped(world) == [(stop, REASON_UNBACKED)]


def test_the_exits_of_a_bracket_go_when_the_position_is_closed_by_hand() -> None:
    world = WaitingWorld()
    world.one(D, ask(1_000, 10))
    exits = replace(PROFIT, size_lots=0), replace(LOSS, size_lots=0)
    assert world.one(A, Bracket(bid(1_000, 10), *exits)).filled_lots == 10
    waiting = ids(world)
    world.one(B, bid(1_000, 10))
    world.one(A, MarketOrder(0, SELL, 10, 1_000))
    assert dropped(world) == [(waiting[0], REASON_UNBACKED), (waiting[1], REASON_LINKED)]


def test_other_markets_and_other_accounts_keep_theirs() -> None:
    world = WaitingWorld()
    long(world, A, 10)
    long(world, B, 10)
    world.act(A, replace(bid(900, 1), market=1))
    world.act(A, *reducing(LOSS, replace(LOSS, market=1)))
    here, _ = ids(world)
    world.act(B, *reducing(LOSS))
    world.one(C, bid(1_000, 10))
    world.one(A, MarketOrder(0, SELL, 10, 1_000))
    assert dropped(world) == [(here, REASON_UNBACKED)]
    assert world.one(A, CancelAll(ALL_MARKETS)).code == 0
    assert world.one(B, CancelAll(0)).code == 0
    assert len(dropped(world)) == 1 and world.one(B, *reducing(LOSS)).status == WAITING
