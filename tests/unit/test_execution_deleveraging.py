"""Accounts worth nothing: the fund pays, winners close in their order, losses sum up exactly."""

from __future__ import annotations

from typing import Any

import pytest
from engine_world import ORACLES, START_MS, accept, market
from liquidation_world import FREE, Crash, usd

from execution import Engine
from execution import leaves as lv
from protocol.actions import (
    BUY,
    CANCEL_ONLY,
    GTC,
    OPEN,
    REDUCE_ONLY,
    SELL,
    OraclePrice,
    Order,
    Withdraw,
)
from protocol.codec import encode
from protocol.events import (
    LIQUIDATION_DELEVERAGED,
    REASON_REDUCE_ONLY,
    BadDebt,
    Fill,
    FundingPaid,
    LiquidationEnded,
    MarketChanged,
    OrderChanged,
    Receipt,
    WithdrawalQueued,
)
from protocol.genesis import Limits
from protocol.settlement import INSURANCE_ACCOUNT

LOSER = 16
RICH = usd(1_000_000)


def shares(w: Crash, of_account: int = LOSER) -> dict[int, tuple[int, int]]:
    """(lots, haircut) of each counterparty in the last block."""
    found: dict[int, tuple[int, int]] = {}
    for r in w.of(Receipt):
        if r.kind == LIQUIDATION_DELEVERAGED and r.of_account == of_account != r.account:
            lots, cut = found.get(r.account, (0, 0))
            found[r.account] = (lots + abs(r.size_lots), cut + r.share_uusd)
    return found


def loser_and(shorts: dict[int, tuple[int, int]], equity: float = 50, **options: Any) -> Crash:
    """A long whose counterparties are these shorts of (equity, lots)."""
    lots = sum(size for _, size in shorts.values())
    holders = {LOSER: (usd(equity), {0: lots})}
    holders |= {number: (own, {0: -size}) for number, (own, size) in shorts.items()}
    return Crash(holders, **options)


def test_the_fund_pays_first_and_alone_where_it_can() -> None:
    w = loser_and({20: (RICH, 1_000)}, insurance_uusd=usd(100))
    w.mark(940)
    # TV -10; the fund pays it, the short closes at the mark.
    assert (w.size(LOSER), w.cash(LOSER)) == (0, 0)
    assert w.cash(INSURANCE_ACCOUNT) == usd(90)
    assert w.cash(20) == RICH + usd(60)
    own, other = w.of(Receipt)
    assert own == Receipt(
        0, LIQUIDATION_DELEVERAGED, w.height, LOSER, LOSER, 0, -1_000, 940, 0, usd(940),
        -usd(10), usd(47), 0, -usd(10), 0,
    )  # fmt: skip
    assert other == Receipt(
        1, LIQUIDATION_DELEVERAGED, w.height, 20, LOSER, 0, 1_000, 940, 0, -usd(940),
        RICH + usd(60), usd(47), 0, 0, 0,
    )  # fmt: skip
    assert w.of(LiquidationEnded) and w.of(BadDebt) == []


def test_at_exactly_nothing_it_is_closed_at_the_mark() -> None:
    w = loser_and({20: (RICH, 1_000)})
    w.mark(950)
    assert (w.size(LOSER), w.cash(LOSER), w.cash(20)) == (0, 0, RICH + usd(50))


def test_no_order_is_tried_where_nothing_is_left() -> None:
    w = loser_and({20: (RICH, 1_000)})
    w.bid(20, 949, 5_000)
    w.mark(940)
    assert w.of(Fill) == [] and w.size(LOSER) == 0


def test_haircuts_are_shared_by_lots_taken_and_sum_to_the_shortfall() -> None:
    # Both shorts opened at 1000: profits 60 and 180 of 240; lots 250 and 750 of 1,000.
    w = loser_and({20: (RICH, 250), 21: (RICH, 750)}, insurance_uusd=3_333_333)
    w.mark(940)
    assert shares(w) == {21: (750, 5_000_000), 20: (250, 1_666_667)}
    assert w.cash(INSURANCE_ACCOUNT) == 0 and w.cash(LOSER) == 0


