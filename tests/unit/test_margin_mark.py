"""Impact prices, the moving average, the mark and what dated futures settle at."""

from __future__ import annotations

import random

import pytest

from margin.mark import (
    EMA_MS,
    EMA_UNIT,
    NO_IMPACT,
    YEAR_MS,
    Impact,
    band,
    blended_ticks,
    book_price_ticks,
    ema_after,
    ema_price_ticks,
    impact_prices,
    median,
    scaled_initial_ppm,
    settlement_ticks,
    within,
)
from matching.book import Book, Resting
from protocol.actions import BUY, SELL

WIDE = 50_000
FAR = 1 << 80


def book(bids: list[tuple[int, int]], asks: list[tuple[int, int]]) -> Book:
    made = Book(0)
    for side, levels in ((BUY, bids), (SELL, asks)):
        for ticks, lots in levels:
            made.add(Resting(0, len(made.orders) + 1, 16, 0, side, ticks, lots))
    return made


def test_impact_prices_are_averages_over_the_depth_that_is_needed() -> None:
    deep = book([(999, 10), (990, 100)], [(1_001, 10), (1_010, 100)])
    assert impact_prices(deep, 9_990, 1_000, WIDE) == (999, 1_001)
    bid, ask = impact_prices(deep, 50_000, 1_000, WIDE)
    assert 990 < bid < 999
    assert 1_001 < ask < 1_010


def test_a_shallow_or_one_sided_book_says_nothing() -> None:
    assert impact_prices(book([], []), 1, 1_000, WIDE) == NO_IMPACT
    assert impact_prices(book([(999, 10)], []), 1, 1_000, WIDE) == NO_IMPACT
    assert impact_prices(book([], [(1_001, 10)]), 1, 1_000, WIDE) == NO_IMPACT
    thin = book([(999, 10)], [(1_001, 5)])
    assert impact_prices(thin, 5_005, 1_000, WIDE) == (999, 1_001)
    assert impact_prices(thin, 5_006, 1_000, WIDE) == NO_IMPACT


def test_a_wide_book_says_nothing() -> None:
    wide = book([(975, 10)], [(1_025, 10)])
    assert impact_prices(wide, 100, 1_000, 50_001) == (975, 1_025)
    assert impact_prices(wide, 100, 1_000, 50_000) == NO_IMPACT, "from this spread on"


