"""Margin formulas on numbers worked out by hand, and the legality rule."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from margin_world import config as market

from margin import Account, LinearPerpetual, MarginRates, Market, Outcome, Risk
from margin.oracle import committee_median_ticks
from matching import Resting
from protocol.actions import BUY, SELL
from protocol.errors import Code

PERP = LinearPerpetual(7, MarginRates(30_001, 10_003))


def test_value_and_notional() -> None:
    assert PERP.value_uusd(3, 1_000) == 21_000
    assert PERP.value_uusd(-3, 1_000) == -21_000
    assert PERP.notional_uusd(3, 1_000) == 21_000


@pytest.mark.parametrize(
    ("size", "bids", "asks", "worst"),
    [
        (0, 0, 0, 0), (5, 0, 0, 5), (-5, 0, 0, 5), (0, 4, 3, 4), (0, 3, 4, 4),
        (5, 4, 3, 9), (5, 0, 5, 5), (5, 0, 10, 5), (5, 0, 11, 6), (-5, 12, 0, 7), (-5, 3, 1, 6),
    ],
)  # fmt: skip
def test_initial_margin_is_that_of_the_worst_reachable_position(
    size: int, bids: int, asks: int, worst: int
) -> None:
    # worst x 1000 x 7 x 3.0001 %, rounded up.
    expected = (worst * 7_000 * 30_001 + 999_999) // 1_000_000
    assert PERP.initial_uusd(size, bids, asks, 0, 0, 1_000, 0, 0) == expected


def test_maintenance_margin_is_rounded_up_for_both_sides() -> None:
    # 3 x 1000 x 7 x 1.0003 % = 210.063
    assert PERP.maintenance_uusd(3, 1_000) == 211
    assert PERP.maintenance_uusd(-3, 1_000) == 211
    assert PERP.maintenance_uusd(0, 1_000) == 0


def test_an_order_costs_its_loss_against_the_mark() -> None:
    assert PERP.excess_uusd(BUY, 1_010, 3, 1_000) == 210
    assert PERP.excess_uusd(BUY, 990, 3, 1_000) == 0
    assert PERP.excess_uusd(SELL, 990, 3, 1_000) == 210
    assert PERP.excess_uusd(SELL, 1_010, 3, 1_000) == 0
    assert PERP.excess_uusd(SELL, 1_000, 3, 1_000) == 0


def test_fees_round_up_and_rebates_towards_zero() -> None:
    # 21,000 x 333 ppm = 6.993
    assert PERP.fee_uusd(1_000, 3, 333) == 7
    assert PERP.fee_uusd(1_000, 3, -333) == -6
    assert PERP.fee_uusd(1_000, 3, 0) == 0


def test_the_median_needs_a_majority_and_is_a_reported_price() -> None:
    assert committee_median_ticks([], 0) == 0
    assert committee_median_ticks([], 3) == 0
    assert committee_median_ticks([5], 1) == 5
    assert committee_median_ticks([5], 2) == 0
    assert committee_median_ticks([9, 5], 3) == 5
    assert committee_median_ticks([9, 1, 5], 3) == 5
    assert committee_median_ticks([9, 1, 5, 7], 4) == 5


def _account(cash: int, size: int = 0) -> tuple[Risk, Market, Account]:
    """An account in one market: mark 1000, value 1000, IM 10 %, MM 5 %."""
    where = Market(market(0))
    risk = Risk([where])
    account = Account(16, b"x" * 20)
    account.cash_uusd = cash
    account.exposure(0).size_lots = size
    risk.refresh(account)
    return risk, where, account


def _trade(cash: int, size: int, side: int, price: int, lots: int, fee_ppm: int = 0) -> bool:
    risk, where, account = _account(cash, size)
    e = account.exposure(0)
    after = risk.outcome(account, e, where, side, price, lots, fee_ppm, None)
    return risk.legal(account, e, where, after)


def test_equal_equity_and_initial_margin_is_legal_and_one_less_is_not() -> None:
    million = 1_000_000
    assert _trade(10 * million, 0, BUY, 1_000, 100)
    assert not _trade(10 * million - 1, 0, BUY, 1_000, 100)
    assert _trade(10 * million + 50_000, 0, SELL, 1_000, 100, 500)
    assert not _trade(10 * million + 49_999, 0, SELL, 1_000, 100, 500)


def test_below_initial_margin_a_fill_must_shrink_and_keep_the_ratio() -> None:
    # 100 long at the mark of 1000 with equity 6,000,000: IM 10,000,000, MM 5,000,000.
    cash = 6_000_000 - 100_000_000
    assert _trade(cash, 100, SELL, 1_000, 1)
    assert _trade(cash, 100, SELL, 1_000, 100)
    assert not _trade(cash, 100, BUY, 1_000, 1)
    # The zero price keeps TV/MM: 1000 - 6,000,000 x 50 / (5,000,000 x 1) / 1000 = 940.
    assert _trade(cash, 100, SELL, 940, 1)
    assert not _trade(cash, 100, SELL, 939, 1)
    assert _trade(cash, 100, SELL, 940, 99)
    assert not _trade(cash, 100, SELL, 939, 99)
    # Closed to zero: equity must not be negative.
    assert _trade(cash, 100, SELL, 940, 100)
    assert not _trade(cash, 100, SELL, 939, 100)


def test_below_initial_margin_no_fill_turns_the_position_around() -> None:
    # Equity 100,000: one lot more than closed would need 100,000 of margin and have 99,000.
    assert _trade(100_000 + 100_000_000, -100, BUY, 1_000, 100)
    assert not _trade(100_000 + 100_000_000, -100, BUY, 1_000, 102)


def test_negative_equity_cannot_improve_its_ratio_by_closing_a_part_at_the_mark() -> None:
    cash = -1_000_000 - 100_000_000
    assert not _trade(cash, 100, SELL, 1_000, 50)
    assert _trade(cash, 100, SELL, 1_011, 50)


def test_a_placed_order_counts_until_it_is_released() -> None:
    risk, where, account = _account(1_000_000)
    e = account.exposure(0)
    assert risk.place(account, e, where, BUY, 1_005, 9, False) == Code.OK
    # 9 lots: margin 900,000, loss 45,000, fee 904.5 up.
    assert account.im_uusd == 900_000 + 45_000 + 905
    assert risk.place(account, e, where, BUY, 1_000, 1, False) == Code.INSUFFICIENT_MARGIN
    assert account.im_uusd == 945_905
    order = Resting(0, 1, 16, 0, BUY, 1_005, 9)
    order.remaining_lots = 5
    risk.release(account, order, 4)
    assert account.im_uusd == 500_000 + 25_000 + 503
    order.remaining_lots = 0
    risk.release(account, order, 5)
    assert (account.im_uusd, e.excess_uusd, e.reserve_uusd, e.bid_lots) == (0, 0, 0, 0)


def test_a_makers_outcome_gives_back_what_the_order_held() -> None:
    risk, where, account = _account(1_000_000)
    e = account.exposure(0)
    risk.place(account, e, where, SELL, 995, 8, False)
    order = Resting(0, 1, 16, 0, SELL, 995, 8)
    after: Outcome = risk.outcome(account, e, where, SELL, 995, 8, 100, order)
    assert (after.ask_lots, after.excess_uusd, after.reserve_uusd) == (0, 0, 0)
    assert (after.size_lots, after.cost_uusd) == (-8, -7_960_000)
    assert after.fee_uusd == 796
    assert after.tv_uusd == 1_000_000 - 40_000 - 796
    assert after.total_im_uusd == 800_000


def test_an_order_that_needs_all_the_equity_is_placed_and_one_that_needs_more_is_not() -> None:
    needed = 900_000 + 45_000 + 905
    for cash, code in ((needed, Code.OK), (needed - 1, Code.INSUFFICIENT_MARGIN)):
        risk, where, account = _account(cash)
        assert risk.place(account, account.exposure(0), where, BUY, 1_005, 9, False) == code