def test_profit_decides_who_closes_not_size() -> None:
    # 22 shorts at 940, where it has no profit; 20 and 21 take all of it.
    holders = {
        LOSER: (usd(50), {0: 500}), 20: (RICH, {0: -300}), 21: (RICH, {0: -600}),
        22: (RICH, {}), 23: (RICH, {0: 400}),
    }  # fmt: skip
    w = Crash(holders)
    w.mark(880)
    w.ask(22, 880, 400)
    assert w.one(23, Order(0, BUY, 880, 400, GTC)).filled_lots == 400
    assert w.size(22) == -400
    w.mark(879)
    # It was closed before, at 880: TV 50 - 60; pro rata to 36 and 72 dollars of profit.
    done = {r.account: r.size_lots for r in w.receipts if r.account != LOSER}
    assert done == {21: 333, 20: 167}
    ranks = {r.account: r.rank for r in w.receipts if r.account != LOSER}
    assert ranks == {21: 0, 20: 1}


def test_realised_profit_counts_so_washing_does_not_help() -> None:
    # 20 closes its winning short and opens it again at the mark: its profit is realised, and it
    # still takes its half.
    holders = {
        LOSER: (usd(70), {0: 1_000}), 20: (RICH, {0: -1_000}), 21: (RICH, {0: -1_000}),
        22: (RICH, {0: 1_000}),
    }  # fmt: skip
    w = Crash(holders)
    w.mark(950)
    w.ask(22, 950, 1_000)
    assert w.one(20, Order(0, BUY, 950, 1_000, GTC)).filled_lots == 1_000
    w.ask(20, 950, 1_000)
    assert w.one(22, Order(0, BUY, 950, 1_000, GTC)).filled_lots == 1_000
    row = lv.decode_realised(w.engine.leaves()[lv.realised_key(20, 0)])
    assert [amount for _, amount in row.hours] == [usd(50)]
    w.mark(930)
    assert {number: lots for number, (lots, _) in shares(w).items()} == {20: 500, 21: 500}


def test_the_opposite_side_without_profit_is_next_by_size() -> None:
    # 20 has a profit and 100 lots; 21 and 22 lose at this mark.
    holders = {
        LOSER: (usd(50), {0: 700}), 20: (RICH, {0: -100}), 21: (RICH, {0: -400}),
        22: (RICH, {0: -200}), 30: (RICH, {}),
    }  # fmt: skip
    w = Crash(holders)
    # 21 and 22 sell low and buy back high: more realised than they have open profit.
    for number, lots in ((21, 400), (22, 200)):
        w.ask(30, 1_060, lots)
        assert w.one(number, Order(0, BUY, 1_060, lots, GTC)).filled_lots == lots
        w.bid(30, 800, lots)
        assert w.one(number, Order(0, SELL, 800, lots, GTC)).filled_lots == lots
    w.mark(920)
    assert shares(w) == {20: (100, 857_143), 21: (400, 3_428_571), 22: (200, 1_714_286)}


