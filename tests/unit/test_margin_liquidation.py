"""Zero price, stages and fees, against fractions and by hand."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from margin.linear import LinearPerpetual, MarginRates
from margin.liquidation import (
    BACKSTOP,
    DELEVERAGED,
    ORDERS,
    SAFE,
    better_than,
    fee_uusd,
    first_part_lots,
    kept_uusd,
    largest,
    stage,
    zero_ticks,
)
from protocol.actions import BUY, SELL
from protocol.genesis import MarginTier

VALUE = 1_000
TIERS = (MarginTier(500_000_000, 150_000, 80_000), MarginTier(2_000_000_000, 300_000, 200_000))


@pytest.mark.parametrize(
    ("tv", "mm", "expected"),
    [
        (300, 300, SAFE),
        (0, 0, SAFE),
        (299, 300, ORDERS),
        (200, 300, ORDERS),
        (199, 300, BACKSTOP),
        (1, 300, BACKSTOP),
        (0, 300, DELEVERAGED),
        (-5, 300, DELEVERAGED),
        (-1, 0, DELEVERAGED),
    ],
)
def test_stages_change_at_maintenance_two_thirds_of_it_and_nothing(
    tv: int, mm: int, expected: int
) -> None:
    assert stage(tv, mm) == expected


def test_the_zero_price_of_a_whole_position_is_the_price_of_bankruptcy() -> None:
    # 1,000 lots at 985, equity 45 dollars: 45 ticks of 1 dollar.
    assert zero_ticks(SELL, 985, 45_000_000, 49_250_000, 0, 1_000 * VALUE) == 940
    assert zero_ticks(BUY, 985, 45_000_000, 49_250_000, 0, 1_000 * VALUE) == 1_030


def test_zero_prices_are_rounded_for_the_account() -> None:
    # 45.5 ticks: a sell may not go to 939.5, so 940; a buy not to 1030.5, so 1030.
    assert zero_ticks(SELL, 985, 45_500_000, 49_250_000, 0, 1_000 * VALUE) == 940
    assert zero_ticks(BUY, 985, 45_500_000, 49_250_000, 0, 1_000 * VALUE) == 1_030
    assert zero_ticks(SELL, 3, 45_500_000, 49_250_000, 0, VALUE) == 1


def random_account(rng: random.Random) -> tuple[LinearPerpetual, int, int, int, int, int]:
    """(product, size, mark, lots closed, TV, MM of all positions) of an account below MM."""
    tiers = TIERS if rng.random() < 0.5 else ()
    product = LinearPerpetual(VALUE, MarginRates(100_000, 50_000), tiers)
    mark = rng.randint(2, 5_000)
    size = rng.randint(1, 10 ** rng.randint(1, 6)) * rng.choice((1, -1))
    mm = product.maintenance_uusd(size, mark) + rng.choice((0, rng.randint(0, 10**9)))
    tv = rng.randint(1, mm - 1) if mm > 1 else 1
    return product, size, mark, rng.randint(1, abs(size)), tv, mm


@pytest.mark.parametrize("seed", range(20))
def test_at_the_zero_price_equity_over_margin_stays_and_a_tick_further_it_falls(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(200):
        product, size, mark, lots, tv, mm = random_account(rng)
        after = size - lots if size > 0 else size + lots
        mm_after = mm - product.maintenance_uusd(size, mark) + product.maintenance_uusd(after, mark)
        side = SELL if size > 0 else BUY
        zero = zero_ticks(side, mark, tv, mm, mm_after, product.notional_uusd(lots, 1))

        def tv_after(
            price: int,
            product: LinearPerpetual = product,
            positions: tuple[int, int, int, int] = (size, after, mark, tv),
        ) -> int:
            before, left, at, equity = positions
            traded = product.value_uusd(before - left, price)
            return equity + traded - product.value_uusd(before - left, at)

        keeps = tv_after(zero) * mm >= tv * mm_after
        # The price of 1 tick is the only one that is not rounded, but bounded.
        assert keeps, (seed, size, mark, lots, tv, mm)
        worse = zero - 1 if side == SELL else zero + 1
        if worse > 0 and not (side == SELL and zero == 1):
            assert tv_after(worse) * mm < tv * mm_after
        assert better_than(side, worse, zero) == -1
        # The fee of a better price takes at most what is above the zero price.
        price = zero + 7 if side == SELL else zero - 7
        if price > 0:
            notional = product.notional_uusd(lots, price)
            fee = fee_uusd(notional, 7 * product.notional_uusd(lots, 1), 10_000)
            assert 0 <= fee <= notional // 100
            assert (tv_after(price) - fee) * mm >= tv * mm_after


@pytest.mark.parametrize("seed", range(5))
def test_kept_equity_is_the_exact_share_rounded_down(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(500):
        mm = rng.randint(1, 10**15)
        tv, mm_after = rng.randint(0, mm), rng.randint(0, mm)
        exact = Fraction(tv * mm_after, mm)
        kept = kept_uusd(tv, mm, mm_after)
        assert kept <= exact < kept + 1
    assert kept_uusd(77, 100, 0) == 0
    assert kept_uusd(77, 100, 100) == 77


def test_a_fee_is_never_negative() -> None:
    assert fee_uusd(1_000_000, -5, 10_000) == 0
    assert fee_uusd(1_000_000, 50_000, 10_000) == 10_000
    assert fee_uusd(1_000_000, 9_999, 10_000) == 9_999
    assert fee_uusd(99, 50, 10_000) == 0


def test_the_first_part_is_rounded_up() -> None:
    assert first_part_lots(1, 200_000) == 1
    assert first_part_lots(10, 200_000) == 2
    assert first_part_lots(11, 200_000) == 3
    assert first_part_lots(11, 1_000_000) == 11


@pytest.mark.parametrize("limit", range(12))
def test_largest_finds_the_last_accepted_size(limit: int) -> None:
    asked = []

    def accepted(lots: int) -> bool:
        asked.append(lots)
        return lots <= limit

    assert largest(10, accepted) == min(limit, 10)
    assert all(1 <= lots <= 10 for lots in asked)
    assert largest(0, accepted) == 0
    assert largest(1, accepted) == min(limit, 1)


def test_a_size_of_which_not_even_one_is_accepted_is_asked_about_twice() -> None:
    asked: list[int] = []

    def refuse(lots: int) -> bool:
        asked.append(lots)
        return False

    assert largest(1 << 40, refuse) == 0
    assert asked == [1 << 40, 1]
