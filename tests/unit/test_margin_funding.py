"""Premium, rate and index of funding; the clamp against eight-hour rates that were published."""

from __future__ import annotations

import lzma
import random
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest

from margin.funding import (
    INDEX_LIMIT,
    INTEREST_BAND_PPB,
    PPB,
    average_ppb,
    boundary_after,
    index_after,
    interval_rate_ppb,
    premium_ppb,
    rate_8h_ppb,
)
from margin.mark import NO_IMPACT, Impact
from protocol.markets import FUNDING_PERIOD_MS, FUNDING_SAMPLE_MS, PRICE_LIMIT

HOUR_MS = 3_600_000
INTEREST = 100_000
CAP = 40_000_000
DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "market"
PUBLISHED = sorted(DATA.glob("binance_perp_*_funding8h_*.csv.xz"))


def rate(premium: int, cap: int = CAP) -> int:
    return rate_8h_ppb(premium, INTEREST, cap)


def test_the_premium_counts_what_lies_beyond_the_oracle() -> None:
    assert premium_ppb(Impact(1_001, 1_003), 1_000) == 1_000_000
    assert premium_ppb(Impact(996, 998), 1_000) == -2_000_000
    assert premium_ppb(Impact(999, 1_001), 1_000) == 0
    assert premium_ppb(Impact(1_000, 1_000), 1_000) == 0
    assert premium_ppb(NO_IMPACT, 1_000) == 0
    assert premium_ppb(Impact(4, 5), 3) == 333_333_333
    assert premium_ppb(Impact(1, 2), 3) == -333_333_333, "towards zero on both sides"


def test_a_single_premium_is_bounded() -> None:
    assert premium_ppb(Impact(PRICE_LIMIT - 1, PRICE_LIMIT - 1), 1) == PPB
    assert premium_ppb(Impact(1, 1), PRICE_LIMIT - 1) >= -PPB
    samples = FUNDING_PERIOD_MS // FUNDING_SAMPLE_MS + 1
    assert samples * PPB < 1 << 63


def test_the_average_is_rounded_towards_zero() -> None:
    assert average_ppb(0, 0) == 0
    assert average_ppb(7, 2) == 3
    assert average_ppb(-7, 2) == -3


def test_near_the_interest_rate_the_rate_is_the_interest_rate() -> None:
    assert rate(0) == INTEREST
    assert rate(INTEREST + INTEREST_BAND_PPB) == INTEREST
    assert rate(INTEREST - INTEREST_BAND_PPB) == INTEREST
    assert rate(INTEREST + INTEREST_BAND_PPB + 1) == INTEREST + 1
    assert rate(INTEREST - INTEREST_BAND_PPB - 1) == INTEREST - 1


def test_the_rate_is_continuous_monotone_and_capped() -> None:
    rates = [rate(p, 700_000) for p in range(-2_000_000, 2_000_000, 1_000)]
    assert rates == sorted(rates)
    assert rates[0] == -700_000
    assert rates[-1] == 700_000
    assert max(b - a for a, b in pairwise(rates)) == 1_000


def test_an_hour_is_an_eighth_and_eight_of_them_no_more_than_the_whole() -> None:
    assert interval_rate_ppb(800_000, HOUR_MS) == 100_000
    assert interval_rate_ppb(-800_000, HOUR_MS) == -100_000
    assert interval_rate_ppb(15, HOUR_MS) == 1
    assert interval_rate_ppb(-15, HOUR_MS) == -1
    assert interval_rate_ppb(12_345, FUNDING_PERIOD_MS) == 12_345


def test_the_index_counts_thousandths_per_lot() -> None:
    # A lot of $1 at 0.01 %: 100 uUSD.
    assert index_after(0, 1_000_000, 100_000) == 100_000
    assert index_after(5, 1_000_000, -100_000) == 5 - 100_000
    assert index_after(0, 1, 1_999_999) == 1
    assert index_after(0, 1, -1_999_999) == -1


def test_the_index_stays_in_its_range() -> None:
    lot = (1 << 42) - 1
    index = 0
    for _ in range(3_000):
        index = index_after(index, lot, PPB)
    assert index == INDEX_LIMIT - 1
    assert index_after(index, lot, PPB) == index
    for _ in range(6_000):
        index = index_after(index, lot, -PPB)
    assert index == -(INDEX_LIMIT - 1)


def test_boundaries_are_multiples_since_the_epoch() -> None:
    assert boundary_after(0, HOUR_MS) == HOUR_MS
    assert boundary_after(HOUR_MS - 1, HOUR_MS) == HOUR_MS
    assert boundary_after(HOUR_MS, HOUR_MS) == 2 * HOUR_MS


# -- rates that were published


def published(path: Path) -> list[int]:
    """Eight-hour rates of a file, in parts per billion."""
    with lzma.open(path, "rt") as lines:
        next(lines)
        return [int(Decimal(line.split(",")[1]) * PPB) for line in lines]


def premium_of(published_ppb: int) -> int:
    """A premium from which the formula makes this rate."""
    if published_ppb > INTEREST:
        return published_ppb + INTEREST_BAND_PPB
    if published_ppb < INTEREST:
        return published_ppb - INTEREST_BAND_PPB
    return INTEREST


needs_data = pytest.mark.skipif(
    not PUBLISHED, reason="published funding rates are not part of the project"
)


@needs_data
@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.name[:40])
def test_published_rates_come_out_of_their_premiums(path: Path) -> None:
    rates = published(path)
    assert len(rates) > 900
    for value in rates:
        assert rate(premium_of(value)) == value
    # The clamp is real: rates lie on the interest rate itself far more often than on any other.
    on_interest = rates.count(INTEREST)
    others = max(rates.count(value) for value in {*rates} - {INTEREST})
    assert on_interest > len(rates) // 5
    assert on_interest > 5 * others
    # No rate of these years comes near the cap.
    assert max(abs(value) for value in rates) < CAP // 10


@needs_data
@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.name[:40])
def test_hourly_payments_add_up_to_published_ones(path: Path) -> None:
    """Eight hourly payments are within eight parts per billion of one, and the index over years
    within the rounding of its payments."""
    lot = 50_000_000
    index, exact, payments = 0, Fraction(0), 0
    for value in published(path):
        hourly = interval_rate_ppb(rate(premium_of(value)), HOUR_MS)
        assert 0 <= abs(value) - 8 * abs(hourly) < 8
        for _ in range(8):
            index = index_after(index, lot, hourly)
            payments += 1
        exact += Fraction(lot * value * 1_000, PPB)
    lost_by_rates = payments * Fraction(lot * 1_000, PPB)
    assert abs(index - exact) <= payments + lost_by_rates


def test_random_premiums_keep_all_ranges() -> None:
    rng = random.Random(5)
    for _ in range(2_000):
        oracle = rng.choice((1, 2, 1_000, PRICE_LIMIT - 1, rng.randint(1, PRICE_LIMIT - 1)))
        bid = rng.randint(1, PRICE_LIMIT - 1)
        premium = premium_ppb(Impact(bid, rng.randint(bid, PRICE_LIMIT - 1)), oracle)
        assert -PPB <= premium <= PPB
        cap = rng.randint(INTEREST, PPB)
        found = rate_8h_ppb(premium, INTEREST, cap)
        assert -cap <= found <= cap
        assert abs(found - premium) <= INTEREST_BAND_PPB or abs(found) == cap
