"""Accounts below maintenance: who is sold, how much, at which price, and in which turn."""

from __future__ import annotations

from typing import Any

import pytest
from engine_world import signer
from liquidation_world import Crash, usd

from protocol.actions import (
    BUY,
    CANCEL_ONLY,
    GTC,
    HALTED,
    IOC,
    OPEN,
    POST_ONLY_MODE,
    REDUCE_ONLY,
    SELL,
    STOP,
    MarketOrder,
    Order,
    TriggerOrder,
    Twap,
)
from protocol.errors import Code
from protocol.events import (
    LIQUIDATION_ORDER,
    REASON_LIQUIDATION,
    REASON_SELF_TRADE,
    Fill,
    LiquidationBegun,
    LiquidationEnded,
    OrderChanged,
    Receipt,
    TriggerChanged,
    TwapChanged,
)
from protocol.genesis import Limits, Liquidation
from protocol.settlement import INSURANCE_ACCOUNT, account_number

LONG, SHORT, MAKER = 16, 17, 18
RICH = usd(1_000_000)


def one_long(equity: float = 60, lots: int = 1_000, **options: Any) -> Crash:
    """A long of `lots` dollars at 1000, a rich short opposite, a maker with nothing."""
    holders = {LONG: (usd(equity), {0: lots}), SHORT: (RICH, {0: -lots}), MAKER: (RICH, {})}
    return Crash(holders, **options)


def test_it_is_sold_above_the_zero_price_and_pays_the_capped_fee() -> None:
    w = one_long()
    w.bid(MAKER, 960, 400)
    w.bid(MAKER, 950, 1_000)
    w.mark(985)
    # TV 45, MM 49.25; zero price 940; 1 % of 384 dollars is below 20 ticks x 400 lots.
    assert w.of(LiquidationBegun) == [LiquidationBegun(LONG, usd(45), usd(49.25), 1)]
    (fill,) = w.of(Fill)
    assert (fill.price_ticks, fill.size_lots, fill.taker_fee_uusd) == (960, 400, usd(3.84))
    assert w.of(Receipt) == [
        Receipt(0, LIQUIDATION_ORDER, w.height, LONG, LONG, 0, -400, 985, 940, usd(384), usd(45),
                usd(49.25), 0, usd(3.84), 0)
    ]  # fmt: skip
    # 600 lots left need 29.55: safe, and no more is sold.
    assert w.of(LiquidationEnded) == [LiquidationEnded(LONG, usd(31.16), usd(29.55))]
    assert w.size(LONG) == 600 and w.distressed() == {}
    assert w.cash(INSURANCE_ACCOUNT) == usd(3.84)


def test_a_short_is_bought_back_mirrored() -> None:
    w = Crash({LONG: (RICH, {0: 1_000}), SHORT: (usd(60), {0: -1_000}), MAKER: (RICH, {})})
    w.ask(MAKER, 1_040, 1_000)
    w.mark(1_015)
    # TV 45, MM 50.75: zero price 1060; the improvement of 20 ticks pays the fee of 1 %.
    (receipt,) = w.receipts
    assert (receipt.price_ticks, receipt.size_lots) == (1_060, 1_000)
    assert receipt.amount_uusd == -usd(1_040)
    assert w.size(SHORT) == 0
    assert w.cash(SHORT) == usd(60 - 40 - 10.4)


def test_at_the_zero_price_it_gives_all_it_has_and_no_tick_more() -> None:
    for price, left in ((940, 0), (939, 1_000)):
        w = one_long()
        w.bid(MAKER, price, 1_000)
        w.mark(985)
        assert w.size(LONG) == left
        assert w.cash(INSURANCE_ACCOUNT) == 0
        assert bool(w.distressed()) == bool(left)
        if not left:
            assert w.cash(LONG) == 0


def test_the_zero_price_moves_with_every_fill() -> None:
    # The first fill is so good that it improves TV/MM by more than its fee: the next zero price is
    # lower, and a bid that was out of reach fills.
    w = one_long()
    w.bid(MAKER, 984, 100)
    w.bid(MAKER, 939, 900)
    w.mark(985)
    first, second = w.receipts
    assert (first.price_ticks, first.insurance_uusd) == (940, usd(0.984))
    assert (second.price_ticks, second.insurance_uusd) == (937, usd(1.8))
    assert first.equity_uusd * second.maintenance_uusd < second.equity_uusd * first.maintenance_uusd


