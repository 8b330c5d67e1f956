"""Who holds what when a stress run begins.

10,000 traders (or as many as asked) with sizes after Pareto, leverage from 1 to 50, seven longs for
three shorts, entries along the candles of the week before. Who would have been liquidated since
its entry is drawn again, with an entry less long ago, so that high leverage means young positions.
Some have a stop, some a reserve that they top up from. Large accounts of low leverage (carry
traders) hold the other side of what the traders are net.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import NamedTuple

from margin.linear import Product
from protocol.genesis import CASH_MOVE_LIMIT, PPM, PRICE_LIMIT
from protocol.settlement import FIRST_ACCOUNT
from sim.random import SplitMix64, derive_seed
from sim.stress_prices import Candle

DOLLAR = 1_000_000
NOTIONAL_FLOOR_UUSD = 5_000 * DOLLAR
NOTIONAL_CAP_UUSD = 30_000_000 * DOLLAR
"""Sizes follow a Pareto distribution with exponent 8/7, near the 1.16 of "80 to 20", cut here."""
LEVERAGE = ((1, 10), (2, 12), (3, 13), (5, 20), (10, 22), (20, 13), (30, 4), (50, 6))
"""(leverage at entry, share in percent)."""
LONG_PPM = 700_000
STOP_PPM = 300_000
"""Traders with a stop, 10 to 70 % of the way from the liquidation price, a fifth below at most."""
RESERVE_PPM = 150_000
"""Traders who top up, with 30 to 100 % of their first margin, once."""
ENTRY_TRIES = 14
SURVIVAL_PPM = 1_100_000
"""A drawn position must have kept its equity above this part of maintenance since its entry."""
CARRY_TRADERS = 40
CARRY_LEVERAGE = 2
MOST_STOP_PPM = 200_000


class Trader(NamedTuple):
    """A trader at the start; sizes are signed. `stop_ticks` 0: no stop.

    `reserve_uusd` (0: none) lies in a sub-account; it is sent `react_ms` after the price has gone
    to `alarm_ticks`.
    """

    account: int
    size_lots: int
    cost_uusd: int
    cash_uusd: int
    leverage: int
    stop_ticks: int
    reserve_uusd: int
    alarm_ticks: int
    react_ms: int


class Population(NamedTuple):
    """All traders, carry traders last; sizes sum to zero."""

    traders: list[Trader]
    open_interest_lots: int

    @property
    def next_account(self) -> int:
        """The first account number that is free."""
        return self.traders[-1].account + 1


def populate(
    seed: int, count: int, week: Sequence[Candle], tick_uusd: int, product: Product
) -> Population:
    """Draw a population at the close of the last candle of `week`."""
    draw = _Draw(seed, week, tick_uusd, product)
    traders = [draw.trader(FIRST_ACCOUNT + number) for number in range(count)]
    net = sum(trader.size_lots for trader in traders)
    for number in range(CARRY_TRADERS):
        share = net // CARRY_TRADERS + (number < net % CARRY_TRADERS)
        if share:
            traders.append(draw.carry(FIRST_ACCOUNT + len(traders), -share))
    return Population(traders, sum(max(trader.size_lots, 0) for trader in traders))


def liquidation_ticks(product: Product, size_lots: int, cash_uusd: int) -> int:
    """First price, as it moves against a position, at which it is below maintenance; 0: none."""
    safe = product.last_safe_ticks(size_lots, cash_uusd, 0, PRICE_LIMIT)
    if safe is None:
        return 0
    return safe - 1 if size_lots > 0 else safe + 1


class _Draw:
    def __init__(self, seed: int, week: Sequence[Candle], tick_uusd: int, product: Product) -> None:
        self.rng = SplitMix64(derive_seed(seed, "population"))
        self.product = product
        self.price = week[-1].close_uusd // tick_uusd
        self.ranges = [(c.low_uusd // tick_uusd, c.high_uusd // tick_uusd) for c in week]
        self.since = list(self.ranges)
        """Lowest and highest price from each candle to the end."""
        for place in range(len(week) - 2, -1, -1):
            low, high = self.since[place]
            later_low, later_high = self.since[place + 1]
            self.since[place] = min(low, later_low), max(high, later_high)

    def notional_uusd(self) -> int:
        """Floor x U^(-7/8) by three square roots, U uniform in 32 bits."""
        uniform = (self.rng.next() >> 32) + 1
        eighth = (1 << 32) ** 7 * (1 << 128) // uniform**7
        scaled = NOTIONAL_FLOOR_UUSD * isqrt(isqrt(isqrt(eighth))) >> 16
        return min(scaled, NOTIONAL_CAP_UUSD)

    def leverage(self) -> int:
        """From the mixture."""
        place = self.rng.below(sum(share for _, share in LEVERAGE))
        for leverage, share in LEVERAGE:
            place -= share
            if place < 0:
                return leverage
        return LEVERAGE[-1][0]

    def trader(self, account: int) -> Trader:
        """One trader that has survived until now."""
        rng, product = self.rng, self.product
        notional = self.notional_uusd()
        leverage = self.leverage()
        lots = max(notional // product.notional_uusd(1, self.price), 1)
        size = lots if rng.chance(LONG_PPM) else -lots
        cost, cash = self.entry(size, leverage)
        margin = cash + cost
        liquidation = liquidation_ticks(product, size, cash)
        stop = self.stop(size, liquidation) if rng.chance(STOP_PPM) else 0
        reserve = alarm = react = 0
        if liquidation and rng.chance(RESERVE_PPM):
            reserve = min(margin * rng.between(30, 100) // 100, CASH_MOVE_LIMIT - 1)
            alarm = liquidation + (self.price - liquidation) // 4
            react = rng.between(2_000, 60_000)
        return Trader(account, size, cost, cash, leverage, stop, reserve, alarm, react)

    def entry(self, size: int, leverage: int) -> tuple[int, int]:
        """(cost, cash) of a position whose entry lies in the week and which was never liquidated;
        after `ENTRY_TRIES` it is a fresh one."""
        product, count = self.product, len(self.ranges)
        for attempt in range(ENTRY_TRIES):
            back = max(count >> attempt // 2, 1)
            place = count - 1 - self.rng.below(back)
            price = self.rng.between(*self.ranges[place])
            cost, cash = self.open(size, price, leverage)
            low, high = self.since[place]
            worst = low if size > 0 else high
            worth = cash + product.value_uusd(size, worst)
            if worth * PPM >= product.maintenance_uusd(size, worst) * SURVIVAL_PPM:
                return cost, cash
        return self.open(size, self.price, leverage)

    def open(self, size: int, price: int, leverage: int) -> tuple[int, int]:
        """(cost, cash) of a position entered at a price with this leverage, or the most allowed."""
        product = self.product
        cost = product.value_uusd(size, price)
        margin = product.initial_uusd(size, 0, 0, 0, 0, price, 0, leverage)
        return cost, margin - cost

    def stop(self, size: int, liquidation: int) -> int:
        """Where a stop waits."""
        furthest = self.price * MOST_STOP_PPM // PPM
        if size > 0:
            floor = max(liquidation, self.price - furthest)
        else:
            floor = min(liquidation or PRICE_LIMIT, self.price + furthest)
        return floor + (self.price - floor) * self.rng.between(10, 70) // 100

    def carry(self, account: int, size: int) -> Trader:
        """A carry trader: low leverage, no stop, nothing to react to."""
        cost, cash = self.open(size, self.price, CARRY_LEVERAGE)
        return Trader(account, size, cost, cash, CARRY_LEVERAGE, 0, 0, 0, 0)
