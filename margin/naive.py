"""Margin from first principles: slow, obvious, and compared with the running totals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from margin.account import Account
from margin.market import Market
from protocol.actions import BUY


class Totals(NamedTuple):
    """Equity and initial margin of an account, in micro-dollars."""

    tv_uusd: int
    im_uusd: int


def totals(account: Account, markets: Sequence[Market]) -> Totals:
    """Equity and initial margin from cash, positions and resting orders alone."""
    tv = account.cash_uusd
    im = 0
    for market in markets:
        e = account.exposures.get(market.number)
        size = 0 if e is None else e.size_lots
        orders = [o for o in account.orders.values() if o.market == market.number]
        bids = sum(o.remaining_lots for o in orders if o.side == BUY)
        asks = sum(o.remaining_lots for o in orders if o.side != BUY)
        product, mark = market.product, market.mark_ticks
        tv += product.value_uusd(size, mark)
        im += product.initial_uusd(size, bids, asks, mark)
        for o in orders:
            im += product.excess_uusd(o.side, o.price_ticks, o.remaining_lots, mark)
            im += product.fee_uusd(o.price_ticks, o.remaining_lots, max(market.maker_ppm, 0))
    return Totals(tv, im)
