"""Orders, fills, fees and withdrawals through whole blocks; a lot is $1 at the mark of 1000."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine_world import DOLLAR, World, market

from execution.leaves import account_key, order_key, position_key
from protocol.actions import (
    BUY,
    GTC,
    IOC,
    POST_ONLY,
    SELL,
    Cancel,
    CancelClient,
    MarketOrder,
    Order,
    Reduce,
    Withdraw,
)
from protocol.errors import Code
from protocol.events import (
    CANCELLED,
    FILLED,
    NONE,
    REASON_CANCELLED,
    REASON_MARGIN,
    REASON_REDUCED,
    REASON_SELF_TRADE,
    RESTING,
    Fill,
    OrderChanged,
    OrderOpened,
    Result,
    WithdrawalQueued,
)
from protocol.genesis import Limits
from protocol.settlement import OutboxEntry

A, B, C = 16, 17, 18
TO = b"t" * 20
HUGE = (1 << 63) - 1


@pytest.mark.parametrize(
    ("action", "code"),
    [
        (Order(2, BUY, 900, 1), Code.UNKNOWN_MARKET),
        (Order(-1, BUY, 900, 1), Code.UNKNOWN_MARKET),
        (Order(HUGE, BUY, 900, 1), Code.UNKNOWN_MARKET),
        (Order(0, 2, 900, 1), Code.WRONG_TYPE),
        (Order(0, -1, 900, 1), Code.WRONG_TYPE),
        (Order(0, BUY, 900, 1, 4), Code.WRONG_TYPE),
        (Order(0, BUY, 0, 1), Code.BAD_PRICE),
        (Order(0, BUY, -1, 1), Code.BAD_PRICE),
        (Order(0, BUY, 1 << 31, 1), Code.BAD_PRICE),
        (Order(0, BUY, HUGE, 1), Code.BAD_PRICE),
        (Order(0, BUY, 900, 0), Code.BAD_SIZE),
        (Order(0, BUY, 900, -1), Code.BAD_SIZE),
        (Order(0, BUY, 900, 1_000_001), Code.BAD_SIZE),
        (Order(0, BUY, 900, HUGE), Code.BAD_SIZE),
        (Order(0, SELL, (1 << 31) - 1, 1_000_000), Code.NOTIONAL_LIMIT),
        (Order(0, SELL, 900, 10), Code.BELOW_MIN_NOTIONAL),
        (Order(0, BUY, 900, 500_000), Code.INSUFFICIENT_MARGIN),
        (Order(0, SELL, 5_000_000, 500_000), Code.NOTIONAL_LIMIT),
        (Order(0, BUY, 1_100, 10, IOC), Code.BELOW_MIN_NOTIONAL),
        (MarketOrder(2, BUY, 50, 1_000), Code.UNKNOWN_MARKET),
        (MarketOrder(0, 2, 50, 1_000), Code.WRONG_TYPE),
        (MarketOrder(0, BUY, 50, 0), Code.BAD_SLIPPAGE),
        (MarketOrder(0, BUY, 50, 500_001), Code.BAD_SLIPPAGE),
        (MarketOrder(0, BUY, 50, -1), Code.BAD_SLIPPAGE),
        (MarketOrder(0, BUY, 0, 1_000), Code.BAD_SIZE),
        (MarketOrder(0, BUY, -1, 1_000), Code.BAD_SIZE),
        (MarketOrder(0, BUY, HUGE, 1_000), Code.BAD_SIZE),
        (MarketOrder(0, BUY, 10, 1_000), Code.BELOW_MIN_NOTIONAL),
        (Cancel(2, 1), Code.UNKNOWN_MARKET),
        (Cancel(0, 1), Code.UNKNOWN_ORDER),
        (Cancel(0, -1), Code.UNKNOWN_ORDER),
        (CancelClient(-1, 1), Code.UNKNOWN_MARKET),
        (CancelClient(0, 1), Code.UNKNOWN_ORDER),
        (CancelClient(0, 0), Code.UNKNOWN_ORDER),
        (Reduce(2, 1, 1), Code.UNKNOWN_MARKET),
        (Reduce(0, 1, 1), Code.UNKNOWN_ORDER),
        (Reduce(0, 1, 0), Code.BAD_SIZE),
        (Reduce(0, 1, -1), Code.BAD_SIZE),
        (Withdraw(0, TO), Code.BAD_AMOUNT),
        (Withdraw(-1, TO), Code.BAD_AMOUNT),
        (Withdraw(1 << 42, TO), Code.BAD_AMOUNT),
        (Withdraw(HUGE, TO), Code.BAD_AMOUNT),
        (Withdraw(1, b"t" * 19), Code.WRONG_TYPE),
        (Withdraw(1, b""), Code.WRONG_TYPE),
        (Withdraw(10_001 * DOLLAR, TO), Code.INSUFFICIENT_CASH),
    ],
)
def test_a_bad_action_is_refused_with_its_code_and_does_nothing(action: Any, code: int) -> None:
    world = World([market(0, min_notional_uusd=20 * DOLLAR), market(1)])
    assert world.one(A, action) == Result(code, NONE)
    nonce_leaf = [key for key in world.last.changes if key[:1] == b"n"]
    assert set(world.last.changes) == {b"g\x00", *nonce_leaf}
    assert len(nonce_leaf) == 1


def test_each_action_of_a_batch_has_its_own_result() -> None:
    world = World()
    results = world.act(A, Order(0, BUY, 900, 5), Cancel(0, 99), Cancel(0, 1), Order(9, 0, 1, 1))
    assert results == [
        Result(0, RESTING, 1, 0, 5),
        Result(Code.UNKNOWN_ORDER),
        Result(0, CANCELLED, 1),
        Result(Code.UNKNOWN_MARKET),
    ]
    assert world.last.actions == 4
    assert order_key(0, BUY, 900, 1) not in world.last.changes


def test_a_fill_moves_cash_positions_and_fees_exactly() -> None:
    world = World()
    before = world.engine.total_cash_uusd()
    assert world.one(A, Order(0, SELL, 1_001, 10)) == Result(0, RESTING, 1, 0, 10)
    assert world.of(OrderOpened) == [OrderOpened(0, 1, A, 0, SELL, 1_001, 10)]
    assert world.one(B, Order(0, BUY, 1_005, 7)) == Result(0, FILLED, 2, 7, 0)
    # 7 x 1001 x 1000 = 7,007,000 uUSD; taker 500 ppm = 3503.5, maker 100 ppm = 700.7, both up.
    assert world.of(Fill) == [Fill(0, 1_001, 7, A, 1, B, 2, BUY, 701, 3_504)]
    maker, taker = (world.engine.account_view(0, n).cash_uusd for n in (A, B))
    assert maker == 10_000 * DOLLAR + 7_007_000 - 701
    assert taker == 10_000 * DOLLAR - 7_007_000 - 3_504
    assert world.engine.account_view(0, 0).cash_uusd == 701 + 3_504
    assert world.position(A) == (-7, -7_007_000)
    assert world.position(B) == (7, 7_007_000)
    assert world.engine.total_cash_uusd() == before
    assert world.engine.orders_of(A) == [(0, 1, 0, SELL, 1_001, 3)]
    assert position_key(A, 0) in world.last.changes


def test_the_fee_accounts_equity_follows_its_cash_between_two_looks_at_it() -> None:
    world = World()
    for _ in range(2):
        world.one(16, Order(0, BUY, 1_000, 10))
        world.one(17, Order(0, SELL, 1_000, 10))
        view = world.engine.account_view(0, 0)
        assert view.equity_uusd == view.cash_uusd > 0


def test_a_maker_rebate_is_rounded_down_and_paid_by_the_taker() -> None:
    world = World([market(0, maker_fee_ppm=-200)])
    world.one(A, Order(0, SELL, 1_001, 7))
    world.one(B, Order(0, BUY, 1_001, 7))
    # 200 ppm of 7,007,000 = 1401.4.
    assert world.of(Fill)[0].maker_fee_uusd == -1_401
    assert world.engine.account_view(0, 0).cash_uusd == 3_504 - 1_401


def test_the_last_order_leaves_no_order_leaf_and_a_closed_position_no_position_leaf() -> None:
    world = World()
    world.one(A, Order(0, SELL, 1_000, 5))
    world.one(B, Order(0, BUY, 1_000, 5))
    assert world.last.changes[order_key(0, SELL, 1_000, 1)] is None
    world.one(B, Order(0, SELL, 1_000, 5))
    world.one(A, Order(0, BUY, 1_000, 5))
    assert world.last.changes[position_key(A, 0)] is None
    assert world.last.changes[position_key(B, 0)] is None
    assert [key for key in world.mirror if key[:1] in (b"o", b"p")] == []
    assert world.engine.book_view(0, 0, 5).bids == []


def test_time_in_force() -> None:
    world = World()
    world.one(A, Order(0, SELL, 1_000, 5))
    assert world.one(B, Order(0, BUY, 1_000, 1, POST_ONLY)) == Result(Code.WOULD_TAKE)
    assert world.one(B, Order(0, BUY, 999, 1, IOC)) == Result(Code.NO_LIQUIDITY, CANCELLED, 2)
    assert world.one(B, Order(0, BUY, 999, 1, POST_ONLY)) == Result(0, RESTING, 3, 0, 1)
    assert world.one(B, Order(0, BUY, 1_000, 8, IOC)) == Result(0, CANCELLED, 4, 5, 0)
    assert world.one(A, Order(0, SELL, 999, 3, GTC)) == Result(0, RESTING, 5, 1, 2)
    assert [type(e) for e in world.events[:2]] == [Fill, OrderOpened]


def test_a_market_order_takes_up_to_its_slippage_bound() -> None:
    world = World()
    for price in (1_000, 1_009, 1_010, 1_011):
        world.one(A, Order(0, SELL, price, 1))
    # 1000 x 1.01099 = 1010.99: rounded against the trader, to 1010.
    assert world.one(B, MarketOrder(0, BUY, 9, 10_990)) == Result(0, CANCELLED, 5, 3, 0)
    assert [fill.price_ticks for fill in world.of(Fill)] == [1_000, 1_009, 1_010]
    assert world.one(B, MarketOrder(0, BUY, 9, 10_990)).code == Code.NO_LIQUIDITY
    assert world.one(B, MarketOrder(0, SELL, 9, 500_000)).code == Code.NO_LIQUIDITY
    world.one(A, Order(0, BUY, 990, 1))
    world.one(A, Order(0, BUY, 989, 1))
    # 1000 x 0.98901 = 989.01, rounded up to 990.
    assert world.one(B, MarketOrder(0, SELL, 2, 10_990)).filled_lots == 1


def test_client_ids_are_unique_while_the_order_lives_and_cancel_it() -> None:
    world = World()
    order = Order(0, BUY, 900, 5, GTC, 77)
    results = world.act(A, order, order, CancelClient(1, 77), CancelClient(0, 77), order)
    assert [r.code for r in results] == [0, Code.DUPLICATE_CLIENT_ID, Code.UNKNOWN_ORDER, 0, 0]
    assert world.one(A, MarketOrder(0, BUY, 1, 1_000, 77)).code == Code.DUPLICATE_CLIENT_ID
    assert world.one(B, CancelClient(0, 77)).code == Code.UNKNOWN_ORDER
    assert world.one(B, order).code == 0
    world.one(C, Order(0, SELL, 900, 5))
    assert world.one(A, order).code == 0
    assert world.engine.orders_of(A)[0][2] == 77


def test_nobody_cancels_anothers_order_nor_in_another_market() -> None:
    world = World()
    world.one(A, Order(0, BUY, 900, 5))
    assert world.one(B, Cancel(0, 1)).code == Code.UNKNOWN_ORDER
    assert world.one(B, Reduce(0, 1, 1)).code == Code.UNKNOWN_ORDER
    assert world.one(A, Cancel(1, 1)).code == Code.UNKNOWN_ORDER
    assert world.one(A, Cancel(0, 1)) == Result(0, CANCELLED, 1)
    assert world.of(OrderChanged) == [OrderChanged(0, 1, A, BUY, 900, 0, REASON_CANCELLED)]
    assert world.one(A, Cancel(0, 1)).code == Code.UNKNOWN_ORDER


def test_reduce_keeps_priority_and_removes_at_zero() -> None:
    world = World()
    world.one(A, Order(0, BUY, 900, 5))
    world.one(B, Order(0, BUY, 900, 5))
    assert world.one(A, Reduce(0, 1, 3)) == Result(0, RESTING, 1, 0, 2)
    assert world.of(OrderChanged) == [OrderChanged(0, 1, A, BUY, 900, 2, REASON_REDUCED)]
    world.one(C, Order(0, SELL, 900, 3))
    assert [(f.maker_order, f.size_lots) for f in world.of(Fill)] == [(1, 2), (2, 1)]
    assert world.one(B, Reduce(0, 2, 4)) == Result(0, CANCELLED, 2)
    assert world.engine.orders_of(B) == []


def test_an_order_that_meets_the_accounts_own_cancels_the_resting_one() -> None:
    world = World()
    world.act(A, Order(0, SELL, 1_000, 5))
    world.act(B, Order(0, SELL, 1_001, 5))
    assert world.one(A, Order(0, BUY, 1_001, 3)) == Result(0, FILLED, 3, 3, 0)
    assert world.of(OrderChanged) == [OrderChanged(0, 1, A, SELL, 1_000, 0, REASON_SELF_TRADE)]
    assert [f.maker_account for f in world.of(Fill)] == [B]
    world.act(A, Order(0, SELL, 1_000, 5))
    world.act(B, Cancel(0, 2))
    assert world.one(A, Order(0, BUY, 1_001, 3)).status == RESTING


def test_orders_per_account_are_limited() -> None:
    world = World(limits=Limits(orders_per_account=2))
    bid = Order(0, BUY, 900, 1)
    other = Order(1, BUY, 900, 1)
    codes = [r.code for r in world.act(A, bid, other, bid, Cancel(0, 1), bid)]
    assert codes == [0, 0, Code.TOO_MANY_ORDERS, 0, 0]
    world.one(B, Order(0, SELL, 901, 1))
    assert world.one(A, Order(0, BUY, 901, 1)).code == Code.TOO_MANY_ORDERS
    assert world.one(A, Order(0, BUY, 901, 1, IOC)).status == FILLED


def test_the_rest_is_cancelled_after_the_fills_that_one_action_may_have() -> None:
    world = World(limits=Limits(fills_per_action=3))
    world.act(A, *[Order(0, SELL, 1_000, 1) for _ in range(5)])
    assert world.one(B, Order(0, BUY, 1_000, 5)) == Result(0, CANCELLED, 6, 3, 0)
    assert len(world.of(Fill)) == 3
    assert world.one(B, Order(0, BUY, 1_000, 5)) == Result(0, RESTING, 7, 2, 3)


def test_the_fills_of_a_block_are_limited_and_the_next_block_goes_on() -> None:
    world = World(limits=Limits(fills_per_action=3, fills_per_block=4))
    world.act(A, *[Order(0, SELL, 1_000, 1) for _ in range(9)])
    take, rest = Order(0, BUY, 1_000, 5), Order(0, BUY, 900, 1)
    first, second, third, resting = world.act(B, take, take, take, rest)
    assert first == Result(0, CANCELLED, 10, 3, 0)
    assert second == Result(0, CANCELLED, 11, 1, 0)
    assert third == Result(Code.BUSY)
    assert resting.status == RESTING
    assert len(world.of(Fill)) == 4
    assert world.one(B, take).filled_lots == 3


def test_the_worst_position_of_all_orders_stays_within_the_limit() -> None:
    world = World([market(0, max_position_lots=100)])
    codes = [r.code for r in world.act(A, Order(0, BUY, 900, 60), Order(0, BUY, 900, 41))]
    assert codes == [0, Code.POSITION_LIMIT]
    codes = [r.code for r in world.act(A, Order(0, BUY, 900, 40), Order(0, SELL, 1_100, 100))]
    assert codes == [0, 0]
    assert world.one(A, Order(0, SELL, 1_100, 1)).code == Code.POSITION_LIMIT
    world.one(B, Order(0, SELL, 900, 100))
    assert world.position(A)[0] == 100
    assert world.one(A, Order(0, SELL, 1_100, 100)).code == 0
    assert world.one(A, Order(0, BUY, 900, 1)).code == Code.POSITION_LIMIT
    assert world.one(B, Order(0, SELL, 1_100, 1, IOC)).code == Code.NO_LIQUIDITY
    world.one(C, Order(0, BUY, 800, 1))
    assert world.one(B, Order(0, SELL, 800, 1)).code == Code.POSITION_LIMIT


def test_a_fill_larger_than_one_cash_movement_is_split() -> None:
    big = market(0, tick_uusd=1_000_000, lot_micro=32_000, initial_price_ticks=1 << 20)
    world = World([big], dollars=1_000_000_000)
    # One lot is 2^20 x 32000 uUSD: 2^42 hold 131 of them.
    world.one(A, Order(0, SELL, 1 << 20, 300))
    assert world.one(B, Order(0, BUY, 1 << 20, 300)).status == FILLED
    assert [f.size_lots for f in world.of(Fill)] == [131, 131, 38]
    assert all(f.size_lots * (1 << 20) * 32_000 < 1 << 42 for f in world.of(Fill))
    assert world.one(A, Order(0, SELL, (1 << 42) // 32_000 + 1, 1)).code == Code.BAD_PRICE


def test_initial_margin_is_asked_with_the_whole_order() -> None:
    world = World(dollars=100)
    # $100 at 10 % hold $1000 of notional; a maker order also sets its fee of 100 ppm aside.
    assert world.one(A, Order(0, BUY, 1_000, 1_000)).code == Code.INSUFFICIENT_MARGIN
    assert world.one(A, Order(0, BUY, 1_000, 998)).code == 0
    view = world.engine.account_view(0, A)
    assert view.initial_margin_uusd == 99_800_000 + 99_800
    # The worst position stays the same with a sell on top: only its fee is asked, 110 a lot.
    assert world.one(A, Order(0, SELL, 1_100, 911)).code == Code.INSUFFICIENT_MARGIN
    assert world.one(A, Order(0, SELL, 1_100, 910)).code == 0


def test_an_order_through_the_mark_pays_for_its_loss_up_front() -> None:
    world = World(dollars=100)
    # 10 lots at 1100: $1 of margin, $1 of loss against the mark, and a fee of 1100 uUSD.
    assert world.one(A, Order(0, BUY, 1_100, 10)).code == 0
    assert world.engine.account_view(0, A).initial_margin_uusd == 2_000_000 + 1_100
    world.mark(1_050)
    assert world.engine.account_view(0, A).initial_margin_uusd == 1_050_000 + 500_000 + 1_100
    world.mark(1_200)
    assert world.engine.account_view(0, A).initial_margin_uusd == 1_200_000 + 1_100
    world.mark(1_000)
    assert world.engine.account_view(0, A).initial_margin_uusd == 2_000_000 + 1_100
    world.one(A, Reduce(0, 1, 4))
    assert world.engine.account_view(0, A).initial_margin_uusd == 1_200_000 + 660
    world.one(A, Cancel(0, 1))
    assert world.engine.account_view(0, A).initial_margin_uusd == 0


def test_a_maker_that_lost_its_margin_is_cancelled_and_matching_goes_on() -> None:
    world = World(dollars=100)
    world.one(A, Order(0, BUY, 1_000, 900))
    world.one(B, Order(0, BUY, 999, 5))
    world.mark(1_200)
    result = world.one(C, Order(0, SELL, 999, 5))
    assert result == Result(0, FILLED, 3, 5, 0)
    assert world.of(OrderChanged) == [OrderChanged(0, 1, A, BUY, 1_000, 0, REASON_MARGIN)]
    assert [f.maker_account for f in world.of(Fill)] == [B]
    assert world.engine.orders_of(A) == []


def _under_water() -> World:
    """A is 900 lots long with equity below initial margin; B is short; C bids below."""
    world = World(dollars=100)
    world.one(B, Order(0, SELL, 1_000, 900))
    world.one(A, Order(0, BUY, 1_000, 900))
    world.mark(950)
    view = world.engine.account_view(0, A)
    assert 0 < view.equity_uusd < view.initial_margin_uusd
    return world


def test_an_account_below_initial_margin_may_only_close() -> None:
    world = _under_water()
    world.one(C, Order(0, BUY, 948, 700))
    world.one(C, Order(0, SELL, 951, 10))
    for more in (Order(0, BUY, 900, 1), Order(0, BUY, 951, 1), MarketOrder(0, BUY, 1, 10_000)):
        assert world.one(A, more).code == Code.INSUFFICIENT_MARGIN
    assert world.one(A, Order(0, SELL, 960, 10)).code == Code.INSUFFICIENT_MARGIN
    assert world.one(A, Withdraw(1, TO)).code == Code.INSUFFICIENT_MARGIN
    assert world.one(A, MarketOrder(0, SELL, 300, 10_000)).status == FILLED
    assert world.position(A)[0] == 600
    assert world.one(A, Order(0, SELL, 948, 300, IOC)).filled_lots == 300
    assert world.position(A)[0] == 300


def test_closing_stops_at_zero_and_never_turns_the_position_around() -> None:
    world = _under_water()
    world.one(C, Order(0, BUY, 948, 950))
    assert world.one(A, Order(0, SELL, 948, 950)) == Result(0, CANCELLED, 4, 900, 0)
    assert world.position(A) == (0, 0)
    assert world.engine.orders_of(C)[0][5] == 50


def test_a_close_at_a_price_that_worsens_the_account_is_refused() -> None:
    world = _under_water()
    world.one(C, Order(0, BUY, 800, 700))
    result = world.one(A, Order(0, SELL, 800, 100))
    assert (result.code, result.status) == (Code.INSUFFICIENT_MARGIN, CANCELLED)
    assert world.position(A)[0] == 900
    assert world.one(A, Order(0, SELL, 800, 100, IOC)).code == Code.INSUFFICIENT_MARGIN


def test_cancel_reduce_and_deposit_always_work() -> None:
    world = World(dollars=100)
    world.one(B, Order(0, SELL, 1_000, 500))
    world.act(A, Order(0, BUY, 1_000, 500), Order(0, BUY, 900, 100), Order(0, BUY, 900, 100))
    world.mark(860)
    view = world.engine.account_view(0, A)
    assert view.maintenance_margin_uusd < view.equity_uusd < view.initial_margin_uusd
    assert [r.code for r in world.act(A, Cancel(0, 3), Reduce(0, 4, 50))] == [0, 0]
    world.block([], [world.deposit(A, 1_000 * DOLLAR)])
    assert world.one(A, Order(0, BUY, 850, 1)).code == 0


def test_a_withdrawal_is_debited_numbered_and_queued() -> None:
    world = World(dollars=100)
    results = world.act(A, Withdraw(40 * DOLLAR, TO), Withdraw(61 * DOLLAR, TO), Withdraw(1, TO))
    assert results == [Result(0, order_id=0), Result(Code.INSUFFICIENT_CASH), Result(0, order_id=1)]
    assert world.last.outbox == [OutboxEntry(0, A, TO, 40 * DOLLAR), OutboxEntry(1, A, TO, 1)]
    assert world.of(WithdrawalQueued) == [
        WithdrawalQueued(0, A, TO, 40 * DOLLAR), WithdrawalQueued(1, A, TO, 1)
    ]  # fmt: skip
    assert world.engine.total_cash_uusd() == 360 * DOLLAR - 1
    assert world.one(A, Withdraw(60 * DOLLAR - 1, TO)).code == 0
    assert world.engine.account_view(0, A).cash_uusd == 0
    assert world.one(A, Withdraw(1, TO)).code == Code.INSUFFICIENT_CASH


def test_profit_on_paper_and_margin_cannot_be_withdrawn() -> None:
    world = World(dollars=100)
    world.one(B, Order(0, SELL, 1_000, 200))
    world.one(A, Order(0, BUY, 1_000, 200))
    fee = 100_000
    # Equity 100 - fee, margin 20.
    assert world.engine.withdrawable_uusd(A) == 80 * DOLLAR - fee
    world.mark(1_300)
    # Equity 160 - fee; margin 26, profit 60 stays.
    assert world.engine.withdrawable_uusd(A) == 100 * DOLLAR - fee
    world.mark(900)
    assert world.engine.withdrawable_uusd(A) == 62 * DOLLAR - fee
    assert world.one(A, Withdraw(62 * DOLLAR - fee + 1, TO)).code == Code.INSUFFICIENT_MARGIN
    assert world.one(A, Withdraw(62 * DOLLAR - fee, TO)).code == 0
    view = world.engine.account_view(0, A)
    assert view.equity_uusd == view.initial_margin_uusd == 18 * DOLLAR


def test_profit_of_one_market_stays_even_when_another_loses() -> None:
    free = {"taker_fee_ppm": 0, "maker_fee_ppm": 0}
    world = World([market(0, **free), market(1, **free)], dollars=100)
    for number in (0, 1):
        world.one(B, Order(number, SELL, 1_000, 100))
        world.one(A, Order(number, BUY, 1_000, 100))
    world.mark(1_500, 0)
    world.mark(800, 1)
    # Equity 100 + 50 - 20; margin 15 + 8; the profit of 50 stays.
    assert world.engine.withdrawable_uusd(A) == 80 * DOLLAR
    assert world.one(A, Withdraw(80 * DOLLAR + 1, TO)).code == Code.INSUFFICIENT_MARGIN
    assert world.one(A, Withdraw(80 * DOLLAR, TO)).code == 0


def test_the_fee_of_each_fill_rounds_up_within_what_was_asked_before() -> None:
    fee = market(0, tick_uusd=1_000, taker_fee_ppm=501, maker_fee_ppm=0)
    # A lot is 1000 uUSD; ten fills of one lot cost a fee of ceil(0.501) = 1 each, a fill of ten 6.
    world = World([fee], Limits(fills_per_action=10), dollars=0)
    deposits = [(A, 1_000 + 6 + 10), (B, 1_000 + 6 + 9), (C, 1_000_000)]
    world.block([], [world.deposit(account, amount) for account, amount in deposits])
    world.act(C, *[Order(0, SELL, 1_000, 1) for _ in range(20)])
    assert world.one(B, Order(0, BUY, 1_000, 10)).code == Code.INSUFFICIENT_MARGIN
    assert world.one(A, Order(0, BUY, 1_000, 10)).filled_lots == 10
    assert sum(fill.taker_fee_uusd for fill in world.of(Fill)) == 10
    view = world.engine.account_view(0, A)
    assert view.equity_uusd >= view.initial_margin_uusd == 1_000


def test_a_tenth_of_the_notional_stays_whatever_the_margin_rate() -> None:
    world = World([market(0, initial_ppm=20_000, maintenance_ppm=10_000)], dollars=100)
    world.one(B, Order(0, SELL, 1_000, 500))
    world.one(A, Order(0, BUY, 1_000, 500))
    assert world.engine.withdrawable_uusd(A) == 50 * DOLLAR - 250_000


def test_what_a_position_cost_follows_its_fills() -> None:
    world = World()
    world.act(B, Order(0, SELL, 1_000, 3), Order(0, SELL, 1_001, 4))
    world.one(A, Order(0, BUY, 1_001, 7))
    assert world.position(A) == (7, 7_004_000)
    world.one(B, Order(0, BUY, 1_000, 2))
    world.one(A, Order(0, SELL, 1_000, 2))
    # 7,004,000 x 5 / 7 = 5,002,857.1, rounded down; short: -5,002,857.1, rounded down.
    assert world.position(A) == (5, 5_002_857)
    assert world.position(B) == (-5, -5_002_858)
    world.one(B, Order(0, BUY, 1_000, 9))
    world.one(A, Order(0, SELL, 1_000, 9))
    assert world.position(A) == (-4, -4_000_000)
    assert world.position(B) == (4, 4_000_000)


def test_cash_that_comes_back_to_where_it_was_changes_no_account_leaf() -> None:
    world = World()
    world.block([world.batch(A, Withdraw(5 * DOLLAR, TO))], [world.deposit(A, 5 * DOLLAR)])
    assert account_key(A) not in world.last.changes
    assert world.last.outbox == [OutboxEntry(0, A, TO, 5 * DOLLAR)]


def test_views_show_levels_orders_and_margin() -> None:
    world = World()
    world.act(A, Order(0, BUY, 900, 5), Order(0, BUY, 900, 6, GTC, 9), Order(0, BUY, 899, 1))
    book = world.engine.book_view(7, 0, 1, 42)
    assert (book.request_id, book.height, book.next_seq, book.mark_ticks) == (7, 2, 42, 1_000)
    assert book.bids == [(900, 11, 2)] and book.asks == []
    assert world.engine.orders_of(A)[1] == (0, 2, 9, BUY, 900, 6)
    view = world.engine.account_view(0, A)
    assert (view.account, view.open_orders, view.height) == (A, 3, 2)
    assert view.positions[0].initial_margin_uusd == view.initial_margin_uusd > 0
