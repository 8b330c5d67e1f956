"""Fill or kill, reduce-only, expiry, self-trade prevention, bands, modes and caps."""

from __future__ import annotations

from typing import Any

import pytest
from engine_world import DOLLAR, START_MS, World, market, signer

from protocol.actions import (
    BUY,
    CANCEL_ONLY,
    FOK,
    GTC,
    HALTED,
    IOC,
    POST_ONLY,
    POST_ONLY_MODE,
    REDUCE_ONLY,
    REDUCE_ONLY_MODE,
    SELL,
    STP_CANCEL_BOTH,
    STP_CANCEL_TAKER,
    STP_DECREMENT,
    STP_MASTER,
    Cancel,
    CancelAll,
    MarketOrder,
    Modify,
    Order,
    Transfer,
)
from protocol.errors import Code
from protocol.events import (
    CANCELLED,
    FILLED,
    REASON_EXPIRED,
    REASON_MARGIN,
    REASON_REDUCE_ONLY,
    REASON_SELF_TRADE,
    RESTING,
    BatchExecuted,
    Fill,
    OrderChanged,
    Result,
)
from protocol.genesis import Limits
from protocol.settlement import account_number

A, B, C, D = 16, 17, 18, 19


def sub(master: int, index: int = 1, isolated: int = -1) -> int:
    return account_number(master, index, isolated)


def changes(world: World) -> list[tuple[int, int, int]]:
    """(order, remaining, reason) of the block's changes."""
    return [(e.order_id, e.remaining_lots, e.reason) for e in world.of(OrderChanged)]


# -- fill or kill