def test_nobody_is_pushed_below_maintenance_and_the_rest_is_bad_debt() -> None:
    # 21 is itself thin: after closing its 500 lots it needs nothing, but has little.
    w = loser_and({20: (usd(30), 500), 21: (RICH, 500)}, equity=10)
    w.mark(990)
    assert w.size(LOSER) == 0
    w = Crash({LOSER: (usd(10), {0: 1_000}), 20: (usd(30), {0: -500, 1: 500}),
               21: (usd(30), {0: -500, 1: -500})})  # fmt: skip
    w.mark(800)
    # Shortfall 190. Each short holds 30 + 100, and keeps 25 for its position in market 1.
    assert shares(w) == {20: (500, usd(95)), 21: (500, usd(95))}
    assert w.equity(20) == usd(35)
    w = Crash({LOSER: (usd(10), {0: 1_000}), 20: (usd(30), {0: -500, 1: 1_800}),
               21: (usd(30), {0: -500, 1: -1_800})})  # fmt: skip
    w.mark(800)
    # They keep 90 each: 40 + 40 are carried, 110 are not.
    assert shares(w) == {20: (500, usd(40)), 21: (500, usd(40))}
    assert w.of(BadDebt) == [BadDebt(LOSER, usd(110), usd(110))]
    assert w.cash(INSURANCE_ACCOUNT) == -usd(110)
    assert (w.cash(LOSER), w.equity(20), w.equity(21)) == (0, usd(90), usd(90))
    assert w.distressed() == {}


def test_a_distressed_counterparty_closes_without_a_haircut() -> None:
    # 20 lost so much in market 1 that it is below maintenance itself.
    holders = {
        LOSER: (usd(60), {0: 1_000}), 20: (usd(60), {0: -100, 1: 1_000}), 21: (RICH, {0: -900}),
        22: (RICH, {1: -1_000}),
    }  # fmt: skip
    w = Crash(holders)
    w.mark(970, 1)
    assert sorted(w.distressed()) == [20]
    w.mark(930)
    # TV of 20 is 37, its MM 53: it has no room at all. 21 bears everything.
    assert shares(w) == {20: (100, 0), 21: (900, usd(10))}


def test_open_bad_debt_cuts_withdrawals_and_is_made_good_by_the_fund() -> None:
    w = Crash({LOSER: (usd(10), {0: 1_000}), 20: (usd(90), {0: -1_000}), 30: (usd(1_000), {})},
              limits=Limits(deleverage_counterparties=1))  # fmt: skip
    w.mark(500)
    # Shortfall 490, 20 can give up all of its 90 + 500.
    assert w.of(BadDebt) == [] and w.cash(20) == usd(100)
    w = Crash({LOSER: (usd(10), {0: 1_000}), 20: (usd(10), {0: -1_000, 1: 4_000}),
               21: (usd(1_000_000), {1: -4_000}), 30: (usd(1_000), {})})  # fmt: skip
    w.mark(700)
    bad = -w.cash(INSURANCE_ACCOUNT)
    assert bad > 0
    assert w.one(30, Withdraw(usd(100), bytes(20))).code == 0
    (event,) = w.of(WithdrawalQueued)
    assert event.haircut_uusd > 0 and event.amount_uusd + event.haircut_uusd == usd(100)
    assert w.cash(INSURANCE_ACCOUNT) == event.haircut_uusd - bad
    w.fund(INSURANCE_ACCOUNT, bad)
    assert w.cash(INSURANCE_ACCOUNT) == event.haircut_uusd


def test_several_positions_share_the_shortfall_by_margin() -> None:
    holders = {
        LOSER: (usd(50), {0: 1_000, 1: -3_000}), 20: (RICH, {0: -1_000}), 21: (RICH, {1: 3_000}),
    }  # fmt: skip
    w = Crash(holders)
    w.block([w.batch(0, OraclePrice(0, 900), OraclePrice(1, 1_000), by=o) for o in ORACLES])
    # TV -50, MM 45 + 150: 38.461538... and 11.538461... dollars.
    assert shares(w) == {21: (3_000, 38_461_538), 20: (1_000, 11_538_462)}
    assert [r.account for r in w.of(Receipt)] == [LOSER, 21, LOSER, 20]
    assert w.cash(LOSER) == 0


