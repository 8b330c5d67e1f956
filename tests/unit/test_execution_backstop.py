"""The backstop: what it takes, at which price, what it refuses, and how it gets rid of it."""

from __future__ import annotations

from typing import Any

import pytest
from engine_world import market
from liquidation_world import FREE, Crash, usd

from execution import leaves as lv
from protocol.actions import OPEN, POST_ONLY_MODE
from protocol.events import (
    LIQUIDATION_BACKSTOP,
    LIQUIDATION_DELEVERAGED,
    LIQUIDATION_ORDER,
    BadDebt,
    Fill,
    LiquidationEnded,
    Receipt,
)
from protocol.genesis import Limits, Liquidation
from protocol.settlement import BACKSTOP_ACCOUNT, INSURANCE_ACCOUNT

LONG, SHORT, MAKER = 16, 17, 18
RICH = usd(1_000_000)
RULES = Liquidation(unwind_ms=1_000, unwind_ppm=250_000, unwind_slippage_ppm=20_000)


def markets(most: int = 10_000) -> list[Any]:
    """Two markets without trading fees whose positions the backstop takes."""
    return [market(number, backstop_max_lots=most, **FREE) for number in range(2)]


def one_long(backstop: float = 10_000, most: int = 10_000, **options: Any) -> Crash:
    """A long of 1,000 dollars with 60 of equity, and a backstop."""
    holders = {LONG: (usd(60), {0: 1_000}), SHORT: (RICH, {0: -1_000}), MAKER: (RICH, {})}
    options.setdefault("liquidation", RULES)
    return Crash(holders, markets(most), backstop_uusd=usd(backstop), **options)


def next_unwind(w: Crash) -> int | None:
    """When the backstop sells next, by its leaf."""
    raw = w.engine.leaves().get(lv.BACKSTOP_KEY)
    return None if raw is None else lv.decode_backstop(raw).next_unwind_ms


def test_below_two_thirds_it_takes_the_position_at_the_zero_price() -> None:
    w = one_long()
    w.mark(970)
    # TV 30, MM 48.5. All of it at the zero price: the 30 go to the backstop.
    assert w.of(Receipt) == [
        Receipt(0, LIQUIDATION_BACKSTOP, w.height, LONG, LONG, 0, -1_000, 970, 0, usd(940),
                usd(30), usd(48.5), 0, 0, 0)
    ]  # fmt: skip
    assert (w.size(LONG), w.cash(LONG)) == (0, 0)
    assert w.size(BACKSTOP_ACCOUNT) == 1_000
    assert w.equity(BACKSTOP_ACCOUNT) == usd(10_030)
    assert len(w.of(LiquidationEnded)) == 1 and w.of(Fill) == []


def test_above_two_thirds_it_waits() -> None:
    w = one_long()
    w.mark(975)
    # TV 35 of MM 48.75.
    assert w.receipts == [] and w.size(BACKSTOP_ACCOUNT) == 0


def test_it_takes_no_more_than_its_margin_carries() -> None:
    # With 20 dollars of its own. Taking n lots brings it 30 n / 1000 and needs 97 n / 1000 of IM.
    w = one_long(backstop=20)
    w.mark(970)
    lots = w.size(BACKSTOP_ACCOUNT)
    assert lots == 298
    assert w.equity(BACKSTOP_ACCOUNT) >= lots * 97_000
    assert w.equity(BACKSTOP_ACCOUNT) + 30_000 < (lots + 1) * 97_000
    # What it refused waits for bids, each block.
    assert w.size(LONG) == 702 and list(w.distressed()) == [LONG]
    w.bid(MAKER, 945, 1_000)
    w.block([])
    assert w.size(LONG) == 0
    assert [r.kind for r in w.receipts] == [LIQUIDATION_BACKSTOP, LIQUIDATION_ORDER]
    # The ratio of equity to margin is what it was, but for rounding against the account.
    before, after = w.receipts
    assert after.equity_uusd == usd(30) * 702 // 1_000
    assert (
        before.equity_uusd * after.maintenance_uusd >= after.equity_uusd * before.maintenance_uusd
    )


def test_it_takes_no_more_than_its_cap() -> None:
    w = one_long(most=300)
    w.mark(970)
    assert w.size(BACKSTOP_ACCOUNT) == 300 and w.size(LONG) == 700
    w.block([])
    assert w.size(BACKSTOP_ACCOUNT) == 300 and len(w.receipts) == 1


def test_without_a_cap_it_takes_nothing() -> None:
    w = one_long(most=0)
    w.mark(970)
    assert w.receipts == [] and w.size(BACKSTOP_ACCOUNT) == 0


def test_an_opposite_position_of_its_own_makes_room() -> None:
    # First it takes the short of 17, then 16 falls: its 500 short lots close against 16's long.
    holders = {LONG: (usd(300), {0: 1_000}), SHORT: (usd(28), {0: -500}), MAKER: (RICH, {0: -500})}
    w = Crash(holders, markets(600), backstop_uusd=usd(60), liquidation=RULES)
    w.mark(1_030)
    assert w.size(BACKSTOP_ACCOUNT) == -500
    w.mark(735)
    # TV 35 >= two thirds of MM 36.75: not its turn; at 720 it is.
    assert w.size(BACKSTOP_ACCOUNT) == -500
    w.mark(720)
    assert w.size(BACKSTOP_ACCOUNT) == 500
    assert w.size(LONG) == 0


