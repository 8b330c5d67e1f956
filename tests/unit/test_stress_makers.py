"""Makers and takers of stress runs behave as they are described."""

from __future__ import annotations

from protocol.actions import BUY, SELL, CancelAll, MassQuote, Order
from sequencer.lanes import Lane
from sim.random import SplitMix64
from sim.stress_makers import (
    LEVELS,
    MAKERS,
    PROBE_MS,
    QUOTE_MS,
    TAKERS,
    Maker,
    Sight,
    Taker,
    make_participants,
)

OPEN_LOTS = 10_000_000
CALM = Sight(1_000_000, 10_000, 10_000, 100, (0, 0))
WILD = Sight(1_000_000, 500_000, 10_000, 100, (0, 0))


def maker() -> Maker:
    return Maker(16, OPEN_LOTS, SplitMix64(1))


def quotes(one: Maker, now_ms: int, sight: Sight) -> MassQuote:
    wish = one.act(now_ms, sight)
    assert wish is not None
    action = wish.actions[0]
    assert isinstance(action, MassQuote)
    return action


def test_spreads_grow_and_sizes_shrink_with_volatility() -> None:
    calm, wild = quotes(maker(), 0, CALM), quotes(maker(), 0, WILD)
    assert len(calm.bids) == len(calm.asks) == LEVELS
    for quote in (calm, wild):
        assert quote.bids[0][0] < CALM.true_ticks < quote.asks[0][0]
        assert quote.bids == sorted(quote.bids, reverse=True)
        assert quote.asks == sorted(quote.asks)
    assert wild.asks[0][0] - wild.bids[0][0] > 4 * (calm.asks[0][0] - calm.bids[0][0])
    assert wild.bids[0][1] * 40 < calm.bids[0][1]


def test_inventory_leans_prices_and_is_never_quoted_beyond() -> None:
    one = maker()
    even = quotes(one, 0, CALM)
    one.answered(0, 10, 0)
    one.holds(one.limit_lots - 5)
    long = quotes(one, 1_000, CALM)
    assert sum(size for _, size in long.bids) == 5
    assert long.asks[0][0] < even.asks[0][0]
    one.answered(1_000, 1_010, 0)
    one.holds(-one.limit_lots)
    assert not quotes(one, 2_000, CALM).asks


def test_a_maker_withdraws_when_answers_are_slow_and_returns_when_a_probe_is_fast() -> None:
    one = maker()
    quotes(one, 0, CALM)
    late = one.ack_limit_ms + 1
    assert one.due(late)
    wish = one.act(late, CALM)
    assert wish is not None and wish.lane == Lane.REDUCING
    assert wish.actions == [CancelAll(0)] and one.withdrawn
    # It waits for its answers, then probes.
    assert one.act(late + QUOTE_MS, CALM) is None
    one.answered(0, 9_000, 0)
    one.answered(late, 9_000, 0)
    assert quotes(one, 10_000, CALM) == MassQuote(0, [], [])
    assert one.withdrawn and not one.due(10_000 + PROBE_MS - 1)
    one.answered(10_000, 10_040, 0)
    assert quotes(one, 10_000 + PROBE_MS, CALM).bids
    assert not one.withdrawn and one.withdrawals == 1


def test_a_maker_sends_again_when_the_price_has_moved_or_its_quote_was_refused() -> None:
    one = maker()
    quotes(one, 0, CALM)
    one.answered(0, 10, 0)
    assert one.act(1_000, CALM) is None
    quotes(one, 2_000, CALM._replace(true_ticks=1_010_000))
    one.answered(2_000, 2_010, 555)
    wider = quotes(one, 3_000, CALM._replace(true_ticks=1_010_000))
    one.answered(3_000, 3_010, 0)
    usual = quotes(one, 4_000, CALM._replace(true_ticks=1_020_000))
    assert wider.asks[0][0] - wider.bids[0][0] > usual.asks[0][0] - usual.bids[0][0]


def test_a_taker_takes_what_the_price_has_left_behind_and_nothing_else() -> None:
    one = Taker(40, OPEN_LOTS, SplitMix64(1))
    assert one.act(0, CALM._replace(best=(999_900, 1_000_100))) is None
    assert one.act(0, CALM) is None
    wish = one.act(0, CALM._replace(best=(1_001_000, 1_002_000)))
    assert wish is not None
    order = wish.actions[0]
    assert isinstance(order, Order) and order.side == SELL
    assert 1_000_000 < order.price_ticks <= 1_001_000
    assert not one.due(5)
    one.answered(0, 20, 0)
    assert one.due(20)
    wish = one.act(20, CALM._replace(best=(998_000, 999_000)))
    assert wish is not None
    order = wish.actions[0]
    assert isinstance(order, Order) and order.side == BUY
    assert 999_000 <= order.price_ticks < 1_000_000


def test_everybody_has_an_account_and_cash() -> None:
    makers, takers, cash = make_participants(100, OPEN_LOTS, 10**14, SplitMix64(3))
    accounts = [one.account for one in (*makers, *takers)]
    assert accounts == list(range(100, 100 + MAKERS + TAKERS))
    assert set(cash) == set(accounts) and min(cash.values()) > 0
    again, _, _ = make_participants(100, OPEN_LOTS, 10**14, SplitMix64(3))
    assert [one.feed_ms for one in makers] == [one.feed_ms for one in again]
