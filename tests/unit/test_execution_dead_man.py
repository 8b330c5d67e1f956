"""Dead-man's switches: when they go off, what they take out, and how often."""

from __future__ import annotations

import pytest
from engine_world import START_MS
from waiting_world import A, B, C, WaitingWorld, ask, bid, trigger

from protocol.actions import (
    BUY,
    DEAD_MAN_DAILY,
    DEAD_MAN_LEAST_MS,
    HALTED,
    SELL,
    STOP,
    TWAP_SLICE_MS,
    Order,
    ScheduleCancel,
    Twap,
)
from protocol.errors import Code
from protocol.events import (
    REASON_DEAD_MAN,
    DeadManSet,
    OrderChanged,
    Result,
    TriggerChanged,
    TwapChanged,
)
from protocol.genesis import DAY_MS, Limits

SOON = DEAD_MAN_LEAST_MS


def set_for(world: WaitingWorld, account: int, ahead_ms: int = SOON) -> int:
    """Set a switch so much ahead of the block that sets it; returns its time."""
    time_ms = world.time_ms + 10 + ahead_ms
    assert world.one(account, ScheduleCancel(time_ms)) == Result(0)
    assert world.of(DeadManSet) == [DeadManSet(account, time_ms, False)]
    return time_ms


def test_everything_of_the_account_goes_at_its_time() -> None:
    world = WaitingWorld()
    order, other = (r.order_id for r in world.act(A, bid(900, 1), Order(1, SELL, 1_100, 1)))
    stop = world.one(A, trigger(SELL, 1, STOP, 800)).order_id
    twap = world.one(A, Twap(0, BUY, 10, 4 * TWAP_SLICE_MS)).order_id
    kept = world.one(B, bid(900, 1)).order_id
    time_ms = set_for(world, A)
    world.until(time_ms - 1)
    assert world.of(DeadManSet) == []
    world.until(time_ms)
    assert world.events[:5] == [
        DeadManSet(A, time_ms, True),
        OrderChanged(0, order, A, BUY, 900, 0, REASON_DEAD_MAN),
        OrderChanged(1, other, A, SELL, 1_100, 0, REASON_DEAD_MAN),
        TriggerChanged(0, stop, A, 0, REASON_DEAD_MAN),
        TwapChanged(0, twap, A, BUY, 10, 0, REASON_DEAD_MAN),
    ]
    assert not world.engine.orders_of(A)
    assert [o[1] for o in world.engine.orders_of(B)] == [kept]
    # It went off once; nothing follows.
    world.one(A, bid(900, 1))
    world.wait(DAY_MS)
    assert world.of(DeadManSet) == [] and len(world.engine.orders_of(A)) == 1


def test_it_can_be_put_off_and_switched_off() -> None:
    world = WaitingWorld()
    world.one(A, bid(900, 1))
    first = set_for(world, A)
    world.until(first - 100)
    second = set_for(world, A)
    world.until(second - 100)
    assert len(world.engine.orders_of(A)) == 1
    assert world.one(A, ScheduleCancel(0)) == Result(0)
    assert world.of(DeadManSet) == [DeadManSet(A, 0, False)]
    world.wait(DAY_MS)
    assert world.of(DeadManSet) == [] and len(world.engine.orders_of(A)) == 1


def test_a_switch_that_never_went_off_leaves_no_trace() -> None:
    world = WaitingWorld()
    set_for(world, A)
    assert [key[:1] for key in world.mirror if key[:1] == b"d"] == [b"d"]
    world.one(A, ScheduleCancel(0))
    world.one(A, ScheduleCancel(0))
    assert not [key for key in world.mirror if key[:1] == b"d"]


@pytest.mark.parametrize("ahead_ms", [SOON - 1, 0, -1, -START_MS - 1_000_000])
def test_too_soon_is_refused(ahead_ms: int) -> None:
    world = WaitingWorld()
    kept = set_for(world, A, 60_000)
    time_ms = world.time_ms + 10 + ahead_ms
    assert world.one(A, ScheduleCancel(time_ms)) == Result(Code.DEAD_MAN_TOO_SOON)
    world.until(kept)
    assert world.of(DeadManSet) == [DeadManSet(A, kept, True)]


