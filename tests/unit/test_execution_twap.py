"""TWAP orders: slices on time, what late or empty ones are made up by, and how they end."""

from __future__ import annotations

from typing import Any

import pytest
from engine_world import World, market
from msgspec.structs import replace
from waiting_world import A, B, D, WaitingWorld, ask, bid

from execution.twap import slice_lots, slices
from protocol.actions import (
    ALL_MARKETS,
    BUY,
    CANCEL_ONLY,
    HALTED,
    POST_ONLY_MODE,
    REDUCE_ONLY,
    REDUCE_ONLY_MODE,
    SELL,
    TWAP_LONGEST_MS,
    TWAP_SLICE_MS,
    Cancel,
    CancelAll,
    CancelClient,
    Twap,
)
from protocol.errors import Code
from protocol.events import (
    CANCELLED,
    REASON_CANCELLED,
    REASON_DONE,
    WAITING,
    Fill,
    Result,
    TwapChanged,
)
from protocol.genesis import Limits

BUYING = Twap(0, BUY, 100, 4 * TWAP_SLICE_MS)


def quotes(world: World, lots: int = 1_000) -> None:
    world.act(D, bid(990, lots), ask(1_010, lots))


def filled(world: WaitingWorld) -> int:
    return sum(fill.size_lots for fill in world.of(Fill))


# -- slices


def test_slices_come_on_time_from_the_next_block_on() -> None:
    world = WaitingWorld()
    quotes(world)
    result = world.one(A, replace(BUYING, size_lots=10, client_id=4))
    twap = result.order_id
    assert result == Result(0, WAITING, twap, 0, 10)
    assert world.of(TwapChanged) == [TwapChanged(0, twap, A, BUY, 10, 0, 0)]
    began_ms = world.time_ms
    world.wait(0)
    assert world.slices() == [(twap, 3, 0)]
    for number, done, reason in ((1, 5, 0), (2, 8, 0), (3, 10, REASON_DONE)):
        world.until(began_ms + number * TWAP_SLICE_MS - 1)
        assert filled(world) == 0
        world.until(began_ms + number * TWAP_SLICE_MS)
        assert world.slices() == [(twap, done, reason)]
        assert world.position(A)[0] == done
    assert not [key for key in world.mirror if key[:1] == b"w"]
    assert world.one(A, CancelClient(0, 4)).code == Code.UNKNOWN_ORDER


def test_a_slice_that_finds_nothing_is_made_up_for_up_to_threefold() -> None:
    world = WaitingWorld()
    twap = world.one(A, replace(BUYING, size_lots=100, duration_ms=10 * TWAP_SLICE_MS)).order_id
    began_ms = world.time_ms
    for number in range(5):
        world.until(began_ms + number * TWAP_SLICE_MS + 10)
        assert world.slices() == []
    quotes(world)
    world.until(began_ms + 5 * TWAP_SLICE_MS + 10)
    assert world.slices() == [(twap, 30, 0)]
    world.until(began_ms + 6 * TWAP_SLICE_MS + 10)
    assert world.slices() == [(twap, 60, 0)]
    world.until(began_ms + 7 * TWAP_SLICE_MS + 10)
    assert world.slices() == [(twap, 80, 0)]


def test_a_slice_that_makes_up_is_no_larger_than_an_order_may_be() -> None:
    world = WaitingWorld([market(0, max_order_lots=40), market(1)])
    twap = world.one(A, BUYING).order_id
    world.wait(0)
    world.act(D, *[ask(1_010, 40)] * 3)
    world.wait(TWAP_SLICE_MS)
    assert world.slices() == [(twap, 40, 0)]


def test_slices_that_are_due_at_once_are_one() -> None:
    world = WaitingWorld()
    quotes(world)
    twap = world.one(A, replace(BUYING, size_lots=100, duration_ms=10 * TWAP_SLICE_MS)).order_id
    world.wait(6 * TWAP_SLICE_MS + 5)
    assert world.slices() == [(twap, 30, 0)]
    world.wait(10)
    assert world.slices() == []
    world.wait(20 * TWAP_SLICE_MS)
    assert world.slices() == [(twap, 60, REASON_DONE)]


def test_a_partly_filled_slice_counts_what_it_filled() -> None:
    world = WaitingWorld()
    world.one(D, ask(1_010, 7))
    twap = world.one(A, BUYING).order_id
    world.wait(0)
    assert world.slices() == [(twap, 7, 0)]
    quotes(world)
    world.wait(TWAP_SLICE_MS)
    assert world.slices() == [(twap, 50, 0)]


