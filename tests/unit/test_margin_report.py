"""Margin reports, liquidation prices, ranks of deleveraging and previews on numbers by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine_world import World, market

from execution import leaves as lv
from execution.deleveraging import Opposites
from execution.fees import Fees
from execution.liquidation_moves import Moves
from execution.preview import Preview, preview
from execution.realised import Realised
from execution.report import (
    DeleverageRanks,
    MarginReport,
    deleverage_rank,
    liquidation_ticks,
    margin_report,
)
from execution.state import State
from execution.trading import Trading
from margin.deleveraging import rank_key
from protocol.actions import (
    BUY,
    FOK,
    GTC,
    IOC,
    REDUCE_ONLY,
    SELL,
    MarketOrder,
    Order,
    SetLeverage,
)
from protocol.errors import Code, Rejected
from protocol.events import FILLED, RESTING, Fill, Result
from protocol.genesis import Limits

A, B, C, D = 16, 17, 18, 19
DOLLAR = 1_000_000


def state_of(world: World) -> State:
    state: State = world.engine._state
    return state


def report(world: World, account: int) -> MarginReport:
    state = state_of(world)
    return margin_report(state.risk, state.accounts[account])


def ask(world: World, account: int, action: Order | MarketOrder) -> Preview:
    state = state_of(world)
    return preview(state, account, action, Fees(state).tier)


def trade(world: World, buyer: int, seller: int, price: int, lots: int, number: int = 0) -> None:
    """The seller's order rests, the buyer takes it."""
    assert world.one(seller, Order(number, SELL, price, lots)).status == RESTING
    assert world.one(buyer, Order(number, BUY, price, lots)).status == FILLED


