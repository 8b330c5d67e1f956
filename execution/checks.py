"""What is wrong with an order before margin and the book are asked."""

from __future__ import annotations

from typing import Final

from execution.leaves import distress_key
from execution.state import State
from margin.account import Account
from margin.market import Market
from protocol.actions import (
    BUY,
    CANCEL_ONLY,
    FOK,
    GTC,
    HALTED,
    IOC,
    OPEN,
    ORDER_FLAGS,
    POST_ONLY,
    POST_ONLY_MODE,
    REDUCE_ONLY,
    REDUCE_ONLY_MODE,
    SELL,
    MarketOrder,
)
from protocol.errors import Code
from protocol.markets import NOTIONAL_LIMIT, PPM
from protocol.settlement import ISOLATED_SHIFT, isolated_market

MAX_SLIPPAGE_PPM = 500_000
"""Widest slippage bound of a market order."""

RESTING_TIFS: Final = (GTC, POST_ONLY)
"""What of these orders does not fill rests."""

# Compiled, a final value is a load, and a member of an enum a search through its class.
_OK: Final = Code.OK


class Checks:
    """Answers `Code.OK` or the first thing that is wrong; changes nothing."""

    __slots__ = ("_isolated_from", "_most_orders", "_state")

    def __init__(self, state: State) -> None:
        self._state = state
        self._isolated_from = 1 << ISOLATED_SHIFT
        self._most_orders = state.limits.orders_per_account

    def order(
        self,
        account: Account,
        number: int,
        side: int,
        price: int,
        lots: int,
        tif: int,
        client_id: int,
        flags: int,
        expires_ms: int,
    ) -> Code:
        """What is wrong with an order for market `number`, margin and the book apart."""
        state = self._state
        if not 0 <= number < len(state.markets):
            return Code.UNKNOWN_MARKET
        market = state.markets[number]
        if side not in (BUY, SELL) or tif not in (GTC, IOC, POST_ONLY, FOK):
            return Code.WRONG_TYPE
        if flags & ~ORDER_FLAGS:
            return Code.BAD_FLAGS
        if not 0 < price < market.price_limit:
            return Code.BAD_PRICE
        code = self._size(account, market, price, lots)
        if code:
            return code
        # What only closes may be small: a position can be smaller than the least order.
        if (
            not flags & REDUCE_ONLY
            and market.product.notional_uusd(lots, price) < market.min_notional_uusd
        ):
            return Code.BELOW_MIN_NOTIONAL
        if expires_ms and expires_ms < state.time_ms:
            return Code.BAD_EXPIRY if expires_ms < 0 else Code.ACTION_EXPIRED
        band = market.config.price_band_ppm
        if band and _beyond_band(market.mark_ticks, side, price, band):
            return Code.PRICE_BAND
        if client_id and client_id in account.clients:
            return Code.DUPLICATE_CLIENT_ID
        if tif in RESTING_TIFS:
            if len(account.orders) >= self._most_orders:
                return Code.TOO_MANY_ORDERS
            if flags & REDUCE_ONLY:
                exposure = account.exposures.get(number)
                limit = state.limits.reduce_only_orders
                if exposure is not None and len(exposure.reducing) >= limit:
                    return Code.TOO_MANY_ORDERS
        return self.mode(account, market, tif, flags)

    def _size(self, account: Account, market: Market, price: int, lots: int) -> Code:
        if account.number >= self._isolated_from and (
            isolated_market(account.number) != market.number
        ):
            return Code.ISOLATED_ACCOUNT
        if not 0 < lots <= market.max_order_lots:
            return Code.BAD_SIZE
        if price * lots >= NOTIONAL_LIMIT:
            return Code.NOTIONAL_LIMIT
        return _OK

    def mode(self, account: Account, market: Market, tif: int, flags: int) -> Code:
        """Whether the market takes such an order now, and the account may send it."""
        if market.mode != OPEN or market.stale:
            mode = market.mode
            if market.settled_ticks:
                return Code.MARKET_EXPIRED
            if mode == HALTED:
                return Code.MARKET_HALTED
            if mode == CANCEL_ONLY:
                return Code.MARKET_CANCEL_ONLY
            if mode == POST_ONLY_MODE and tif != POST_ONLY:
                return Code.MARKET_POST_ONLY
            if not flags & REDUCE_ONLY:
                if mode == REDUCE_ONLY_MODE:
                    return Code.MARKET_REDUCE_ONLY
                if market.stale:
                    return Code.STALE_MARKET
        distressed = self._state.distressed.rows
        if distressed and not flags & REDUCE_ONLY and distress_key(account.number) in distressed:
            return Code.LIQUIDATING
        return _OK

    def market_order(self, account: Account, action: MarketOrder, least: bool) -> Code:
        """What is wrong with a market order; `least`: it is held to the least notional."""
        state = self._state
        if not 0 <= action.market < len(state.markets):
            return Code.UNKNOWN_MARKET
        market = state.markets[action.market]
        side, lots, slippage = action.side, action.size_lots, action.slippage_ppm
        if side not in (BUY, SELL):
            return Code.WRONG_TYPE
        if action.flags & ~ORDER_FLAGS:
            return Code.BAD_FLAGS
        if not 1 <= slippage <= MAX_SLIPPAGE_PPM:
            return Code.BAD_SLIPPAGE
        highest = max(slippage_limit(market, side, slippage), market.mark_ticks)
        code = self._size(account, market, highest, lots)
        if code:
            return code
        if (
            least
            and not action.flags & REDUCE_ONLY
            and market.product.notional_uusd(lots, market.mark_ticks) < market.min_notional_uusd
        ):
            return Code.BELOW_MIN_NOTIONAL
        if action.client_id and action.client_id in account.clients:
            return Code.DUPLICATE_CLIENT_ID
        return self.mode(account, market, IOC, action.flags)


def slippage_limit(market: Market, side: int, slippage_ppm: int) -> int:
    """The limit of a market order: the bound around the mark, rounded towards the mark."""
    mark = market.mark_ticks
    if side == BUY:
        return min(mark * (PPM + slippage_ppm) // PPM, market.price_limit - 1)
    return -(-mark * (PPM - slippage_ppm) // PPM)


def _beyond_band(mark: int, side: int, price: int, band_ppm: int) -> bool:
    if side == BUY:
        return price * PPM > mark * (PPM + band_ppm)
    return price * PPM < mark * (PPM - band_ppm)
