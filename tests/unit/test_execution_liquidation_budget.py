"""Whom nobody can keep from being liquidated, and what large positions wait for."""

from __future__ import annotations

from typing import Any

import pytest
from engine_world import ORACLES, START_MS, market, signer
from liquidation_world import FREE, Crash, usd

from protocol.actions import BUY, GTC, OraclePrice, Order
from protocol.events import REASON_SELF_TRADE, OrderChanged
from protocol.genesis import Limits, Liquidation
from protocol.settlement import account_number

LONG, SHORT, MAKER = 16, 17, 18
RICH = usd(1_000_000)


def one_long(equity: float = 60, **options: Any) -> Crash:
    """A long of 1,000 dollars at 1000, a rich short opposite, a maker with nothing."""
    holders = {LONG: (usd(equity), {0: 1_000}), SHORT: (RICH, {0: -1_000}), MAKER: (RICH, {})}
    return Crash(holders, **options)


def prices(w: Crash, ticks: int, market_number: int = 0) -> list[bytes]:
    """What all oracles report in the next block."""
    nonce = START_MS + (w.height + 1) * 10
    price = OraclePrice(market_number, ticks)
    return [w.batch(0, price, by=oracle, nonce=nonce) for oracle in ORACLES]


def test_own_bids_in_front_do_not_keep_it_from_being_sold() -> None:
    # The owner's sub-account renews a wall of one-lot bids in each block: taking it out uses up
    # neither the order's fills nor the turn of the account.
    sub = account_number(LONG, 1)
    holders = {
        LONG: (usd(60), {0: 1_000}), SHORT: (RICH, {0: -1_000}), MAKER: (RICH, {}), sub: (RICH, {}),
    }  # fmt: skip
    w = Crash(holders, limits=Limits(fills_per_action=3, liquidation_items_per_block=8))
    w.bid(MAKER, 940, 1_000)

    def wall(count: int) -> bytes:
        bids = [Order(0, BUY, 941, 1, GTC) for _ in range(count)]
        return w.batch(sub, *bids, by=signer(LONG))

    w.block([wall(40)])
    w.block([*prices(w, 985), wall(40)])
    reasons = {e.reason for e in w.of(OrderChanged) if e.account == sub}
    assert reasons == {REASON_SELF_TRADE}
    assert w.size(LONG) == 0 and w.size(sub) == 0


def test_a_wall_counts_against_the_budget_of_the_others() -> None:
    sub = account_number(LONG, 1)
    holders = {
        LONG: (usd(60), {0: 1_000}), 30: (usd(6), {0: 100}), 31: (usd(6), {0: 100}),
        SHORT: (RICH, {0: -1_200}), MAKER: (RICH, {}), sub: (RICH, {}),
    }  # fmt: skip
    w = Crash(holders, limits=Limits(liquidation_items_per_block=8))
    w.bid(MAKER, 940, 2_000)
    w.block([w.batch(sub, *[Order(0, BUY, 941, 1, GTC) for _ in range(40)], by=signer(LONG))])
    w.mark(985)
    # In its turn LONG takes 42 items.
    assert {r.account for r in w.receipts} == {LONG}
    w.block([])
    assert {r.account for r in w.receipts} == {LONG, 30, 31}


def test_dust_with_many_orders_leaves_most_of_the_budget_to_the_urgent() -> None:
    dust = range(30, 34)
    holders: dict[int, Any] = {LONG: (usd(1_000), {0: 10_000}), MAKER: (RICH, {})}
    holders |= {number: (usd(20), {1: 100}) for number in dust}
    holders[SHORT] = (RICH, {0: -10_000, 1: -400})
    w = Crash(holders, limits=Limits(liquidation_items_per_block=40))
    w.bid(MAKER, 950, 10_000)
    for number in dust:
        for _ in range(48):
            w.bid(number, 800, 1, 1)
    w.report(841, 1)
    assert sorted(w.distressed()) == list(dust)
    # They wait longer, and have a quarter.
    w.report(945)
    assert w.size(LONG) == 0
    for _ in range(12):
        w.block([])
    assert all(w.engine.orders_of(number) == [] for number in dust)


