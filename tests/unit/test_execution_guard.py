"""The guards of the committee's price, block by block: how fast it may go, and who sets it."""

from __future__ import annotations

from engine_world import market
from pricing_world import PricingWorld

from protocol.actions import OPEN
from protocol.events import MarkChanged, MarketChanged

JUMPY = {"oracle_deviation_ppm": 100_000, "oracle_hold_ms": 2_000}


def test_a_price_does_not_walk_through_the_bound_block_by_block() -> None:
    w = PricingWorld([market(0, **JUMPY)])
    w.all(1_000)
    w.all(1_060)
    began_ms = w.time_ms
    w.all(1_100)
    assert (w.mark(), w.market().stale) == (1_100, False)
    w.all(1_160)
    assert w.events == [MarketChanged(0, OPEN, True)]
    assert (w.mark(), w.row().wild_ticks) == (1_100, 1_160)
    w.block(began_ms + 1_999 - w.time_ms)
    assert w.market().stale
    # The next hold time begins, from the price that stood.
    w.block(1)
    assert w.events == [MarketChanged(0, OPEN, False), MarkChanged(0, 1_160)]
    w.all(1_211)
    assert w.market().stale


def test_a_slow_trend_is_never_wild() -> None:
    w = PricingWorld([market(0, **JUMPY)])
    ticks = 1_000
    w.all(ticks)
    for _ in range(200):
        ticks = ticks * 1_009 // 1_000
        w.all(ticks, 200)
        assert (w.mark(), w.market().stale) == (ticks, False)
    assert ticks > 5_000


def test_while_the_price_stands_the_guard_writes_nothing() -> None:
    w = PricingWorld([market(0, **JUMPY)])
    w.all(1_000)
    assert not w.state.pricing.rows
    w.all(1_010)
    row = w.row()
    assert (row.from_ms, row.from_ticks) == (w.time_ms, 1_000)
    for _ in range(5):
        w.all(1_010, 1_000)
        assert w.row() == row
    w.block(50_000, None)
    assert w.row() == row


def test_a_member_with_most_of_the_stake_needs_another() -> None:
    w = PricingWorld([market(0, oracle_age_ms=3_000)], oracle_stakes=[3, 1, 1])
    w.block(20, 1_010)
    assert w.market().stale and w.mark() == 1_000
    w.block(20, None, 1_050)
    assert not w.market().stale
    assert w.mark() == 1_010
    w.block(3_000, 990)
    assert w.mark() == 990, "the other price is as old as it may be"
    w.block(1, 980)
    assert w.market().stale and w.mark() == 990


def test_two_of_three_silent_members_leave_the_price_unknown() -> None:
    w = PricingWorld([market(0, oracle_age_ms=3_000)])
    w.block(20, 1_010)
    assert w.market().stale
    w.block(20, None, None, 1_020)
    assert w.mark() == 1_010