def test_what_one_market_cannot_carry_the_next_one_does() -> None:
    holders = {
        LOSER: (usd(10), {0: 1_000, 1: -900}),
        20: (usd(1), {0: -1_000, 1: -5_000}),
        21: (RICH, {1: 5_900}),
    }
    w = Crash(holders)
    w.mark(700)
    # Shortfall 290, of which 35 / 80 falls on market 0. Its counterparty carries 301 - 250; the
    # rest of it comes back to 21, which was dealt with before.
    assert shares(w) == {20: (1_000, usd(51)), 21: (900, usd(239))}
    assert [(r.account, r.size_lots, r.share_uusd) for r in w.of(Receipt)[-2:]] == [
        (LOSER, 0, usd(75.875)), (21, 0, usd(75.875)),
    ]  # fmt: skip
    assert w.of(BadDebt) == [] and w.cash(LOSER) == 0


def test_poor_counterparties_of_the_last_step_leave_the_rest_to_the_first() -> None:
    shorts = {20: (RICH, 600), 21: (usd(20), 300), 22: (usd(10), 100)}
    w = loser_and(shorts, limits=Limits(deleverage_counterparties=1))
    w.mark(700)
    # Shortfall 250: 150, 75 and 25, in steps of one.
    assert shares(w) == {20: (600, usd(150)), 21: (300, usd(75)), 22: (100, usd(25))}
    holders = {
        LOSER: (usd(50), {0: 1_000}), 20: (RICH, {0: -900}), 21: (usd(10), {0: -100, 1: 600}),
        22: (RICH, {1: -600}),
    }  # fmt: skip
    w = Crash(holders, limits=Limits(deleverage_counterparties=1))
    w.block([w.batch(0, OraclePrice(0, 700), OraclePrice(1, 990), by=o) for o in ORACLES])
    # 21 has 10 + 30 - 6 and keeps 29.7: it carries 4.3 of its 25.
    assert shares(w) == {20: (900, usd(245.7)), 21: (100, usd(4.3))}
    assert w.of(BadDebt) == [] and w.cash(LOSER) == 0


@pytest.mark.parametrize("items", [2, 3, 4])
def test_the_rest_is_shared_where_the_budget_ends(items: int) -> None:
    holders = {
        LOSER: (usd(50), {0: 1_000}), 20: (RICH, {0: -900}), 21: (usd(10), {0: -100, 1: 600}),
        22: (RICH, {1: -600}),
    }  # fmt: skip
    limits = Limits(deleverage_counterparties=1, liquidation_items_per_block=items)
    w = Crash(holders, limits=limits)
    w.block([w.batch(0, OraclePrice(0, 700), OraclePrice(1, 990), by=o) for o in ORACLES])
    assert shares(w) == {20: (900, usd(245.7)), 21: (100, usd(4.3))}
    assert w.of(BadDebt) == [] and w.cash(LOSER) == 0


def test_what_the_first_market_cannot_carry_goes_on_to_the_second() -> None:
    holders = {
        LOSER: (usd(10), {0: 1_000, 1: -600}), 20: (usd(1), {0: -1_000, 1: -5_000}),
        21: (RICH, {1: 5_600}),
    }  # fmt: skip
    w = Crash(holders)
    w.mark(700)
    # 35 / 65 of the 290 fall on market 0, which comes first, and of them 51 are carried.
    assert shares(w) == {20: (1_000, usd(51)), 21: (600, usd(239))}
    assert [r.size_lots for r in w.of(Receipt)] == [-1_000, 1_000, 600, -600]


def test_more_counterparties_than_the_limit_only_where_size_asks_for_them() -> None:
    shorts = {20 + n: (RICH, 100) for n in range(10)}
    w = loser_and(shorts, limits=Limits(deleverage_counterparties=3))
    w.mark(940)
    taken = shares(w)
    assert len(taken) == 10 and all(lots == 100 for lots, _ in taken.values())
    assert sum(cut for _, cut in taken.values()) == usd(10)
    assert len({cut for _, cut in taken.values()}) <= 2
    # The own receipts: one a step of three, the last of one.
    steps = [r.size_lots for r in w.of(Receipt) if r.account == LOSER]
    assert steps == [-300, -300, -300, -100]
    big = {20: (RICH, 600), 21: (RICH, 600), 22: (RICH, 50), 23: (RICH, 40)}
    holders = {LOSER: (usd(30), {0: 500}), 30: (RICH, {0: 790})}
    holders |= {number: (own, {0: -lots}) for number, (own, lots) in big.items()}
    w = Crash(holders, limits=Limits(deleverage_counterparties=2))
    w.mark(939)
    assert sorted(shares(w)) == [20, 21]