def test_the_band_is_half_the_maintenance_rate_and_for_dated_futures_carry() -> None:
    assert band(1_000, 50_000) == 25 * EMA_UNIT
    assert band(1_000, 50_000, -YEAR_MS) == 25 * EMA_UNIT
    assert band(1_000, 50_000, YEAR_MS) == 275 * EMA_UNIT
    assert band(1_000, 50_000, YEAR_MS // 10) == 50 * EMA_UNIT
    assert band(1_000, 50_000, 9 * YEAR_MS) == 500 * EMA_UNIT, "never below half the price"
    assert band(1, 50_000) < EMA_UNIT // 2


def test_the_average_moves_by_the_weight_of_the_time_that_passed() -> None:
    impact = Impact(1_009, 1_011)
    assert ema_after(0, impact, 1_000, 0, FAR) == 0
    assert ema_after(0, impact, 1_000, EMA_MS, FAR) == 5 * EMA_UNIT
    assert ema_after(5 * EMA_UNIT, impact, 1_000, EMA_MS, FAR) == 5 * EMA_UNIT * 3 // 2
    assert ema_after(0, impact, 1_000, 10**15, FAR) == pytest.approx(10 * EMA_UNIT, abs=1)
    assert ema_after(0, Impact(1_000, 1_001), 1_000, EMA_MS, FAR) == EMA_UNIT // 4, "half ticks"


def test_a_book_that_says_nothing_pulls_the_average_to_zero() -> None:
    assert ema_after(8 * EMA_UNIT, NO_IMPACT, 1_000, EMA_MS, FAR) == 4 * EMA_UNIT
    assert ema_after(-8 * EMA_UNIT, NO_IMPACT, 1_000, EMA_MS, FAR) == -4 * EMA_UNIT


def test_the_average_is_bounded_and_treats_both_sides_alike() -> None:
    assert ema_after(0, Impact(1_999, 2_001), 1_000, 10**9, 25 * EMA_UNIT) == 25 * EMA_UNIT
    assert ema_after(0, Impact(499, 501), 1_000, 10**9, 25 * EMA_UNIT) == -25 * EMA_UNIT
    rng = random.Random(1)
    for _ in range(500):
        ema, dt = rng.randint(-(10**6), 10**6), rng.randint(0, 10**6)
        ahead = rng.randint(-50, 50)
        up = ema_after(ema, Impact(1_000 + ahead, 1_000 + ahead), 1_000, dt, FAR)
        down = ema_after(-ema, Impact(1_000 - ahead, 1_000 - ahead), 1_000, dt, FAR)
        assert up == -down
        assert min(ema, ahead * EMA_UNIT) <= up <= max(ema, ahead * EMA_UNIT)


def test_steady_samples_lead_the_average_there() -> None:
    ema = 0
    for _ in range(3_000):
        ema = ema_after(ema, Impact(1_009, 1_011), 1_000, 1_000, FAR)
    assert ema_price_ticks(1_000, ema) == 1_010
    assert 0 <= 10 * EMA_UNIT - ema < 200, "a step below one unit is not made"


def test_the_average_is_rounded_to_the_nearest_tick() -> None:
    half = EMA_UNIT // 2
    assert [ema_price_ticks(1_000, ema) for ema in (half - 1, half, -half, -half - 1)] == [
        1_000, 1_001, 1_000, 999,
    ]  # fmt: skip


def test_the_price_of_the_book_is_the_median_with_the_last_trade() -> None:
    impact = Impact(990, 1_010)
    assert book_price_ticks(impact, 1_000, 500) == 1_000
    assert book_price_ticks(impact, 1_500, 500) == 1_010
    assert book_price_ticks(impact, 1, 500) == 990
    assert book_price_ticks(impact, 0, 500) == 1_000, "no trade yet: the middle"
    assert book_price_ticks(NO_IMPACT, 1_500, 500) == 500


def test_the_median_of_three() -> None:
    rng = random.Random(2)
    for _ in range(200):
        three = [rng.randint(0, 5) for _ in range(3)]
        assert median(*three) == sorted(three)[1]


def test_within() -> None:
    assert [within(v, 3) for v in (-9, -3, 0, 3, 9)] == [-3, -3, 0, 3, 3]


def test_settlement_is_the_average_over_time_to_the_nearest_tick() -> None:
    assert settlement_ticks(100 * 7, 7) == 100
    assert settlement_ticks(100 * 10 + 200 * 30, 40) == 175
    assert settlement_ticks(3, 2) == 2
    assert settlement_ticks(29, 20) == 1


def test_the_blend_goes_from_the_live_mark_to_the_average() -> None:
    assert blended_ticks(1_200, 0, 0, 1_000) == 1_200
    assert blended_ticks(1_200, 1_000 * 250, 250, 1_000) == 1_150
    assert blended_ticks(1_200, 1_000 * 1_000, 1_000, 1_000) == 1_000
    assert blended_ticks(1_200, 1_000 * 1_500, 1_500, 1_000) == 1_000, "it may run late"


def test_open_interest_scales_the_initial_rate_from_its_base_to_one() -> None:
    def rate(open_uusd: int) -> int:
        return scaled_initial_ppm(open_uusd, 100_000, 1_000, 2_000)

    assert rate(0) == rate(1_000) == 0
    assert rate(1_001) == 100_900
    assert rate(1_500) == 550_000
    assert rate(1_999) == 999_100
    assert rate(2_000) == rate(10**18) == 1_000_000
    assert scaled_initial_ppm(1_001, 100_000, 1_000, 8_000) == 100_129, "rounded up"
    assert scaled_initial_ppm(10**18, 100_000, 0, 0) == 0, "off"
    rates = [rate(n) for n in range(1_001, 2_002)]
    assert rates == sorted(rates)
