"""The population of a stress run: what its description says, and nobody below maintenance."""

from __future__ import annotations

import pytest

from protocol.genesis import CASH_MOVE_LIMIT
from protocol.settlement import FIRST_ACCOUNT
from sim.stress_exchange import TICK_UUSD, product
from sim.stress_population import (
    NOTIONAL_CAP_UUSD,
    NOTIONAL_FLOOR_UUSD,
    Population,
    Trader,
    liquidation_ticks,
    populate,
)
from sim.stress_prices import Candle, synthetic_candles

WEEK = synthetic_candles(5, 168, 3_600_000, 0, 50_000_000_000)[:168]
RULES = product()
PRICE = WEEK[-1].close_uusd // TICK_UUSD


@pytest.fixture(scope="module")
def population() -> Population:
    return populate(1, 4_000, WEEK, TICK_UUSD, RULES)


def notional(trader: Trader) -> int:
    return RULES.notional_uusd(abs(trader.size_lots), PRICE)


def retail(population: Population) -> list[Trader]:
    return population.traders[:4_000]


def test_positions_sum_to_zero_and_longs_are_the_open_interest(population: Population) -> None:
    sizes = [trader.size_lots for trader in population.traders]
    assert sum(sizes) == 0
    assert sum(size for size in sizes if size > 0) == population.open_interest_lots
    accounts = [trader.account for trader in population.traders]
    assert accounts == list(range(FIRST_ACCOUNT, FIRST_ACCOUNT + len(accounts)))
    assert population.next_account == accounts[-1] + 1


def test_longs_are_crowded_and_carry_traders_stand_against_them(population: Population) -> None:
    longs = sum(trader.size_lots > 0 for trader in retail(population))
    assert 0.67 < longs / 4_000 < 0.73
    carry = population.traders[4_000:]
    assert carry and all(trader.size_lots < 0 and trader.leverage == 2 for trader in carry)


def test_sizes_have_a_pareto_tail(population: Population) -> None:
    sizes = sorted((notional(trader) for trader in retail(population)), reverse=True)
    lot = RULES.notional_uusd(1, PRICE)
    assert sizes[-1] >= NOTIONAL_FLOOR_UUSD - lot and sizes[0] <= NOTIONAL_CAP_UUSD
    assert sum(sizes[:800]) > sum(sizes) * 0.6
    # P(size > x) = (floor / x)^(8/7): the median is floor x 2^(7/8).
    assert abs(sizes[2_000] / (NOTIONAL_FLOOR_UUSD * 2 ** (7 / 8)) - 1) < 0.06
    beyond = sum(size > 10 * NOTIONAL_FLOOR_UUSD for size in sizes) / 4_000
    assert abs(beyond / 10 ** (-8 / 7) - 1) < 0.2


def test_nobody_begins_below_maintenance_and_survivors_are_no_more_levered_than_they_said(
    population: Population,
) -> None:
    for trader in population.traders:
        equity = trader.cash_uusd + RULES.value_uusd(trader.size_lots, PRICE)
        assert equity >= RULES.maintenance_uusd(trader.size_lots, PRICE), trader
        margin = trader.cash_uusd + trader.cost_uusd
        assert margin * trader.leverage >= abs(trader.cost_uusd), trader
        assert (trader.cost_uusd > 0) == (trader.size_lots > 0)


def test_entries_lie_along_the_week(population: Population) -> None:
    low = min(candle.low_uusd for candle in WEEK) // TICK_UUSD
    high = max(candle.high_uusd for candle in WEEK) // TICK_UUSD
    value = RULES.value_uusd(1, 1)
    entries = [t.cost_uusd // (t.size_lots * value) for t in retail(population)]
    assert all(low - 1 <= entry <= high + 1 for entry in entries)
    assert len(set(entries)) > 1_500


def test_stops_and_alarms_lie_between_the_price_and_liquidation(population: Population) -> None:
    stops = alarms = 0
    for trader in retail(population):
        out = liquidation_ticks(RULES, trader.size_lots, trader.cash_uusd)
        if trader.stop_ticks:
            stops += 1
            assert (trader.stop_ticks < PRICE) == (trader.size_lots > 0)
            assert abs(trader.stop_ticks - PRICE) <= PRICE // 5
        if trader.reserve_uusd:
            alarms += 1
            assert min(out, PRICE) <= trader.alarm_ticks <= max(out, PRICE)
            assert 0 < trader.reserve_uusd < CASH_MOVE_LIMIT and trader.react_ms >= 2_000
    assert 0.27 < stops / 4_000 < 0.33
    assert 0.09 < alarms / 4_000 < 0.16


def test_the_seed_decides(population: Population) -> None:
    assert populate(1, 4_000, WEEK, TICK_UUSD, RULES) == population
    assert populate(2, 4_000, WEEK, TICK_UUSD, RULES) != population


def test_a_position_that_the_week_would_have_ended_is_not_drawn() -> None:
    """After a fall of half nobody is left who bought before it with leverage."""
    fall = [
        Candle(0, 100_000_000_000, 100_000_000_000, 100_000_000_000, 100_000_000_000),
        Candle(1, 100_000_000_000, 100_000_000_000, 50_000_000_000, 50_000_000_000),
        Candle(2, 50_000_000_000, 50_000_000_000, 50_000_000_000, 50_000_000_000),
    ]
    found = populate(3, 500, fall, TICK_UUSD, RULES).traders
    entries = {
        trader.cost_uusd // RULES.value_uusd(trader.size_lots, 1)
        for trader in found
        if trader.size_lots > 0 and trader.leverage >= 3
    }
    assert max(entries) < 800_000


@pytest.mark.parametrize("size", [1, 7, 40_000, 9_000_000, -1, -7, -40_000, -9_000_000])
@pytest.mark.parametrize("leverage", [1, 2, 10, 50])
def test_the_liquidation_price_is_the_first_below_maintenance(size: int, leverage: int) -> None:
    cost = RULES.value_uusd(size, PRICE)
    cash = RULES.initial_uusd(size, 0, 0, 0, 0, PRICE, 0, leverage) - cost
    out = liquidation_ticks(RULES, size, cash)

    def safe(ticks: int) -> bool:
        return cash + RULES.value_uusd(size, ticks) >= RULES.maintenance_uusd(size, ticks)

    if out:
        assert not safe(out)
        assert safe(out + 1 if size > 0 else out - 1)
    else:
        assert size > 0 and safe(1)
