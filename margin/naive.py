"""Margin from first principles: slow, obvious, and compared with the running totals.

Everything comes from cash, positions and the list of resting orders; nothing from sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from margin.account import Account, Exposure
from margin.market import Market
from matching.book import Resting
from protocol.actions import BUY, REDUCE_ONLY, SELL

LEAST, MOST = 0, 1
"""Ends of the band within which a position in a stale market counts."""


class Totals(NamedTuple):
    """Equity and initial margin of an account, in micro-dollars."""

    tv_uusd: int
    im_uusd: int


def totals(account: Account, markets: Sequence[Market]) -> Totals:
    """Equity and initial margin from cash, positions and resting orders alone."""
    im = 0
    for market in markets:
        if not market.settled_ticks:
            im += _initial(account, market)
    return Totals(_equity(account, markets, LEAST), im)


def liquidation(account: Account, markets: Sequence[Market]) -> tuple[int, int]:
    """(TV, MM) that decide liquidation."""
    mm = 0
    for market in markets:
        if not market.settled_ticks:
            mm += market.product.maintenance_uusd(_size(account, market), market.mark_ticks)
    return _equity(account, markets, MOST), mm


def withdrawable(account: Account, markets: Sequence[Market]) -> tuple[int, int]:
    """(most that may leave, settled cash)."""
    tv, im = totals(account, markets)
    settled = account.cash_uusd
    profits = notional = 0
    for market in markets:
        size = _size(account, market)
        e = account.exposures.get(market.number) or Exposure(account.number, market.number)
        settled += _funding(account, market)
        if market.settled_ticks:
            settled += market.product.settled_uusd(size, market.settled_ticks)
        else:
            settled += e.cost_uusd
            notional += market.product.notional_uusd(abs(size), market.mark_ticks)
            profits += max(0, _worth(account, market, LEAST) - e.cost_uusd)
    needed = max(im, (notional + 9) // 10, profits)
    return max(0, tv - needed), settled


def _initial(account: Account, market: Market) -> int:
    def lots(side: int, reduce_only: bool) -> int:
        return sum(
            o.remaining_lots
            for o in _orders(account, market)
            if o.side == side and bool(o.flags & REDUCE_ONLY) == reduce_only
        )

    product, mark = market.product, market.mark_ticks
    e = account.exposures.get(market.number)
    im = product.initial_uusd(
        _size(account, market), lots(BUY, False), lots(SELL, False), lots(BUY, True),
        lots(SELL, True), mark, market.scaled_ppm, e.leverage if e else 0,
    )  # fmt: skip
    maker_ppm = max(0, max(maker for _, maker in market.fees_ppm))
    for o in _orders(account, market):
        im += product.excess_uusd(o.side, o.price_ticks, o.remaining_lots, mark)
        im += product.fee_uusd(o.price_ticks, o.remaining_lots, maker_ppm)
    return im


def _equity(account: Account, markets: Sequence[Market], end: int) -> int:
    tv = account.cash_uusd
    for market in markets:
        tv += _worth(account, market, end) + _funding(account, market)
    return tv


def _worth(account: Account, market: Market, end: int) -> int:
    size = _size(account, market)
    if market.settled_ticks:
        return market.product.settled_uusd(size, market.settled_ticks)
    if market.stale:
        return market.product.stale_uusd(size, market.mark_ticks, market.stale_band_ppm)[end]
    return market.product.value_uusd(size, market.mark_ticks)


def _funding(account: Account, market: Market) -> int:
    e = account.exposures.get(market.number)
    if e is None or not e.size_lots:
        return 0
    return market.product.funding_uusd(e.size_lots, market.funding_index - e.funding_index)


def _size(account: Account, market: Market) -> int:
    e = account.exposures.get(market.number)
    return e.size_lots if e else 0


def _orders(account: Account, market: Market) -> list[Resting]:
    return [o for o in account.orders.values() if o.market == market.number]