def test_a_slice_stays_within_its_slippage() -> None:
    world = WaitingWorld()
    world.one(D, ask(1_031, 100))
    world.one(A, BUYING)
    world.wait(0)
    assert filled(world) == 0
    world.one(D, ask(1_030, 100))
    world.wait(TWAP_SLICE_MS)
    assert filled(world) == 50


def test_reduce_only_slices_stop_at_the_position() -> None:
    world = WaitingWorld()
    quotes(world)
    world.one(A, bid(1_010, 30))
    twap = world.one(A, replace(BUYING, side=SELL, flags=REDUCE_ONLY)).order_id
    world.wait(0)
    assert world.slices() == [(twap, 25, 0)]
    world.wait(TWAP_SLICE_MS)
    assert world.slices() == [(twap, 30, 0)] and world.position(A)[0] == 0
    world.wait(TWAP_SLICE_MS)
    assert world.slices() == []
    world.wait(TWAP_SLICE_MS)
    assert world.slices() == [(twap, 30, REASON_DONE)]


def test_slices_that_are_worth_little_are_taken_all_the_same() -> None:
    world = WaitingWorld([market(0, min_notional_uusd=10_000_000), market(1)])
    quotes(world)
    # 10 lots of $1 and then the 9 that are left.
    twap = world.one(A, replace(BUYING, size_lots=19, duration_ms=2 * TWAP_SLICE_MS)).order_id
    world.wait(0)
    assert world.slices() == [(twap, 10, 0)]
    world.wait(TWAP_SLICE_MS)
    assert world.slices() == [(twap, 19, REASON_DONE)]
    # Slices that the mark made smaller go on as well.
    falling = world.one(A, replace(BUYING, side=SELL, size_lots=40)).order_id
    world.mark(999)
    assert world.slices() == [(falling, 10, 0)]


def test_what_only_reduces_may_have_small_slices() -> None:
    world = WaitingWorld([market(0, min_notional_uusd=10_000_000), market(1)])
    quotes(world)
    assert world.one(A, bid(1_010, 12)).filled_lots == 12
    small = replace(BUYING, side=SELL, size_lots=12)
    assert world.one(A, small).code == Code.BELOW_MIN_NOTIONAL
    twap = world.one(A, replace(small, flags=REDUCE_ONLY)).order_id
    for number, done in enumerate((3, 6, 9)):
        world.wait(TWAP_SLICE_MS if number else 0)
        assert world.slices() == [(twap, done, 0)]
    world.wait(TWAP_SLICE_MS)
    assert world.slices() == [(twap, 12, REASON_DONE)] and world.position(A)[0] == 0


def test_fewer_lots_than_slices_are_spread_out() -> None:
    world = WaitingWorld()
    quotes(world)
    twap = world.one(A, replace(BUYING, size_lots=2)).order_id
    sizes = []
    for number in range(3):
        world.wait(TWAP_SLICE_MS if number else 0)
        sizes.append(world.slices())
    assert sizes == [[(twap, 1, 0)], [], [(twap, 2, REASON_DONE)]]


def test_slices_of_a_closed_market_are_just_not_filled() -> None:
    world = WaitingWorld(guardians=1)
    quotes(world)
    twap = world.one(A, BUYING).order_id
    world.vote(0, CANCEL_ONLY)
    assert world.slices() == []
    world.wait(5 * TWAP_SLICE_MS)
    assert world.slices() == [(twap, 0, REASON_DONE)]


def test_slices_run_in_the_order_in_which_they_fell_due_within_a_budget() -> None:
    world = WaitingWorld(limits=Limits(triggers_per_block=2))
    quotes(world)
    ids = [world.one(account, BUYING).order_id for account in (A, B)]
    ids += [r.order_id for r in world.act(A, BUYING, BUYING, BUYING)]
    for due in (ids[2:4], ids[4:], []):
        world.wait(0)
        assert [one for one, _, _ in world.slices()] == due
    world.wait(TWAP_SLICE_MS)
    assert [one for one, _, _ in world.slices()] == ids[:2]
    world.wait(0)
    assert [one for one, _, _ in world.slices()] == ids[2:4]