def test_nobody_bids_and_it_waits_until_it_is_topped_up() -> None:
    w = one_long()
    w.mark(985)
    assert list(w.distressed()) == [LONG]
    w.block([])
    assert w.of(LiquidationBegun) == [] and list(w.distressed()) == [LONG]
    since = w.distressed()[LONG].since_ms
    # Its own orders must reduce meanwhile.
    assert w.one(LONG, Order(0, SELL, 990, 10, GTC)).code == Code.LIQUIDATING
    assert w.one(LONG, MarketOrder(0, BUY, 10, 10_000)).code == Code.LIQUIDATING
    w.bid(MAKER, 500, 10)
    assert w.one(LONG, Order(0, SELL, 500, 10, IOC, 0, REDUCE_ONLY)).filled_lots in (0, 10)
    assert w.distressed()[LONG].since_ms == since
    w.fund(LONG, usd(100))
    assert len(w.of(LiquidationEnded)) == 1 and w.distressed() == {}
    assert w.one(LONG, Order(0, SELL, 990, 10, GTC)).code == 0


def test_a_late_bid_takes_it_in_the_next_block() -> None:
    w = one_long()
    w.mark(985)
    w.bid(MAKER, 950, 2_000)
    assert w.size(LONG) == 1_000
    w.block([])
    assert w.size(LONG) == 0
    assert [r.rank for r in w.receipts] == [0]


def test_resting_orders_triggers_and_twaps_are_cancelled_first() -> None:
    w = one_long(equity=300)
    w.ask(LONG, 1_100, 5)
    w.bid(LONG, 900, 5, 1)
    trigger = TriggerOrder(0, SELL, 5, STOP, 700, 0, 10_000)
    assert w.one(LONG, trigger).code == 0
    assert w.one(LONG, Twap(1, BUY, 100, 600_000)).code == 0
    w.mark(735)
    reasons = {
        kind: [e.reason for e in w.of(kind) if e.account == LONG]
        for kind in (OrderChanged, TriggerChanged)
    }
    assert reasons == {OrderChanged: [REASON_LIQUIDATION] * 2, TriggerChanged: [REASON_LIQUIDATION]}
    assert w.of(TwapChanged)[-1].reason == REASON_LIQUIDATION
    assert w.engine.orders_of(LONG) == []


def test_a_large_position_goes_in_two_parts() -> None:
    rules = Liquidation(partial_notional_uusd=usd(900), partial_ppm=200_000, partial_wait_ms=30_000)
    w = one_long(liquidation=rules)
    w.mark(985)
    assert w.distressed()[LONG].parts == [], "nothing was sold yet"
    # At the zero price, so that it is not safe again.
    w.bid(MAKER, 940, 2_000)
    w.block([])
    began = w.time_ms
    assert w.size(LONG) == 800
    assert w.distressed()[LONG].parts == [(0, 0, began)]
    # 788 dollars are below 900, but they are what is left of a large position.
    for _ in range(3):
        w.block([])
    assert w.size(LONG) == 800
    w.height += 2_990
    w.block([])
    assert w.time_ms < began + 30_000 and w.size(LONG) == 800
    w.height += 10
    w.block([])
    assert w.time_ms >= began + 30_000 and w.size(LONG) == 0
    assert w.distressed() == {}


def test_below_two_thirds_nothing_waits() -> None:
    rules = Liquidation(partial_notional_uusd=usd(100), partial_wait_ms=30_000)
    w = one_long(liquidation=rules)
    w.bid(MAKER, 940, 2_000)
    w.mark(970)
    # TV 30, MM 48.5; no backstop: everything goes at once.
    assert w.size(LONG) == 0 and w.cash(LONG) == 0


def test_the_position_with_the_most_margin_goes_first() -> None:
    holders = {
        LONG: (usd(100), {0: 400, 1: 1_600}),
        SHORT: (RICH, {0: -400, 1: -1_600}),
        MAKER: (RICH, {}),
    }
    w = Crash(holders)
    w.bid(MAKER, 980, 400, 0)
    w.bid(MAKER, 999, 1_600, 1)
    w.mark(995)
    w.mark(999, 1)
    # TV 96.4 < MM 99.82: market 1 first, and that is enough.
    assert [r.market for r in w.receipts] == [1]
    assert w.size(LONG, 0) == 400 and w.size(LONG, 1) == 0


@pytest.mark.parametrize("mode", [HALTED, CANCEL_ONLY, POST_ONLY_MODE])
def test_nothing_is_sold_in_a_market_that_cannot_trade(mode: int) -> None:
    w = one_long(guardians=3)
    w.bid(MAKER, 950, 2_000)
    w.vote(0, mode)
    w.mark(985)
    w.block([])
    assert w.size(LONG) == 1_000 and list(w.distressed()) == [LONG]
    w.vote(0, OPEN)
    w.block([])
    assert w.size(LONG) < 1_000


