"""Premium samples, payments through the index, and how positions are settled against it."""

from __future__ import annotations

import random
from typing import Any

import pytest
from engine_world import GUARDIANS, START_MS, market
from pricing_world import PricingWorld

from execution import leaves as lv
from protocol.actions import HALTED, OPEN
from protocol.events import FundingPaid, FundingRate
from protocol.markets import FUNDING_SAMPLE_MS
from protocol.settlement import POOL_ACCOUNT

HOUR_MS = 3_600_000
FIRST_MS = (START_MS // HOUR_MS + 1) * HOUR_MS
"""When the first payment falls due."""
KEYS = [key.hex() for key in GUARDIANS]


def world(
    genesis: dict[str, Any] | None = None, twins: bool = True, **changes: Any
) -> PricingWorld:
    fields = {"funding_interval_ms": HOUR_MS, "impact_notional_uusd": 100_000_000} | changes
    return PricingWorld([market(0, **fields), market(1)], twins, **(genesis or {}))


def at(w: PricingWorld, time_ms: int, ticks: int | None = 1_000) -> None:
    """A block at a time, with a price unless that is None."""
    if ticks is None:
        w.block(time_ms - w.time_ms)
    else:
        w.all(ticks, time_ms - w.time_ms)


def index(w: PricingWorld) -> int:
    return w.market().funding_index


def test_a_sample_is_taken_once_in_each_period_of_the_clock() -> None:
    w = world()
    w.quote(1_002, 1_004)
    grid = START_MS // FUNDING_SAMPLE_MS * FUNDING_SAMPLE_MS
    at(w, grid + 5_100)
    assert (w.row().premium_ppb, w.row().premium_samples) == (2_000_000, 1)
    at(w, grid + 9_999)
    assert w.row().premium_samples == 1
    at(w, grid + 10_000)
    assert w.row().premium_samples == 2
    at(w, grid + 14_999)
    at(w, grid + 15_001)
    assert w.row().premium_samples == 3
    at(w, grid + 95_000)
    assert w.row().premium_samples == 4, "blocks that did not come took no samples"
    assert w.row().premium_ppb == 8_000_000
    assert index(w) == 0


def test_a_payment_moves_the_index_by_the_rate_of_the_oracle_notional() -> None:
    w = world()
    w.quote(1_002, 1_004)
    at(w, START_MS + 10_000)
    at(w, FIRST_MS - 1)
    assert w.of(FundingRate) == []
    at(w, FIRST_MS)
    # 0.2 % premium less 0.05 %, an eighth of it, of a lot of $1.
    assert w.of(FundingRate) == [FundingRate(0, 187_500, 187_500)]
    assert (index(w), w.row().funding_index, w.row().rate_ppb) == (187_500, 187_500, 187_500)
    assert (w.row().premium_samples, w.row().premium_ppb) == (0, 0)
    assert w.row().next_payment_ms == FIRST_MS + HOUR_MS


def test_without_premium_the_interest_rate_is_paid() -> None:
    w = world()
    at(w, START_MS + 10_000)
    at(w, FIRST_MS)
    assert w.of(FundingRate) == [FundingRate(0, 12_500, 12_500)]


def test_shorts_pay_when_the_book_stands_below_the_oracle() -> None:
    w = world()
    w.quote(960, 970)
    at(w, START_MS + 10_000)
    at(w, FIRST_MS)
    assert w.of(FundingRate) == [FundingRate(0, -3_687_500, -3_687_500)]


def test_the_rate_is_capped() -> None:
    w = world(funding_cap_ppb=8_000_000)
    w.quote(960, 970)
    at(w, START_MS + 10_000)
    at(w, FIRST_MS)
    assert w.row().rate_ppb == -1_000_000


def test_a_gap_of_several_intervals_pays_once() -> None:
    w = world()
    w.quote(1_002, 1_004)
    at(w, START_MS + 10_000)
    at(w, FIRST_MS + 5 * HOUR_MS + 17, None)
    assert w.of(FundingRate) == [FundingRate(0, 187_500, 187_500)]
    assert w.row().next_payment_ms == FIRST_MS + 6 * HOUR_MS
    at(w, FIRST_MS + 6 * HOUR_MS - 1, None)
    assert w.of(FundingRate) == []


def test_before_the_first_price_nothing_is_sampled_or_paid() -> None:
    w = world()
    w.quote(1_002, 1_004)
    at(w, START_MS + 10_000, None)
    at(w, FIRST_MS, None)
    assert index(w) == 0
    assert w.row().next_payment_ms == 0
    at(w, FIRST_MS + 10)
    assert w.row().next_payment_ms == FIRST_MS + HOUR_MS


def test_a_stale_market_pays_when_its_prices_are_back() -> None:
    w = world(oracle_age_ms=3_000)
    w.quote(1_002, 1_004)
    at(w, FIRST_MS - 10_000)
    assert w.row().premium_samples == 1
    at(w, FIRST_MS - 2_000, None)
    at(w, FIRST_MS, None)
    at(w, FIRST_MS + 2 * HOUR_MS, None)
    assert w.market().stale
    assert (index(w), w.row().premium_samples) == (0, 1)
    at(w, FIRST_MS + 2 * HOUR_MS + 20, 2_000)
    # One payment: the sample from before, and one of a book far below the new price, which counts.
    assert len(w.of(FundingRate)) == 1
    assert w.row().next_payment_ms == FIRST_MS + 3 * HOUR_MS


def test_a_halted_market_neither_samples_nor_pays() -> None:
    w = world({"guardians": KEYS})
    w.quote(1_002, 1_004)
    at(w, FIRST_MS - 20_000)
    for guardian in (0, 1):
        w.vote(guardian, 0, HALTED)
    at(w, FIRST_MS - 10_000)
    at(w, FIRST_MS + 10_000)
    assert (index(w), w.row().premium_samples) == (0, 1)
    for guardian in (0, 1):
        w.vote(guardian, 0, OPEN)
    at(w, FIRST_MS + 20_000)
    assert w.of(FundingRate) == [FundingRate(0, 187_500, 187_500)]


def test_the_predicted_rate_is_that_of_a_payment_now() -> None:
    w = world()
    assert w.funding.predicted_ppb(w.market()) == 12_500
    assert w.funding.predicted_ppb(w.market(1)) == 0
    w.quote(1_002, 1_004)
    at(w, START_MS + 10_000)
    assert w.funding.predicted_ppb(w.market()) == 187_500
    w.quote(1_004, 1_006)
    at(w, START_MS + 20_000)
    predicted = w.funding.predicted_ppb(w.market())
    assert predicted == (3_000_000 - 500_000) // 8
    w.quote(1_003, 1_005)
    at(w, FIRST_MS)
    assert w.row().rate_ppb == predicted


def test_a_payment_raises_the_version_and_a_sample_does_not() -> None:
    w = world(impact_notional_uusd=0)
    at(w, START_MS + 10_000)
    version = w.state.risk.version
    at(w, START_MS + 20_000)
    assert w.state.risk.version == version
    at(w, FIRST_MS)
    assert w.state.risk.version == version + 1


# -- positions


def test_positions_are_settled_when_their_account_is_touched() -> None:
    w = world()
    w.quote(1_002, 1_004)
    at(w, START_MS + 10_000)
    w.trade(17, 18, 1_000, 7)
    at(w, FIRST_MS)
    assert lv.position_key(17, 0) not in w.changes
    long, short = w.account(17), w.account(18)
    before = w.cash()
    w.touch(long)
    assert w.state.events[-1] == FundingPaid(17, 0, 7, -1_313)
    assert long.exposures[0].funding_index == index(w)
    w.touch(short)
    assert w.state.events[-1] == FundingPaid(18, 0, -7, 1_312)
    after = w.cash()
    assert after[17] - before[17] == -1_313
    assert after[18] - before[18] == 1_312
    assert after[POOL_ACCOUNT] == 1
    w.block()


def test_settling_does_not_change_equity() -> None:
    w = world()
    at(w, START_MS + 10_000)
    w.trade(17, 18, 1_000, 7)
    at(w, FIRST_MS)
    for account in (w.account(17), w.account(18)):
        w.state.risk.refresh(account)
        before = account.tv_uusd
        w.pricing.settle(account)
        assert account.tv_uusd == before
        w.state.risk.refresh(account)
        assert account.tv_uusd == before
    w.state.commit()


def test_the_pools_totals_follow_its_cash() -> None:
    w = world()
    at(w, START_MS + 10_000)
    w.trade(17, 18, 1_000, 7)
    at(w, FIRST_MS)
    pool = w.state.pool
    w.touch(pool)
    w.touch(w.account(17))
    assert pool.version == w.state.risk.version
    assert pool.tv_uusd == pool.cash_uusd != 0
    w.state.commit()


def test_markets_are_settled_in_their_order() -> None:
    w = PricingWorld([market(n, funding_interval_ms=HOUR_MS) for n in range(3)])
    for number in (2, 0, 1):
        w.trade(17, 18, 1_000, 7, number)
    for number in (2, 0, 1):
        w.all(1_000, 10_000, market=number)
    at(w, FIRST_MS)
    w.touch(w.account(17))
    assert [event.market for event in w.of(FundingPaid)] == [0, 1, 2]
    w.block()


def test_who_was_not_there_does_not_pay() -> None:
    w = world()
    at(w, START_MS + 10_000)
    at(w, FIRST_MS)
    w.trade(17, 18, 1_000, 7)
    w.state.risk.version += 1
    w.touch(w.account(17))
    assert POOL_ACCOUNT not in w.cash()
    w.trade(18, 17, 1_000, 7)
    at(w, FIRST_MS + HOUR_MS)
    w.touch(w.account(17))
    assert POOL_ACCOUNT not in w.cash(), "no position, no funding"


def test_a_payment_too_small_to_see_is_settled_without_an_event() -> None:
    w = PricingWorld([market(0, lot_micro=1, funding_interval_ms=HOUR_MS)])
    w.all(1_000, 10_000)
    w.trade(17, 18, 1_000, 1)
    w.all(1_000, FIRST_MS - w.time_ms)
    short = w.account(18)
    w.touch(short)
    assert w.state.events == [FundingRate(0, 12_500, 12)]
    assert short.exposures[0].funding_index == 12
    w.touch(w.account(17))
    assert w.cash()[POOL_ACCOUNT] == 1
    w.block()


@pytest.mark.parametrize("seed", range(4))
def test_the_pool_keeps_what_rounding_leaves_whatever_the_order(seed: int) -> None:
    print("seed", seed)
    rng = random.Random(seed)
    w = world(twins=seed == 0)
    numbers = range(17, 27)
    settled = 0
    at(w, START_MS + 10_000)
    for _ in range(60):
        w.quote(*rng.choice([(1_002, 1_004), (960, 970), (1_030, 1_040), (0, 0)]))
        w.all(rng.randint(950, 1_050), rng.choice((20, 5_000, 600_000, HOUR_MS)))
        for _ in range(rng.randint(0, 3)):
            buyer, seller = rng.sample(numbers, 2)
            w.trade(buyer, seller, 1_000, rng.randint(1, 999))
        for number in rng.sample(numbers, 2):
            w.touch(w.account(number))
        settled += len(w.of(FundingPaid))
    everybody = list(numbers)
    rng.shuffle(everybody)
    for number in everybody:
        w.state.risk.version += 1
        w.touch(w.account(number))
    assert settled > 20
    payments = 60
    assert 0 <= w.state.pool.cash_uusd <= payments * len(everybody)
    assert sum(w.cash().values()) == 0