def test_the_budget_may_end_inside_an_account() -> None:
    shorts = {20 + n: (RICH, 100) for n in range(10)}
    limits = Limits(deleverage_counterparties=2, liquidation_items_per_block=1)
    w = loser_and(shorts, limits=limits, insurance_uusd=usd(4))
    w.mark(940)
    sizes = [w.size(LOSER)]
    while w.size(LOSER):
        w.block([])
        sizes.append(w.size(LOSER))
    assert sizes == [800, 600, 400, 200, 0]
    assert w.cash(LOSER) == 0 and w.cash(INSURANCE_ACCOUNT) == 0
    cuts = [r.share_uusd for r in w.receipts if r.account != LOSER]
    assert sum(cuts) == usd(6) and w.distressed() == {}


def test_an_account_lifted_by_anothers_end_is_free_in_the_same_block() -> None:
    # 20 is below maintenance and the budget does not reach it; closed against the loser it is not.
    holders = {
        LOSER: (usd(60), {0: 1_000}), 20: (usd(27), {0: -900, 1: 1_000}), 21: (RICH, {0: -100}),
        22: (RICH, {1: -1_000}),
    }  # fmt: skip
    w = Crash(holders, limits=Limits(liquidation_items_per_block=1))
    w.block([w.batch(0, OraclePrice(0, 930), OraclePrice(1, 970), by=o) for o in ORACLES])
    assert shares(w) == {20: (900, 0), 21: (100, usd(10))}
    assert [e.account for e in w.of(LiquidationEnded)] == [LOSER, 20]
    assert w.distressed() == {} and w.size(20, 1) == 1_000


def test_who_bought_in_the_same_block_is_opposite_at_once() -> None:
    # 16 is sold to 19, who had nothing; then 17, who is short and lost in market 1, is closed
    # against 19, who is the only long there is.
    holders = {
        LOSER: (usd(60), {0: 1_000}), 17: (usd(1.1), {0: -10, 1: 10}), 18: (RICH, {0: -990}),
        19: (RICH, {}), 20: (RICH, {1: -10}),
    }  # fmt: skip
    w = Crash(holders)
    w.bid(19, 940, 1_000)
    w.block([w.batch(0, OraclePrice(0, 985), OraclePrice(1, 870), by=o) for o in ORACLES])
    cuts = {number: lots for number, (lots, _) in shares(w, 17).items()}
    assert cuts == {19: 10, 20: 10}
    assert w.size(19) == 990 and w.size(17) == 0


def test_resting_reduce_only_orders_of_a_counterparty_shrink_with_it() -> None:
    w = loser_and({20: (RICH, 600), 21: (RICH, 400)})
    order = Order(0, BUY, 900, 550, GTC, 0, REDUCE_ONLY)
    assert w.one(20, order).code == 0
    w.mark(940)
    assert w.size(20) == 0
    assert [e.reason for e in w.of(OrderChanged)] == [REASON_REDUCE_ONLY]


def test_the_last_positions_of_a_market_and_of_everything() -> None:
    w = Crash({LOSER: (usd(1), {0: 1}), 20: (usd(1), {0: -1})})
    w.mark(1)
    # Nothing is lost beyond 1 - 0.999.
    w.mark(2_002)
    assert (w.size(LOSER), w.size(20)) == (0, 0)
    leaves = w.engine.leaves()
    assert not any(key[:1] in (lv.POSITION, lv.DISTRESS) for key in leaves)
    assert w.cash(LOSER) + w.cash(20) == usd(2)