def test_what_closes_an_opposite_position_does_not_count_against_the_cap() -> None:
    holders = {
        LONG: (usd(300), {0: 1_000}),
        SHORT: (usd(16.8), {0: -300}),
        MAKER: (RICH, {0: -700}),
    }
    w = Crash(holders, markets(300), backstop_uusd=usd(1_000), liquidation=RULES)
    w.mark(1_030)
    assert w.size(BACKSTOP_ACCOUNT) == -300
    w.mark(720)
    # 300 lots to flat and 300 more.
    assert w.size(BACKSTOP_ACCOUNT) == 300 and w.size(LONG) == 400


def test_it_unwinds_on_its_schedule_within_its_slippage() -> None:
    w = one_long()
    assert next_unwind(w) is None
    w.mark(970)
    began = w.time_ms
    assert next_unwind(w) == began + 1_000
    w.bid(MAKER, 951, 120)
    w.bid(MAKER, 950, 5_000)
    w.block([])
    assert w.size(BACKSTOP_ACCOUNT) == 1_000
    w.height += 100
    w.block([])
    # A quarter, of which 120 find a bid above 970 x 0.98 = 950.6.
    assert w.size(BACKSTOP_ACCOUNT) == 880
    (fill,) = w.of(Fill)
    assert (fill.taker_account, fill.taker_fee_uusd) == (BACKSTOP_ACCOUNT, 0)
    assert next_unwind(w) == w.time_ms + 1_000
    w.bid(MAKER, 960, 5_000)
    sizes = []
    while next_unwind(w) is not None:
        w.height += 100
        w.block([])
        sizes.append(w.size(BACKSTOP_ACCOUNT))
    assert sizes[:3] == [660, 495, 371] and sizes[-1] == 0
    assert w.restore().leaves() == w.engine.leaves()


def test_it_does_not_unwind_where_nobody_may_take() -> None:
    w = one_long(guardians=3)
    w.mark(970)
    w.bid(MAKER, 965, 5_000)
    w.vote(0, POST_ONLY_MODE)
    w.height += 200
    w.block([])
    assert w.size(BACKSTOP_ACCOUNT) == 1_000
    w.vote(0, OPEN)
    w.height += 200
    w.block([])
    assert w.size(BACKSTOP_ACCOUNT) == 750


def test_below_maintenance_it_is_reduced_at_the_mark_until_it_is_not() -> None:
    holders = {
        LONG: (usd(60), {0: 1_000, 1: 100}),
        SHORT: (RICH, {0: -1_000, 1: -100}),
        MAKER: (RICH, {}),
    }
    w = Crash(holders, markets(), backstop_uusd=usd(200), liquidation=RULES)
    w.mark(970)
    assert (w.size(BACKSTOP_ACCOUNT, 0), w.size(BACKSTOP_ACCOUNT, 1)) == (1_000, 100)
    w.mark(785)
    # Equity 230 - 185 = 45; MM 39.25 + 5: still above.
    assert w.size(BACKSTOP_ACCOUNT) == 1_000
    short = w.equity(SHORT)
    w.mark(780)
    # Equity 40, MM 39 + 5. The larger position goes at the mark, the other stays.
    assert (w.size(BACKSTOP_ACCOUNT, 0), w.size(BACKSTOP_ACCOUNT, 1)) == (0, 100)
    assert w.equity(BACKSTOP_ACCOUNT) == usd(40)
    assert w.equity(SHORT) == short + usd(5)
    own, other = (r for r in w.receipts if r.kind == LIQUIDATION_DELEVERAGED)
    assert (own.account, own.amount_uusd, own.share_uusd) == (BACKSTOP_ACCOUNT, usd(780), 0)
    assert (other.account, other.of_account, other.share_uusd) == (SHORT, BACKSTOP_ACCOUNT, 0)


def test_what_it_loses_beyond_its_equity_is_treated_like_anybody_elses() -> None:
    w = one_long(backstop=100, insurance_uusd=usd(15))
    w.mark(970)
    short = w.equity(SHORT)
    maker = w.equity(MAKER)
    w.mark(820)
    # Equity 130 - 150 = -20: the fund pays 15, the short gives up 5 of its profit of 150.
    assert w.size(BACKSTOP_ACCOUNT) == 0 and w.cash(BACKSTOP_ACCOUNT) == 0
    assert w.cash(INSURANCE_ACCOUNT) == 0
    assert w.equity(SHORT) == short + usd(150 - 5) and w.equity(MAKER) == maker
    assert w.of(BadDebt) == []


@pytest.mark.parametrize("items", [1, 2, 3])
def test_a_small_budget_only_takes_longer(items: int) -> None:
    holders = {100 + n: (usd(6), {0: 100}) for n in range(6)}
    holders |= {SHORT: (RICH, {0: -600})}
    w = Crash(
        holders, markets(), backstop_uusd=usd(10_000), liquidation=RULES,
        limits=Limits(liquidation_items_per_block=items),
    )  # fmt: skip
    w.mark(970)
    for _ in range(12):
        w.block([])
    assert w.size(BACKSTOP_ACCOUNT) == 600 and w.distressed() == {}
