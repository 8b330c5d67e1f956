"""Mark prices from the oracle and the book, and what dated futures settle at.

mark = median(oracle + EMA, median(impact bid, impact ask, last), oracle), all in ticks. Two of the
three follow the oracle, so the mark always lies between the oracle price and the oracle price plus
a bounded slow average: who moves the book for a moment moves nothing.
Source: the mark price of Hyperliquid (three parts, a 150 s average of the book's distance from the
oracle); impact prices of BitMEX and Binance.
"""

from __future__ import annotations

from typing import NamedTuple

from margin.market import Market
from matching.book import Book
from protocol.actions import BUY, OPEN, REDUCE_ONLY_MODE, SELL
from protocol.markets import PPM

EMA_MS = 150_000
"""Time constant of the moving average."""
EMA_SAMPLE_MS = 1_000
"""Least time between its samples, so that it is written once a second and not with each block."""
EMA_GAP_MS = 10_000
"""After so long without a sample the book counts for nothing in the next one."""
EMA_BITS = 16
"""It is kept in 2^-16 ticks."""
EMA_UNIT = 1 << EMA_BITS

CARRY_PPM = 250_000
"""How far interest may hold a dated future from the oracle price, for each year it has to go."""
YEAR_MS = 365 * 24 * 3600 * 1000


class Impact(NamedTuple):
    """Prices for which the impact notional could be sold and bought at once; 0, 0 where the book
    says nothing."""

    bid_ticks: int
    ask_ticks: int


NO_IMPACT = Impact(0, 0)


def impact_prices(book: Book, notional: int, oracle_ticks: int, wide_ppm: int) -> Impact:
    """Impact prices of a notional in ticks x lots.

    A book that is too shallow on either side, or whose impact spread is `wide_ppm` of the oracle
    price or more, says nothing.
    """
    bid = book.impact_ticks(BUY, notional)
    if not bid:
        return NO_IMPACT
    ask = book.impact_ticks(SELL, notional)
    if not ask or (ask - bid) * PPM >= oracle_ticks * wide_ppm:
        return NO_IMPACT
    return Impact(bid, ask)


def impact_now(market: Market, oracle_ticks: int) -> Impact:
    """Impact prices of a market's book as it is, for the notional that genesis gives. A book that
    nobody may take from says nothing."""
    config = market.config
    if not config.impact_notional_uusd or market.mode not in (OPEN, REDUCE_ONLY_MODE):
        return NO_IMPACT
    notional = -(-config.impact_notional_uusd // market.product.notional_uusd(1, 1))
    return impact_prices(market.book, notional, oracle_ticks, config.wide_ppm)


def band(oracle_ticks: int, maintenance_ppm: int, left_ms: int = 0) -> int:
    """Bound of |EMA|, in 2^-16 ticks, rounded down: half the lowest maintenance rate of the oracle
    price, and for a dated future what interest explains over the time it has left."""
    rate_times_two = maintenance_ppm + 2 * CARRY_PPM * max(left_ms, 0) // YEAR_MS
    return oracle_ticks * EMA_UNIT * min(rate_times_two, PPM) // (2 * PPM)


def ema_after(ema: int, impact: Impact, oracle_ticks: int, dt_ms: int, bound: int) -> int:
    """The average after the book stood at `impact` for `dt_ms`: weight dt / (dt + 150 s) on impact
    mid - oracle, 0 where the book says nothing; the change is rounded towards 0."""
    if impact.bid_ticks:
        sample = (impact.bid_ticks + impact.ask_ticks - 2 * oracle_ticks) * (EMA_UNIT // 2)
    else:
        sample = 0
    step = abs(sample - ema) * dt_ms // (dt_ms + EMA_MS)
    return within(ema + step if sample > ema else ema - step, bound)


def within(value: int, bound: int) -> int:
    """The value, moved into -bound .. bound."""
    return max(-bound, min(value, bound))


def ema_price_ticks(oracle_ticks: int, ema: int) -> int:
    """Oracle + EMA, to the nearest tick (halves up)."""
    return oracle_ticks + ((ema + EMA_UNIT // 2) >> EMA_BITS)


def book_price_ticks(impact: Impact, last_ticks: int, oracle_ticks: int) -> int:
    """Median of impact bid, impact ask and last trade; their middle before the first trade, and
    the oracle price where the book says nothing."""
    bid, ask = impact
    if not bid:
        return oracle_ticks
    return median(bid, ask, last_ticks or (bid + ask) // 2)


def median(a: int, b: int, c: int) -> int:
    """The middle of three."""
    return max(min(a, b), min(max(a, b), c))


def settlement_ticks(ticks_ms: int, averaged_ms: int) -> int:
    """Time-weighted average of a sum of price x milliseconds, to the nearest tick (halves up)."""
    return (2 * ticks_ms + averaged_ms) // (2 * averaged_ms)


def blended_ticks(live_ticks: int, ticks_ms: int, averaged_ms: int, window_ms: int) -> int:
    """Mark of a dated future while its settlement average runs, to the nearest tick: the part of
    the window that is averaged counts at the average, the rest at the live mark. That is what the
    settlement price will be if the price stays."""
    left_ms = max(window_ms - averaged_ms, 0)
    return settlement_ticks(ticks_ms + live_ticks * left_ms, averaged_ms + left_ms)


def scaled_initial_ppm(
    open_uusd: int, initial_ppm: int, scale_from_uusd: int, scale_to_uusd: int
) -> int:
    """Initial rate that an open interest asks for, rounded up; 0: none beyond the tiers.

    Linear from `initial_ppm` at `scale_from_uusd` to 100 % at `scale_to_uusd`, as in dYdX v4
    ("open interest based initial margin").
    """
    if not scale_to_uusd or open_uusd <= scale_from_uusd:
        return 0
    if open_uusd >= scale_to_uusd:
        return PPM
    above = (PPM - initial_ppm) * (open_uusd - scale_from_uusd)
    return initial_ppm - (-above // (scale_to_uusd - scale_from_uusd))
