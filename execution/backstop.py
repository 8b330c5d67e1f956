"""The backstop: an account of the system that takes positions nobody bids for, and sells them
slowly.

It is ring-fenced: it takes only what its own equity carries, and stands in for nobody's losses.
"""

from __future__ import annotations

from execution import leaves as lv
from execution.checks import slippage_limit
from execution.liquidation_moves import Items, Moves, in_book, off_book
from execution.receipts import Receipts
from execution.state import State
from execution.trading import Trading
from margin.account import Account, Exposure
from margin.liquidation import first_part_lots, kept_uusd, largest_below
from margin.market import Market
from protocol.actions import BUY, SELL
from protocol.events import LIQUIDATION_BACKSTOP


class Unwinding:
    """Lets an order of the backstop fill at any price within its limit, without a fee; implements
    `execution.crossing.ClosePolicy`."""

    __slots__ = ()

    def allowed_lots(self, price_ticks: int, lots: int) -> int:
        """All of it."""
        return lots

    def fee_uusd(self, price_ticks: int, lots: int) -> int:
        """None."""
        return 0

    def filled(self, price_ticks: int, lots: int, fee_uusd: int) -> None:
        """The fill's event says it all."""


class Backstop:
    """Takes positions over, and unwinds what it holds on a fixed schedule."""

    __slots__ = ("_moves", "_receipts", "_state", "_trading")

    def __init__(self, state: State, trading: Trading, receipts: Receipts, moves: Moves) -> None:
        self._state = state
        self._trading = trading
        self._receipts = receipts
        self._moves = moves

    def take(self, account: Account, rank: int, items: Items) -> None:
        """Take as much of an account's positions, at the zero price, as the backstop may hold."""
        state, backstop = self._state, self._state.backstop
        for e in self._moves.positions(account):
            market = state.markets[e.market]
            if items.over:
                break
            if not off_book(market) or not market.config.backstop_max_lots:
                continue
            self._trading.touch(backstop)
            lots = self._most(account, e, backstop.exposure(market.number), market)
            if lots:
                self._take(account, e, market, lots, rank)
                items.spend()
        if state.funds.get(lv.BACKSTOP_KEY) is None and self._holds():
            next_ms = state.time_ms + state.chain.genesis.liquidation.unwind_ms
            state.funds.put(lv.BACKSTOP_KEY, lv.BackstopLeaf(next_ms))

    def has_room(self, account: Account) -> bool:
        """Whether the caps let the backstop take a lot of one of the account's positions."""
        state = self._state
        held = state.backstop.exposures
        for number, e in account.exposures.items():
            market = state.markets[number]
            most = market.config.backstop_max_lots
            if not e.size_lots or not most or not off_book(market):
                continue
            theirs = held.get(number)
            size = 0 if theirs is None else theirs.size_lots
            if _within(size, 1 if e.size_lots > 0 else -1, most):
                return True
        return False

    def _holds(self) -> bool:
        return any(e.size_lots for e in self._state.backstop.exposures.values())

    def _most(self, account: Account, e: Exposure, theirs: Exposure, market: Market) -> int:
        """The most lots that the backstop may take now."""
        state, backstop = self._state, self._state.backstop
        risk, most = state.risk, market.config.backstop_max_lots
        sign = 1 if e.size_lots > 0 else -1
        tv, mm = risk.liquidation(account)

        def accepted(lots: int) -> bool:
            if not _within(theirs.size_lots, sign * lots, most):
                return False
            cash_uusd = self._price_uusd(e, market, lots, tv, mm)
            after = risk.moved(backstop, theirs, market, sign * lots, -cash_uusd)
            return risk.legal(backstop, theirs, market, after)

        lots = abs(e.size_lots)
        if accepted(lots):
            return lots
        # What closes an opposite position of its own frees margin, what is beyond it needs some.
        closing = min(max(-sign * theirs.size_lots, 0), lots)
        if closing and not accepted(closing):
            return largest_below(closing, accepted)
        return closing + largest_below(lots - closing, lambda more: accepted(closing + more))

    def _price_uusd(self, e: Exposure, market: Market, lots: int, tv: int, mm: int) -> int:
        """Cash that an account with this TV and MM receives for closing a part at the zero price
        (negative: pays)."""
        risk, size, mark = self._state.risk, e.size_lots, market.mark_ticks
        after = size - lots if size > 0 else size + lots
        mm_after = (
            mm - risk.maintenance_of_uusd(market, size) + risk.maintenance_of_uusd(market, after)
        )
        worth = market.product.value_uusd(size, mark) - market.product.value_uusd(after, mark)
        return worth - tv + kept_uusd(tv, mm, mm_after)

    def _take(self, account: Account, e: Exposure, market: Market, lots: int, rank: int) -> None:
        tv, mm = self._state.risk.liquidation(account)
        cash_uusd = self._price_uusd(e, market, lots, tv, mm)
        change = -lots if e.size_lots > 0 else lots
        self._moves.exchange(account, self._state.backstop, market, change, cash_uusd)
        self._receipts.add(
            LIQUIDATION_BACKSTOP, account.number, account.number, market.number, change,
            market.mark_ticks, 0, cash_uusd, tv, mm, rank, 0, 0,
        )  # fmt: skip

    def unwind(self) -> None:
        """Sell a part of every position when it is time."""
        if self.unwinds():
            for market in self._state.markets:
                self.unwind_in(market)

    def unwinds(self) -> bool:
        """Whether it is time."""
        row = self._state.funds.get(lv.BACKSTOP_KEY)
        return row is not None and self._state.time_ms >= row.next_unwind_ms

    def unwind_in(self, market: Market) -> None:
        """Sell a part of the position in a market; behind the last one the next time is fixed."""
        state, rules = self._state, self._state.chain.genesis.liquidation
        backstop = state.backstop
        self._trading.touch(backstop)
        e = backstop.exposures.get(market.number)
        if e is not None and e.size_lots and in_book(market):
            side = SELL if e.size_lots > 0 else BUY
            limit = slippage_limit(market, side, rules.unwind_slippage_ppm)
            lots = first_part_lots(abs(e.size_lots), rules.unwind_ppm)
            self._trading.close_out(backstop, market, side, limit, lots, Unwinding())
        if market is not state.markets[-1]:
            return
        if self._holds():
            next_ms = state.time_ms + rules.unwind_ms
            state.funds.put(lv.BACKSTOP_KEY, lv.BackstopLeaf(next_ms))
        else:
            state.funds.drop(lv.BACKSTOP_KEY)


def _within(size_lots: int, change_lots: int, most: int) -> bool:
    """Whether a change leaves the backstop within its cap, or smaller than it is."""
    return abs(size_lots + change_lots) <= max(most, abs(size_lots) - 1)