@pytest.mark.parametrize(
    ("size", "count"), [(100, 4), (7, 3), (1, 1), (2, 5), (1_000_003, 2_880), (5, 2_880)]
)
def test_undisturbed_slices_sum_to_the_size_and_none_is_large(size: int, count: int) -> None:
    done = 0
    for number in range(count):
        lots = slice_lots(size, done, count, number, size)
        assert 0 <= lots <= -(-size // count)
        done += lots
    assert done == size


def test_the_number_of_slices_rounds_up() -> None:
    assert [slices(ms) for ms in (30_000, 30_001, 60_000, TWAP_LONGEST_MS)] == [1, 2, 2, 2_880]


# -- leaving


def test_a_twap_is_cancelled_like_an_order() -> None:
    world = WaitingWorld()
    ids = [world.one(A, replace(BUYING, market=n % 2, client_id=n + 1)).order_id for n in range(4)]
    assert world.one(B, Cancel(0, ids[0])).code == Code.UNKNOWN_ORDER
    assert world.one(A, Cancel(1, ids[0])).code == Code.UNKNOWN_ORDER
    assert world.one(A, Cancel(0, ids[0])) == Result(0, CANCELLED, ids[0])
    assert world.slices() == [(ids[0], 0, REASON_CANCELLED)]
    assert world.one(A, CancelClient(1, 2)) == Result(0, CANCELLED, ids[1])
    assert world.one(A, CancelAll(0)).code == 0
    assert world.slices() == [(ids[2], 0, REASON_CANCELLED)]
    assert world.one(A, CancelAll(ALL_MARKETS)).code == 0
    assert world.slices() == [(ids[3], 0, REASON_CANCELLED)]
    world.wait(TWAP_SLICE_MS)
    assert world.of(TwapChanged) == []


def test_a_halted_market_keeps_its_twaps() -> None:
    world = WaitingWorld(guardians=1)
    twap = world.one(A, BUYING).order_id
    world.vote(0, HALTED)
    world.one(A, CancelAll(ALL_MARKETS))
    assert world.slices() == []
    assert world.one(A, Cancel(0, twap)).code == Code.MARKET_HALTED


# -- refusals


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"market": 2}, Code.UNKNOWN_MARKET),
        ({"market": -1}, Code.UNKNOWN_MARKET),
        ({"side": 2}, Code.WRONG_TYPE),
        ({"flags": 16}, Code.BAD_FLAGS),
        ({"duration_ms": TWAP_SLICE_MS - 1}, Code.BAD_DURATION),
        ({"duration_ms": TWAP_LONGEST_MS + 1}, Code.BAD_DURATION),
        ({"duration_ms": 0}, Code.BAD_DURATION),
        ({"duration_ms": -1}, Code.BAD_DURATION),
        ({"size_lots": 0}, Code.BAD_SIZE),
        ({"size_lots": -4}, Code.BAD_SIZE),
        ({"size_lots": 4_000_001}, Code.BAD_SIZE),
        ({"size_lots": 1 << 31, "duration_ms": TWAP_LONGEST_MS}, Code.BAD_SIZE),
        ({"size_lots": 1 << 63, "duration_ms": TWAP_LONGEST_MS}, Code.BAD_SIZE),
        ({"size_lots": 4}, Code.BELOW_MIN_NOTIONAL),
        ({"client_id": 7}, Code.DUPLICATE_CLIENT_ID),
    ],
)
def test_bad_twaps_are_refused_and_leave_nothing(changes: dict[str, Any], code: Code) -> None:
    world = WaitingWorld([market(0, min_notional_uusd=2_000_000), market(1)])
    world.one(A, bid(900, 5, client=7))
    assert world.one(A, replace(BUYING, **changes)) == Result(code)
    assert not [key for key in world.mirror if key[:1] == b"w"]
    assert world.of(TwapChanged) == []


def test_a_twap_may_be_larger_than_one_order() -> None:
    world = WaitingWorld()
    assert world.one(A, replace(BUYING, size_lots=4_000_000)).code == 0


@pytest.mark.parametrize(
    ("mode", "code", "reducing"),
    [
        (CANCEL_ONLY, Code.MARKET_CANCEL_ONLY, Code.MARKET_CANCEL_ONLY),
        (HALTED, Code.MARKET_HALTED, Code.MARKET_HALTED),
        (POST_ONLY_MODE, Code.MARKET_POST_ONLY, Code.MARKET_POST_ONLY),
        (REDUCE_ONLY_MODE, Code.MARKET_REDUCE_ONLY, Code.OK),
    ],
)
def test_modes_of_the_market_refuse_twaps(mode: int, code: Code, reducing: Code) -> None:
    world = WaitingWorld(guardians=1)
    world.vote(0, mode)
    assert world.one(A, BUYING).code == code
    assert world.one(A, replace(BUYING, flags=REDUCE_ONLY)).code == reducing


def test_an_account_has_so_many_twaps() -> None:
    world = WaitingWorld(limits=Limits(twaps_per_account=2))
    assert [r.code for r in world.act(A, *[BUYING] * 3)] == [0, 0, Code.TOO_MANY_TWAPS]
