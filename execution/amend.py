"""Changing what rests: cancels, smaller sizes, modifications and mass quotes."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from execution.state import State
from execution.trading import REFUSED, Trading
from margin.account import Account, Exposure
from margin.market import Market
from matching.book import Resting
from protocol.actions import (
    ALL_MARKETS,
    BUY,
    GTC,
    HALTED,
    MAX_QUOTES,
    POST_ONLY,
    POSTED,
    QUOTE,
    REDUCE_ONLY,
    SELL,
    Cancel,
    CancelAll,
    CancelClient,
    MassQuote,
    Modify,
    Reduce,
)
from protocol.errors import Code
from protocol.events import (
    CANCELLED,
    REASON_CANCELLED,
    REASON_REDUCED,
    REASON_REPLACED,
    RESTING,
    Result,
)

GONE: Final = Result(0, CANCELLED)

_OK: Final = Code.OK


class Amend:
    """Executes the actions that change resting orders."""

    __slots__ = ("_state", "_trading")

    def __init__(self, state: State, trading: Trading) -> None:
        self._state = state
        self._trading = trading

    # -- cancels

    def cancel(self, account: Account, action: Cancel) -> Result:
        """Cancel an order, trigger or TWAP by id."""
        code = self._cancellable(action.market)
        if code:
            return REFUSED[code]
        return self._cancel(account, action.market, action.order_id)

    def cancel_client(self, account: Account, action: CancelClient) -> Result:
        """Cancel an order, trigger or TWAP by client id."""
        code = self._cancellable(action.market)
        if code:
            return REFUSED[code]
        return self._cancel(account, action.market, account.clients.get(action.client_id, 0))

    def cancel_all(self, account: Account, action: CancelAll) -> Result:
        """Cancel everything in a market or in all; what is in halted markets stays."""
        if action.market != ALL_MARKETS:
            code = self._cancellable(action.market)
            if code:
                return REFUSED[code]
        self._trading.cancel_everything(account, action.market, REASON_CANCELLED)
        return GONE

    def _cancellable(self, market: int) -> Code:
        markets = self._state.markets
        if not 0 <= market < len(markets):
            return Code.UNKNOWN_MARKET
        return Code.MARKET_HALTED if markets[market].mode == HALTED else _OK

    def _cancel(self, account: Account, market: int, order_id: int) -> Result:
        order = account.orders.get(order_id)
        if order is not None and order.market == market:
            self._trading.take_out(account, order, REASON_CANCELLED)
            return Result(0, CANCELLED, order_id)
        waiting = self._trading.waiting
        if waiting is not None and waiting.cancel(account, order_id, market, REASON_CANCELLED):
            return Result(0, CANCELLED, order_id)
        return REFUSED[Code.UNKNOWN_ORDER]

    # -- sizes

    def reduce(self, account: Account, action: Reduce) -> Result:
        """Shrink a resting order, which keeps its priority; by all that is left or more: cancel."""
        code = self._cancellable(action.market)
        if code:
            return REFUSED[code]
        if action.by_lots <= 0:
            return REFUSED[Code.BAD_SIZE]
        order = account.orders.get(action.order_id)
        if order is None or order.market != action.market:
            return REFUSED[Code.UNKNOWN_ORDER]
        if action.by_lots >= order.remaining_lots:
            self._trading.take_out(account, order, REASON_CANCELLED)
            return Result(0, CANCELLED, order.order_id)
        return self._shrink(account, order, action.by_lots)

    def _shrink(self, account: Account, order: Resting, by_lots: int) -> Result:
        state = self._state
        state.markets[order.market].book.reduce(order, by_lots)
        state.risk.release(account, order, by_lots)
        self._trading.note_change(order, REASON_REDUCED)
        return Result(0, RESTING, order.order_id, 0, order.remaining_lots)

    # -- modifications

    def modify(self, account: Account, action: Modify) -> Result:
        """A new price and size: in place where only the size shrinks, otherwise a new order that
        takes the old one's place once nothing speaks against it."""
        code = self._cancellable(action.market)
        if code:
            return REFUSED[code]
        order = account.orders.get(action.order_id)
        if order is None or order.market != action.market:
            return REFUSED[Code.UNKNOWN_ORDER]
        price, lots, left = action.price_ticks, action.size_lots, order.remaining_lots
        if price == order.price_ticks and 0 < lots <= left:
            if lots < left:
                return self._shrink(account, order, left - lots)
            return Result(0, RESTING, order.order_id, 0, left)
        market = self._state.markets[order.market]
        exposure = account.exposures[order.market]
        code = self._refusal(account, exposure, market, order, price, lots)
        if code:
            return REFUSED[code]
        flags = order.flags & ~POSTED
        tif = POST_ONLY if order.flags & POSTED else GTC
        self._trading.take_out(account, order, REASON_REPLACED)
        return self._trading.enter(
            account, market, order.side, price, lots, tif, order.client_id, flags,
            order.expires_ms, 0,
        )  # fmt: skip

    def _refusal(
        self,
        account: Account,
        exposure: Exposure,
        market: Market,
        order: Resting,
        price: int,
        lots: int,
    ) -> Code:
        """Why the new order would be refused as a whole, were the old one gone."""
        if order.link:
            return Code.BAD_LINK
        trading, state = self._trading, self._state
        flags = order.flags
        tif = POST_ONLY if flags & POSTED else GTC
        code = trading.checks.order(
            account, order.market, order.side, price, lots, tif, 0, flags & ~(POSTED | QUOTE),
            order.expires_ms,
        )  # fmt: skip
        if code == Code.TOO_MANY_ORDERS:  # the old order makes room for the new one
            code = trading.checks.mode(account, market, tif, flags)
        if code:
            return code
        crosses = market.book.crosses(order.side, price)
        if crosses and tif == POST_ONLY:
            return Code.WOULD_TAKE
        if flags & REDUCE_ONLY:
            lots = min(lots, abs(exposure.size_lots))
        fills = min(state.limits.fills_per_action, state.fills_left)
        if crosses and fills <= 0:
            return Code.BUSY
        left = order.remaining_lots
        order.remaining_lots = 0
        state.risk.release(account, order, left)
        if crosses:
            code = trading.admissible(
                account, exposure, market, order.side, price, lots, flags, fills
            )
            size = exposure.size_lots
            closes = size > 0 if order.side == SELL else size < 0
            if code == Code.INSUFFICIENT_MARGIN and closes:
                code = Code.OK
        else:
            code = self._trial(account, [_fresh(order, price, lots)])
        order.remaining_lots = left
        state.risk.count_resting(account, order)
        state.risk.refresh(account)
        return code

    # -- mass quotes

    def mass_quote(self, account: Account, action: MassQuote) -> Result:
        """Replace all quotes of the account in a market, or change nothing."""
        trading, state = self._trading, self._state
        code = self._cancellable(action.market)
        if code:
            return REFUSED[code]
        market = state.markets[action.market]
        exposure = account.exposure(action.market)
        old = [
            order
            for order in account.orders.values()
            if order.flags & QUOTE and order.market == action.market
        ]
        old.sort(key=_by_id)
        new = [_quote(account, action.market, BUY, *level) for level in action.bids]
        new += [_quote(account, action.market, SELL, *level) for level in action.asks]
        code = self._bad_quotes(account, market, action, len(old))
        if code:
            return REFUSED[code]
        lefts = [order.remaining_lots for order in old]
        for order, left in zip(old, lefts, strict=True):
            order.remaining_lots = 0
            state.risk.release(account, order, left)
        code = self._trial(account, new)
        for order, left in zip(old, lefts, strict=True):
            order.remaining_lots = left
            state.risk.count_resting(account, order)
        state.risk.refresh(account)
        if code:
            return REFUSED[code]
        for order in old:
            trading.take_out(account, order, REASON_REPLACED)
        if not new:
            return GONE
        first = state.next_order_id
        for order in new:
            lots, price, side = order.remaining_lots, order.price_ticks, order.side
            state.risk.place(account, exposure, market, side, price, lots, False)
            trading.rest(
                account, exposure, trading.next_id(), 0, side, price, lots, order.flags, 0, 0
            )
        return Result(0, RESTING, first, 0, sum(order.remaining_lots for order in new))

    def _trial(self, account: Account, orders: list[Resting]) -> Code:
        """Whether margin takes these orders all together; nothing counts afterwards."""
        risk, code, placed = self._state.risk, Code.OK, 0
        for order in orders:
            market = self._state.markets[order.market]
            exposure = account.exposure(order.market)
            code = risk.place(
                account, exposure, market, order.side, order.price_ticks, order.remaining_lots,
                bool(order.flags & REDUCE_ONLY),
            )  # fmt: skip
            if code:
                break
            placed += 1
        for order in orders[:placed]:
            lots, order.remaining_lots = order.remaining_lots, 0
            risk.release(account, order, lots)
            order.remaining_lots = lots
        return code

    def _bad_quotes(self, account: Account, market: Market, action: MassQuote, old: int) -> Code:
        """What is wrong with the quotes, margin apart."""
        bids, asks = action.bids, action.asks
        if max(len(bids), len(asks)) > MAX_QUOTES or not (
            _best_first(bids, -1) and _best_first(asks, 1)
        ):
            return Code.BAD_QUOTES
        if bids and asks and bids[0][0] >= asks[0][0]:
            return Code.BAD_QUOTES
        limit = self._state.limits.orders_per_account
        if len(account.orders) - old + len(bids) + len(asks) > limit:
            return Code.TOO_MANY_ORDERS
        for side, levels in ((BUY, bids), (SELL, asks)):
            for price, lots in levels:
                checks = self._trading.checks
                code = checks.order(account, market.number, side, price, lots, POST_ONLY, 0, 0, 0)
                if code == Code.TOO_MANY_ORDERS:  # the old quotes make room
                    code = checks.mode(account, market, POST_ONLY, 0)
                if code:
                    return code
            if levels and self._meets(account, market, side, levels[0][0]):
                return Code.WOULD_TAKE
        return Code.OK

    def _meets(self, account: Account, market: Market, side: int, price: int) -> bool:
        """Whether a quote would meet an order opposite that is not a quote to be replaced."""
        if not market.book.crosses(side, price):
            return False
        for order in market.book.walk(SELL if side == BUY else BUY):
            beyond = order.price_ticks > price if side == BUY else order.price_ticks < price
            if beyond:
                return False
            if not (order.account == account.number and order.flags & QUOTE):
                return True
        return False


def _best_first(levels: list[tuple[int, int]], step: int) -> bool:
    prices = [step * price for price, _ in levels]
    return all(one < other for one, other in pairwise(prices))


def _quote(account: Account, market: int, side: int, price: int, lots: int) -> Resting:
    return Resting(market, 0, account.number, 0, side, price, lots, QUOTE | POSTED)


def _fresh(order: Resting, price: int, lots: int) -> Resting:
    return Resting(order.market, 0, order.account, 0, order.side, price, lots, order.flags)


def _by_id(order: Resting) -> int:
    return order.order_id
