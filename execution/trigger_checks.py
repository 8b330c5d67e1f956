"""What is wrong with a trigger, an OCO pair or a bracket before it waits.

What one that reduces may close is asked for here, margin in `trigger_backing`.
"""

from __future__ import annotations

from execution.checks import MAX_SLIPPAGE_PPM, Checks
from execution.state import State
from execution.trigger_backing import nothing_to_reduce
from execution.trigger_book import KINDS
from execution.trigger_index import falls
from margin.account import Account
from margin.market import Market
from protocol.actions import (
    BUY,
    GTC,
    ORDER_FLAGS,
    POST_ONLY,
    REDUCE_ONLY,
    SELL,
    TAKE_PROFIT,
    TRAILING,
    Bracket,
    Order,
    TriggerOrder,
)
from protocol.errors import Code
from protocol.markets import NOTIONAL_LIMIT
from protocol.settlement import isolated_market


class TriggerChecks:
    """Answers `Code.OK` or the first thing that is wrong; changes nothing. Margin and room are not
    asked here."""

    __slots__ = ("_checks", "_state")

    def __init__(self, state: State, checks: Checks) -> None:
        self._state = state
        self._checks = checks

    def order(self, account: Account, action: Order) -> Code:
        """What is wrong with the order of a pair, margin and the book apart."""
        return self._checks.order(
            account, action.market, action.side, action.price_ticks, action.size_lots, action.tif,
            action.client_id, action.flags, action.expires_ms,
        )  # fmt: skip

    def trigger(self, account: Account, action: TriggerOrder, leaves: bool = False) -> Code:
        """What is wrong with a trigger. One that `leaves` what a bracket's parent enters need not
        suit the mark yet; the parent stands behind it."""
        state = self._state
        if not 0 <= action.market < len(state.markets):
            return Code.UNKNOWN_MARKET
        market = state.markets[action.market]
        code = _bad_fields(market, action)
        if code:
            return code
        if isolated_market(account.number) not in (-1, market.number):
            return Code.ISOLATED_ACCOUNT
        code = _bad_size(market, action)
        if code:
            return code
        if action.expires_ms and action.expires_ms < state.time_ms:
            return Code.BAD_EXPIRY if action.expires_ms < 0 else Code.ACTION_EXPIRED
        if action.client_id and action.client_id in account.clients:
            return Code.DUPLICATE_CLIENT_ID
        code = self._checks.mode(account, market, POST_ONLY, action.flags)
        if code or leaves:
            return code
        if _would_fire(action, market.mark_ticks):
            return Code.WOULD_FIRE
        if action.flags & REDUCE_ONLY and nothing_to_reduce(account, action.market):
            return Code.NOT_REDUCING
        return Code.OK


def _bad_fields(market: Market, action: TriggerOrder) -> Code:
    if action.side not in (BUY, SELL):
        return Code.WRONG_TYPE
    if action.flags & ~ORDER_FLAGS:
        return Code.BAD_FLAGS
    if (
        action.kind not in KINDS
        or not 0 < action.trigger_ticks < market.price_limit
        or not 0 <= action.limit_ticks < market.price_limit
    ):
        return Code.BAD_TRIGGER
    slippage = action.slippage_ppm
    if slippage if action.limit_ticks else not 1 <= slippage <= MAX_SLIPPAGE_PPM:
        return Code.BAD_SLIPPAGE
    return Code.OK


def _bad_size(market: Market, action: TriggerOrder) -> Code:
    """A size is held to the price that the order is expected to have."""
    lots = action.size_lots
    price = action.limit_ticks or action.trigger_ticks
    if action.kind == TRAILING and not action.limit_ticks:
        price = market.mark_ticks
    if not 0 < lots <= market.max_order_lots:
        return Code.BAD_SIZE
    if price * lots >= NOTIONAL_LIMIT:
        return Code.NOTIONAL_LIMIT
    # What only closes may be small: a position can be smaller than the least order.
    small = market.product.notional_uusd(lots, price) < market.min_notional_uusd
    if small and not action.flags & REDUCE_ONLY:
        return Code.BELOW_MIN_NOTIONAL
    return Code.OK


def _would_fire(action: TriggerOrder, mark_ticks: int) -> bool:
    if action.kind == TRAILING:
        return False
    if falls(action.side, action.kind):
        return mark_ticks <= action.trigger_ticks
    return mark_ticks >= action.trigger_ticks


def bad_pair(first: Order | TriggerOrder, second: TriggerOrder) -> Code:
    """Whether two cannot be an OCO pair."""
    if (first.market, first.side) != (second.market, second.side):
        return Code.BAD_LINK
    if isinstance(first, Order) and first.tif not in (GTC, POST_ONLY):
        return Code.BAD_LINK
    if first.client_id and first.client_id == second.client_id:
        return Code.DUPLICATE_CLIENT_ID
    return Code.OK


def bad_bracket(action: Bracket) -> Code:
    """Whether the exits do not go with the parent."""
    parent, profit, stop = action.parent, action.take_profit, action.stop
    for leg in (profit, stop):
        if leg.market != parent.market or leg.side != 1 - parent.side or leg.size_lots:
            return Code.BAD_LINK
    if profit.kind != TAKE_PROFIT or stop.kind == TAKE_PROFIT:
        return Code.BAD_LINK
    named = [one.client_id for one in (parent, profit, stop) if one.client_id]
    return Code.OK if len(named) == len(set(named)) else Code.DUPLICATE_CLIENT_ID