@pytest.mark.parametrize("mode", [CANCEL_ONLY])
def test_positions_in_a_frozen_market_wait_with_their_share(mode: int) -> None:
    holders = {
        LOSER: (usd(10), {0: 1_000, 1: 1_000}), 20: (RICH, {0: -1_000, 1: -1_000}),
    }  # fmt: skip
    w = Crash(holders, guardians=3, insurance_uusd=usd(10))
    w.vote(1, mode)
    w.mark(900)
    # TV -90, MM 45 + 50: 42.63 fall on market 0 now, 47.37 wait with market 1.
    assert (w.size(LOSER, 0), w.size(LOSER, 1)) == (0, 1_000)
    assert w.equity(LOSER) == -47_368_421
    assert w.cash(INSURANCE_ACCOUNT) == 0
    assert shares(w) == {20: (1_000, 32_631_579)}
    assert list(w.distressed()) == [LOSER]
    receipts = len(w.receipts)
    w.block([])
    assert len(w.receipts) == receipts
    # The price comes back: what waited was never lost.
    w.vote(1, OPEN)
    assert w.size(LOSER, 1) == 0
    assert w.cash(LOSER) == 0 and w.distressed() == {}


def test_a_stale_market_is_not_deleveraged_until_prices_are_fresh() -> None:
    fresh = {"oracle_age_ms": 1_000, "stale_band_ppm": 20_000}
    w = Crash(
        {LOSER: (usd(50), {0: 1_000}), 20: (RICH, {0: -1_000})},
        [market(0, **FREE, **fresh), market(1, **FREE)],
    )
    w.report(961)
    w.report(1_000, 1)
    assert list(w.distressed()) == [LOSER]
    w.height += 200
    w.block([])
    (changed,) = w.of(MarketChanged)
    assert changed.stale and w.size(LOSER) == 1_000
    w.report(930)
    assert w.size(LOSER) == 0 and w.cash(LOSER) == 0


def test_a_debt_without_a_position_is_paid_or_becomes_bad_debt() -> None:
    w = Crash({LOSER: (-usd(5), {}), 20: (usd(100), {})}, insurance_uusd=usd(3))
    w.block([])
    assert w.of(BadDebt) == [BadDebt(LOSER, usd(2), usd(2))]
    assert (w.cash(LOSER), w.cash(INSURANCE_ACCOUNT), w.cash(20)) == (0, -usd(2), usd(100))
    assert w.distressed() == {}
    (receipt,) = w.receipts
    assert (receipt.size_lots, receipt.equity_uusd, receipt.insurance_uusd) == (0, -usd(5), -usd(3))
    assert receipt.share_uusd == usd(2)
    w.block([])
    assert w.of(BadDebt) == [] and len(w.receipts) == 1


def test_unsettled_funding_counts_and_is_settled_first() -> None:
    # 55 thousandths of a dollar a lot are due: TV 5 of 60, and the fall to 990 makes it -5.
    config = market(0, funding_interval_ms=5_000, **FREE)
    w = Crash({LOSER: (usd(60), {0: 1_000}), 20: (RICH, {0: -1_000})}, [config])
    leaves = w.engine.leaves()
    far_ms = START_MS + 10**9
    row = lv.PricingLeaf(
        funding_index=55_000_000, next_sample_ms=far_ms, next_payment_ms=far_ms, fresh_ms=START_MS
    )
    leaves[lv.pricing_key(0)] = encode(row)
    w.engine = Engine.restore(w.chain, leaves.items(), accept)
    w.mirror = w.engine.leaves()
    w.mark(990)
    assert [(e.account, e.amount_uusd) for e in w.of(FundingPaid)] == [
        (LOSER, -usd(55)), (20, usd(55)),
    ]  # fmt: skip
    assert shares(w) == {20: (1_000, usd(5))}
    assert w.cash(LOSER) == 0 and w.cash(20) == RICH + usd(55 + 10 - 5)