def test_fill_or_kill_fills_as_a_whole_or_leaves_no_trace() -> None:
    world = World()
    world.act(B, Order(0, SELL, 1_000, 5), Order(0, SELL, 1_001, 5))
    before = world.engine.leaves()
    assert world.one(A, Order(0, BUY, 1_001, 11, FOK)) == Result(Code.NOT_FILLABLE)
    assert world.one(A, Order(0, BUY, 1_000, 6, FOK)) == Result(Code.NOT_FILLABLE)
    assert world.one(A, Order(0, BUY, 999, 1, FOK)) == Result(Code.NOT_FILLABLE)
    after = world.engine.leaves()
    kinds = {key[:1] for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    assert kinds == {b"g", b"n"}
    assert world.one(A, Order(0, BUY, 1_001, 10, FOK)) == Result(0, FILLED, 3, 10, 0)


def test_fill_or_kill_knows_of_makers_without_margin_before_it_decides() -> None:
    world = World([market(0)], dollars=100)
    world.act(B, Order(0, SELL, 1_000, 900))
    world.act(C, Order(0, SELL, 1_000, 100))
    # B's equity is below what its fill would need now; C can still carry all of its order.
    world.mark(1_150)
    assert world.one(A, Order(0, BUY, 1_000, 101, FOK)) == Result(Code.NOT_FILLABLE)
    assert changes(world) == []
    assert world.one(A, Order(0, BUY, 1_000, 100, FOK)).status == FILLED
    assert changes(world) == [(1, 0, REASON_MARGIN)]


def test_fill_or_kill_counts_what_self_trade_prevention_leaves() -> None:
    world = World()
    world.act(A, Order(0, SELL, 1_000, 5))
    world.act(B, Order(0, SELL, 1_000, 5))
    assert world.one(A, Order(0, BUY, 1_000, 6, FOK)).code == Code.NOT_FILLABLE
    taker = Order(0, BUY, 1_000, 5, FOK, 0, STP_CANCEL_TAKER)
    assert world.one(A, taker).code == Code.NOT_FILLABLE
    assert changes(world) == []
    assert world.one(A, Order(0, BUY, 1_000, 5, FOK)).status == FILLED
    assert changes(world) == [(1, 0, REASON_SELF_TRADE)]


def test_fill_or_kill_orders_look_at_so_many_orders_in_a_block_and_take_no_fills_from_others() -> (
    None
):
    world = World(limits=Limits(fills_per_block=8))
    world.act(B, *[Order(0, SELL, 1_000, 1) for _ in range(4)])
    wanted = Order(0, BUY, 1_000, 5, FOK)
    results = world.act(A, wanted, wanted, wanted, Order(0, BUY, 1_000, 2, IOC))
    codes = [r.code for r in results]
    assert codes == [Code.NOT_FILLABLE, Code.NOT_FILLABLE, Code.BUSY, 0]
    assert world.one(A, Order(0, BUY, 1_000, 2, FOK)).status == FILLED


def test_fill_or_kill_counts_the_fills_it_may_have() -> None:
    world = World(limits=Limits(fills_per_action=2))
    world.act(B, *[Order(0, SELL, 1_000, 1) for _ in range(3)])
    assert world.one(A, Order(0, BUY, 1_000, 3, FOK)).code == Code.NOT_FILLABLE
    assert world.one(A, Order(0, BUY, 1_000, 2, FOK)).status == FILLED


def test_fill_or_kill_sees_reduce_only_makers_shrink_with_their_position() -> None:
    world = World()
    world.act(B, Order(0, BUY, 1_000, 4))
    world.act(C, Order(0, SELL, 1_000, 4))
    flag = REDUCE_ONLY
    world.act(B, Order(0, SELL, 1_000, 4, GTC, 0, flag), Order(0, SELL, 1_001, 4, GTC, 0, flag))
    # Eight lots rest, but B can sell only the four that it has.
    assert world.one(A, Order(0, BUY, 1_001, 5, FOK)).code == Code.NOT_FILLABLE
    assert world.one(A, Order(0, BUY, 1_001, 4, FOK)).status == FILLED
    assert world.position(B) == (0, 0)


# -- reduce-only


def test_reduce_only_orders_shrink_with_the_position_and_never_flip_it() -> None:
    world = World()
    world.act(B, Order(0, BUY, 1_000, 10))
    world.act(A, Order(0, SELL, 1_000, 10))
    flag = REDUCE_ONLY
    first = world.one(B, Order(0, SELL, 1_010, 15, GTC, 0, flag))
    assert first == Result(0, RESTING, 3, 0, 10)
    assert world.one(B, Order(0, SELL, 1_020, 10, GTC, 0, flag)).remaining_lots == 10
    world.act(C, Order(0, BUY, 1_010, 4))
    assert changes(world) == [(4, 6, REASON_REDUCE_ONLY)]
    world.act(B, Order(0, SELL, 999, 3))
    world.act(C, Order(0, BUY, 999, 3))
    assert changes(world) == [(3, 3, REASON_REDUCE_ONLY), (4, 3, REASON_REDUCE_ONLY)]
    world.act(C, Order(0, BUY, 1_010, 3))
    assert changes(world) == [(4, 0, REASON_REDUCE_ONLY)]
    assert world.position(B) == (0, 0)
    assert world.engine.orders_of(B) == []


def test_reduce_only_orders_go_when_the_position_flips() -> None:
    world = World()
    world.act(B, Order(0, BUY, 1_000, 1))
    world.act(A, Order(0, SELL, 1_000, 1))
    world.act(B, Order(0, SELL, 1_020, 1, GTC, 0, REDUCE_ONLY), Order(0, SELL, 1_010, 2))
    world.act(C, Order(0, BUY, 1_010, 2))
    assert changes(world) == [(3, 0, REASON_REDUCE_ONLY)]
    assert world.position(B)[0] == -1


def test_reduce_only_needs_a_position_on_the_other_side() -> None:
    world = World()
    world.act(B, Order(0, SELL, 1_000, 10))
    assert world.one(A, Order(0, BUY, 1_000, 1, GTC, 0, REDUCE_ONLY)).code == Code.NOT_REDUCING
    world.act(A, Order(0, BUY, 1_000, 5))
    assert world.one(A, Order(0, BUY, 1_000, 1, GTC, 0, REDUCE_ONLY)).code == Code.NOT_REDUCING
    world.act(C, Order(0, BUY, 990, 50))
    result = world.one(A, MarketOrder(0, SELL, 9, 50_000, 0, REDUCE_ONLY))
    assert result == Result(0, FILLED, 4, 5, 0)
    assert world.position(A) == (0, 0)


def test_reduce_only_rests_where_margin_is_used_up() -> None:
    world = World(dollars=100)
    world.act(B, Order(0, SELL, 1_000, 900))
    world.act(A, Order(0, BUY, 1_000, 900))
    assert world.one(A, Order(0, SELL, 1_200, 2_000)).code == Code.INSUFFICIENT_MARGIN
    assert world.one(A, Order(0, SELL, 1_200, 2_000, GTC, 0, REDUCE_ONLY)).remaining_lots == 900
    world.mark(950)
    assert world.one(A, Order(1, BUY, 900, 1)).code == Code.INSUFFICIENT_MARGIN
    assert world.one(A, Order(0, SELL, 1_100, 100, GTC, 0, REDUCE_ONLY)).remaining_lots == 100


def test_reduce_only_orders_per_market_are_limited() -> None:
    world = World(limits=Limits(reduce_only_orders=1))
    world.act(B, Order(0, SELL, 1_000, 10))
    world.act(A, Order(0, BUY, 1_000, 10))
    again = Order(0, SELL, 1_100, 4, GTC, 0, REDUCE_ONLY)
    assert [r.code for r in world.act(A, again, again)] == [0, Code.TOO_MANY_ORDERS]
    assert world.one(A, Modify(0, 3, 1_200, 4)).status == RESTING


def test_an_order_is_gone_where_its_fill_would_pass_the_position_limit() -> None:
    world = World([market(0, max_position_lots=100)])
    world.act(B, Order(0, BUY, 1_000, 100))
    world.act(A, Order(0, SELL, 1_000, 100), Order(0, BUY, 990, 100), Order(0, BUY, 980, 100))
    world.act(D, Order(0, SELL, 1_000, 100))
    # From short 100 the two bids reach long 100. Closing needs no margin, and they rest on.
    assert world.one(A, Order(0, BUY, 1_000, 100, IOC, 0, REDUCE_ONLY)).filled_lots == 100
    assert world.one(C, Order(0, SELL, 980, 100)).filled_lots == 100
    assert world.one(B, Order(0, SELL, 980, 100)).filled_lots == 0
    assert changes(world) == [(4, 0, REASON_MARGIN)]
    assert world.position(A)[0] == 100


# -- expiry


def test_an_order_rests_until_its_time_and_not_longer() -> None:
    world = World()
    late = START_MS + 40
    assert world.one(A, Order(0, BUY, 1_000, 5, GTC, 0, 0, late)).status == RESTING
    assert world.one(A, Order(0, BUY, 1_000, 5, GTC, 0, 0, START_MS)).code == Code.ACTION_EXPIRED
    assert world.one(A, Order(0, BUY, 1_000, 5, GTC, 0, 0, -1)).code == Code.BAD_EXPIRY
    assert world.one(B, Order(0, SELL, 1_000, 2, IOC)).code == Code.NO_LIQUIDITY
    assert world.time_ms > late
    assert world.engine.orders_of(A) == []


def test_an_expired_order_leaves_when_its_time_has_passed() -> None:
    world = World()
    world.act(A, Order(0, BUY, 1_000, 5, GTC, 0, 0, START_MS + 30))
    world.block([])
    assert changes(world) == []
    world.block([])
    assert changes(world) == [(1, 0, REASON_EXPIRED)]


# -- self-trade prevention


@pytest.mark.parametrize(
    ("mode", "result", "left"),
    [
        (0, Result(0, RESTING, 2, 0, 3), []),
        (STP_CANCEL_TAKER, Result(Code.SELF_TRADE, CANCELLED, 2), [(1, 5)]),
        (STP_CANCEL_BOTH, Result(Code.SELF_TRADE, CANCELLED, 2), []),
        (STP_DECREMENT, Result(Code.SELF_TRADE, CANCELLED, 2), [(1, 2)]),
    ],
)
@pytest.mark.parametrize("by_master", [False, True])
def test_self_trade_prevention(
    mode: int, result: Result, left: list[tuple[int, int]], by_master: bool
) -> None:
    world = World()
    other = A
    if by_master:
        other = sub(A)
        world.act(A, Transfer(other, 1_000 * DOLLAR))
    world.send(world.batch(other, Order(0, SELL, 1_000, 5), by=signer(A)))
    flags = mode | (STP_MASTER if by_master else 0)
    assert world.one(A, Order(0, BUY, 1_000, 3, GTC, 0, flags)) == result
    assert world.of(Fill) == []
    assert [(o[1], o[5]) for o in world.engine.orders_of(other) if o[3] == SELL] == left


def test_sub_accounts_trade_with_each_other_unless_the_master_says_not() -> None:
    world = World()
    world.act(A, Transfer(sub(A), 1_000 * DOLLAR))
    world.send(world.batch(sub(A), Order(0, SELL, 1_000, 5), by=signer(A)))
    assert world.one(A, Order(0, BUY, 1_000, 3)).status == FILLED


def test_decrement_goes_on_with_what_is_left() -> None:
    world = World()
    world.act(A, Order(0, SELL, 1_000, 2))
    world.act(B, Order(0, SELL, 1_000, 5))
    result = world.one(A, Order(0, BUY, 1_000, 6, GTC, 0, STP_DECREMENT))
    assert result == Result(0, CANCELLED, 3, 4, 0)
    assert changes(world) == [(1, 0, REASON_SELF_TRADE)]
    assert world.engine.orders_of(B)[0][5] == 1


def test_both_go_and_what_filled_before_stays_filled() -> None:
    world = World()
    world.act(B, Order(0, SELL, 999, 2))
    world.act(A, Order(0, SELL, 1_000, 2))
    result = world.one(A, Order(0, BUY, 1_001, 6, GTC, 0, STP_CANCEL_BOTH))
    assert result == Result(0, CANCELLED, 3, 2, 0)
    assert world.engine.orders_of(A) == []


# -- bands, modes, caps


def test_a_limit_may_lie_through_the_mark_only_as_far_as_the_band() -> None:
    world = World([market(0, price_band_ppm=50_000)])
    assert world.one(A, Order(0, BUY, 1_051, 1)).code == Code.PRICE_BAND
    assert world.one(A, Order(0, SELL, 949, 1)).code == Code.PRICE_BAND
    results = world.act(A, Order(0, BUY, 1_050, 1), Order(0, BUY, 1, 1), Cancel(0, 1))
    assert [r.code for r in results] == [0, 0, 0]
    assert world.one(A, Order(0, SELL, 950, 1)).status == RESTING
    assert world.one(A, Order(0, SELL, 9_999, 1)).status == RESTING


@pytest.mark.parametrize(
    ("mode", "actions"),
    [
        (HALTED, {"gtc": 312, "post": 312, "reduce": 312, "cancel": 312, "all": 312}),
        (CANCEL_ONLY, {"gtc": 313, "post": 313, "reduce": 313, "cancel": 0, "all": 0}),
        (POST_ONLY_MODE, {"gtc": 314, "post": 0, "reduce": 314, "cancel": 0, "all": 0}),
        (REDUCE_ONLY_MODE, {"gtc": 315, "post": 315, "reduce": 0, "cancel": 0, "all": 0}),
    ],
)
def test_modes_take_what_they_say(mode: int, actions: dict[str, int]) -> None:
    world = World(guardians=2)
    world.act(B, Order(0, SELL, 1_000, 10))
    world.act(A, Order(0, BUY, 1_000, 5), Order(0, BUY, 990, 5))
    world.vote(0, mode)
    made: dict[str, Any] = {
        "gtc": Order(0, BUY, 900, 1),
        "post": Order(0, BUY, 900, 1, POST_ONLY),
        "reduce": Order(0, SELL, 1_100, 1, GTC, 0, REDUCE_ONLY),
        "cancel": Cancel(0, 3),
        "all": CancelAll(0),
    }
    assert {name: world.one(A, action).code for name, action in made.items()} == actions
    assert world.one(A, Order(1, BUY, 900, 1)).code == 0


def test_open_interest_and_positions_are_capped() -> None:
    world = World([market(0, max_open_interest_lots=6, max_position_lots=8)])
    world.act(B, Order(0, SELL, 1_000, 8))
    assert world.one(A, Order(0, BUY, 1_000, 9)).code == Code.POSITION_LIMIT
    assert world.one(A, Order(0, BUY, 1_000, 7)) == Result(Code.OPEN_INTEREST_LIMIT, CANCELLED, 2)
    assert world.one(A, Order(0, BUY, 1_000, 6)).status == FILLED
    assert world.one(C, Order(0, BUY, 1_000, 1)).code == Code.OPEN_INTEREST_LIMIT
    # What only changes hands is no new open interest.
    world.act(C, Order(0, BUY, 999, 2))
    assert world.one(A, Order(0, SELL, 999, 2)).status == FILLED


def test_an_isolated_account_trades_in_its_own_market_alone() -> None:
    world = World()
    own = sub(A, 0, 1)
    world.act(A, Transfer(own, 100 * DOLLAR))
    results = world.send(
        world.batch(own, Order(0, BUY, 900, 1), Order(1, BUY, 900, 1), by=signer(A))
    ).results
    assert [r.code for r in results] == [Code.ISOLATED_ACCOUNT, 0]
    assert world.send(world.batch(own, MarketOrder(0, BUY, 1, 9_000), by=signer(A))).results == [
        Result(Code.ISOLATED_ACCOUNT)
    ]


def test_an_account_is_in_so_many_markets() -> None:
    world = World([market(n) for n in range(3)], limits=Limits(positions_per_account=2))
    world.act(B, Order(0, SELL, 1_000, 5))
    world.act(A, Order(0, BUY, 1_000, 5), Order(1, BUY, 900, 1))
    third = Order(2, BUY, 900, 1)
    assert world.one(A, third).code == Code.TOO_MANY_POSITIONS
    world.act(A, Cancel(1, 3), third)
    assert world.engine.orders_of(A)[0][0] == 2
    assert world.one(A, Order(0, BUY, 900, 1)).code == 0


def test_open_interest_is_bounded_by_what_its_notional_may_be() -> None:
    price = 1 << 30
    world = World([market(0, initial_price_ticks=price)], accounts=0, dollars=0)
    world.accounts = [A, B]
    world.block([], [world.deposit(number, (1 << 59) - 1) for number in (A, B)])
    most = (1 << 60) // (price * 1_000)
    world.checked = False
    world.act(B, Order(0, SELL, price, 60))
    world.engine.state.markets[0].open_interest_lots = most - 40
    # A fill is at most one cash movement, some lots here, and the next one would be too much.
    assert world.one(A, Order(0, BUY, price, 60, IOC)).filled_lots == 40
    assert world.one(A, Order(0, BUY, price, 3, IOC)).code == Code.OPEN_INTEREST_LIMIT


def test_no_price_makes_open_interest_larger_than_a_number_holds() -> None:
    world = World(dollars=1_000_000)
    world.act(B, Order(0, SELL, 1_000, 900_000))
    world.act(A, Order(0, BUY, 1_000, 900_000))
    top = (1 << 31) - 1
    world.mark(top)
    assert {e.results[0].code for e in world.of(BatchExecuted)} == {0}
    market = world.engine.state.markets[0]
    # The price is believed and the mark stays; what reduces is taken until the mark may follow.
    assert (market.oracle_ticks, market.mark_ticks, market.stale) == (top, 1_000, True)
    assert world.one(A, Order(0, BUY, 1_000, 1)).code == Code.STALE_MARKET
    world.engine = world.restore()
    world.act(A, Order(0, SELL, 1_000, 899_999, 0, 0, REDUCE_ONLY))
    world.act(B, Order(0, BUY, 1_000, 899_999, 0, 0, REDUCE_ONLY))
    assert world.engine.state.markets[0].open_interest_lots == 1
    world.block([])
    market = world.engine.state.markets[0]
    assert (market.mark_ticks, market.stale) == (top, False)


def test_flags_that_do_not_exist_are_refused() -> None:
    world = World()
    for flags in (16, 32, 64, -1, 1 << 40):
        assert world.one(A, Order(0, BUY, 900, 1, GTC, 0, flags)).code == Code.BAD_FLAGS
        assert world.one(A, MarketOrder(0, BUY, 1, 9_000, 0, flags)).code == Code.BAD_FLAGS
