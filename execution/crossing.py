"""An incoming order meets the book: what may trade, and what a fill does to both sides.

This is the gate between matching and margin (`matching.Gate`). The taker is an order of an account,
or the system closing a position of an account below maintenance (`ClosePolicy`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from execution.state import State
from margin.account import Account, Exposure
from margin.market import Market
from margin.outcome import Outcome
from margin.risk import Risk
from matching.book import Resting
from protocol.actions import (
    BUY,
    REDUCE_ONLY,
    SELL,
    STP_CANCEL_BOTH,
    STP_CANCEL_MAKER,
    STP_CANCEL_TAKER,
    STP_MASTER,
    STP_MODES,
)
from protocol.errors import Code, SafetyViolation
from protocol.events import (
    REASON_EXPIRED,
    REASON_MARGIN,
    REASON_REDUCE_ONLY,
    REASON_SELF_TRADE,
    Fill,
    OrderChanged,
)
from protocol.markets import CASH_MOVE_LIMIT, OPEN_INTEREST_NOTIONAL_LIMIT

_OK: Final = Code.OK

REMOVE: Final = 0
STOP: Final = -1
"""Answers of `matching.Gate.allowed_lots`: the maker leaves the book; the taker may not go on."""


class ClosePolicy(Protocol):
    """How far the system may go when it closes a position, and what the account pays for it."""

    def allowed_lots(self, price_ticks: int, lots: int) -> int:
        """How many of `lots` may trade at this price now; 0: no more."""

    def fee_uusd(self, price_ticks: int, lots: int) -> int:
        """What the account pays to the insurance fund for the fill."""

    def filled(self, price_ticks: int, lots: int, fee_uusd: int) -> None:
        """The fill is booked, fee included."""


class Crossing:
    """The taker of the moment, and the books' questions about money.

    `begin`, `begin_close` or the dry run of a fill-or-kill order set the taker; `stopped` then says
    why it could not go on (0: nothing did), `decrement_lots` by how much it and the best order
    opposite, its owner's own, have to shrink before it goes on.
    """

    __slots__ = (
        "_state", "account", "closing", "decrement_lots", "exposure", "flags", "last_fills",
        "maker", "maker_exposure", "maker_out", "market", "on_gone", "on_linked", "on_protected",
        "order_id", "own_removed", "policy", "reason", "refused", "side", "stopped", "taker_out",
        "touch",
    )  # fmt: skip

    def __init__(
        self,
        state: State,
        touch: Callable[[Account], None],
        on_gone: Callable[[Account, Resting, int, int], None],
        on_protected: Callable[[Account, Market], None],
    ) -> None:
        self._state = state
        self.touch = touch
        self.on_gone = on_gone
        self.on_protected = on_protected
        self.on_linked: Callable[[Account, Resting, int, bool], None] = _unlinked
        self.account: Account = state.fees
        self.exposure = Exposure(0, 0)
        self.market: Market = state.markets[0]
        self.side = BUY
        self.order_id = 0
        self.flags = 0
        self.closing = False
        self.policy: ClosePolicy | None = None
        self.stopped = Code.OK
        self.decrement_lots = 0
        self.reason = REASON_MARGIN
        self.own_removed = 0
        """Orders that self-trade prevention took out so far, for all takers."""
        self.last_fills = 0
        """What the taker leaves of the block's fills when it has used up its own."""
        self.refused: dict[int, None] = {}
        """Accounts of whose orders all counted for this taker."""
        self.maker: Account = state.fees
        self.maker_exposure = self.exposure
        self.maker_out: Outcome | None = None
        self.taker_out: Outcome | None = None

    def begin(
        self,
        account: Account,
        exposure: Exposure,
        market: Market,
        side: int,
        order_id: int,
        flags: int,
        closing: bool,
        max_fills: int,
    ) -> None:
        """The next taker: an order. `closing`: fill by fill, each must reduce risk. It ends after
        `max_fills` fills and removals, of which some count more than once."""
        self.account = account
        self.exposure = exposure
        self.market = market
        self.side = side
        self.order_id = order_id
        self.flags = flags
        self.closing = closing
        self.policy = None
        self.stopped = _OK
        self.decrement_lots = 0
        self.last_fills = self._state.fills_left - max_fills
        self.refused = {}

    @property
    def risk(self) -> Risk:
        """Margin over all markets."""
        return self._state.risk

    # -- what the book asks

    def allowed_lots(self, maker: Resting, lots: int) -> int:
        """Whether and how much may trade now; see `matching.Gate`."""
        state = self._state
        if self.stopped or state.fills_left <= self.last_fills:
            return STOP
        taker = self.account
        owner = state.accounts[maker.account]
        self.maker = owner
        if maker.expires_ms and maker.expires_ms < state.time_ms:
            self.reason = REASON_EXPIRED
            return REMOVE
        if owner is taker or (
            owner.master == taker.master and (self.flags & STP_MASTER or self.policy is not None)
        ):
            return self._meets_own(lots)
        if owner.version != state.risk.version:
            self.touch(owner)
        theirs = self.maker_exposure = owner.exposures[self.market.number]
        return self.terms(maker, owner, theirs, taker, self.exposure, lots)

    def _meets_own(self, lots: int) -> int:
        """Self-trade prevention. Against the system's orders the resting order always goes."""
        self.reason = REASON_SELF_TRADE
        mode = self.flags & STP_MODES
        if self.policy is not None or mode == STP_CANCEL_MAKER:
            return REMOVE
        if mode == STP_CANCEL_TAKER:
            self.stopped = Code.SELF_TRADE
            return STOP
        if mode == STP_CANCEL_BOTH:
            self.stopped = Code.SELF_TRADE
            return REMOVE
        self.decrement_lots = lots
        return STOP

    def terms(
        self,
        maker: Resting,
        owner: Account,
        theirs: Exposure,
        taker: Account,
        mine: Exposure,
        lots: int,
    ) -> int:
        """How much may trade between two different accounts at the maker's price; keeps what both
        would have then. Changes nothing else, so a dry run may ask with copies."""
        market, side, policy = self.market, self.side, self.policy
        risk = self._state.risk
        price = maker.price_ticks
        product = market.product
        if product.notional_uusd(lots, price) >= CASH_MOVE_LIMIT:
            lots = (CASH_MOVE_LIMIT - 1) // product.notional_uusd(1, price)
        if self.closing:
            open_lots = mine.size_lots if side == SELL else -mine.size_lots
            if open_lots <= 0:
                return STOP
            if open_lots < lots:
                lots = open_lots
        if policy is not None:
            lots = policy.allowed_lots(price, lots)
            if lots <= 0:
                return STOP
        maker_rate, rate = market.fees_ppm[owner.tier][1], market.fees_ppm[taker.tier][0]
        if policy is not None:
            # The taker pays the insurance fund, so that nobody pays for a rebate.
            maker_rate, rate = max(maker_rate, 0), 0
        maker_out = risk.outcome(owner, theirs, market, maker.side, price, lots, maker_rate, maker)
        if _outgrows(market, theirs.size_lots, maker_out.size_lots, price) or not risk.legal(
            owner, theirs, market, maker_out
        ):
            self.reason = REASON_MARGIN
            return REMOVE
        taker_out = risk.outcome(taker, mine, market, side, price, lots, rate, None)
        if self.closing and policy is None and not risk.legal(taker, mine, market, taker_out):
            self.stopped = Code.INSUFFICIENT_MARGIN
            return STOP
        grown = (
            max(taker_out.size_lots, 0) - max(mine.size_lots, 0)
            + max(maker_out.size_lots, 0) - max(theirs.size_lots, 0)
        )  # fmt: skip
        if grown > 0 and _too_open(market, market.open_interest_lots + grown):
            self.stopped = Code.OPEN_INTEREST_LIMIT
            return STOP
        self.maker_out = maker_out
        self.taker_out = taker_out
        return lots

    # -- what the book tells

    def removed(self, maker: Resting, lots: int) -> None:
        """The refused maker left the book."""
        self._state.fills_left -= 1
        if self.reason == REASON_SELF_TRADE:
            self.own_removed += 1
            if self.policy is not None:
                self.last_fills -= 1
        elif self.reason == REASON_MARGIN:
            self.count_refused(self.maker)
        self.on_gone(self.maker, maker, lots, self.reason)

    def count_refused(self, account: Account) -> None:
        """Of this maker's orders all counted: whoever proves the step has to show them all, and an
        action must not meet more of these than can be shown. Counts once for each taker."""
        if account.number not in self.refused:
            self.refused[account.number] = None
            self._state.fills_left -= self._state.limits.refusal_fills - 1

    def filled(self, maker: Resting, lots: int) -> None:
        """Book a fill: positions, cash and fees of both sides, open interest, last price."""
        maker_out, taker_out = self.maker_out, self.taker_out
        if maker_out is None or taker_out is None:
            raise SafetyViolation("a fill that was never allowed")
        self.maker_out = self.taker_out = None
        state = self._state
        state.fills_left -= 1
        market, taker, owner = self.market, self.account, self.maker
        mine, theirs = self.exposure, self.maker_exposure
        policy = self.policy
        price = maker.price_ticks
        mine_before, theirs_before = mine.size_lots, theirs.size_lots
        self._commit(owner, theirs, maker_out)
        self._commit(taker, mine, taker_out)
        market.last_ticks = price
        fees_uusd = maker_out.fee_uusd + taker_out.fee_uusd
        state.fees.cash_uusd += fees_uusd
        taker_fee_uusd = taker_out.fee_uusd
        if policy is not None:
            taker_fee_uusd = self._liquidation_fee(policy, price, lots)
        order_id = maker.order_id
        if not maker.remaining_lots:
            del owner.orders[order_id]
            if maker.client_id:
                del owner.clients[maker.client_id]
            if maker.flags & REDUCE_ONLY:
                del theirs.reducing[order_id]
        dirty = state.dirty_accounts
        dirty[owner] = dirty[taker] = dirty[state.fees] = None
        state.dirty_exposures[theirs] = state.dirty_exposures[mine] = None
        state.dirty_markets[market] = None
        state.dirty_orders[maker] = None
        state.events.append(
            Fill(
                market.number,
                price,
                lots,
                owner.number,
                order_id,
                taker.number,
                self.order_id,
                self.side,
                maker_out.fee_uusd,
                taker_fee_uusd,
                policy is not None,
            )
        )
        if owner.master != taker.master and len(market.fees_ppm) > 1:
            notional_uusd = market.product.notional_uusd(lots, price)
            volumes = state.volume_uusd
            for master in (owner.master, taker.master):
                volumes[master] = volumes.get(master, 0) + notional_uusd
        if theirs.reducing and theirs.size_lots != theirs_before:
            self.fit_reduce_only(owner, theirs)
        if mine.reducing and mine.size_lots != mine_before:
            self.fit_reduce_only(taker, mine)
        if maker.link:
            self.on_linked(owner, maker, lots, not maker.remaining_lots)
        if theirs.protected:
            self.on_protected(owner, market)
        if policy is not None:
            policy.filled(price, lots, taker_fee_uusd)

    def _commit(self, account: Account, e: Exposure, after: Outcome) -> None:
        """Make an outcome the present, and count open interest and realised profit."""
        state, market = self._state, self.market
        self.count_open_interest(e.size_lots, after.size_lots)
        if after.realised_uusd:
            key = (account.master, market.number)
            state.realised_uusd[key] = state.realised_uusd.get(key, 0) + after.realised_uusd
        state.risk.commit(account, e, after)

    def count_open_interest(self, before_lots: int, after_lots: int) -> None:
        """Open interest is the sum of longs: what a side is long after a fill, less before."""
        if after_lots > 0:
            self.market.open_interest_lots += after_lots
        if before_lots > 0:
            self.market.open_interest_lots -= before_lots

    def _liquidation_fee(self, policy: ClosePolicy, price: int, lots: int) -> int:
        state, account = self._state, self.account
        fee_uusd = policy.fee_uusd(price, lots)
        if fee_uusd:
            account.cash_uusd -= fee_uusd
            account.tv_uusd -= fee_uusd
            state.insurance.cash_uusd += fee_uusd
            state.dirty_accounts[state.insurance] = None
        return fee_uusd

    def fit_reduce_only(self, account: Account, e: Exposure) -> None:
        """Shrink resting reduce-only orders that are larger than the position, oldest first."""
        state = self._state
        size = e.size_lots
        for order in list(e.reducing.values()):
            allowed = max(size if order.side == SELL else -size, 0)
            by_lots = order.remaining_lots - allowed
            if by_lots <= 0:
                continue
            book = state.markets[order.market].book
            if not allowed:
                self.on_gone(account, order, book.cancel(order), REASON_REDUCE_ONLY)
                continue
            book.reduce(order, by_lots)
            state.risk.release(account, order, by_lots)
            state.dirty_orders[order] = None
            state.events.append(
                OrderChanged(
                    order.market, order.order_id, account.number, order.side, order.price_ticks,
                    order.remaining_lots, REASON_REDUCE_ONLY,
                )
            )  # fmt: skip


def _too_open(market: Market, lots: int) -> bool:
    """Whether open interest would pass its cap, or its notional what a number holds."""
    if lots > market.max_open_interest_lots:
        return True
    return market.product.notional_uusd(lots, market.mark_ticks) >= OPEN_INTEREST_NOTIONAL_LIMIT


def _outgrows(market: Market, before_lots: int, after_lots: int, price_ticks: int) -> bool:
    """Whether a fill makes a position larger, or turns it, where prices are stale; or takes it
    beyond its limits: what the position was when the order was taken in may have been closed since
    by an order that needed no margin."""
    if market.stale and (abs(after_lots) > abs(before_lots) or after_lots * before_lots < 0):
        return True
    if abs(after_lots) <= abs(before_lots):
        return False
    if abs(after_lots) <= market.max_position_lots and price_ticks <= market.safe_ticks:
        return False
    side = BUY if after_lots > 0 else SELL
    return market.limit_code(after_lots, 0, 0, 0, 0, side, price_ticks) != Code.OK


def _unlinked(account: Account, order: Resting, filled_lots: int, gone: bool) -> None:
    raise SafetyViolation(f"order {order.order_id} is linked, and nobody follows links")
