"""Margin: running totals per account, and which changes are legal.

TV (equity) = cash + position values at the mark. IM per market = worst reachable position at the
initial rate + the orders' loss against the mark + their fees. A change is legal when TV >= IM
after it, or when it only makes a position smaller and TV'.MM >= TV.MM'. Totals are valid for one
version of the marks and are rebuilt on first use after a change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from margin.account import Account, Exposure
from margin.market import POSITION_NOTIONAL_LIMIT, Market
from matching.book import Resting
from protocol.actions import BUY, SELL
from protocol.errors import Code

WITHDRAW_NOTIONAL_DIVISOR = 10
"""A tenth of the notional stays in the account whatever its margin rate."""


class Outcome(NamedTuple):
    """An account in one market after a fill that has not happened yet."""

    fee_uusd: int
    cash_uusd: int
    tv_uusd: int
    total_im_uusd: int
    market_im_uusd: int
    size_lots: int
    cost_uusd: int
    bid_lots: int
    ask_lots: int
    excess_uusd: int
    reserve_uusd: int


class Risk:
    """Margin over all markets of the shard; the only writer of positions and their cash."""

    __slots__ = ("markets", "version")

    def __init__(self, markets: Sequence[Market]) -> None:
        self.markets = markets
        self.version = 1

    def set_mark(self, market: Market, mark_ticks: int, accounts: Mapping[int, Account]) -> None:
        """Move a mark: totals of all accounts become stale, orders through it are priced anew."""
        market.mark_ticks = mark_ticks
        self.version += 1
        for exposure in market.through.values():
            exposure.excess_uusd = 0
        market.through = {}
        excess_uusd = market.product.excess_uusd
        for side in (BUY, SELL):
            for order in market.book.walk(side):
                excess = excess_uusd(side, order.price_ticks, order.remaining_lots, mark_ticks)
                if excess <= 0:
                    break
                exposure = accounts[order.account].exposures[market.number]
                exposure.excess_uusd += excess
                market.through[order.account] = exposure

    def refresh(self, account: Account) -> None:
        """Rebuild an account's totals for the present marks."""
        tv = account.cash_uusd
        im = 0
        for number, e in account.exposures.items():
            market = self.markets[number]
            product = market.product
            mark = market.mark_ticks
            e.im_uusd = (
                product.initial_uusd(e.size_lots, e.bid_lots, e.ask_lots, mark)
                + e.excess_uusd
                + e.reserve_uusd
            )
            im += e.im_uusd
            tv += product.value_uusd(e.size_lots, mark)
        account.tv_uusd = tv
        account.im_uusd = im
        account.version = self.version

    def place(
        self, account: Account, e: Exposure, market: Market, side: int, price: int, lots: int
    ) -> Code:
        """Ask margin for an order that rests; when granted (`OK`) it counts from now on."""
        reached = _with_order(e, market, side, price, lots)
        if reached is None:
            return Code.POSITION_LIMIT
        bids, asks = reached
        product = market.product
        mark = market.mark_ticks
        excess = product.excess_uusd(side, price, lots, mark)
        reserve = e.reserve_uusd
        if market.reserve_ppm:
            reserve += product.fee_uusd(price, lots, market.reserve_ppm)
        im = product.initial_uusd(e.size_lots, bids, asks, mark) + e.excess_uusd + excess + reserve
        total = account.im_uusd + im - e.im_uusd
        if account.tv_uusd < total:
            return Code.INSUFFICIENT_MARGIN
        account.im_uusd = total
        e.im_uusd = im
        e.bid_lots = bids
        e.ask_lots = asks
        e.reserve_uusd = reserve
        if excess:
            e.excess_uusd += excess
            market.through[account.number] = e
        return Code.OK

    def admit(
        self,
        account: Account,
        e: Exposure,
        market: Market,
        side: int,
        price: int,
        lots: int,
        max_fills: int,
    ) -> Code:
        """Ask margin for an order that will take, as a whole, before its first fill.

        Whatever it then fills, and whatever rests of it, is covered: fees are counted at the
        higher rate with a micro-dollar of rounding for each possible fill.
        """
        reached = _with_order(e, market, side, price, lots)
        if reached is None:
            return Code.POSITION_LIMIT
        bids, asks = reached
        product = market.product
        mark = market.mark_ticks
        im = (
            product.initial_uusd(e.size_lots, bids, asks, mark)
            + e.excess_uusd
            + product.excess_uusd(side, price, lots, mark)
            + e.reserve_uusd
            + product.fee_uusd(price, lots, market.cross_ppm)
            + max_fills
        )
        if account.tv_uusd < account.im_uusd + im - e.im_uusd:
            return Code.INSUFFICIENT_MARGIN
        return Code.OK

    def release(self, account: Account, order: Resting, lots: int) -> None:
        """Stop counting `lots` of a resting order, whose `remaining_lots` is already smaller."""
        market = self.markets[order.market]
        product = market.product
        e = account.exposures[order.market]
        side = order.side
        price = order.price_ticks
        mark = market.mark_ticks
        if side == BUY:
            e.bid_lots -= lots
        else:
            e.ask_lots -= lots
        if e.excess_uusd:
            e.excess_uusd -= product.excess_uusd(side, price, lots, mark)
        if market.reserve_ppm:
            left = order.remaining_lots
            e.reserve_uusd -= product.fee_uusd(price, left + lots, market.reserve_ppm)
            if left:
                e.reserve_uusd += product.fee_uusd(price, left, market.reserve_ppm)
        im = (
            product.initial_uusd(e.size_lots, e.bid_lots, e.ask_lots, mark)
            + e.excess_uusd
            + e.reserve_uusd
        )
        account.im_uusd += im - e.im_uusd
        e.im_uusd = im

    def count_resting(self, account: Account, order: Resting) -> None:
        """Count a resting order of a restored state; totals are rebuilt on first use."""
        market = self.markets[order.market]
        e = account.exposure(order.market)
        lots = order.remaining_lots
        if order.side == BUY:
            e.bid_lots += lots
        else:
            e.ask_lots += lots
        e.reserve_uusd += market.product.fee_uusd(order.price_ticks, lots, market.reserve_ppm)
        excess = market.product.excess_uusd(order.side, order.price_ticks, lots, market.mark_ticks)
        if excess:
            e.excess_uusd += excess
            market.through[account.number] = e

    def outcome(
        self,
        account: Account,
        e: Exposure,
        market: Market,
        side: int,
        price: int,
        lots: int,
        fee_ppm: int,
        maker: Resting | None,
    ) -> Outcome:
        """The account after it trades `lots`; `maker` is its resting order, None for a taker."""
        product = market.product
        mark = market.mark_ticks
        before = e.size_lots
        bids, asks = e.bid_lots, e.ask_lots
        excess, reserve = e.excess_uusd, e.reserve_uusd
        if side == BUY:
            size = before + lots
            paid = product.value_uusd(lots, price)
            if maker is not None:
                bids -= lots
        else:
            size = before - lots
            paid = product.value_uusd(-lots, price)
            if maker is not None:
                asks -= lots
        fee = product.fee_uusd(price, lots, fee_ppm)
        if maker is not None:
            if excess:
                excess -= product.excess_uusd(side, price, lots, mark)
            if market.reserve_ppm:
                left = maker.remaining_lots - lots
                reserve -= product.fee_uusd(price, left + lots, market.reserve_ppm)
                if left:
                    reserve += product.fee_uusd(price, left, market.reserve_ppm)
        cash_change = -paid - fee
        tv = (
            account.tv_uusd
            + cash_change
            + product.value_uusd(size, mark)
            - product.value_uusd(before, mark)
        )
        im = product.initial_uusd(size, bids, asks, mark) + excess + reserve
        total = account.im_uusd + im - e.im_uusd
        cost = _cost_after(before, e.cost_uusd, size, lots, paid)
        return Outcome(
            fee, account.cash_uusd + cash_change, tv, total, im, size, cost, bids, asks,
            excess, reserve,
        )  # fmt: skip

    def legal(self, account: Account, e: Exposure, market: Market, after: Outcome) -> bool:
        """Whether a fill leaves TV >= IM, or only reduces risk."""
        if after.tv_uusd >= after.total_im_uusd:
            return True
        size, before = after.size_lots, e.size_lots
        smaller = 0 <= size < before if before > 0 else before < size <= 0
        if not smaller:
            return False
        mm_before = self.maintenance_uusd(account)
        product = market.product
        mm_after = (
            mm_before
            - product.maintenance_uusd(before, market.mark_ticks)
            + product.maintenance_uusd(size, market.mark_ticks)
        )
        if mm_after == 0:
            return after.tv_uusd >= 0
        return after.tv_uusd * mm_before >= account.tv_uusd * mm_after

    @staticmethod
    def commit(account: Account, e: Exposure, after: Outcome) -> None:
        """Make an outcome the present."""
        account.cash_uusd = after.cash_uusd
        account.tv_uusd = after.tv_uusd
        account.im_uusd = after.total_im_uusd
        e.im_uusd = after.market_im_uusd
        e.size_lots = after.size_lots
        e.cost_uusd = after.cost_uusd
        e.bid_lots = after.bid_lots
        e.ask_lots = after.ask_lots
        e.excess_uusd = after.excess_uusd
        e.reserve_uusd = after.reserve_uusd

    def maintenance_uusd(self, account: Account) -> int:
        """MM: from positions alone, rounded up per market."""
        mm = 0
        for number, e in account.exposures.items():
            if e.size_lots:
                market = self.markets[number]
                mm += market.product.maintenance_uusd(e.size_lots, market.mark_ticks)
        return mm

    def withdrawable_uusd(self, account: Account) -> tuple[int, int]:
        """(most that may leave, settled cash) of an account with fresh totals.

        The first is TV - max(IM, a tenth of the notional, sum of unrealised profits), never below
        0. Settled cash is cash without what open positions cost: nothing unrealised is in it.
        """
        notional = 0
        profit = 0
        settled = account.cash_uusd
        for number, e in account.exposures.items():
            market = self.markets[number]
            product = market.product
            notional += product.notional_uusd(abs(e.size_lots), market.mark_ticks)
            unrealised = product.value_uusd(e.size_lots, market.mark_ticks) - e.cost_uusd
            profit += max(unrealised, 0)
            settled += e.cost_uusd
        tenth = -(-notional // WITHDRAW_NOTIONAL_DIVISOR)
        free = account.tv_uusd - max(account.im_uusd, tenth, profit)
        return max(free, 0), settled


def _with_order(
    e: Exposure, market: Market, side: int, price: int, lots: int
) -> tuple[int, int] | None:
    """Resting bids and asks with the order among them, None where a limit would be passed."""
    bids, asks = e.bid_lots, e.ask_lots
    if side == BUY:
        bids += lots
        worst = e.size_lots + bids
    else:
        asks += lots
        worst = asks - e.size_lots
    if worst > market.max_position_lots or (
        (price > market.safe_ticks or market.mark_ticks > market.safe_ticks)
        and _too_large(market, worst, price)
    ):
        return None
    return bids, asks


def _too_large(market: Market, worst_lots: int, price: int) -> bool:
    price = max(price, market.mark_ticks)
    return market.product.notional_uusd(worst_lots, price) >= POSITION_NOTIONAL_LIMIT


def _cost_after(before: int, cost: int, size: int, lots: int, paid: int) -> int:
    """Cost of the position after a fill of `lots` for `paid`. What remains of a shrinking one is
    rounded down: that makes its profit larger, and profit cannot be withdrawn."""
    if before == 0 or (before > 0) == (paid > 0):
        return cost + paid
    if size == 0:
        return 0
    if (size > 0) == (before > 0):
        return cost * size // before
    return paid * abs(size) // lots
