"""Notional tiers, open-interest scaling, leverage caps and reduce-only orders in the margin of a
linear contract: numbers worked out by hand."""

from __future__ import annotations

import pytest

from margin.linear import LinearPerpetual, MarginRates, Tiers
from protocol.actions import BUY, SELL
from protocol.markets import MarginTier

TIERED = LinearPerpetual(
    1,
    MarginRates(20_000, 10_000),
    [MarginTier(100_000, 50_000, 25_000), MarginTier(500_000, 200_000, 100_000)],
)
"""2 % / 1 % up to 100,000; 5 % / 2.5 % up to 500,000; 20 % / 10 % above."""
FLAT = LinearPerpetual(1, MarginRates(20_000, 10_000))


@pytest.mark.parametrize(
    ("notional", "initial", "maintenance"),
    [
        (0, 0, 0),
        (1, 1, 1),
        (100_000, 2_000, 1_000),
        (100_001, 2_001, 1_001),  # 2000.05, 1000.025
        (300_000, 12_000, 6_000),
        (500_000, 22_000, 11_000),
        (500_001, 22_001, 11_001),  # 22000.2, 11000.1
        (1_000_000, 122_000, 61_000),
    ],
)
def test_each_part_of_the_notional_has_the_rate_of_its_tier(
    notional: int, initial: int, maintenance: int
) -> None:
    assert TIERED.initial_uusd(notional, 0, 0, 0, 0, 1, 0, 0) == initial
    assert TIERED.initial_uusd(0, 0, notional, 0, 0, 1, 0, 0) == initial
    assert TIERED.maintenance_uusd(notional, 1) == maintenance
    assert TIERED.maintenance_uusd(-notional, 1) == maintenance


def test_it_is_rounded_up_once_not_tier_by_tier() -> None:
    # 33.3 % of 1, 33.3 % of 1, 33.3 % of 1: 0.999 in all.
    tiers = Tiers(333_000, [(1, 333_000), (2, 333_000)])
    assert tiers.margin_uusd(3) == 1
    # 10 % of 5 and 50 % of 1: 1.0 exactly.
    assert Tiers(100_000, [(5, 500_000)]).margin_uusd(6) == 1
    assert Tiers(100_000, [(5, 500_000)]).margin_uusd(7) == 2


def test_open_interest_and_leverage_ask_for_at_least_their_part() -> None:
    def initial(scaled_ppm: int, leverage: int, notional: int = 300_000) -> int:
        return TIERED.initial_uusd(notional, 0, 0, 0, 0, 1, scaled_ppm, leverage)

    assert initial(0, 0) == 12_000
    assert initial(40_000, 0) == 12_000
    assert initial(40_001, 0) == 12_001
    assert initial(1_000_000, 0) == 300_000
    assert initial(0, 25) == 12_000
    assert initial(0, 24) == 12_500
    assert initial(0, 1) == 300_000
    assert initial(50_000, 24) == 15_000
    assert initial(41_000, 24) == 12_500
    assert initial(1, 3, 10) == 4
    assert initial(100_001, 0, 10) == 2


@pytest.mark.parametrize(
    ("size", "bids", "asks", "reduce_bids", "reduce_asks", "worst"),
    [
        (10, 0, 0, 0, 10, 10),  # what closes adds nothing
        (10, 0, 10, 0, 0, 10),  # asks close the long first
        (10, 0, 10, 0, 10, 10),  # closed by the reduce-only ones, the others go short
        (10, 0, 15, 0, 4, 10),
        (10, 0, 15, 0, 6, 11),
        (10, 0, 15, 0, 10, 15),
        (10, 0, 15, 0, 99, 15),  # reduce-only never goes beyond flat
        (10, 3, 15, 0, 99, 15),
        (10, 6, 15, 0, 99, 16),
        (10, 0, 0, 7, 0, 10),  # reduce-only bids of a long do nothing
        (-10, 15, 0, 10, 0, 15),
        (-10, 15, 0, 4, 0, 10),
        (-10, 15, 0, 99, 0, 15),
        (-10, 0, 0, 99, 0, 10),
        (-10, 0, 5, 99, 7, 15),
        (0, 0, 0, 5, 5, 0),
        (0, 3, 2, 5, 5, 3),
    ],
)
def test_reduce_only_orders_close_and_never_open(
    size: int, bids: int, asks: int, reduce_bids: int, reduce_asks: int, worst: int
) -> None:
    assert (
        FLAT.initial_uusd(size, bids, asks, reduce_bids, reduce_asks, 50, 0, 0) == worst
    )  # 2 % of worst x 50 is worst