def test_it_goes_off_ten_times_a_day() -> None:
    world = WaitingWorld()
    world.until((START_MS // DAY_MS + 1) * DAY_MS)
    for _ in range(DEAD_MAN_DAILY):
        world.until(set_for(world, A))
        assert len(world.of(DeadManSet)) == 1
    time_ms = world.time_ms + 60_000
    assert world.one(A, ScheduleCancel(time_ms)).code == Code.DEAD_MAN_USED_UP
    assert world.one(A, ScheduleCancel(0)).code == 0
    set_for(world, B)
    world.until((START_MS // DAY_MS + 2) * DAY_MS)
    world.until(set_for(world, A))
    assert len(world.of(DeadManSet)) == 1


def test_it_counts_for_the_day_on_which_it_goes_off() -> None:
    world = WaitingWorld()
    midnight_ms = (START_MS // DAY_MS + 2) * DAY_MS
    world.until(midnight_ms - 3_600_000)
    for _ in range(DEAD_MAN_DAILY - 1):
        world.until(set_for(world, A))
    assert world.one(A, ScheduleCancel(midnight_ms + 1)).code == 0
    world.until(midnight_ms + 1)
    assert len(world.of(DeadManSet)) == 1
    for _ in range(DEAD_MAN_DAILY - 1):
        world.until(set_for(world, A))
    assert world.one(A, ScheduleCancel(world.time_ms + 60_000)).code == Code.DEAD_MAN_USED_UP


def test_halted_markets_keep_their_orders() -> None:
    world = WaitingWorld(guardians=1)
    world.act(A, bid(900, 1), Order(1, BUY, 900, 1))
    time_ms = set_for(world, A)
    world.vote(0, HALTED)
    world.until(time_ms)
    assert [o[0] for o in world.engine.orders_of(A)] == [0]


def test_many_at_once_go_off_in_bounded_pieces() -> None:
    world = WaitingWorld(limits=Limits(expiries_per_block=5))
    for account in (A, B, C):
        world.act(account, *(bid(900 - n, 1) for n in range(3)))
    times = [set_for(world, account) for account in (A, B, C)]
    world.until(times[2] + 1_000)
    # Each counts 4; the second exceeds what is left.
    assert [e.account for e in world.of(DeadManSet)] == [A, B]
    assert world.of(OrderChanged)[-1].account == B
    world.one(C, ask(1_100, 1))
    assert [e.account for e in world.of(DeadManSet)] == [C]
    assert len(world.engine.orders_of(C)) == 1


def test_who_has_little_to_cancel_does_not_wait_for_who_has_much() -> None:
    world = WaitingWorld(limits=Limits(expiries_per_block=10))
    for account in (A, B, C):
        world.act(account, *(bid(900 - n, 1) for n in range(30 if account != C else 4)))
    times = [set_for(world, account) for account in (A, B, C)]
    world.until(times[2] + 1_000)
    # The earliest has its half of the budget, then the one with few orders the other.
    assert [e.account for e in world.of(DeadManSet)] == [A, C]
    assert not world.engine.orders_of(C) and len(world.engine.orders_of(B)) == 30
    world.block([])
    assert [e.account for e in world.of(DeadManSet)] == [B]


def test_who_has_much_to_cancel_has_its_turn_among_many_who_have_little() -> None:
    world = WaitingWorld(limits=Limits(expiries_per_block=4), accounts=12)
    whale, *others = world.accounts
    world.act(whale, *(bid(900 - n, 1) for n in range(30)))
    for account in others:
        world.one(account, bid(900, 1))
    time_ms = max(set_for(world, account) for account in (*others[:3], whale, *others[3:]))
    went: list[list[int]] = []
    world.until(time_ms + 1_000)
    while world.of(DeadManSet):
        went.append([e.account for e in world.of(DeadManSet)])
        world.block([])
    # Each counts 2: one by its time, and one of those with the least; the whale is the fourth in
    # time, and gone before most of the others.
    assert went[0] == others[:2] and went[1][0] == others[2] and went[2][0] == whale
    assert sorted(number for some in went for number in some) == sorted(world.accounts)


def test_a_block_looks_at_a_bounded_number_of_switches() -> None:
    world = WaitingWorld(limits=Limits(expiries_per_block=1), accounts=6)
    *many, last = world.accounts
    for account in many:
        world.one(account, bid(900, 1))
    time_ms = max(set_for(world, account) for account in (*many, last))
    world.until(time_ms + 1_000)
    went = []
    for _ in world.accounts:
        went += [e.account for e in world.of(DeadManSet)]
        world.block([])
    assert went == [*many, last]
