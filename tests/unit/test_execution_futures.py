"""Dated futures: the settlement average, its blend into the mark, expiry and lazy settlement."""

from __future__ import annotations

from typing import Any

from engine_world import GUARDIANS, START_MS, market
from pricing_world import PricingWorld

from execution import leaves as lv
from margin.mark import EMA_UNIT, YEAR_MS
from protocol.actions import CANCEL_ONLY, HALTED, OPEN
from protocol.errors import Code
from protocol.events import Expired, MarketChanged, PositionSettled
from protocol.settlement import POOL_ACCOUNT

EXPIRES_MS = START_MS + 100_000
WINDOW_MS = 40_000
KEYS = [key.hex() for key in GUARDIANS]


def world(genesis: dict[str, Any] | None = None, **changes: Any) -> PricingWorld:
    dated = {"expires_ms": EXPIRES_MS, "settle_window_ms": WINDOW_MS}
    return PricingWorld([market(0, **(dated | changes)), market(1)], **(genesis or {}))


def to(w: PricingWorld, time_ms: int, ticks: int | None = None) -> None:
    """A block at a time since genesis, with or without a price."""
    dt_ms = START_MS + time_ms - w.time_ms
    if ticks is None:
        w.block(dt_ms)
    else:
        w.all(ticks, dt_ms)


def settled_at(w: PricingWorld) -> int:
    return w.market().settled_ticks


def test_it_settles_at_the_time_weighted_average_of_its_window() -> None:
    w = world()
    to(w, 50_000, 2_000)
    assert not w.state.pricing.rows, "nothing is averaged before the window"
    to(w, 59_000, 1_000)
    to(w, 70_000, 1_100)
    to(w, 80_000, 1_200)
    to(w, 99_999)
    assert settled_at(w) == 0
    to(w, 100_000)
    # 1000 for 10 s, 1100 for 10 s, 1200 for 20 s.
    assert w.events == [MarketChanged(0, CANCEL_ONLY, False), Expired(0, 1_125)]
    assert settled_at(w) == w.mark() == 1_125
    assert w.row().averaged_ms == WINDOW_MS


def test_while_the_average_runs_the_mark_blends_it_in() -> None:
    w = world()
    to(w, 60_000, 1_000)
    assert w.mark() == 1_000
    to(w, 70_000, 1_400)
    assert w.mark() == 1_300, "a quarter is averaged at 1000"
    to(w, 80_000)
    assert w.mark() == 1_300, "a steady price leaves the blend where it is"
    to(w, 90_000, 1_000)
    assert w.mark() == (1_000 + 2 * 1_400 + 1_000) // 4
    to(w, 99_999)
    assert w.mark() == 1_200
    version = w.state.risk.version
    to(w, 100_000)
    assert w.events == [MarketChanged(0, CANCEL_ONLY, False), Expired(0, 1_200)]
    assert w.state.risk.version > version, "positions count otherwise from now on"


def test_a_late_block_counts_nothing_after_the_end() -> None:
    w = world()
    to(w, 60_000, 1_000)
    to(w, 90_000, 1_400)
    to(w, 700_000, 9_999)
    assert w.events[1:] == [Expired(0, 1_100)], "the blend had it already"
    assert settled_at(w) == 1_100


def test_one_block_over_the_whole_window_is_enough() -> None:
    w = world()
    to(w, 10_000, 1_234)
    to(w, 700_000)
    assert settled_at(w) == 1_234


def test_the_last_moments_count_when_nothing_else_changes() -> None:
    w = world({"guardians": KEYS})
    to(w, 60_000, 1_000)
    for guardian in (0, 1):
        w.vote(guardian, 0, CANCEL_ONLY)
    to(w, 99_000)
    to(w, 99_500)
    to(w, 100_000)
    assert w.events == [Expired(0, 1_000)]
    assert w.row().averaged_ms == WINDOW_MS


def test_without_any_oracle_it_settles_at_the_initial_price() -> None:
    w = world()
    to(w, 80_000)
    to(w, 100_000)
    assert settled_at(w) == 1_000


def test_stale_time_does_not_count() -> None:
    w = world(oracle_age_ms=3_000)
    for second in range(58, 70):
        to(w, second * 1_000, 1_000)
    to(w, 72_001)
    assert w.market().stale
    for second in range(80, 101):
        to(w, second * 1_000, 1_300)
    row = w.row()
    # 60..72 s at 1000 (to the end of the last price's life), 80..100 s at 1300.
    assert abs(row.averaged_ms - 32_000) <= 1
    assert settled_at(w) == round((12_000 * 1_000 + 20_000 * 1_300) / 32_000)


def test_a_gap_counts_no_longer_than_a_price_lives() -> None:
    w = world(oracle_age_ms=3_000)
    to(w, 60_000, 1_000)
    to(w, 75_000, 1_300)
    assert w.row().averaged_ms == 3_000
    to(w, 78_000, 1_300)
    assert w.row().averaged_ms == 6_000


def test_it_waits_until_half_of_the_window_is_covered_by_fresh_prices() -> None:
    w = world(oracle_age_ms=3_000)
    to(w, 59_000, 1_000)
    to(w, 61_000, 1_000)
    to(w, 99_000)
    assert w.market().stale
    to(w, 101_000)
    assert settled_at(w) == 0
    assert w.market().mode == CANCEL_ONLY, "its time is over all the same"
    covered = w.row().averaged_ms
    to(w, 110_000, 1_500)
    for second in range(111, 111 + 20):
        to(w, second * 1_000, 1_500)
        if settled_at(w):
            break
    assert w.row().averaged_ms >= WINDOW_MS // 2
    assert w.row().averaged_ms - 1_000 < WINDOW_MS // 2
    late = w.row().averaged_ms - covered
    assert settled_at(w) == round((covered * 1_000 + late * 1_500) / (covered + late))