def test_a_turn_cut_short_goes_on_at_its_rank() -> None:
    # Whoever is most urgent has the rest of the budget, too, when the turn was not enough.
    w = one_long(equity=200, limits=Limits(liquidation_items_per_block=40))
    for price in range(1_100, 1_130):
        w.ask(LONG, price, 1)
    w.bid(MAKER, 800, 2_000)
    w.mark(838)
    assert w.engine.orders_of(LONG) == [] and w.size(LONG) == 0


def test_a_bid_for_one_lot_does_not_start_the_wait_of_a_large_position() -> None:
    rules = Liquidation(partial_notional_uusd=usd(900), partial_ppm=200_000, partial_wait_ms=30_000)
    w = one_long(liquidation=rules)
    w.bid(MAKER, 940, 1)
    w.mark(985)
    assert w.size(LONG) == 999
    assert w.distressed()[LONG].parts == [(0, 199, 0)]
    w.bid(MAKER, 940, 100)
    w.block([])
    assert w.size(LONG) == 899 and w.distressed()[LONG].parts == [(0, 99, 0)]
    w.bid(MAKER, 940, 2_000)
    w.block([])
    began = w.time_ms
    assert w.size(LONG) == 800 and w.distressed()[LONG].parts == [(0, 0, began)]
    w.block([])
    assert w.size(LONG) == 800
    w.height += 3_000
    w.block([])
    assert w.size(LONG) == 0


def test_each_large_position_has_a_wait_of_its_own() -> None:
    rules = Liquidation(partial_notional_uusd=usd(900), partial_ppm=200_000, partial_wait_ms=30_000)
    holders = {
        LONG: (usd(110), {0: 1_000, 1: 1_000}),
        SHORT: (RICH, {0: -1_000, 1: -1_000}),
        MAKER: (RICH, {}),
    }
    w = Crash(holders, liquidation=rules)
    # TV 90, MM 99: zero prices are 936 in market 0, 955 in market 1.
    w.bid(MAKER, 936, 2_000)
    w.bid(MAKER, 955, 10, 1)
    w.mark(980)
    began = w.time_ms
    assert w.distressed()[LONG].parts == [(0, 0, began), (1, 190, 0)]
    assert (w.size(LONG, 0), w.size(LONG, 1)) == (800, 990)
    w.bid(MAKER, 955, 2_000, 1)
    w.block([])
    assert (w.size(LONG, 0), w.size(LONG, 1)) == (800, 800)
    assert w.distressed()[LONG].parts == [(0, 0, began), (1, 0, w.time_ms)]


@pytest.mark.parametrize(("ticks", "backstop_lots"), [(985, 500), (970, 0), (970, 500)])
def test_those_stuck_are_sold_as_soon_as_anything_changes(ticks: int, backstop_lots: int) -> None:
    # Nothing rests opposite, and the backstop is full or not needed: then a bid comes.
    holders = {LONG: (usd(60), {0: 1_000}), SHORT: (RICH, {0: -1_000}), MAKER: (RICH, {})}
    markets = [market(0, **FREE, backstop_max_lots=backstop_lots), market(1, **FREE)]
    w = Crash(holders, markets=markets, backstop_uusd=usd(10_000))
    w.mark(ticks)
    left = 500 if ticks == 970 and backstop_lots else 1_000
    assert w.size(LONG) == left and list(w.distressed()) == [LONG]
    handled = w.restore()
    w.block([])
    assert w.size(LONG) == left
    again = handled.apply(w.height, w.time_ms, b"", [], w.cursor, w.last_batches)
    assert again.events == w.events and again.changes == w.last.changes
    w.bid(MAKER, 945, 2_000)
    w.block([])
    assert w.size(LONG) == 0