def test_a_sub_account_of_the_same_owner_does_not_buy_it() -> None:
    sub = account_number(LONG, 1)
    holders = {
        LONG: (usd(60), {0: 1_000}), SHORT: (RICH, {0: -1_000}), MAKER: (RICH, {}), sub: (RICH, {}),
    }  # fmt: skip
    w = Crash(holders)
    w.block([w.batch(sub, Order(0, BUY, 980, 100, GTC), by=signer(LONG))])
    w.bid(MAKER, 960, 400)
    w.mark(985)
    assert [e.reason for e in w.of(OrderChanged) if e.account == sub] == [REASON_SELF_TRADE]
    assert [e.maker_account for e in w.of(Fill)] == [MAKER]


def crowd(count: int, equity: float = 6, lots: int = 100, **options: Any) -> Crash:
    """Many alike longs, one short, a maker who bids for all of them."""
    holders = {100 + n: (usd(equity), {0: lots}) for n in range(count)}
    holders |= {SHORT: (RICH, {0: -lots * count}), MAKER: (RICH, {})}
    return Crash(holders, **options)


def test_a_budget_of_one_item_gives_everybody_a_turn() -> None:
    w = crowd(5, limits=Limits(liquidation_items_per_block=1))
    w.bid(MAKER, 940, 1_000)
    w.mark(985)
    sold = []
    for _ in range(12):
        sold += [r.account for r in w.of(Receipt)]
        w.block([])
    assert sorted(sold) == [100, 101, 102, 103, 104]
    assert w.distressed() == {}


def test_those_who_cannot_be_sold_do_not_keep_the_others_waiting() -> None:
    # Ten whales have no bids in their market; the dust of market 1 has. A quarter of four items is
    # one account a block: it must come round.
    holders = {100 + n: (usd(60), {0: 1_000}) for n in range(10)}
    holders |= {200 + n: (usd(0.6), {1: 10}) for n in range(5)}
    holders |= {SHORT: (RICH, {0: -10_000, 1: -50}), MAKER: (RICH, {})}
    w = Crash(holders, limits=Limits(liquidation_items_per_block=4))
    w.bid(MAKER, 940, 1_000, 1)
    w.mark(985)
    w.mark(985, 1)
    for _ in range(20):
        w.block([])
    assert sorted({r.account for r in w.receipts}) == [200, 201, 202, 203, 204]
    assert sorted(w.distressed()) == list(range(100, 110))


def test_the_most_urgent_are_first_and_receipts_say_their_rank() -> None:
    holders = {100: (usd(60), {0: 1_000}), 101: (usd(6), {0: 100}), 102: (usd(55), {0: 1_000})}
    holders |= {SHORT: (RICH, {0: -2_100}), MAKER: (RICH, {})}
    w = Crash(holders, limits=Limits(liquidation_items_per_block=1_000))
    w.bid(MAKER, 945, 5_000)
    w.mark(985)
    ranks = {r.account: r.rank for r in w.receipts}
    assert ranks == {102: 0, 100: 1, 101: 2}
    begun = w.of(LiquidationBegun)
    assert [(e.account, e.waiting) for e in begun] == [(100, 1), (101, 2), (102, 3)]


def test_a_long_list_of_orders_is_cancelled_within_the_budget() -> None:
    w = one_long(equity=200, limits=Limits(liquidation_items_per_block=3))
    for price in range(1_100, 1_110):
        w.ask(LONG, price, 1)
    w.bid(MAKER, 800, 2_000)
    w.mark(838)
    lengths = []
    while w.engine.orders_of(LONG):
        lengths.append(len(w.engine.orders_of(LONG)))
        w.block([])
    assert lengths == [8, 6, 4, 2]
    w.block([])
    assert w.size(LONG) == 0


def test_it_continues_byte_for_byte_from_its_leaves() -> None:
    rules = Liquidation(partial_notional_uusd=usd(50))
    limits = Limits(liquidation_items_per_block=4)
    w = crowd(12, limits=limits, liquidation=rules)
    w.bid(MAKER, 945, 150)
    w.mark(985)
    for price in (984, 975, 982, 930, 990):
        other = w.restore()
        w.mark(price)
        height, time_ms = w.height, w.time_ms
        # The same block on the restored engine.
        oracle = w.last_batches
        again = other.apply(height, time_ms, b"", [], w.cursor, oracle)
        assert again.events == w.events and again.changes == w.last.changes