def test_it_settles_over_half_a_window_though_prices_are_stale_by_then() -> None:
    w = world(oracle_age_ms=3_000)
    for second in range(59, 90):
        to(w, second * 1_000, 1_000)
    to(w, 95_000)
    assert w.market().stale
    to(w, 100_000)
    assert settled_at(w) == 1_000
    assert not w.market().stale


def test_guardians_keep_it_open_by_halting_it() -> None:
    w = world({"guardians": KEYS})
    to(w, 60_000, 1_000)
    to(w, 90_000)
    for guardian in (0, 1):
        assert w.vote(guardian, 0, HALTED) == Code.OK
    to(w, 95_000, 5_000)
    assert w.market().mode == HALTED
    halted = w.row().averaged_ms
    to(w, 200_000)
    assert w.row().averaged_ms == halted
    assert settled_at(w) == 0
    for guardian in (0, 1):
        w.vote(guardian, 0, OPEN)
    to(w, 201_000)
    assert settled_at(w) > 0
    assert w.market().mode == CANCEL_ONLY


def test_after_it_has_settled_nothing_moves_it() -> None:
    w = world({"guardians": KEYS})
    to(w, 60_000, 1_000)
    to(w, 100_000)
    row = w.row()
    w.quote(900, 901)
    to(w, 200_000, 2_000)
    assert w.events == []
    assert (w.row(), w.mark(), settled_at(w)) == (row, 1_000, 1_000)
    assert w.vote(0, 0, OPEN) == Code.MARKET_EXPIRED
    assert w.market().mode == CANCEL_ONLY


def test_its_band_is_wider_the_longer_it_has_to_go() -> None:
    year = {"expires_ms": START_MS + YEAR_MS, "settle_window_ms": 1_000}
    booked = {"impact_notional_uusd": 100_000_000}
    w = world(**year, **booked)
    w.quote(1_099, 1_101)
    w.all(1_000)
    for _ in range(300):
        w.all(1_000, 10_000)
    assert w.mark() == 1_100, "ten percent above, which a year of interest explains"
    left_ms = START_MS + YEAR_MS - w.time_ms
    w.all(1_000, left_ms - YEAR_MS // 10)
    for _ in range(100):
        w.all(1_000, 10_000)
    assert 49 * EMA_UNIT < w.row().ema <= 50 * EMA_UNIT
    assert w.mark() in (1_049, 1_050)
    w.all(1_000, START_MS + YEAR_MS - w.time_ms - 102_000)
    for _ in range(10):
        w.all(1_000, 10_000)
    assert w.mark() == 1_025, "at the end it is that of a perpetual"


# -- positions


def funded() -> PricingWorld:
    """19 is long 30 of 17 and 18, who are short 10 and 20; it settles at 1100."""
    w = world()
    w.trade(19, 17, 1_000, 10)
    w.trade(19, 18, 1_000, 20)
    to(w, 60_000, 1_100)
    to(w, 100_000)
    assert settled_at(w) == 1_100
    return w


def test_positions_are_exchanged_with_the_pool_when_their_account_is_touched() -> None:
    w = funded()
    pool = w.state.pool
    w.touch(w.account(17))
    w.block(20)
    assert w.cash()[17] == 10 * 1_000 * 1_000 - 10 * 1_100 * 1_000
    assert w.account(17).exposures[0].size_lots == 0
    assert pool.exposures[0].size_lots == -10
    assert w.market().open_interest_lots == 30
    w.touch(w.account(19))
    w.block(20)
    assert pool.exposures[0].size_lots == 20
    assert w.market().open_interest_lots == 20
    w.touch(w.account(18))
    w.block(20)
    assert pool.exposures[0].size_lots == 0
    assert pool.exposures[0].cost_uusd == 0
    assert w.market().open_interest_lots == 0
    assert w.cash() == {17: -1_000_000, 18: -2_000_000, 19: 3_000_000}
    assert lv.position_key(POOL_ACCOUNT, 0) not in w.state.leaves()


def test_settlement_is_an_event_and_happens_once() -> None:
    w = funded()
    account = w.account(18)
    for _ in range(2):
        w.pricing.settle(account)
    assert w.state.events[-1] == PositionSettled(18, 0, -20, -22_000_000)
    assert len([e for e in w.state.events if isinstance(e, PositionSettled)]) == 1
    w.state.commit()


def test_settlement_does_not_change_equity() -> None:
    w = funded()
    for number in (17, 18, 19):
        account = w.account(number)
        w.state.risk.refresh(account)
        before = account.tv_uusd
        w.pricing.settle(account)
        assert account.tv_uusd == before
        w.state.risk.refresh(account)
        assert (account.tv_uusd, account.cash_uusd) == (before, before)
        assert account.im_uusd == 0
        assert w.state.risk.liquidation(account) == (before, 0)


def test_the_pool_itself_is_not_settled_with_itself() -> None:
    w = funded()
    w.touch(w.account(17))
    w.touch(w.state.pool)
    w.state.risk.version += 1
    w.touch(w.state.pool)
    assert w.state.pool.exposures[0].size_lots == -10
    assert [event.account for event in w.of(PositionSettled)] == [17]
    w.block(20)


def test_orders_in_the_book_do_not_keep_a_market_from_settling() -> None:
    w = world()
    w.quote(999, 1_001)
    to(w, 60_000, 1_100)
    to(w, 100_000)
    assert settled_at(w) == 1_100
    maker = w.account(16)
    w.touch(maker)
    assert maker.im_uusd == 0
    assert 0 in maker.exposures
