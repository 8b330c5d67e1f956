"""Orders: what enters, rests and leaves, as the gate between matching and margin allows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from execution.checks import RESTING_TIFS, Checks, slippage_limit
from execution.crossing import ClosePolicy, Crossing
from execution.dry_run import fillable
from execution.state import State
from margin.account import Account, Exposure
from margin.market import Market
from matching.book import Resting
from protocol.actions import (
    ALL_MARKETS,
    BUY,
    FOK,
    HALTED,
    IOC,
    POST_ONLY,
    POSTED,
    REDUCE_ONLY,
    SELL,
    MarketOrder,
    Order,
)
from protocol.errors import Code
from protocol.events import (
    CANCELLED,
    FILLED,
    REASON_SELF_TRADE,
    RESTING,
    OrderChanged,
    OrderOpened,
    Result,
)

REFUSED = {code: Result(code) for code in Code}
"""The result of an action that was refused and did nothing, by code."""

OK = REFUSED[Code.OK]


class Waiting(Protocol):
    """What waits for the mark or the clock: triggers and TWAPs."""

    def cancel(self, account: Account, waiting_id: int, market: int, reason: int) -> bool:
        """Cancel by id, if the account has it in this market."""

    def cancel_all(self, account: Account, market: int, reason: int) -> None:
        """Cancel all of an account in a market (`ALL_MARKETS`: everywhere)."""


class Trading:
    """Executes orders.

    Results: `filled_lots` is what this action filled, `remaining_lots` what rests after it.
    `touch` brings an account's totals up to the present marks; everything that uses them asks for
    it first. `note_expiry` is told of orders that rest until a time.
    """

    __slots__ = (
        "_state", "checks", "crossing", "note_expiry", "on_protected", "settle", "tier",
        "waiting",
    )  # fmt: skip

    def __init__(self, state: State) -> None:
        self._state = state
        self.checks = Checks(state)
        self.settle: Callable[[Account], None] = _nothing
        self.tier: Callable[[Account], int] = _base_tier
        self.on_protected: Callable[[Account, Market], None] = _no_protection
        self.note_expiry: Callable[[Resting], None] = _no_expiry
        self.waiting: Waiting | None = None
        self.crossing = Crossing(state, self.touch, self.gone, self._protected)

    def touch(self, account: Account) -> None:
        """Bring an account up to the present marks: funding and expired positions are settled, its
        totals are fresh."""
        risk = self._state.risk
        if account.version != risk.version:
            self.settle(account)
            self.tier(account)
            risk.refresh(account)

    # -- entering

    def order(self, account: Account, action: Order, link: int = 0) -> Result:
        """A limit order: fills what it may, then rests (GTC, post-only) or is gone (IOC, FOK)."""
        number, side, price, lots = action.market, action.side, action.price_ticks, action.size_lots
        tif, client_id, flags = action.tif, action.client_id, action.flags
        expires_ms = action.expires_ms
        code = self.checks.order(
            account, number, side, price, lots, tif, client_id, flags, expires_ms
        )
        if code:
            return REFUSED[code]
        market = self._state.markets[number]
        return self.enter(
            account, market, side, price, lots, tif, client_id, flags, expires_ms, link
        )

    def market_order(self, account: Account, action: MarketOrder, least: bool = True) -> Result:
        """Take up to the slippage bound around the mark, rounded towards the mark. What the
        exchange enters itself, a fired trigger or a slice, may be small (`least` False)."""
        code = self.checks.market_order(account, action, least)
        if code:
            return REFUSED[code]
        market = self._state.markets[action.market]
        side = action.side
        limit = slippage_limit(market, side, action.slippage_ppm)
        return self.enter(
            account, market, side, limit, action.size_lots, IOC, 0, action.flags, 0, 0
        )

    def enter(
        self,
        account: Account,
        market: Market,
        side: int,
        price: int,
        lots: int,
        tif: int,
        client_id: int,
        flags: int,
        expires_ms: int,
        link: int,
    ) -> Result:
        """An order that passed `checks`: reduce-only, post-only and fill-or-kill, then margin."""
        state = self._state
        exposure = account.exposures.get(market.number)
        if exposure is None or len(account.exposures) > state.limits.positions_per_account:
            if _too_many_positions(account, market.number, state.limits.positions_per_account):
                return REFUSED[Code.TOO_MANY_POSITIONS]
            exposure = account.exposure(market.number)
        if flags & REDUCE_ONLY:
            open_lots = exposure.size_lots if side == SELL else -exposure.size_lots
            if open_lots <= 0:
                return REFUSED[Code.NOT_REDUCING]
            lots = min(lots, open_lots)
        if tif == POST_ONLY:
            flags |= POSTED
        if market.book.crosses(side, price):
            if tif == POST_ONLY:
                return REFUSED[Code.WOULD_TAKE]
            return self._cross(
                account, exposure, market, side, price, lots, tif, client_id, flags, expires_ms,
                link,
            )  # fmt: skip
        if tif == FOK:
            return REFUSED[Code.NOT_FILLABLE]
        if tif == IOC:
            return Result(Code.NO_LIQUIDITY, CANCELLED, self.next_id())
        code = state.risk.place(
            account, exposure, market, side, price, lots, bool(flags & REDUCE_ONLY)
        )
        if code:
            return REFUSED[code]
        order_id = self.next_id()
        self.rest(
            account, exposure, order_id, client_id, side, price, lots, flags, expires_ms, link
        )
        return Result(0, RESTING, order_id, 0, lots)

    def next_id(self) -> int:
        """The next id of an order, trigger or TWAP."""
        order_id = self._state.next_order_id
        self._state.next_order_id = order_id + 1
        return order_id

    def rest(
        self,
        account: Account,
        exposure: Exposure,
        order_id: int,
        client_id: int,
        side: int,
        price: int,
        lots: int,
        flags: int,
        expires_ms: int,
        link: int,
    ) -> None:
        """Rest an order that margin already counts."""
        number, state = account.number, self._state
        market = state.markets[exposure.market]
        order = Resting(
            market.number, order_id, number, client_id, side, price, lots, flags, expires_ms, link
        )
        market.book.add(order)
        account.orders[order_id] = order
        if client_id:
            account.clients[client_id] = order_id
        if flags & REDUCE_ONLY:
            exposure.reducing[order_id] = order
        if expires_ms:
            self.note_expiry(order)
        state.dirty_orders[order] = None
        state.events.append(
            OrderOpened(
                market.number, order_id, number, client_id, side, price, lots, flags, expires_ms
            )
        )

    def _cross(
        self,
        account: Account,
        exposure: Exposure,
        market: Market,
        side: int,
        limit: int,
        lots: int,
        tif: int,
        client_id: int,
        flags: int,
        expires_ms: int,
        link: int,
    ) -> Result:
        """An order that meets the book. Margin is asked with the whole of it; where that fails, it
        may still close a position, fill by fill, as long as each one reduces risk. What is left
        after the fills that the action or the block may have is cancelled."""
        state = self._state
        max_fills = min(state.limits.fills_per_action, state.fills_left)
        if max_fills <= 0 or (tif == FOK and state.looks_left <= 0):
            return REFUSED[Code.BUSY]
        code = self.admissible(account, exposure, market, side, limit, lots, flags, max_fills)
        if code and not (code == Code.INSUFFICIENT_MARGIN and _closes(exposure, side)):
            return REFUSED[code]
        crossing = self.crossing
        closing = bool(code) or bool(flags & REDUCE_ONLY)
        if tif == FOK:
            crossing.begin(account, exposure, market, side, 0, flags, closing, max_fills)
            if not fillable(crossing, state, limit, lots, max_fills):
                return REFUSED[Code.NOT_FILLABLE]
        order_id = self.next_id()
        crossing.begin(account, exposure, market, side, order_id, flags, closing, max_fills)
        remaining, shrunk = self._take(limit, lots, max_fills)
        filled = lots - remaining - shrunk
        if filled == lots:
            return Result(0, FILLED, order_id, filled, 0)
        if flags & REDUCE_ONLY:
            open_lots = exposure.size_lots if side == SELL else -exposure.size_lots
            remaining = min(remaining, max(open_lots, 0))
        if (
            remaining
            and tif in RESTING_TIFS
            and not crossing.stopped
            and not market.book.crosses(side, limit)
            and not state.risk.place(
                account, exposure, market, side, limit, remaining, bool(flags & REDUCE_ONLY)
            )
        ):
            self.rest(
                account, exposure, order_id, client_id, side, limit, remaining, flags, expires_ms,
                link,
            )  # fmt: skip
            return Result(0, RESTING, order_id, filled, remaining)
        if filled:
            return Result(0, CANCELLED, order_id, filled, 0)
        if shrunk and not remaining:
            crossing.stopped = Code.SELF_TRADE
        return Result(crossing.stopped or code or Code.NO_LIQUIDITY, CANCELLED, order_id)

    def admissible(
        self,
        account: Account,
        exposure: Exposure,
        market: Market,
        side: int,
        limit: int,
        lots: int,
        flags: int,
        max_fills: int,
    ) -> Code:
        """Whether margin takes an order that may fill and rest; reduce-only ones need none."""
        if flags & REDUCE_ONLY:
            return Code.OK
        return self._state.risk.admit(account, exposure, market, side, limit, lots, max_fills)

    def _take(self, limit: int, lots: int, max_fills: int) -> tuple[int, int]:
        """Match the crossing's order; (lots left, lots that self-trade prevention took away)."""
        crossing = self.crossing
        book, side, shrunk = crossing.market.book, crossing.side, 0
        fills_before = self._state.fills_left
        while True:
            left_fills = max_fills - (fills_before - self._state.fills_left)
            lots = book.take(side, limit, lots, crossing, left_fills)
            by_lots = crossing.decrement_lots
            if not by_lots:
                return lots, shrunk
            crossing.decrement_lots = 0
            self._state.fills_left -= 1
            self._shrink_own(side, by_lots)
            lots -= by_lots
            shrunk += by_lots

    def _shrink_own(self, side: int, by_lots: int) -> None:
        """Make the best order opposite, the taker's own, smaller by what the taker loses."""
        crossing, state = self.crossing, self._state
        book = crossing.market.book
        order = book.first(SELL if side == BUY else BUY)
        owner = crossing.maker
        if order.remaining_lots == by_lots:
            self.take_out(owner, order, REASON_SELF_TRADE)
            return
        book.reduce(order, by_lots)
        state.risk.release(owner, order, by_lots)
        self.note_change(order, REASON_SELF_TRADE)

    def close_out(
        self,
        account: Account,
        market: Market,
        side: int,
        limit_ticks: int,
        lots: int,
        policy: ClosePolicy,
    ) -> int:
        """Close a position for the system, without a margin test of the account; lots filled.

        Orders of the same master that are taken out use up none of the action's fills: a wall of
        them, renewed in each block, does not stand in the way.
        """
        state = self._state
        max_fills = min(state.limits.fills_per_action, state.fills_left)
        if max_fills <= 0 or not market.book.crosses(side, limit_ticks):
            return 0
        crossing = self.crossing
        exposure = account.exposure(market.number)
        order_id = self.next_id()
        crossing.begin(account, exposure, market, side, order_id, 0, True, max_fills)
        crossing.policy = policy
        remaining, steps = lots, max_fills
        while steps > 0 and remaining:
            own_removed = crossing.own_removed
            remaining = market.book.take(side, limit_ticks, remaining, crossing, steps)
            steps = min(crossing.own_removed - own_removed, state.fills_left)
        crossing.policy = None
        return lots - remaining

    # -- leaving

    def take_out(self, account: Account, order: Resting, reason: int) -> None:
        """Remove a resting order."""
        lots = self._state.markets[order.market].book.cancel(order)
        self.gone(account, order, lots, reason)

    def gone(self, account: Account, order: Resting, lots: int, reason: int) -> None:
        """Account for an order that left the book with `lots` unfilled."""
        self._state.risk.release(account, order, lots)
        self.forget(account, order, reason)

    def forget(self, account: Account, order: Resting, reason: int) -> None:
        """An order left the book and margin no longer counts it."""
        order_id = order.order_id
        del account.orders[order_id]
        if order.client_id:
            del account.clients[order.client_id]
        if order.flags & REDUCE_ONLY:
            del account.exposures[order.market].reducing[order_id]
        self.note_change(order, reason)
        if order.link:
            self.crossing.on_linked(account, order, 0, True)

    def note_change(self, order: Resting, reason: int) -> None:
        """A resting order shrank or left without a fill."""
        state = self._state
        state.dirty_orders[order] = None
        state.events.append(
            OrderChanged(
                order.market, order.order_id, order.account, order.side, order.price_ticks,
                order.remaining_lots, reason,
            )
        )  # fmt: skip

    def cancel_orders(self, account: Account, market: int, reason: int) -> int:
        """Remove an account's resting orders in a market (`ALL_MARKETS`: in all that are not
        halted), oldest first; returns how many."""
        markets = self._state.markets
        found = [
            order
            for order in account.orders.values()
            if order.market == market
            or (market == ALL_MARKETS and markets[order.market].mode != HALTED)
        ]
        found.sort(key=_by_id)
        for order in found:
            if order.remaining_lots:
                self.take_out(account, order, reason)
        return len(found)

    def cancel_everything(self, account: Account, market: int, reason: int) -> None:
        """Remove an account's orders, triggers and TWAPs in a market, or in all."""
        self.cancel_orders(account, market, reason)
        if self.waiting is not None:
            self.waiting.cancel_all(account, market, reason)

    def _protected(self, account: Account, market: Market) -> None:
        self.on_protected(account, market)


def _too_many_positions(account: Account, market: int, limit: int) -> bool:
    """Whether the account has positions or orders in as many other markets as it may."""
    if len(account.exposures) < limit:
        return False
    held = sum(
        1
        for number, e in account.exposures.items()
        if number != market and (e.size_lots or e.im_uusd or e.reducing)
    )
    return held >= limit


def _closes(exposure: Exposure, side: int) -> bool:
    return exposure.size_lots > 0 if side == SELL else exposure.size_lots < 0


def _by_id(order: Resting) -> int:
    return order.order_id


def _nothing(account: Account) -> None:
    """Stands for settlement until the engine is put together."""


def _base_tier(account: Account) -> int:
    """Stands for fee tiers until the engine is put together."""
    return account.tier


def _no_protection(account: Account, market: Market) -> None:
    """Stands for market-maker protection until the engine is put together."""


def _no_expiry(order: Resting) -> None:
    """Stands for schedules until the engine is put together."""
