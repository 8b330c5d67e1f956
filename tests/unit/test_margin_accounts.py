"""Equity, liquidation, what may leave, moves and limits of accounts: numbers worked out by hand.

The market of these tests: mark 1000, value 1000 (a lot is $1), IM 10 %, MM 5 %, maker fee 100 ppm.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from compiled_modules import fields
from margin_world import config as market

from margin import Account, Market, Outcome, Risk, naive
from matching import Book, Resting
from protocol.actions import BUY, REDUCE_ONLY, SELL
from protocol.errors import Code, SafetyViolation
from protocol.markets import CASH_LIMIT, CASH_MOVE_LIMIT, PRICE_LIMIT

MILLION = 1_000_000


def make(
    cash: int, size: int = 0, cost: int | None = None, **config: Any
) -> tuple[Risk, Market, Account]:
    """An account with a position bought at the mark, unless a cost is given."""
    where = Market(market(0, **config))
    risk = Risk([where])
    account = Account(16, b"x" * 20)
    account.cash_uusd = cash
    e = account.exposure(0)
    e.size_lots = size
    e.cost_uusd = size * MILLION if cost is None else cost
    risk.refresh(account)
    return risk, where, account


def refresh(risk: Risk, account: Account) -> tuple[int, int]:
    """(TV, IM) after something changed for everybody."""
    risk.version += 1
    risk.refresh(account)
    return account.tv_uusd, account.im_uusd


# -- stale markets, funding, expiry


def test_while_stale_margin_and_liquidation_see_opposite_ends_of_the_band() -> None:
    for size in (100, -100):
        risk, where, account = make(20 * MILLION - size * MILLION, size)
        assert (account.tv_uusd, account.im_uusd) == (20 * MILLION, 10 * MILLION)
        where.stale = True
        # 5 % of 100,000,000.
        assert refresh(risk, account) == (15 * MILLION, 10 * MILLION)
        assert risk.liquidation(account) == (25 * MILLION, 5 * MILLION)
        assert risk.withdrawable_uusd(account)[0] == 5 * MILLION


def test_a_fill_in_a_stale_market_changes_what_the_band_takes() -> None:
    risk, where, account = make(-80 * MILLION, 100)
    where.stale = True
    refresh(risk, account)
    e = account.exposure(0)
    after = risk.outcome(account, e, where, SELL, 1_000, 40, 0, None)
    assert after.tv_uusd == 20 * MILLION - 60 * 50_000
    risk.commit(account, e, after)
    assert refresh(risk, account) == (after.tv_uusd, after.total_im_uusd)


def test_funding_that_is_due_counts_and_settling_it_changes_nothing() -> None:
    risk, where, account = make(-80 * MILLION, 100)
    where.funding_index = 1_999
    e = account.exposure(0)
    # A long of 100 lots pays 199.9, rounded up.
    assert risk.funding_uusd(e, where) == -200
    before = refresh(risk, account)
    assert before == (20 * MILLION - 200, 10 * MILLION)
    assert risk.liquidation(account)[0] == 20 * MILLION - 200
    assert risk.withdrawable_uusd(account)[1] == 20 * MILLION - 200
    account.cash_uusd += risk.funding_uusd(e, where)
    e.funding_index = where.funding_index
    assert refresh(risk, account) == before
    assert risk.withdrawable_uusd(account)[1] == 20 * MILLION - 200


def test_funding_is_due_from_the_index_that_the_position_was_settled_to() -> None:
    risk, where, account = make(-80 * MILLION, 100)
    e = account.exposure(0)
    e.funding_index, where.funding_index = 5_000, 5_030
    assert risk.funding_uusd(e, where) == -3
    assert refresh(risk, account)[0] == 20 * MILLION - 3
    e.size_lots = 0
    assert risk.funding_uusd(e, where) == 0


def test_a_short_receives_rounded_down_what_a_long_pays() -> None:
    risk, where, account = make(120 * MILLION, -100)
    where.funding_index = 1_999
    assert risk.funding_uusd(account.exposure(0), where) == 199
    where.funding_index = -1_999
    assert risk.funding_uusd(account.exposure(0), where) == -200


def test_a_position_cannot_change_before_its_funding_is_settled() -> None:
    risk, where, account = make(20 * MILLION, 0)
    e = account.exposure(0)
    where.funding_index = 77
    risk.move(account, e, where, 5, -5 * MILLION)
    assert e.funding_index == 77
    where.funding_index = 78
    with pytest.raises(SafetyViolation, match="funding"):
        risk.move(account, e, where, 5, -5 * MILLION)


def test_an_expired_position_counts_at_the_settlement_price_without_margin() -> None:
    risk, where, account = make(-80 * MILLION, 100)
    e = account.exposure(0)
    risk.place(account, e, where, SELL, 990, 3, False)
    order = Resting(0, 1, 16, 0, SELL, 990, 3)
    where.settled_ticks = 1_010
    risk.set_mark(where, 5)
    where.stale = True
    assert refresh(risk, account) == (21 * MILLION, 0)
    assert risk.liquidation(account) == (21 * MILLION, 0)
    assert risk.maintenance_uusd(account) == 0
    assert risk.withdrawable_uusd(account) == (21 * MILLION, 21 * MILLION)
    # Its orders go one by one; then the position is exchanged for what it is worth.
    order.remaining_lots = 0
    risk.release(account, order, 3)
    assert (account.im_uusd, e.ask_lots, e.excess_uusd, e.reserve_uusd) == (0, 0, 0, 0)
    after = risk.moved(account, e, where, -100, 101 * MILLION)
    assert after.realised_uusd == MILLION
    risk.move(account, e, where, -100, 101 * MILLION)
    assert (e.size_lots, e.cost_uusd, account.cash_uusd) == (0, 0, 21 * MILLION)
    assert (account.tv_uusd, account.im_uusd) == (21 * MILLION, 0)
    assert refresh(risk, account) == (21 * MILLION, 0)


# -- moves, cost and realised profit


@pytest.mark.parametrize(
    ("size", "cost", "change", "cash", "cost_after", "realised"),
    [
        (0, 0, 3, -30, 30, 0),
        (0, 0, -3, 30, -30, 0),
        (3, 30, 2, -30, 60, 0),
        (3, 31, -1, 15, 20, 4),  # 31 x 2/3 = 20.7 rounded down
        (-3, -31, 1, -5, -21, 5),  # -20.7 rounded down
        (3, 30, -3, 0, 0, -30),
        (3, 30, -5, 60, -24, 6),
        (-3, -30, 4, -41, 10, -1),  # a quarter of 41 paid, rounded down
        (3, 30, -1, -7, 20, -17),  # given away, and paid for it
        (0, 0, 3, 5, -5, 0),  # taken over, and paid for it
    ],
)
def test_a_move_keeps_cost_and_counts_realised_profit(
    size: int, cost: int, change: int, cash: int, cost_after: int, realised: int
) -> None:
    risk, where, account = make(1_000_000_000, size, cost)
    e = account.exposure(0)
    preview = risk.moved(account, e, where, change, cash)
    assert e.size_lots == size
    risk.move(account, e, where, change, cash)
    assert (e.size_lots, e.cost_uusd) == (size + change, cost_after)
    assert preview.realised_uusd == realised
    assert preview.fee_uusd == 0
    totals = account.tv_uusd, account.im_uusd
    assert totals == refresh(risk, account) == (preview.tv_uusd, preview.total_im_uusd)


@pytest.mark.parametrize(("side", "sign"), [(BUY, 1), (SELL, -1)])
def test_a_fill_is_a_move_at_its_price_less_the_fee(side: int, sign: int) -> None:
    for size in (0, 4, -4, 10, -10, 11, -11):
        risk, where, account = make(100 * MILLION, size, size * 990_000)
        e = account.exposure(0)
        fill = risk.outcome(account, e, where, side, 1_007, 10, 500, None)
        move = risk.moved(account, e, where, sign * 10, -sign * 10 * 1_007_000)
        assert fill.fee_uusd == 5_035
        for name in set(fields(Outcome)) - {"fee_uusd", "cash_uusd", "tv_uusd"}:
            assert getattr(fill, name) == getattr(move, name), name
        assert fill.cash_uusd == move.cash_uusd - 5_035
        assert fill.tv_uusd == move.tv_uusd - 5_035


# -- what may leave


def test_what_may_leave_keeps_margin_a_tenth_of_notional_and_unrealised_profit() -> None:
    # 100 long from 800 at the mark of 1000: profit 20,000,000, margin and a tenth 10,000,000.
    risk, where, account = make(-50 * MILLION, 100, 80 * MILLION)
    assert risk.withdrawable_uusd(account) == (30 * MILLION, 30 * MILLION)
    # From 950: profit 5,000,000.
    risk, where, account = make(-65 * MILLION, 100, 95 * MILLION)
    assert risk.withdrawable_uusd(account) == (25 * MILLION, 30 * MILLION)
    # A lower margin rate leaves the tenth.
    risk, where, account = make(
        -65 * MILLION, 100, 95 * MILLION, initial_ppm=2_000, maintenance_ppm=1_000
    )
    assert risk.withdrawable_uusd(account) == (25 * MILLION, 30 * MILLION)
    # Orders ask for more.
    risk.place(account, account.exposure(0), where, BUY, 1_000, 9_000, False)
    # 9,100 x 1,000,000 x 0.2 % + fees 0.01 % of 9,000,000,000.
    assert risk.withdrawable_uusd(account)[0] == 35 * MILLION - 18_200_000 - 900_000
    account.tv_uusd = 0
    assert risk.withdrawable_uusd(account)[0] == 0


# -- orders


def test_reduce_only_orders_need_no_margin_and_only_count() -> None:
    risk, where, account = make(-100 * MILLION, 100)
    e = account.exposure(0)
    assert (account.tv_uusd, account.im_uusd) == (0, 10 * MILLION)
    assert risk.place(account, e, where, SELL, 1_000, 60, False) == Code.INSUFFICIENT_MARGIN
    assert risk.place(account, e, where, SELL, 990, 60, True) == Code.OK
    assert (e.ask_lots, e.reduce_ask_lots) == (0, 60)
    # 60 x 10 x 1000 through the mark, 100 ppm of 59,400,000.
    assert account.im_uusd == 10 * MILLION + 600_000 + 5_940
    assert where.through == {16: e}
    order = Resting(0, 1, 16, 0, SELL, 990, 60, REDUCE_ONLY)
    after = risk.outcome(account, e, where, SELL, 990, 20, 100, order)
    assert (after.ask_lots, after.reduce_ask_lots, after.size_lots) == (0, 40, 80)
    assert after.total_im_uusd == 8 * MILLION + 400_000 + 3_960
    assert after.realised_uusd == -200_000
    risk.commit(account, e, after)
    assert (e.reduce_ask_lots, e.size_lots) == (40, 80)
    order.remaining_lots = 10
    risk.release(account, order, 30)
    assert (e.reduce_ask_lots, e.excess_uusd, e.reserve_uusd) == (10, 100_000, 990)
    order.remaining_lots = 0
    risk.release(account, order, 10)
    assert (e.reduce_ask_lots, e.excess_uusd, e.reserve_uusd) == (0, 0, 0)
    assert account.im_uusd == 8 * MILLION


def test_a_new_mark_prices_the_orders_that_it_passes() -> None:
    risk, where, account = make(100 * MILLION)
    for number, (side, price) in enumerate([(BUY, 990), (BUY, 985), (SELL, 1_010), (SELL, 1_020)]):
        assert risk.place(account, account.exposure(0), where, side, price, 10, False) == Code.OK
        account.orders[number] = Resting(0, number, 16, 0, side, price, 10)
        where.book.add(account.orders[number])
    e = account.exposure(0)
    for mark, excess in ((1_000, 0), (988, 20_000), (980, 150_000), (1_010, 0), (1_021, 120_000)):
        risk.set_mark(where, mark)
        assert account.version != risk.version
        risk.refresh(account)
        assert e.excess_uusd == excess
        assert account.im_uusd == 20 * mark * 1_000 // 10 + excess + 4_005


def test_an_order_through_the_mark_is_priced_anew_whatever_else_makes_totals_stale() -> None:
    risk, where, account = make(100 * MILLION)
    risk.set_mark(where, 990)
    risk.refresh(account)
    e, order = account.exposure(0), Resting(0, 1, 16, 0, BUY, 995, 10)
    assert risk.place(account, e, where, BUY, 995, 10, False) == Code.OK
    where.book.add(order)
    account.orders[1] = order
    for change in (0, 1, 1):
        risk.version += change
        risk.refresh(account)
        assert e.excess_uusd == 50_000
    # Another market's mark makes totals stale too, and what stood through this one still does.
    risk.version += 1
    account.version = 0
    e.excess_uusd = 0
    risk.refresh(account)
    assert e.excess_uusd == 50_000


class Unwalked(Book):
    """A book that nobody may walk."""

    def walk(self, side: int) -> Iterator[Resting]:
        raise AssertionError("a mark cost what rests")


def test_a_mark_costs_the_same_however_many_orders_it_passes() -> None:
    risk, where, account = make(5_000 * MILLION)
    other = Account(17, b"")
    other.cash_uusd = 5_000 * MILLION
    where.book = Unwalked(0)
    accounts = {16: account, 17: other}
    for number in range(200):
        owner = accounts[16 + number % 2]
        price, lots = 901 + number, 1 + number
        risk.refresh(owner)
        assert risk.place(owner, owner.exposure(0), where, BUY, price, lots, False) == Code.OK
        owner.orders[number] = Resting(0, number, owner.number, 0, BUY, price, lots)
        where.book.add(owner.orders[number])
    for mark in (1_000, 950, 1_050, 900, 1_200):
        risk.set_mark(where, mark)
        for owner in accounts.values():
            risk.refresh(owner)
            totals = naive.totals(owner, [where])
            assert (owner.tv_uusd, owner.im_uusd) == totals


def test_a_reduce_only_order_is_counted_again_after_a_restart() -> None:
    risk, where, account = make(20 * MILLION, -100)
    order = Resting(0, 7, 16, 0, BUY, 1_003, 5, REDUCE_ONLY)
    risk.count_resting(account, order)
    e = account.exposure(0)
    assert (e.bid_lots, e.reduce_bid_lots, e.excess_uusd) == (0, 5, 15_000)
    assert e.reducing == {7: order}
    assert where.through == {16: e}
    other = Resting(0, 8, 16, 0, SELL, 1_003, 5)
    risk.count_resting(account, other)
    assert (e.ask_lots, e.reduce_ask_lots, e.reducing) == (5, 0, {7: order})


def test_sums_counted_from_resting_orders_are_those_that_placing_left() -> None:
    for size, reduced_side in ((50, SELL), (-50, BUY)):
        risk, where, account = make(100 * MILLION - size * MILLION, size)
        _, there, restored = make(100 * MILLION - size * MILLION, size)
        e, other = account.exposure(0), restored.exposure(0)
        for number in range(12):
            side, price, lots = number % 2, 995 + number, 3 + number
            reduce_only = number % 3 == 0 and side == reduced_side
            assert risk.place(account, e, where, side, price, lots, reduce_only) == Code.OK
            order = Resting(0, number, 16, 0, side, price, lots, REDUCE_ONLY * reduce_only)
            Risk([there]).count_resting(restored, order)
            restored.orders[number] = order
        assert min(e.bid_lots, e.ask_lots, e.excess_uusd, e.reserve_uusd) > 0
        assert e.reduce_bid_lots + e.reduce_ask_lots > 0
        for name in (
            "bid_lots", "ask_lots", "reduce_bid_lots", "reduce_ask_lots", "excess_uusd",
            "reserve_uusd",
        ):  # fmt: skip
            assert getattr(e, name) == getattr(other, name), name
        assert there.through == {16: other}
        refresh(risk, restored)
        assert (restored.tv_uusd, restored.im_uusd) == (account.tv_uusd, account.im_uusd)


def test_a_taker_is_admitted_up_to_the_last_micro_dollar() -> None:
    first, second = Market(market(0)), Market(market(1))
    risk = Risk([first, second])
    # 10 lots at 10 % with 100 ppm, 10 through the mark; and 20 lots elsewhere.
    resting = MILLION + 100_000 + 1_010 + 2 * MILLION + 2_000
    # 5 more, 3 through the mark, at 500 ppm of 5,015,000, and 7 possible fills.
    taking = 500_000 + 15_000 + 2_508 + 7
    for cash, code in (
        (resting + taking, Code.OK), (resting + taking - 1, Code.INSUFFICIENT_MARGIN),
    ):  # fmt: skip
        account = Account(16, b"")
        account.cash_uusd = cash
        e = account.exposure(0)
        risk.refresh(account)
        assert risk.place(account, e, first, BUY, 1_010, 10, False) == Code.OK
        assert risk.place(account, account.exposure(1), second, SELL, 1_000, 20, False) == Code.OK
        assert account.im_uusd == resting
        assert risk.admit(account, e, first, BUY, 1_003, 5, 7) == code


def test_closing_the_last_position_may_leave_nothing_but_no_debt() -> None:
    # An order keeps margin in use, so that the fill is legal only because it shrinks the position.
    for price, legal in ((960, True), (959, False)):
        risk, where, account = make(4 * MILLION - 100 * MILLION, 100)
        e = account.exposure(0)
        e.bid_lots = 5
        refresh(risk, account)
        after = risk.outcome(account, e, where, SELL, price, 100, 0, None)
        assert after.total_im_uusd > 0 >= after.tv_uusd
        assert risk.legal(account, e, where, after) == legal


def test_leverage_and_open_interest_raise_what_an_order_needs() -> None:
    for leverage, scaled, needed in ((0, 0, 10), (5, 0, 20), (0, 300_000, 30), (2, 300_000, 50)):
        for cash, code in ((needed, Code.OK), (needed - 1, Code.INSUFFICIENT_MARGIN)):
            risk, where, account = make(cash * MILLION + 10_000)
            e = account.exposure(0)
            e.leverage = leverage
            where.scaled_ppm = scaled
            assert risk.place(account, e, where, BUY, 1_000, 100, False) == code
            risk, where, account = make(cash * MILLION + 50_003)
            e = account.exposure(0)
            e.leverage = leverage
            where.scaled_ppm = scaled
            assert risk.admit(account, e, where, BUY, 1_000, 100, 3) == code


def test_what_is_opened_while_stale_costs_the_band_too() -> None:
    # 10 lots: margin 1,000,000, band 500,000, fees 5,000 and one micro-dollar.
    for cash, code in ((1_505_001, Code.OK), (1_505_000, Code.INSUFFICIENT_MARGIN)):
        for side in (BUY, SELL):
            risk, where, account = make(cash)
            where.stale = True
            refresh(risk, account)
            e = account.exposure(0)
            assert risk.admit(account, e, where, side, 1_000, 10, 1) == code
            after = risk.outcome(account, e, where, side, 1_000, 10, 500, None)
            assert after.tv_uusd - after.total_im_uusd == cash - 1_505_000


def test_maintenance_knows_neither_leverage_nor_open_interest() -> None:
    risk, where, account = make(20 * MILLION, 100)
    account.exposure(0).leverage = 1
    where.scaled_ppm = 900_000
    assert risk.liquidation(account)[1] == 5 * MILLION


# -- limits


def test_no_order_may_lead_beyond_the_position_limit() -> None:
    for place in (True, False):
        for size, side, lots, code in (
            (0, BUY, 10, Code.OK),
            (0, BUY, 11, Code.POSITION_LIMIT),
            (0, SELL, 11, Code.POSITION_LIMIT),
            (4, BUY, 6, Code.OK),
            (4, BUY, 7, Code.POSITION_LIMIT),
            (4, SELL, 14, Code.OK),
            (4, SELL, 15, Code.POSITION_LIMIT),
            (-4, SELL, 6, Code.OK),
            (-4, SELL, 7, Code.POSITION_LIMIT),
            (-10, BUY, 20, Code.OK),
            (-10, BUY, 21, Code.POSITION_LIMIT),
        ):
            risk, where, account = make(1_000 * MILLION, size, max_position_lots=10)
            e = account.exposure(0)
            if place:
                assert risk.place(account, e, where, side, 1_000, lots, False) == code
            else:
                assert risk.admit(account, e, where, side, 1_000, lots, 1) == code


@pytest.mark.parametrize(("side", "size"), [(SELL, 4), (BUY, -4)])
def test_what_reduce_only_orders_close_is_reachable_by_the_others(side: int, size: int) -> None:
    risk, where, account = make(1_000 * MILLION, size, max_position_lots=10)
    e = account.exposure(0)
    assert risk.place(account, e, where, side, 1_000, 3, True) == Code.OK
    assert risk.admit(account, e, where, side, 1_000, 12, 1) == Code.POSITION_LIMIT
    assert risk.place(account, e, where, side, 1_000, 12, False) == Code.POSITION_LIMIT
    assert risk.place(account, e, where, side, 1_000, 11, False) == Code.OK
    assert risk.place(account, e, where, side, 1_000, 1, True) == Code.POSITION_LIMIT
    assert risk.place(account, e, where, 1 - side, 1_000, 6, False) == Code.OK


def test_one_lot_below_the_price_limit_is_one_cash_movement() -> None:
    for lot_micro in (1_000, 30_000_000_000):
        where = Market(market(0, tick_uusd=1_000, lot_micro=lot_micro, initial_price_ticks=1))
        highest = where.price_limit - 1
        assert where.product.notional_uusd(1, highest) < CASH_MOVE_LIMIT
        assert highest == PRICE_LIMIT - 1 or (
            where.product.notional_uusd(1, highest + 1) >= CASH_MOVE_LIMIT
        )
        assert (where.price_limit < PRICE_LIMIT) == (lot_micro > 1_000)


# -- copies


def differing(one: object, other: object, apart_from: set[str]) -> list[str]:
    """Fields in which a copy is another than what it was made of."""
    names = fields(type(one))
    return [n for n in names if n not in apart_from and getattr(one, n) != getattr(other, n)]


FROM_GENESIS = {
    "cross_ppm", "max_open_interest_lots", "max_order_lots", "max_position_lots",
    "min_notional_uusd", "number", "price_limit", "reserve_ppm", "safe_ticks", "stale_band_ppm",
}  # fmt: skip
"""Fields of a market that never change."""


def filled_with_numbers(thing: object, apart_from: set[str] = FROM_GENESIS) -> None:
    """Give every plain field a value of its own, so that a forgotten one shows."""
    for number, name in enumerate(fields(type(thing))):
        if name in apart_from:
            continue
        if type(getattr(thing, name)) is int:
            setattr(thing, name, 1_000 + number)
        elif type(getattr(thing, name)) is bool:
            setattr(thing, name, True)


def test_copies_of_accounts_and_markets_forget_nothing() -> None:
    where = Market(market(0))
    filled_with_numbers(where)
    clone = where.clone()
    assert differing(where, clone, {"book", "leaf", "through"}) == []
    assert clone.book is not where.book and not clone.through
    account = Account(1_000, b"x" * 20)
    e = account.exposure(3)
    filled_with_numbers(account)
    filled_with_numbers(e)
    account.orders[5] = e.reducing[5] = Resting(3, 5, 1_000, 7, SELL, 10, 10, REDUCE_ONLY)
    account.clients[7] = 5
    account.triggers[8] = b"t"
    account.number = account.master = 1_000
    copy = account.copy()
    assert differing(account, copy, {"agents", "committed_uusd", "exposures", "leaf"}) == []
    assert copy.orders is not account.orders and copy.clients is not account.clients
    assert differing(e, copy.exposures[3], {"account", "committed_lots", "leaf", "market"}) == []
    assert copy.exposures[3] is not e


def test_no_order_may_lead_to_a_notional_out_of_range() -> None:
    lots = (1 << 31) - 1
    for price, code in ((524, Code.OK), (525, Code.NOTIONAL_LIMIT)):
        for through_mark in (False, True):
            # 2^31 x 524 x 1000 is below 2^50, with 525 it is not.
            risk, where, account = make(
                1 << 60, max_position_lots=lots, initial_price_ticks=price if through_mark else 1
            )
            e = account.exposure(0)
            asked = 1 if through_mark else price
            assert risk.place(account, e, where, BUY, asked, lots, False) == code
            risk, where, account = make(
                1 << 59, max_position_lots=lots, initial_price_ticks=price if through_mark else 1
            )
            e = account.exposure(0)
            assert risk.admit(account, e, where, BUY, asked, lots, 1) == code


def test_a_notional_of_exactly_the_limit_is_beyond_it() -> None:
    lots, price = 1 << 20, 1 << 20
    for asked, code in ((price - 1, Code.OK), (price, Code.NOTIONAL_LIMIT)):
        risk, where, account = make(
            1 << 59, lot_micro=1_024, max_position_lots=lots, initial_price_ticks=1
        )
        assert risk.place(account, account.exposure(0), where, BUY, asked, lots, False) == code


def test_cash_stays_in_its_range() -> None:
    for cash in (CASH_LIMIT // 2, -CASH_LIMIT // 2):
        for short, code in ((0, Code.NOTIONAL_LIMIT), (1, Code.OK)):
            risk, where, account = make(cash - short if cash > 0 else cash + short)
            account.tv_uusd = CASH_LIMIT // 2
            e = account.exposure(0)
            assert risk.admit(account, e, where, BUY, 1_000, 1, 1) == code
    # Selling a lot moves a million.
    for missing, legal in ((MILLION, False), (MILLION + 1, True)):
        risk, where, account = make(CASH_LIMIT - missing)
        e = account.exposure(0)
        after = risk.outcome(account, e, where, SELL, 1_000, 1, 0, None)
        assert risk.legal(account, e, where, after) == legal