def test_while_stale_a_position_is_worth_more_or_less_by_the_band() -> None:
    product = LinearPerpetual(3, MarginRates(20_000, 10_000))
    # 7 x 11 x 3 = 231; 5 % of it 11.55.
    assert product.stale_uusd(7, 11, 50_000) == (231 - 12, 231 + 11)
    assert product.stale_uusd(-7, 11, 50_000) == (-231 - 12, -231 + 11)
    assert product.stale_uusd(-7, 11, 0) == (-231, -231)


def test_funding_is_rounded_against_whoever_pays_or_receives_it() -> None:
    assert FLAT.funding_uusd(3, 500) == -2
    assert FLAT.funding_uusd(-3, 500) == 1
    assert FLAT.funding_uusd(3, -500) == 1
    assert FLAT.funding_uusd(-3, -500) == -2
    assert FLAT.funding_uusd(2, 500) == -1
    assert FLAT.funding_uusd(0, 500) == 0


def test_the_highest_price_below_a_notional() -> None:
    product = LinearPerpetual(7, MarginRates(20_000, 10_000))
    assert product.highest_ticks(3, 210) == 9
    assert product.highest_ticks(3, 211) == 10


def test_the_last_safe_mark_of_a_long_is_found_to_the_tick() -> None:
    # 100 lots, value 1000, MM 5 %. Without its worth the account has -90,000,000:
    # 100,000 m - 90,000,000 >= 5,000 m from m = 947.4 on.
    product = LinearPerpetual(1_000, MarginRates(100_000, 50_000))
    assert product.last_safe_ticks(100, -90_000_000, 0, 1 << 31) == 948
    # Exactly: 95,000 m = 95,000,000.
    assert product.last_safe_ticks(100, -95_000_000, 0, 1 << 31) == 1_000
    assert product.last_safe_ticks(100, -95_000_001, 0, 1 << 31) == 1_001
    # A debt of 95,000 needs the mark of 1 at least; without a debt there is no last one.
    assert product.last_safe_ticks(100, -95_000, 0, 1 << 31) is None
    assert product.last_safe_ticks(100, -95_001, 0, 1 << 31) == 2
    assert product.last_safe_ticks(100, 0, 0, 1 << 31) is None
    # Nor is there one where no mark helps.
    assert product.last_safe_ticks(100, -95_000 * 5_000, 0, 5_000) is None
    assert product.last_safe_ticks(100, -95_000 * 4_999, 0, 5_000) == 4_999


def test_the_last_safe_mark_of_a_short_lies_above() -> None:
    product = LinearPerpetual(1_000, MarginRates(100_000, 50_000))
    # 110,000,000 - 100,000 m >= 5,000 m up to m = 1047.6.
    assert product.last_safe_ticks(-100, 110_000_000, 0, 1 << 31) == 1_047
    assert product.last_safe_ticks(-100, 105_000_000, 0, 1 << 31) == 1_000
    assert product.last_safe_ticks(-100, 104_999_999, 0, 1 << 31) == 999
    assert product.last_safe_ticks(-100, 105_000, 0, 1 << 31) == 1
    assert product.last_safe_ticks(-100, 104_999, 0, 1 << 31) is None
    assert product.last_safe_ticks(-100, 105_000 * 4_998, 0, 5_000) == 4_998
    assert product.last_safe_ticks(-100, 105_000 * 4_999, 0, 5_000) is None
    assert product.last_safe_ticks(0, 5, 0, 5_000) is None


def test_the_last_safe_mark_while_stale_lies_further_away_by_the_band() -> None:
    product = LinearPerpetual(1_000, MarginRates(100_000, 50_000))
    # 110,000,000 - 95,000 m >= 5,000 m up to m = 1100.
    assert product.last_safe_ticks(-100, 110_000_000, 50_000, 1 << 31) == 1_100


def test_the_entry_price_is_rounded_against_the_account() -> None:
    product = LinearPerpetual(7, MarginRates(20_000, 10_000))
    assert product.entry_ticks(3, 21 * 5) == 5
    assert product.entry_ticks(3, 21 * 5 + 1) == 6
    assert product.entry_ticks(-3, -21 * 5) == 5
    assert product.entry_ticks(-3, -21 * 5 - 1) == 5
    assert product.entry_ticks(0, 0) == 0


def test_an_order_beyond_the_mark_costs_its_loss_on_both_sides() -> None:
    assert FLAT.excess_uusd(BUY, 11, 3, 10) == FLAT.excess_uusd(SELL, 9, 3, 10) == 3
