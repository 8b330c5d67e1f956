"""Margin: which changes of an account are legal, and the running totals that make asking cheap.

IM per market = worst reachable position at the initial rate + the orders' loss against the mark +
their fees. A change is legal when TV >= IM after it, or when it only makes a position smaller and
TV'.MM >= TV.MM'. Reduce-only orders need no margin of their own.

Totals of the account must be fresh and the funding of its positions settled before any of this;
`Valuation` says for how long they are.
"""

from __future__ import annotations

from typing import Final

from margin.account import Account, Exposure
from margin.market import Market
from margin.outcome import Outcome
from margin.valuation import Valuation
from matching.book import Resting
from protocol.actions import BUY, REDUCE_ONLY
from protocol.errors import Code, SafetyViolation
from protocol.markets import CASH_LIMIT

CASH_ADMIT_LIMIT: Final = CASH_LIMIT // 2
"""An account with so much cash, or so far below zero, takes no more risk: what one order may still
move (fills per action times one cash movement) never reaches `CASH_LIMIT`."""

# Compiled, a final value is a load, and a member of an enum a search through its class.
_OK: Final = Code.OK


class Risk(Valuation):
    """Margin over all markets of the shard; the only writer of positions and their cash."""

    __slots__ = ()

    def place(
        self,
        account: Account,
        e: Exposure,
        market: Market,
        side: int,
        price: int,
        lots: int,
        reduce_only: bool,
    ) -> Code:
        """Ask margin for an order that rests; when granted (`OK`) it counts from now on.

        A reduce-only order is only held to the limits of reachable positions.
        """
        size = e.size_lots
        bids, asks = e.bid_lots, e.ask_lots
        reduce_bids, reduce_asks = e.reduce_bid_lots, e.reduce_ask_lots
        if side == BUY:
            if reduce_only:
                reduce_bids += lots
            else:
                bids += lots
            worst = size + bids
        else:
            if reduce_only:
                reduce_asks += lots
            else:
                asks += lots
            worst = asks - size
        mark = market.mark_ticks
        if (
            worst > market.max_position_lots
            or price > market.safe_ticks
            or mark > market.safe_ticks
            or reduce_bids
            or reduce_asks
        ):
            code = market.limit_code(size, bids, asks, reduce_bids, reduce_asks, side, price)
            if code:
                return code
        product = market.product
        excess = product.excess_uusd(side, price, lots, mark)
        reserve = e.reserve_uusd
        if market.reserve_ppm:
            reserve += product.fee_uusd(price, lots, market.reserve_ppm)
        im = (
            product.initial_uusd(
                size, bids, asks, reduce_bids, reduce_asks, mark, market.scaled_ppm, e.leverage
            )
            + e.excess_uusd
            + excess
            + reserve
        )
        total = account.im_uusd + im - e.im_uusd
        if account.tv_uusd < total and not reduce_only:
            return Code.INSUFFICIENT_MARGIN
        account.im_uusd = total
        e.im_uusd = im
        e.bid_lots = bids
        e.ask_lots = asks
        e.reserve_uusd = reserve
        if reduce_only:
            e.reduce_bid_lots = reduce_bids
            e.reduce_ask_lots = reduce_asks
        if excess:
            e.excess_uusd += excess
            market.through[account.number] = e
        return _OK

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
        size = e.size_lots
        bids, asks = e.bid_lots, e.ask_lots
        reduce_bids, reduce_asks = e.reduce_bid_lots, e.reduce_ask_lots
        if side == BUY:
            bids += lots
            worst = size + bids
        else:
            asks += lots
            worst = asks - size
        mark = market.mark_ticks
        if (
            worst > market.max_position_lots
            or price > market.safe_ticks
            or mark > market.safe_ticks
            or reduce_bids
            or reduce_asks
        ):
            code = market.limit_code(size, bids, asks, reduce_bids, reduce_asks, side, price)
            if code:
                return code
        if not -CASH_ADMIT_LIMIT < account.cash_uusd < CASH_ADMIT_LIMIT:
            return Code.NOTIONAL_LIMIT
        product = market.product
        im = (
            product.initial_uusd(
                size, bids, asks, reduce_bids, reduce_asks, mark, market.scaled_ppm, e.leverage
            )
            + e.excess_uusd
            + product.excess_uusd(side, price, lots, mark)
            + e.reserve_uusd
            + product.fee_uusd(price, lots, market.cross_ppm)
            + max_fills
        )
        if market.stale:
            # What is opened counts at the unfavourable end of the band at once.
            least = product.stale_uusd(lots, mark, market.stale_band_ppm)[0]
            im += product.value_uusd(lots, mark) - least
        if account.tv_uusd < account.im_uusd + im - e.im_uusd:
            return Code.INSUFFICIENT_MARGIN
        return _OK

    def release(self, account: Account, order: Resting, lots: int) -> None:
        """Stop counting `lots` of a resting order, whose `remaining_lots` is already smaller."""
        market = self.markets[order.market]
        product = market.product
        e = account.exposures[order.market]
        side = order.side
        price = order.price_ticks
        mark = market.mark_ticks
        if order.flags & REDUCE_ONLY:
            if side == BUY:
                e.reduce_bid_lots -= lots
            else:
                e.reduce_ask_lots -= lots
        elif side == BUY:
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
        if market.settled_ticks:
            return
        im = (
            product.initial_uusd(
                e.size_lots, e.bid_lots, e.ask_lots, e.reduce_bid_lots, e.reduce_ask_lots, mark,
                market.scaled_ppm, e.leverage,
            )
            + e.excess_uusd
            + e.reserve_uusd
        )  # fmt: skip
        account.im_uusd += im - e.im_uusd
        e.im_uusd = im

    def count_resting(self, account: Account, order: Resting) -> None:
        """Count a resting order of a restored state; totals are rebuilt on first use."""
        market = self.markets[order.market]
        e = account.exposure(order.market)
        lots = order.remaining_lots
        if order.flags & REDUCE_ONLY:
            e.reducing[order.order_id] = order
            if order.side == BUY:
                e.reduce_bid_lots += lots
            else:
                e.reduce_ask_lots += lots
        elif order.side == BUY:
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
        reduce_bids, reduce_asks = e.reduce_bid_lots, e.reduce_ask_lots
        excess, reserve = e.excess_uusd, e.reserve_uusd
        change = lots if side == BUY else -lots
        size = before + change
        paid = product.value_uusd(change, price)
        fee = product.fee_uusd(price, lots, fee_ppm)
        if maker is not None:
            if maker.flags & REDUCE_ONLY:
                if side == BUY:
                    reduce_bids -= lots
                else:
                    reduce_asks -= lots
            elif side == BUY:
                bids -= lots
            else:
                asks -= lots
            if excess:
                excess -= product.excess_uusd(side, price, lots, mark)
            if market.reserve_ppm:
                left = maker.remaining_lots - lots
                reserve -= product.fee_uusd(price, left + lots, market.reserve_ppm)
                if left:
                    reserve += product.fee_uusd(price, left, market.reserve_ppm)
        cash_change = -paid - fee
        if market.stale:
            worth_change = self.worth_uusd(market, size) - self.worth_uusd(market, before)
        else:
            worth_change = product.value_uusd(size, mark) - product.value_uusd(before, mark)
        im = (
            product.initial_uusd(
                size, bids, asks, reduce_bids, reduce_asks, mark, market.scaled_ppm, e.leverage
            )
            + excess
            + reserve
        )
        cost = _cost_after(before, e.cost_uusd, change, paid)
        return Outcome(
            fee,
            account.cash_uusd + cash_change,
            account.tv_uusd + cash_change + worth_change,
            account.im_uusd + im - e.im_uusd,
            im,
            size,
            cost,
            bids,
            asks,
            reduce_bids,
            reduce_asks,
            excess,
            reserve,
            cost - e.cost_uusd - paid,
        )

    def moved(
        self, account: Account, e: Exposure, market: Market, lots_signed: int, cash_uusd: int
    ) -> Outcome:
        """The account after its position changes by signed lots for a total of `cash_uusd`
        received (negative: paid), without fees."""
        before = e.size_lots
        size = before + lots_signed
        cost = _cost_after(before, e.cost_uusd, lots_signed, -cash_uusd)
        worth_change = self.worth_uusd(market, size) - self.worth_uusd(market, before)
        im = self.initial_uusd(market, e, size)
        return Outcome(
            0,
            account.cash_uusd + cash_uusd,
            account.tv_uusd + cash_uusd + worth_change,
            account.im_uusd + im - e.im_uusd,
            im,
            size,
            cost,
            e.bid_lots,
            e.ask_lots,
            e.reduce_bid_lots,
            e.reduce_ask_lots,
            e.excess_uusd,
            e.reserve_uusd,
            cost - e.cost_uusd + cash_uusd,
        )

    def move(
        self, account: Account, e: Exposure, market: Market, lots_signed: int, cash_uusd: int
    ) -> None:
        """Change a position as `moved` previews it, without asking (transfers of positions,
        backstop, deleveraging, expiry). Open interest is the caller's."""
        self.commit(account, e, self.moved(account, e, market, lots_signed, cash_uusd))

    def legal(self, account: Account, e: Exposure, market: Market, after: Outcome) -> bool:
        """Whether a change leaves TV >= IM, or only reduces risk; and keeps cash in its range."""
        if not -CASH_LIMIT < after.cash_uusd < CASH_LIMIT:
            return False
        if after.tv_uusd >= after.total_im_uusd:
            return True
        size, before = after.size_lots, e.size_lots
        smaller = 0 <= size < before if before > 0 else before < size <= 0
        if not smaller:
            return False
        mm_before = self.maintenance_uusd(account)
        mm_after = (
            mm_before
            - self.maintenance_of_uusd(market, before)
            + self.maintenance_of_uusd(market, size)
        )
        if mm_after == 0:
            return after.tv_uusd >= 0
        return after.tv_uusd * mm_before >= account.tv_uusd * mm_after

    def commit(self, account: Account, e: Exposure, after: Outcome) -> None:
        """Make an outcome the present."""
        index = self.markets[e.market].funding_index
        if e.funding_index != index:
            if e.size_lots:
                raise SafetyViolation(
                    f"account {e.account} trades in market {e.market} with funding unsettled"
                )
            e.funding_index = index
        account.cash_uusd = after.cash_uusd
        account.tv_uusd = after.tv_uusd
        account.im_uusd = after.total_im_uusd
        e.im_uusd = after.market_im_uusd
        e.size_lots = after.size_lots
        e.cost_uusd = after.cost_uusd
        e.bid_lots = after.bid_lots
        e.ask_lots = after.ask_lots
        e.reduce_bid_lots = after.reduce_bid_lots
        e.reduce_ask_lots = after.reduce_ask_lots
        e.excess_uusd = after.excess_uusd
        e.reserve_uusd = after.reserve_uusd


def _cost_after(before: int, cost: int, change: int, paid: int) -> int:
    """Cost of the position after it changed by signed lots for `paid`. What remains of a shrinking
    one is rounded down: that makes its profit larger, and profit cannot be withdrawn."""
    if before == 0 or (before > 0) == (change > 0):
        return cost + paid
    size = before + change
    if size == 0:
        return 0
    if (size > 0) == (before > 0):
        return cost * size // before
    return paid * size // change