def test_a_report_of_a_long_and_its_orders() -> None:
    # $100 each; no fees; a lot is $1, IM 10 %, MM 5 %.
    free = {"taker_fee_ppm": 0, "maker_fee_ppm": 0}
    world = World([market(0, **free), market(1, **free)], dollars=100)
    trade(world, A, B, 1_000, 300)
    trade(world, A, B, 1_001, 100)
    assert world.one(A, SetLeverage(0, 6)).code == 0
    assert world.one(A, Order(1, BUY, 990, 50)).code == 0
    world.mark(1_010)
    found = report(world, A)
    # Cost 300 + 100.1; worth 404; equity 103.9. Margin 404 / 6 up, and 5 for the order at 1000.
    assert found.cash_uusd == 100 * DOLLAR - 400_100_000
    assert found.equity_uusd == found.liquidation_equity_uusd == 103_900_000
    assert found.maintenance_uusd == 20_200_000
    assert found.initial_uusd == 67_333_334 + 5_000_000
    assert found.free_uusd == 103_900_000 - 72_333_334
    # The profit of 3.9 and margin stay; a tenth of the notional is 40.4.
    assert found.withdrawable_uusd == 103_900_000 - 72_333_334
    assert found.leverage_ppm == -(-404_000_000 * DOLLAR // 103_900_000)
    first, second = found.positions
    assert (first.market, first.size_lots, first.cost_uusd) == (0, 400, 400_100_000)
    assert (first.entry_ticks, first.mark_ticks, first.unrealised_uusd) == (1_001, 1_010, 3_900_000)
    assert (first.notional_uusd, first.funding_uusd, first.stale) == (404_000_000, 0, False)
    assert (first.initial_uusd, first.maintenance_uusd) == (67_333_334, 20_200_000)
    assert (first.leverage, first.leverage_ppm) == (6, found.leverage_ppm)
    # 400,000 m - 300,100,000 >= 20,000 m from m = 789.7 on.
    assert first.liquidation_ticks == 790
    assert (second.market, second.size_lots, second.initial_uusd) == (1, 0, 5_000_000)
    assert (second.entry_ticks, second.liquidation_ticks, second.leverage_ppm) == (0, None, 0)
    # The short: entry rounded down, 500,100,000 - 400,000 m >= 20,000 m up to m = 1190.7.
    short = report(world, B).positions[0]
    assert (short.entry_ticks, short.unrealised_uusd) == (1_000, -3_900_000)
    assert short.liquidation_ticks == 1_190


def test_an_account_far_from_liquidation_has_no_liquidation_price() -> None:
    world = World([market(0)], dollars=1_000)
    trade(world, A, B, 1_000, 100)
    state = state_of(world)
    assert report(world, A).positions[0].liquidation_ticks is None
    assert liquidation_ticks(state.risk, state.accounts[C], 0) is None
    assert report(world, C).positions == []
    assert report(world, C).leverage_ppm == 0
    # A short always has one.
    assert report(world, B).positions[0].liquidation_ticks is not None


def test_the_liquidation_price_allows_for_other_markets() -> None:
    world = World([market(0, taker_fee_ppm=0, maker_fee_ppm=0), market(1)], dollars=100)
    trade(world, A, B, 1_000, 400)
    before = report(world, A).positions[0].liquidation_ticks
    # 400,000 m - 300,000,000 >= 20,000 m from m = 789.5 on.
    assert before == 790
    trade(world, B, A, 1_000, 200, 1)
    # Fees of 200 x $1 x 0.01 % and the margin of 10 there: 400,000 m - 310,020,000 >= 20,000 m.
    assert report(world, A).positions[0].liquidation_ticks == 816


def test_a_report_settles_funding_on_a_copy_only() -> None:
    world = World([market(0, taker_fee_ppm=0, maker_fee_ppm=0)], dollars=100)
    trade(world, A, B, 1_000, 100)
    state = state_of(world)
    state.markets[0].funding_index = 12_345_678
    state.risk.version += 1
    found = report(world, A)
    # 100 lots x 12,345.678 up.
    assert found.positions[0].funding_uusd == -1_234_568
    assert found.equity_uusd == 100 * DOLLAR - 1_234_568
    assert found.cash_uusd == -1_234_568
    assert report(world, B).positions[0].funding_uusd == 1_234_567
    assert state.accounts[A].cash_uusd == 0
    assert state.accounts[A].exposures[0].funding_index == 0
    assert state.accounts[A].version != state.risk.version


def test_ranks_are_those_of_deleveraging() -> None:
    world = World([market(0, taker_fee_ppm=0, maker_fee_ppm=0)], accounts=6, dollars=100)
    loser, winner = 20, 21
    trade(world, A, loser, 1_000, 50)
    trade(world, B, loser, 990, 50)
    trade(world, C, winner, 1_010, 20)
    trade(world, D, winner, 1_010, 30)
    # B closes 10 with profit and so stays first; the others rank by profit, then size.
    trade(world, loser, B, 1_005, 10)
    world.mark(1_003)
    state = state_of(world)
    order = [A, B, C, D]
    trading = Trading(state)
    longs = Opposites(state, Realised(state), Moves(state, trading))
    order.sort(key=lambda number: rank_key(longs.opposite(number, state.markets[0])))
    assert order == [B, A, D, C]
    assert [deleverage_rank(state, 0, number) for number in order] == [
        (0, 4), (1, 4), (2, 4), (3, 4),
    ]  # fmt: skip
    taken = longs.ranking(state.markets[0], True).take(9)
    assert [opposite.account for opposite in taken] == order
    assert deleverage_rank(state, 0, winner) == (0, 2)
    assert deleverage_rank(state, 0, loser) == (1, 2)
    assert deleverage_rank(state, 0, 0) is None


def test_ranks_of_many_questions_are_at_most_a_second_old() -> None:
    world = World([market(0, taker_fee_ppm=0, maker_fee_ppm=0)], dollars=100)
    trade(world, A, D, 1_000, 10)
    trade(world, B, D, 990, 10)
    state = state_of(world)
    ranks = DeleverageRanks(state)
    assert [ranks.place(0, number) for number in (B, A, C)] == [(0, 2), (1, 2), None]
    trade(world, C, D, 980, 10)
    # C's own place is by its own figures, the others are not read again yet.
    assert [ranks.place(0, number) for number in (C, B, A)] == [(0, 2), (0, 2), (1, 2)]
    world.height += 100
    world.block([])
    assert [ranks.place(0, number) for number in (C, B, A)] == [(0, 3), (1, 3), (2, 3)]


def test_realised_profit_of_a_day_counts_for_the_rank() -> None:
    world = World([market(0, taker_fee_ppm=0, maker_fee_ppm=0)], dollars=100)
    trade(world, A, D, 1_000, 10)
    trade(world, B, D, 1_000, 11)
    state = state_of(world)
    assert deleverage_rank(state, 0, B) == (0, 2)
    hour = state.time_ms // 3_600_000
    key = lv.realised_key(A, 0)
    state.realised.put(key, lv.RealisedLeaf([(hour - 24, 1)]))
    assert deleverage_rank(state, 0, A) == (0, 2)
    state.realised.put(key, lv.RealisedLeaf([(hour - 25, 1)]))
    assert deleverage_rank(state, 0, A) == (1, 2)


def test_a_preview_of_fills_and_of_what_rests() -> None:
    world = World([market(0)], dollars=100)
    world.one(B, Order(0, SELL, 1_000, 100))
    world.one(C, Order(0, SELL, 1_002, 100))
    found = ask(world, A, Order(0, BUY, 1_002, 250))
    assert found.result == Result(0, RESTING, 3, 200, 50)
    fills = [event for event in found.events if isinstance(event, Fill)]
    assert [(fill.maker_account, fill.price_ticks) for fill in fills] == [(B, 1_000), (C, 1_002)]
    # 0.05 % of 100 and of 100.2 dollars.
    assert found.fees_uusd == 50_000 + 50_100
    assert found.filled_ticks_lots == 200_200
    assert found.before == report(world, A)
    assert found.after.equity_uusd == 100 * DOLLAR - 100_100 - 200_000
    # 250 lots at 10 %; the 50 that rest: 2 ticks through the mark, a fee of 0.01 %.
    assert found.after.initial_uusd == 25 * DOLLAR + 100_000 + 5_010
    assert found.after.positions[0].size_lots == 200
    assert found.after.positions[0].liquidation_ticks is not None
    # Nothing happened.
    assert report(world, A) == found.before
    assert world.engine.leaves() == world.mirror
    world.engine.check()


@pytest.mark.parametrize("tif", [GTC, IOC, FOK])
@pytest.mark.parametrize("lots", [1, 7, 8, 9, 70, 72, 73, 99, 100, 101, 150])
def test_a_preview_reaches_as_deep_as_the_order(lots: int, tif: int) -> None:
    world = World([market(0)], Limits(fills_per_action=100), dollars=2_000, checked=False)
    for number in range(120):
        world.one(B + number % 2, Order(0, SELL, 1_001 + number // 7, 1))
    found = ask(world, A, Order(0, BUY, 1_015, lots, tif))
    assert world.one(A, Order(0, BUY, 1_015, lots, tif)) == found.result
    # 15 prices of 7 lots are in reach, of which an action may fill 100.
    filled = min(lots, 100)
    if tif == FOK and lots > 100:
        filled = 0
    assert found.result.filled_lots == filled
    assert found.after == report(world, A)


@pytest.mark.parametrize(
    ("action", "code"),
    [
        (Order(5, BUY, 1_000, 1), Code.UNKNOWN_MARKET),
        (Order(0, BUY, 0, 1), Code.BAD_PRICE),
        (Order(0, 9, 1_000, 1), Code.WRONG_TYPE),
        (Order(0, BUY, 1_000, 1_001), Code.INSUFFICIENT_MARGIN),
        (Order(0, BUY, 1_000, 10, IOC), Code.NO_LIQUIDITY),
        (Order(0, BUY, 1_000, 10, flags=REDUCE_ONLY), Code.NOT_REDUCING),
        (Order(0, BUY, 1_000, 10, FOK), Code.NOT_FILLABLE),
        (MarketOrder(0, SELL, 10, -5), Code.BAD_SLIPPAGE),
        (MarketOrder(0, SELL, 10, 1 << 62), Code.BAD_SLIPPAGE),
        (MarketOrder(0, SELL, 10, 1_000), Code.NO_LIQUIDITY),
    ],
)
def test_a_preview_of_a_bad_order_says_why_and_changes_no_figure(
    action: Order | MarketOrder, code: Code
) -> None:
    world = World([market(0)], dollars=100)
    found = ask(world, A, action)
    assert found.result.code == code
    assert found.events == []
    assert found.before == found.after


def test_a_preview_of_an_account_that_is_not_there_is_refused() -> None:
    with pytest.raises(Rejected) as error:
        ask(World([market(0)]), 99, Order(0, BUY, 1_000, 1))
    assert error.value.code == Code.UNKNOWN_ACCOUNT
